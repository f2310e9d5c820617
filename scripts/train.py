"""Train one seed of one run of the plan and store its model, history and manifest.

Killed at any time, the same command goes on from the newest complete checkpoint below state/ and ends with the same result.
SIGTERM and SIGUSR1 write a checkpoint and stop with exit status 85.
"""

import sys

from replica.paths import Layout
from replica.programs import importing, main, project_and_plan, run_parser
from replica.training.selection import adopt_winner


def program() -> int:
    arguments = run_parser(__doc__).parse_args()
    project, plan = project_and_plan(arguments.root, arguments.scale, arguments.run)
    run, layout = plan.run(arguments.run), Layout(arguments.root)
    if run.candidates and arguments.seed == 0:  # the best of the tried values was trained already, at this seed
        winner = adopt_winner(layout, plan, run, project.task(run.spec["task"][0]))
        print(f"{run.id} seed 0 is {winner}", file=sys.stderr)
        return 0
    with importing():
        from replica.training.run import train_run

    return train_run(project, plan, arguments.run, arguments.seed, layout)


if __name__ == "__main__":
    main(program)
