"""`replica run`: regenerate papers or single claims through Snakemake, with live progress and the verdicts at the end."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.live import Live

from replica import secrets
from replica.claims.ledger import read_claims
from replica.cli.explain import ledger_of
from replica.cli.terminal import all_option, console, print_text, scale_option
from replica.cli.watch import EVERY, duration, line, picture
from replica.config import Project, load_project
from replica.errors import ConfigError, ReplicaError, nearest
from replica.jobs.progress import Watcher
from replica.paths import Layout
from replica.plan import Plan, build_plan
from replica.plan.outputs import claimed_papers, paper_inputs
from replica.plan.planned_jobs import Job, planned_jobs

#: Lines of Snakemake's output that are shown where it failed.
SHOWN = 20


def add(verbs: Any) -> None:
    """Add the verb `run` to the command line."""
    verb = verbs.add_parser(
        "run",
        help="regenerate papers or single claims, with live progress and the verdicts at the end",
        epilog="The first line is the call of Snakemake; its output goes to logs/run/. Stopped, the same call goes on.",
    )
    verb.set_defaults(run=run)
    verb.add_argument(
        "names",
        nargs="*",
        metavar="PAPER|CLAIM",
        help="papers with all their trends, or claims with the runs that their verdicts need (default: the whole report)",
    )
    scale_option(verb)
    all_option(verb)
    verb.add_argument("--profile", metavar="NAME", help="slurm, slurm-gres, workstation or your own (default: here)")
    verb.add_argument("--dry-run", action="store_true", help="list the jobs that would run, and why")
    verb.add_argument("--snakemake", metavar="OPTIONS", help='further options of Snakemake, e.g. "--keep-going"')


def run(arguments: Namespace) -> int:
    """Run Snakemake for papers or claims, show its progress and print the verdicts; returns Snakemake's exit status.

    Snakemake's output goes to a file below logs/run/, and to the terminal where it failed. A call that is stopped goes on when it is
    repeated.
    """
    configured = load_project(arguments.root)
    papers, claims = _named(configured, arguments.names)
    more = [name for name in papers if name not in configured.enabled]
    enabled = [*configured.enabled, *more] if more else None
    project = load_project(
        arguments.root,
        papers=enabled,
        quick=False if papers or arguments.all else None,
        claims=claims or None,
        scale=arguments.scale,
    )
    plan = build_plan(project)
    command = _command(plan.scale, papers, claims, enabled, arguments)
    console.print(secrets.masked(shlex.join(command[2:])), style="dim")
    if arguments.dry_run:
        return subprocess.run(command, cwd=arguments.root).returncode
    root, begun = Path(arguments.root), time.monotonic()
    needed = _needed(project, plan, papers or claimed_papers(project) or list(project.papers))
    log = root / "logs" / "run" / f"{time.strftime('%Y%m%d-%H%M%S')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        # in a session of its own, so that a key pressed in the terminal reaches it once, through here, and not twice
        child = subprocess.Popen(command, cwd=root, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        with _passed_on(child):
            status = _follow(child, Watcher(Layout(root), plan, needed))
    if status:
        ends = log.read_text(encoding="utf-8").splitlines()[-SHOWN:]
        print_text("\n".join(ends))
        print_text(f"Snakemake ended with status {status}; its whole output: {log}")
        return status
    console.print(f"done in {duration(time.monotonic() - begun)}; output of Snakemake: {log}")
    _verdicts(root, plan.scale, papers or claimed_papers(project), claims)
    return 0


def _named(project: Project, names: list[str]) -> tuple[list[str], list[str]]:
    """Return the papers and the claims among names; ConfigError for another name, and for papers and claims in one call."""
    owned = {claim.id for paper in project.papers.values() for claim in paper.claims}
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in project.paper_folders and name not in owned:
            known = [*project.paper_folders, *owned]
            raise ConfigError(f"'{name}' is neither a paper nor a claim of an enabled paper{nearest(name, known)}")
    papers = [name for name in names if name in project.paper_folders]
    claims = [name for name in names if name not in papers]
    if papers and claims:
        raise ConfigError(f"name papers ({', '.join(papers)}) or claims ({', '.join(claims)}), not both in one call")
    return papers, claims


def _command(
    scale: str, papers: list[str], claims: list[str], enabled: list[str] | None, arguments: Namespace
) -> list[str]:
    """Return the call of Snakemake: the target `paper` for papers and claims, else the default target.

    `enabled` are the papers to enable for this call where one is named that the configuration does not.
    """
    config = [f"scale={scale}"]
    if arguments.all or papers:
        config.append("quick=false")
    if papers:
        config.append(f"paper={','.join(papers)}")
    if claims:
        config.append(f"claims={','.join(claims)}")
    if enabled:
        config.append(f"papers={','.join(enabled)}")
    target = ["paper"] if papers or claims else []
    command = [sys.executable, "-m", "snakemake", *target, "--config", *config]
    if arguments.profile:
        command += ["--profile", arguments.profile]
    if arguments.dry_run:
        command.append("--dry-run")
    return [*command, *shlex.split(arguments.snakemake or "")]


def _needed(project: Project, plan: Plan, papers: list[str]) -> list[Job]:
    """Return the jobs that the papers' claims need, and the jobs before them."""
    known = {job.output: job for job in planned_jobs(project, plan)}
    waiting = [file for name in papers for file in paper_inputs(plan, name)]
    needed: dict[str, Job] = {}
    while waiting:
        output = waiting.pop()
        if output in known and output not in needed:
            needed[output] = known[output]
            waiting += known[output].inputs
    return [job for output, job in known.items() if output in needed]


@contextmanager
def _passed_on(child: subprocess.Popen):
    """Hand SIGTERM and SIGINT on to Snakemake, which lets its jobs end at a checkpoint."""

    def hand_on(number, _frame) -> None:
        with suppress(ProcessLookupError):
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(child: subprocess.Popen, watcher: Watcher) -> int:
    """Show progress until Snakemake has ended: renewed in place on a terminal, a line a minute elsewhere."""

    def shown() -> str | None:
        try:
            progress = watcher.look()
        except (ReplicaError, OSError) as error:
            return f"progress: {error}"
        if live is not None:
            live.update(picture(progress, console.height), refresh=True)
            return None
        return line(progress)

    def ended(seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
        return child.returncode is not None

    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or nullcontext():
        while not ended(EVERY[live is not None]):
            text = shown()
            if text is not None:
                print_text(text)
    return child.returncode


def _verdicts(root: Path, scale: str, papers: list[str], claims: list[str]) -> None:
    """Print the scorecard of papers (of the whole ledger where there are none); with claims, of their rows alone."""
    from replica.report.scorecard import scorecard

    if not papers:
        ledger = root / "results" / ("smoke/claims.json" if scale == "smoke" else "claims.json")
        path, rows = ledger_of(str(root), str(ledger))
        console.print(scorecard(rows, path.parent / "report" / "index.html"))
        return
    folder = root / "results" / scale / "papers"
    rows = [row for name in papers for row in read_claims(folder / name / "claims.json", name)["rows"]]
    if claims:
        rows = [row for row in rows if row["claim"].partition(":")[0] in claims]
    console.print(scorecard(rows))
    console.print(f"tables and figures: {', '.join(str(folder / name) for name in papers)}")
