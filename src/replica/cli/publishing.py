"""`replica publish` and `replica adopt`: finished artifacts uploaded for others, and downloaded from them."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from replica.cli.terminal import print_text, scale_option, shortened
from replica.config import Project, load_project
from replica.errors import ConfigError, ResultError, nearest
from replica.plan import Plan, build_plan

#: Names that a line of a summary shows.
SHOWN = 4
#: Artifacts left out that are listed with the reason.
REASONS = 10


def add(verbs: Any) -> None:
    """Add the verbs `publish` and `adopt` to the command line."""
    upload = verbs.add_parser("publish", help="verify, pin and push finished runs with their data, through DVC")
    upload.set_defaults(run=publish)
    upload.add_argument(
        "names", nargs="*", metavar="RUN|PAPER", help="runs and papers (default: everything finished of enabled papers)"
    )
    download = verbs.add_parser(
        "adopt", help="download published results, verified file by file, so that no run is left to do"
    )
    download.set_defaults(run=adopt)
    download.add_argument("papers", nargs="*", metavar="PAPER", help="papers (default: those that are enabled)")
    download.add_argument(
        "--evaluate",
        action="store_true",
        help="also score the checkpoints again and compare with the published metrics",
    )
    download.add_argument(
        "--replace", action="store_true", help="let files that differ make way for the published ones"
    )
    for verb in (upload, download):
        scale_option(verb)
        verb.add_argument("--remote", help="DVC remote (default: DVC's default)")


def publish(arguments: Namespace) -> int:
    """Verify, pack, pin and push finished artifacts."""
    from replica.sharing.publish import names
    from replica.sharing.publish import publish as upload

    project, plan = _planned(arguments.root, arguments.scale, arguments.names)
    papers, runs = names(project, plan, arguments.names)
    done = upload(project, plan, papers, runs, arguments.remote)
    left_out = sorted(done.left_out.items())
    for name, reason in left_out[:REASONS]:
        print_text(f"left out: {name}: {reason}")
    if len(left_out) > REASONS:
        print_text(f"left out: {len(left_out) - REASONS} more")
    for name in done.strays[:REASONS]:
        print_text(f"not published: {name}: no manifest, evaluation or paper names it")
    if len(done.strays) > REASONS:
        print_text(f"not published: {len(done.strays) - REASONS} more files that nothing names")
    print_text(
        f"{len(done.new)} artifacts published{_some(done.new)}, {len(done.same)} unchanged; remote '{done.remote}'"
    )
    if done.commit:
        print_text(f"committed as {done.commit}; `git push` shows it to others")
    else:
        print_text("nothing to commit")
    return 0


def adopt(arguments: Namespace) -> int:
    """Fetch, verify and put in place published artifacts; with `--evaluate` score its checkpoints again."""
    from replica.sharing.adopt import adopt as download

    project, plan = _planned(arguments.root, arguments.scale, arguments.papers)
    for name in arguments.papers:
        if name not in project.papers:
            raise ConfigError(f"unknown paper '{name}'{nearest(name, project.paper_folders)}")
    done = download(project, plan, arguments.papers, arguments.remote, arguments.replace)
    for path in done.renewed:
        print_text(f"damaged in DVC's cache and fetched again: {path}")
    print_text(
        f"{len(done.taken)} artifacts adopted, {len(done.here)} were here already; every sha256 is the published one"
    )
    if done.unpublished:
        print_text(
            f"not published: {len(done.unpublished)}{_some(done.unpublished)}; snakemake makes those that are needed"
        )
    return _evaluate(project, plan, arguments.papers) if arguments.evaluate else 0


def _evaluate(project: Project, plan: Plan, papers: list[str]) -> int:
    from replica.sharing.reevaluate import reevaluate

    metrics = reevaluate(project, plan, papers)
    for item in metrics:
        print_text(
            f"{item.verdict:8} {item.run} seed {item.seed}, {item.task} {item.metric}: {item.published} published, {item.actual} here"
        )
    wrong = [item for item in metrics if item.verdict == "differs"]
    if wrong:
        first = wrong[0]
        raise ResultError(
            f"{len(wrong)} of {len(metrics)} metrics differ by more than their interval, the first {first.run} seed {first.seed}: "
            f"{first.metric} on {first.task} was {first.published} [{first.low}, {first.high}] and is {first.actual}"
        )
    equal = sum(item.verdict == "equal" for item in metrics)
    print_text(
        f"{equal} of {len(metrics)} metrics are equal to the last digit, the others within their published interval"
    )
    return 0


def _planned(root: str, scale: str | None, names: list[str]) -> tuple[Project, Plan]:
    """Return the project with its enabled papers and those named, and its plan with every trend, quick or not."""
    project = load_project(root, quick=False)
    more = [name for name in names if name in project.paper_folders and name not in project.enabled]
    if more:
        project = load_project(root, quick=False, papers=[*project.enabled, *more])
    return project, build_plan(project, scale)


def _some(names: list[str]) -> str:
    return f" ({shortened(names, SHOWN)})" if names else ""
