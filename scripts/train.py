"""Train one seed of one run of the plan and store its model, history and manifest.

Killed at any time, the same command goes on from the newest complete checkpoint below state/ and ends with the same result.
SIGTERM and SIGUSR1 write a checkpoint and stop with exit status 85; other statuses: 2 a mistake, 86 out of memory (the next start
takes smaller micro-batches), 87 the loss is NaN or infinite. A failure that would come again is not tried again (`replica forget`).

A run on several GPUs is started as one process for each; `torchrun --nproc-per-node N -- scripts/train.py ...` does it too.
"""

import sys

from replica.errors import OUT_OF_MEMORY
from replica.jobs import spread
from replica.jobs.programs import attempt_option, importing, main, project_and_plan, run_parser
from replica.paths import Layout
from replica.plan.resources import resources_of
from replica.training import failures, out_of_memory
from replica.training.distributed import first, processes
from replica.training.selection import adopt_winner


def program() -> int:
    parser = attempt_option(run_parser(__doc__))
    parser.add_argument("--processes", type=int, help="processes on this node (default: the run's GPUs, else one)")
    arguments = parser.parse_args()
    project, plan = project_and_plan(arguments.root, arguments.scale, arguments.run)
    run, layout = plan.run(arguments.run), Layout(arguments.root)
    if run.candidates and arguments.seed == 0:  # the best of the tried values was trained already, at this seed
        if first():
            winner = adopt_winner(layout, plan, run, *map(project.task, run.tasks))
            print(f"{run.id} seed 0 is {winner}", file=sys.stderr)
        return 0
    shape = None
    if not spread.inside():
        shape = spread.shape(resources_of(project, plan, run.id)["gpu"], arguments.processes)
    count = shape.total if shape else processes()
    mark = failures.fingerprint(project, plan, run.id, arguments.seed, layout, count)
    state = layout.resume(plan.scale, run.id, arguments.seed)
    failures.refuse(state, mark)  # before anything slow is imported
    if count > 1 and shape:
        status = spread.launch([sys.executable, *sys.argv], shape)
        if status == OUT_OF_MEMORY:
            out_of_memory.shorten(state, arguments.attempt)
        return status
    with importing():
        from replica.training.run import train_run

    return train_run(project, plan, run.id, arguments.seed, layout, arguments.attempt)


if __name__ == "__main__":
    main(program)
