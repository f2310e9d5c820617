"""Run a teacher once over a task's training split and store the signals that a method distils from."""

from replica.jobs.programs import importing, main, run_job, run_parser


def program() -> int:
    arguments = run_parser(__doc__, attempts=True).parse_args()
    job = run_job(arguments)
    with importing():
        from replica.training.run import make_targets

    return make_targets(job, arguments.attempt)


if __name__ == "__main__":
    main(program)
