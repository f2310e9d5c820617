"""`replica publish` and `replica adopt`: artifacts put up for others, and taken over from them."""

from __future__ import annotations

from argparse import Namespace

from replica.cli.verbs import console
from replica.config import Project, load_project
from replica.errors import ConfigError, ResultError, nearest
from replica.plan import Plan, build_plan

#: How many names a line of a summary shows.
SHOWN = 4
#: How many artifacts that were left out are listed with the reason.
REASONS = 10


def publish(arguments: Namespace) -> int:
    """Verify, pack, pin and push what is finished."""
    from replica.sharing.publish import names
    from replica.sharing.publish import publish as put_up

    project, made = _planned(arguments.root, arguments.scale, arguments.names)
    papers, runs = names(project, made, arguments.names)
    done = put_up(project, made, papers, runs, arguments.remote)
    left_out = sorted(done.left_out.items())
    for name, reason in left_out[:REASONS]:
        _say(f"left out: {name}: {reason}")
    if len(left_out) > REASONS:
        _say(f"left out: {len(left_out) - REASONS} more")
    _say(f"{len(done.new)} artifacts published{_some(done.new)}, {len(done.same)} unchanged; remote '{done.remote}'")
    if done.commit:
        _say(f"committed as {done.commit}; `git push` shows it to others")
    else:
        _say("nothing to commit")
    return 0


def adopt(arguments: Namespace) -> int:
    """Fetch, verify and put in place what is published; with `--evaluate` score its checkpoints again."""
    from replica.sharing.adopt import adopt as take_over

    project, made = _planned(arguments.root, arguments.scale, arguments.papers)
    for name in arguments.papers:
        if name not in project.papers:
            raise ConfigError(f"unknown paper '{name}'{nearest(name, project.paper_folders)}")
    done = take_over(project, made, arguments.papers, arguments.remote, arguments.replace)
    for path in done.renewed:
        _say(f"damaged in DVC's cache and fetched again: {path}")
    _say(f"{len(done.taken)} artifacts adopted, {len(done.here)} were here already; every sha256 is the published one")
    if done.unpublished:
        _say(
            f"not published: {len(done.unpublished)}{_some(done.unpublished)}; snakemake makes what is asked for of them"
        )
    return _evaluate(project, made, arguments.papers) if arguments.evaluate else 0


def _evaluate(project: Project, made: Plan, papers: list[str]) -> int:
    from replica.sharing.reevaluate import reevaluate

    found = reevaluate(project, made, papers)
    for item in found:
        _say(
            f"{item.verdict:8} {item.run} seed {item.seed}, {item.task} {item.metric}: {item.published} published, {item.found} here"
        )
    wrong = [item for item in found if item.verdict == "differs"]
    if wrong:
        first = wrong[0]
        raise ResultError(
            f"{len(wrong)} of {len(found)} metrics differ by more than their interval, the first {first.run} seed {first.seed}: "
            f"{first.metric} on {first.task} was {first.published} [{first.low}, {first.high}] and is {first.found}"
        )
    equal = sum(item.verdict == "equal" for item in found)
    _say(f"{equal} of {len(found)} metrics are equal to the last digit, the others within their published interval")
    return 0


def _planned(root: str, scale: str | None, named: list[str]) -> tuple[Project, Plan]:
    """Return the project with its enabled papers and those named, and its plan with every trend, quick or not."""
    project = load_project(root, quick=False)
    more = [name for name in named if name in project.paper_folders and name not in project.enabled]
    if more:
        project = load_project(root, quick=False, papers=[*project.enabled, *more])
    return project, build_plan(project, scale)


def _some(names: list[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)
