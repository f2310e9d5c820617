"""Score one seed of a finished run on all its tasks: metrics.json with intervals, predictions.parquet."""

from replica.jobs.programs import importing, main, project_and_plan, run_parser


def program() -> None:
    arguments = run_parser(__doc__).parse_args()
    project, plan = project_and_plan(arguments.root, arguments.scale, arguments.run)
    from replica.paths import Layout

    with importing():
        from replica.training.evaluate import evaluate_run

    evaluate_run(project, plan, arguments.run, arguments.seed, Layout(arguments.root))


if __name__ == "__main__":
    main(program)
