"""Damage by consumer: whatever file a program reads is damaged, it says so in one line, or its results are those of the whole file."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replica.config import load_project
from replica.files import read_json, sha256_file
from replica.paths import Layout
from replica.plan import build_plan
from replica.seals import write_sealed

from .checkout import environment, make_checkout, program, snakemake

pytestmark = pytest.mark.workflow
PAPER = "minilm"
SEED = 20_261_201


@dataclass
class Site:
    """A checkout in which runs were made, and the process that runs its programs."""

    folder: Path
    server: subprocess.Popen
    student: str
    run: str
    prepared: str

    def call(self, script: str, *arguments: str) -> tuple[int, str]:
        """Run a program of scripts/ there; returns exit status and output."""
        log = self.folder / "call.log"
        call = {"script": str(self.folder / "scripts" / f"{script}.py"), "arguments": arguments, "log": str(log)}
        print(json.dumps(call), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline()), log.read_text(encoding="utf-8", errors="replace")

    def seed(self, run: str) -> Path:
        """Folder of the first seed of a run."""
        return Layout(self.folder).run("smoke", run, 0)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """A teacher's signals, a student and its fine-tuning, with scores, claims, tables and ledger."""
    folder = make_checkout(
        tmp_path_factory.mktemp("damage"), [PAPER], {"steps": "30", "checkpoint_every": "3"}, ["laptop"]
    )
    plan = build_plan(load_project(folder, quick=False), "smoke")
    run = next(
        r for r in plan.runs.values()
        if r.stage == "adapt" and r.seeds and r.evaluate and "init" in r.parents and "targets" in plan.runs[r.parents["init"]].parents
    )  # fmt: skip
    seed = Layout(Path()).run("smoke", run.id, 0)
    claims, ledger = f"results/smoke/papers/{PAPER}/claims.json", "results/smoke/claims.json"
    snakemake(folder, "--config", "scale=smoke", "--", f"{seed}/metrics.json", f"results/structural/{PAPER}.json")
    options = {"cwd": folder, "env": environment(), "text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, str(Path(__file__).with_name("forks.py"))], **options)
    assert server.stdout.readline() == "ready\n"
    made = Site(folder, server, run.parents["init"], run.id, run.data)
    for call in (
        ("compare", "--paper", PAPER, "--scale", "smoke", "--out", claims),
        ("tables", "--paper", PAPER, "--claims", claims, "--out", f"results/smoke/papers/{PAPER}/tables"),
        (
            "figures",
            "--paper",
            PAPER,
            "--scale",
            "smoke",
            "--claims",
            claims,
            "--out",
            f"results/smoke/papers/{PAPER}/figures",
        ),
        ("ledger", claims, "--out-csv", "results/smoke/claims.csv", "--out-json", ledger),
    ):
        assert made.call(*call)[0] == 0, made.call(*call)[1]
    yield made
    server.stdin.close()
    server.wait(30)


@dataclass
class Consumer:
    """A program's call, the folders or files that it reads, and what tells its outcome (equal for equal results)."""

    call: tuple[str, ...]
    reads: list[Path]
    outcome: Callable[[], Any]
    #: brings the checkout into the state before the call
    before: Callable[[], None] = lambda: None


def consumers(site: Site) -> dict[str, Consumer]:
    """Return the consumers by name."""
    folder, layout = site.folder, Layout(site.folder)
    run = ("--scale", "smoke", "--run", site.run, "--seed", "0")
    own, parent, prepared = site.seed(site.run), site.seed(site.student), layout.prepared(site.prepared)
    plan = build_plan(load_project(folder, quick=False), "smoke")
    student, facts = plan.runs[site.student], plan.prepared[site.prepared]
    signals, text = site.seed(student.parents["targets"]), layout.prepared(student.data)
    out = folder / "out"
    shown = ("--paper", PAPER, "--scale", "smoke", "--results", "results", "--out", str(out / "claims.json"))
    claims = folder / f"results/smoke/papers/{PAPER}/claims.json"

    def again(target: Path) -> Callable[[], None]:
        return lambda: [shutil.rmtree(place, ignore_errors=True) for place in (target, layout.state)]

    def weights(target: Path) -> Callable[[], Any]:
        return lambda: [sha256_file(target / name) for name in ("model.safetensors", "history.jsonl")]

    def files(target: Path, *patterns: str) -> Callable[[], Any]:
        return lambda: {p.name: sha256_file(p) for pattern in patterns for p in target.glob(pattern) if p.is_file()}

    def content(path: Path, *keys: str) -> Callable[[], Any]:
        return lambda: {key: json.loads(path.read_text(encoding="utf-8"))[key] for key in keys}

    sized = ("--max-length", str(facts.max_length))
    dataset, tokenizer = layout.dataset(facts.dataset), layout.model(facts.tokenizer)
    return {
        "train": Consumer(("train", *run), [parent, prepared], weights(own), again(own)),
        "train with signals": Consumer(
            ("train", "--scale", "smoke", "--run", site.student, "--seed", "0"), [signals, text], weights(parent), again(parent)
        ),
        "evaluate": Consumer(("evaluate", *run), [own, prepared], content(own / "metrics.json", "tasks", "reported")),
        "prepare": Consumer(
            ("prepare", "--task", facts.task, "--dataset", str(dataset), "--tokenizer", str(tokenizer), *sized,
             "--out", str(out / site.prepared)), [dataset, tokenizer], files(out / site.prepared, "*.parquet", "facts.json"),
        ),
        "compare": Consumer(
            ("compare", *shown), [own / n for n in ("metrics.json", "manifest.json", "history.jsonl")]
            + [folder / f"results/structural/{PAPER}.json"], content(out / "claims.json", "rows", "trends"),
        ),
        "tables": Consumer(
            ("tables", "--paper", PAPER, "--claims", str(claims), "--out", str(out / "tables")), [claims], files(out / "tables", "*")
        ),
        "figures": Consumer(
            ("figures", "--paper", PAPER, "--scale", "smoke", "--claims", str(claims), "--out", str(out / "figures")),
            [claims], files(out / "figures", "*.csv", "*.json"),
        ),
        "ledger": Consumer(
            ("ledger", str(claims), "--out-csv", str(out / "c.csv"), "--out-json", str(out / "c.json")), [claims], files(out, "c.*")
        ),
        "report": Consumer(
            ("report", "--ledger", "results/smoke/claims.json", "--scale", "smoke", "--results", "results",
             "--out", str(out / "report" / "index.html")),
            [folder / "results/smoke/claims.json", claims], files(out / "report", "index.html"),
        ),
    }  # fmt: skip


def damages(path: Path, siblings: list[Path], draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of a damaged file."""
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.95):
        data, place = bytearray(whole), int(share * (len(whole) - 1))
        data[place] ^= 1 << draw.randrange(8)
        yield f"flipped bit at {share:.0%}", bytes(data)
    yield "truncated", whole[: len(whole) // 2]
    yield "empty", b""
    yield "garbage", draw.randbytes(64)
    if path.suffix == ".json":
        yield "nested", b"[" * 100_000
        yield "another type", b"[1]"
        digits = [place for place, byte in enumerate(whole) if chr(byte).isdigit()]
        for place in draw.sample(digits, min(4, len(digits))):
            yield (
                f"another digit at {place}",
                whole[:place] + (b"7" if whole[place : place + 1] != b"7" else b"3") + whole[place + 1 :],
            )
    for other in siblings:
        if other.suffix == path.suffix and other.read_bytes() != whole:
            yield f"replaced by {other.name} of {other.parent.name}", other.read_bytes()


def _files(places: list[Path]) -> list[Path]:
    found = [path for place in places for path in (sorted(place.iterdir()) if place.is_dir() else [place])]
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _verdict(status: int, said: str, path: Path, equal: Callable[[], bool]) -> str:
    if "Traceback" in said:
        return "traceback"
    if status == 0:
        return "harmless" if equal() else "SILENT"
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    named = lines and any(str(name) in lines[-1] for name in (path.name, path.parent.name))
    return "named" if status == 2 and named else f"unnamed ({status})"


def _sweep(
    site: Site, name: str, consumer: Consumer, chosen: Callable[[list], list]
) -> list[tuple[str, str, str, str]]:
    """Damage each file that a consumer reads, one way at a time; returns (consumer, file, damage, verdict)."""
    draw, seen = random.Random(f"{SEED} {name}"), []
    consumer.before()
    assert site.call(*consumer.call)[0] == 0, site.call(*consumer.call)[1]
    whole, paths = consumer.outcome(), _files(consumer.reads)
    cases = [(path, *damage) for path in paths for damage in damages(path, [p for p in paths if p != path], draw)]
    for path, damage, content in chosen(cases):
        kept = path.read_bytes()
        consumer.before()
        if not path.parent.exists():  # its own earlier result is what the consumer makes again
            continue
        path.write_bytes(content)
        status, said = site.call(*consumer.call)
        seen.append(
            (
                name,
                str(path.relative_to(site.folder)),
                damage,
                _verdict(status, said, path, lambda: consumer.outcome() == whole),
            )
        )
        path.write_bytes(kept)
    consumer.before()
    assert site.call(*consumer.call)[0] == 0
    return seen


def _judge(seen: list[tuple[str, str, str, str]]) -> None:
    print(dict(Counter(verdict for *_, verdict in seen)))
    wrong = [line for line in seen if line[3] not in ("named", "harmless")]
    assert not wrong, "\n".join(map(str, wrong))


def test_a_sample_of_damages_is_named_or_harmless(site):
    seen = []
    for name, consumer in consumers(site).items():
        seen += _sweep(site, name, consumer, lambda cases: random.Random(SEED).sample(cases, min(3, len(cases))))
    _judge(seen)
    assert len(seen) > 20


@pytest.mark.slow
def test_every_damage_is_named_or_harmless(site):
    seen = []
    for name, consumer in consumers(site).items():
        seen += _sweep(site, name, consumer, lambda cases: cases)
    _judge(seen)
    assert len(seen) > 290


@pytest.mark.slow
def test_fifty_kills_leave_nothing_wrong_and_nothing_blocked(site):
    """A program is killed at a time drawn by the seed; the same call again gives what an undisturbed one gives, and nothing is left."""
    draw, known = random.Random(SEED), consumers(site)
    whole, lasts = {}, {}
    for name, consumer in known.items():
        consumer.before()
        started = time.monotonic()
        subprocess.run(
            program(site.folder, *consumer.call), cwd=site.folder, env=environment(), check=True, capture_output=True
        )
        whole[name], lasts[name] = consumer.outcome(), time.monotonic() - started
    for number in range(50):
        name = list(known)[
            number % len(known)
        ]  # in their order: what is trained again is scored again before it is compared
        consumer = known[name]
        consumer.before()
        process = subprocess.Popen(
            program(site.folder, *consumer.call),
            cwd=site.folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(draw.random() * lasts[name])
        process.kill()
        process.wait()
        status, said = site.call(*consumer.call)
        assert status == 0 and consumer.outcome() == whole[name], (number, name, said)
        left = [
            path
            for place in ("results", "assets", "state", "out")
            for path in (site.folder / place).rglob(".*.*-*.????????")
        ]
        assert not left, (number, name, left)


def _stopped(site: Site) -> Path:
    """Train until a checkpoint is there, and kill the process; returns the state folder."""
    state = Layout(site.folder).resume("smoke", site.run, 0)
    for place in (site.seed(site.run), state):
        shutil.rmtree(place, ignore_errors=True)
    process = subprocess.Popen(
        program(site.folder, *_training(site)), cwd=site.folder, env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(state.glob("checkpoint-*/complete.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(state.glob("checkpoint-*/complete.json")) and not site.seed(site.run).exists()
    return state


def _training(site: Site) -> tuple[str, ...]:
    return ("train", "--scale", "smoke", "--run", site.run, "--seed", "0")


def _weights(site: Site) -> list[str]:
    return [sha256_file(site.seed(site.run) / name) for name in ("model.safetensors", "history.jsonl")]


@pytest.fixture
def undisturbed(site) -> list[str]:
    """Hashes of what training gives when nothing stops it."""
    for place in (site.seed(site.run), Layout(site.folder).resume("smoke", site.run, 0)):
        shutil.rmtree(place, ignore_errors=True)
    assert site.call(*_training(site))[0] == 0
    return _weights(site)


def test_a_resume_goes_on_from_its_own_training_alone(site, undisturbed):
    """The parent is made again, or another run's state lies there: training starts anew, and says so."""
    state = _stopped(site)
    shutil.copytree(state, site.folder / "kept")
    status, said = site.call(*_training(site))
    assert status == 0 and "resuming at step" in said and _weights(site) == undisturbed
    manifest = site.seed(site.student) / "manifest.json"
    content, before = read_json(manifest), manifest.read_bytes()
    write_sealed(manifest, {**content, "finished": "2020-01-01T00:00:00Z"}, code=content["seal"]["code"])
    shutil.rmtree(site.seed(site.run))
    shutil.copytree(site.folder / "kept", state)
    status, said = site.call(*_training(site))
    assert status == 0 and "starting again" in said and "resuming" not in said and _weights(site) == undisturbed
    manifest.write_bytes(before)
    parents = Layout(site.folder).resume("smoke", site.student, 0)
    shutil.move(site.folder / "kept", parents)
    shutil.rmtree(site.seed(site.student))
    status, said = site.call("train", "--scale", "smoke", "--run", site.student, "--seed", "0")
    assert status == 0 and "starting again" in said, said


@pytest.mark.slow
def test_every_damaged_file_of_a_checkpoint_is_named_or_harmless(site, undisturbed):
    state, seen = _stopped(site), []
    draw = random.Random(SEED)
    shutil.copytree(state, site.folder / "state-kept")
    checkpoint = max(state.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])).name
    for name in [
        *sorted(path.name for path in (state / checkpoint).iterdir()),
        "../memory.json",
        "../failed.json",
        "../process.json",
    ]:
        content = (
            (state / checkpoint / name).read_bytes() if (state / checkpoint / name).exists() else b'{"parts": 1000000}'
        )
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 1
        for damage, data in (("flipped", bytes(flipped)), ("truncated", content[:-9]), ("garbage", draw.randbytes(64))):
            for place in (site.seed(site.run), state):
                shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(site.folder / "state-kept", state)
            (state / checkpoint / name).write_bytes(data)
            status, said = site.call(*_training(site))
            verdict = _verdict(
                status, said, (state / checkpoint / name).resolve(), lambda: _weights(site) == undisturbed
            )
            seen.append(("resume", name, damage, verdict))
    shutil.rmtree(state, ignore_errors=True)
    shutil.rmtree(site.folder / "state-kept")
    site.call(*_training(site))
    _judge(seen)
