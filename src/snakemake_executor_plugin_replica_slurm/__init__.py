"""Snakemake's SLURM executor with settings for sites and changes for this workflow: `executor: replica-slurm` in a profile.

Beyond `snakemake-executor-plugin-slurm`, whose settings it takes under its own name (`--replica-slurm-…`):

- GPUs are asked for by `--gpus` or by `--gres`, with the site's model, and only by jobs that need some;
- an array holds jobs that ask for the same resources, as the seeds of a run do; jobs are submitted when Snakemake
  hands them over. (The executor below puts all jobs of a rule into an array with the resources of the first, and waits for more
  jobs than the limit on jobs lets through.);
- a task of an array is a job like any other, step and all (the executor below runs the second and later inside a Snakemake that
  makes the first, waits for the first's files and removes them when its own task fails);
- the state of every task of an array is read, not that of the array's last;
- a cancelled job counts as failed and is submitted again (the executor below waits for it for ever);
- a job that failed for good (a mistake, a bug, a loss that is NaN) is not submitted again, whatever `retries` is;
- facts that do not change during a call (the account's validity, the controller's configuration) are queried once.
"""

# ruff: noqa: UP045  (Snakemake reads the settings' types and knows Optional only)

import asyncio
import functools
import shlex
import subprocess
from dataclasses import dataclass, field
from typing import Optional

import snakemake_executor_plugin_slurm as slurm
from snakemake_executor_plugin_slurm import common_settings
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from replica.paths import FAILED, Layout

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

#: Ways to ask for GPUs.
GPU_FLAGS = ("gpus", "gres")
#: Resources of a job that are no part of its request to SLURM.
PRIVATE = ("tmpdir", "_job_count")


#: Queries of the jobs' states that fail in a row before it is said.
UNANSWERED = 3


def _setting(text: str) -> dict:
    return {"help": text, "env_var": False, "required": False}


@dataclass
class ExecutorSettings(slurm.ExecutorSettings):
    """Settings of the SLURM executor and those of the site's GPUs."""

    gpu_flag: Optional[str] = field(
        default="gpus", metadata=_setting("How the site takes GPUs: 'gpus' (--gpus=N) or 'gres' (--gres=gpu:N).")
    )
    gpu_model: Optional[str] = field(
        default=None, metadata=_setting("Model of GPU to ask for, as the site calls it (sinfo -o %G).")
    )
    gpu_mem_mb: Optional[int] = field(
        default=None, metadata=_setting("Memory of a GPU in MB, against which `replica plan --profile` warns.")
    )

    max_seconds_between_status_checks: Optional[int] = field(
        default=180, metadata=_setting("Seconds between two queries of all jobs' states while no job ends, at most.")
    )

    def __post_init__(self):
        super().__post_init__()
        if self.gpu_flag not in GPU_FLAGS:
            raise WorkflowError(f"--replica-slurm-gpu-flag {self.gpu_flag}: give one of {', '.join(GPU_FLAGS)}")


class _ManyNodes:
    """A job over several nodes as the executor below takes it: one task on each node, no count of tasks for each GPU."""

    def __init__(self, job):
        self.threads = job.threads
        self.resources = _Resources(job.resources.items())
        self.resources.update(tasks=self.resources["nodes"], tasks_per_gpu=0)


class _Resources(dict):
    def __getattr__(self, name: str):
        return self[name]


