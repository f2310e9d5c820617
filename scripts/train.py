"""Train one seed of one run of the plan and store its model, history and manifest.

Killed at any time, the same command goes on from the newest complete checkpoint below state/ and ends with the same result.
SIGTERM and SIGUSR1 write a checkpoint and stop with exit status 85.
"""

from replica.programs import main, project_and_plan, run_parser


def program() -> int:
    arguments = run_parser(__doc__).parse_args()
    project, plan = project_and_plan(arguments.root, arguments.scale)
    plan.run(arguments.run)
    from replica.paths import Layout
    from replica.training.run import train_run

    return train_run(project, plan, arguments.run, arguments.seed, Layout(arguments.root))


if __name__ == "__main__":
    main(program)
