"""Train one seed of one run of the plan and store its model, history and manifest.

Killed at any time, the same command goes on from the newest complete checkpoint below state/ and ends with the same result.
SIGTERM, Ctrl-C and SIGUSR1 write a checkpoint and stop with exit status 85; other statuses: 2 a mistake, 86 out of memory (the next start
takes smaller micro-batches), 87 the loss is NaN or infinite. A failure that would come again is not tried again (`replica forget`).

A run on several GPUs is started as one process for each; `torchrun --nproc-per-node N -- scripts/train.py ...` does it too.
"""

import sys

from replica.errors import OUT_OF_MEMORY
from replica.jobs import spread
from replica.jobs.programs import importing, main, run_job, run_parser
from replica.training import failures, out_of_memory
from replica.training.distributed import first, processes
from replica.training.selection import adopt_winner


def program() -> int:
    parser = run_parser(__doc__, attempts=True)
    parser.add_argument("--processes", type=int, help="processes on this node (default: the run's GPUs, else one)")
    arguments = parser.parse_args()
    job = run_job(arguments)
    if job.run.candidates and job.seed == 0:  # the best of the tried values was trained already, at this seed
        if first():
            print(f"{job.run.id} seed 0 is {adopt_winner(job)}", file=sys.stderr)
        return 0
    shape = None if spread.inside() else spread.shape(job.gpus, arguments.processes)
    count = shape.total if shape else processes()
    failures.refuse(job.state, failures.fingerprint(job, count))  # before anything slow is imported
    if count > 1 and shape:
        status = spread.launch([sys.executable, *sys.argv], shape)
        if status == OUT_OF_MEMORY:
            out_of_memory.shorten(job.state, arguments.attempt)
        return status
    with importing():
        from replica.training.run import train_run

    return train_run(job, arguments.attempt)


if __name__ == "__main__":
    main(program)
