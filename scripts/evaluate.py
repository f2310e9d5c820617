"""Score one seed of a finished run on all its tasks: metrics.json with intervals, predictions.parquet."""

from replica.jobs.programs import importing, main, run_job, run_parser


def program() -> None:
    arguments = run_parser(__doc__).parse_args()
    job = run_job(arguments)
    with importing():
        from replica.training.evaluate import evaluate_run

    evaluate_run(job)


if __name__ == "__main__":
    main(program)