class Executor(slurm.Executor):
    """The SLURM executor with the site's way of asking for GPUs and arrays of like jobs."""

    def __post_init__(self, test_mode: bool = False):
        self._accounts: dict[str, list[str]] = {}
        super().__post_init__(test_mode)
        # The executor below calls these by their names in its module.
        slurm.set_gres_string = self.gpu_flags
        slurm.get_submit_command = _submit_command(slurm.get_submit_command)
        slurm.query_job_status_sacct = _by_task(slurm.query_job_status_sacct)
        slurm.query_job_status = _plain_states(slurm.query_job_status)
        slurm.get_min_job_age = functools.cache(slurm.get_min_job_age)

    @property
    def next_seconds_between_status_checks(self) -> int:
        """Seconds until the next query: the executor below raises them, up to the site's limit."""
        seconds = super().next_seconds_between_status_checks
        return min(seconds, self.workflow.executor_settings.max_seconds_between_status_checks)

    @next_seconds_between_status_checks.setter
    def next_seconds_between_status_checks(self, seconds: int) -> None:
        self._next_seconds_between_status_checks = seconds

    def get_python_executable(self) -> str:
        """Return Python as a word of a shell, which the executor below writes as it is."""
        return shlex.quote(super().get_python_executable())

    def gpu_flags(self, job) -> str:
        """Return the flags for a job's GPUs; a job without any has none."""
        settings = self.workflow.executor_settings
        gpus, nodes = job.resources.get("gpu") or 0, job.resources.get("nodes") or 1
        if not gpus:
            return ""
        model = f"{settings.gpu_model}:" if settings.gpu_model else ""
        return f" --gres=gpu:{model}{-(-gpus // nodes)}" if settings.gpu_flag == "gres" else f" --gpus={model}{gpus}"

    def run_jobs(self, jobs):
        """Submit jobs now: those of one rule that ask for the same in an array, others by themselves."""
        if self._main_event_loop is None:
            try:
                self._main_event_loop = asyncio.get_running_loop()
            except RuntimeError:
                self._main_event_loop = None
        groups: dict[tuple, list] = {}
        for job in jobs:
            if job.is_group() or not {"all", job.rule.name} & self.array_jobs:
                self._submit_job(job)
            else:
                groups.setdefault(_asks_for(job), []).append(job)
        for alike in groups.values():
            if len(alike) == 1:
                self._submit_job(alike[0])
            else:
                self._submit_array_jobs(alike)

    def run_array_jobs(self, jobs):
        """Submit like jobs as an array; each task is the command of a job, as it would be submitted by itself."""
        try:
            folder = self.slurm_logdir / f"rule_{jobs[0].name}"
            folder.mkdir(parents=True, exist_ok=True)
            for job in jobs:
                slurm.validate_slurm_extra(job)
            facts = {
                "run_uuid": self.run_uuid,
                "slurm_logfile": folder / "%A_%a.log",
                "comment_str": f"rule_{jobs[0].name}",
                "account": next(self.get_account_arg(jobs[0])),
                "partition": self.get_partition_arg(jobs[0]),
                "workdir": self.workflow.workdir_init,
            }
            settings = self.workflow.executor_settings
            call = slurm.get_submit_command(jobs[0], facts, settings=settings, failed_nodes=self._failed_nodes)
            call += self.gpu_flags(jobs[0])
        except Exception as error:
            self._refused(jobs, str(error))
            return
        for start in range(0, len(jobs), self.max_array_size):
            self._submit_part(call, jobs[start : start + self.max_array_size])

    def _submit_part(self, call: str, jobs: list) -> None:
        tasks = "".join(f"{task})\n{self.format_job_exec(job)}\n;;\n" for task, job in enumerate(jobs, start=1))
        script = f'#!/bin/sh\ncase "$SLURM_ARRAY_TASK_ID" in\n{tasks}esac\n'
        command = f"{call} --array=1-{len(jobs)} /dev/stdin"
        try:
            done = subprocess.run(
                command, shell=True, input=script, capture_output=True, encoding="utf-8", errors="replace", check=False
            )
            if done.returncode:
                raise WorkflowError(f"{done.stderr.strip()}\n    sbatch call:\n        {command}")
            number = slurm.validate_or_get_slurm_job_id(done.stdout.strip().split(";")[0], done.stdout)
        except Exception as error:
            self._refused(jobs, str(error))
            return
        numbers = ", ".join(str(job.jobid) for job in jobs)
        self.logger.info(f"Jobs {numbers} have been submitted as SLURM array {number} (tasks 1-{len(jobs)}).")
        for task, job in enumerate(jobs, start=1):
            info = SubmittedJobInfo(job, external_jobid=f"{number}_{task}", aux={"slurm_logfile": None})
            self._report_job_submission_threadsafe(info)

    def _refused(self, jobs: list, reason: str) -> None:
        for job in jobs:
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"SLURM took no array: {reason}")

    def report_job_error(self, job_info, msg=None, **arguments):
        """Report a failed job; one that left word that it would fail the same way again has no attempts left."""
        job = job_info.job
        if not job.is_group() and _would_fail_again(job):
            job._attempt = job.restart_times + 1  # the property would have its resources computed again
        super().report_job_error(job_info, msg=msg, **arguments)

    def get_account_arg(self, job):
        """Yield the flag of the account, whose validity is asked for once."""
        account = str(job.resources.get("slurm_account") or "")
        if account not in self._accounts:
            self._accounts[account] = list(super().get_account_arg(job))
        yield from self._accounts[account]

    def _report_job_submission_threadsafe(self, job_info):
        number = str(job_info.external_jobid)
        if "_" in number:  # where SLURM writes the log of an array's task
            job_info.aux["slurm_logfile"] = self.slurm_logdir / f"rule_{job_info.job.name}" / f"{number}.log"
        super()._report_job_submission_threadsafe(job_info)


