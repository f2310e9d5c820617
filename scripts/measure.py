"""Measure the cost of one seed of a finished run: parameters, bytes, FLOPs and latency, into measures.json."""

from replica.jobs.programs import importing, main, run_job, run_parser


def program() -> None:
    arguments = run_parser(__doc__).parse_args()
    job = run_job(arguments)
    with importing():
        from replica.training.evaluate import measure_run

    measure_run(job)


if __name__ == "__main__":
    main(program)
