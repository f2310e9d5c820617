"""Run a teacher once over a task's training split and store the signals that a method distils from."""

from replica.jobs.programs import attempt_option, importing, main, project_and_plan, run_parser


def program() -> int:
    arguments = attempt_option(run_parser(__doc__)).parse_args()
    project, plan = project_and_plan(arguments.root, arguments.scale, arguments.run)
    from replica.paths import Layout

    with importing():
        from replica.training.run import make_targets

    return make_targets(project, plan, arguments.run, arguments.seed, Layout(arguments.root), arguments.attempt)


if __name__ == "__main__":
    main(program)