def _would_fail_again(job) -> bool:
    """Return whether a training job left a mark of a failure that comes from its configuration or code: a mistake, a bug, a NaN."""
    values = [job.wildcards_dict.get(name) for name in ("scale", "run", "seed")]
    return None not in values and (Layout().resume(*values) / FAILED).exists()


def _asks_for(job) -> tuple:
    """Return a job's request: jobs with equal ones may share an array."""
    resources = {key: value for key, value in job.resources.items() if key not in PRIVATE}
    return job.rule.name, job.threads, tuple(sorted((key, str(value)) for key, value in resources.items()))


def _submit_command(original):
    """Return the function that writes the command line, for jobs over several nodes too."""
    if hasattr(original, "__wrapped__"):
        return original

    @functools.wraps(original)
    def command(job, *arguments, **options) -> str:
        several = (job.resources.get("nodes") or 1) > 1
        return original(_ManyNodes(job) if several else job, *arguments, **options)

    return command


def _plain_states(original):
    """Return the function that asks for states, without who did it: `CANCELLED by 1000` is no state to the executor below.

    A query that fails `UNANSWERED` times in a row, which the executor below mentions to nobody, is a warning with SLURM's own words.
    """
    if hasattr(original, "__wrapped__"):
        return original
    failures = 0

    @functools.wraps(original)
    async def states(command, logger):
        nonlocal failures
        words: list[str] = []
        by_job, seconds = await original(command, _Listener(logger, words))
        failures = failures + 1 if by_job is None else 0
        if failures == UNANSWERED:
            text = " ".join(" ".join(words).split()) or "no answer"
            logger.warning(
                f"SLURM does not tell how the jobs are ({text}). Where it keeps no accounting, call again with "
                "--replica-slurm-status-command squeue"
            )
        return by_job and {job: state.partition(" ")[0] for job, state in by_job.items()}, seconds

    return states


class _Listener:
    """A logger that also keeps what is said at debug level."""

    def __init__(self, logger, words: list[str]):
        self._logger, self._words = logger, words

    def __getattr__(self, name: str):
        return getattr(self._logger, name)

    def debug(self, text: str) -> None:
        self._words.append(text)
        self._logger.debug(text)


def _by_task(original):
    """Return the function that writes the query of states, by the number of an array and its task (`17_2`), not by the raw one."""
    if hasattr(original, "__wrapped__"):
        return original

    @functools.wraps(original)
    def query(run_id: str) -> str:
        return original(run_id).replace("JobIdRaw", "JobID")

    return query
