"""What a step of each method costs: seconds, memory and arithmetic, against full fine-tuning and another library's nearest, in one run.

One model (the registered 6-layer, 384-wide encoder's shape, or an image transformer of that shape; random weights), one batch of 16 x 64
tokens in float32, one thread, the project's own training loop for all. In each round full fine-tuning, the peer and the methods of a
group take their steps in turn, and ratios are medians over rounds of ratios within one, so that other work on the machine disturbs
all alike. Seconds are wall time; ratios and flags are of processor time, since one thread does all the work.

FLOPs are those of matrix products in one whole step, update included, as run with eager attention; memory is that of a step that has its
optimizer state, by the project's tracker under its rules (eager attention, one byte a dropped value). `excess` is a method's ratio of
time to its peer's over their ratio of FLOPs. Above 1.3 it needs a reason (in `benchmarks/method_cases.py`), else the program ends with
status 1. Writes benchmarks/methods.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.method_cases import CASES, FULL, MODELS, PEERS, Case, own  # noqa: E402
from replica.config import load_project  # noqa: E402
from replica.files import write_json  # noqa: E402
from replica.jobs.programs import main  # noqa: E402

#: How much more than its arithmetic a step may take without a reason.
LIMIT = 1.3


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds, of which the median counts")
    parser.add_argument("--steps", type=int, default=2, help="steps in each turn of a round")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sentence")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--only", nargs="*", metavar="CASE", help="cases, or peers' names for all of theirs")
    parser.add_argument("--out", default="benchmarks/methods.json")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import transformers

    torch.set_num_threads(1)
    project = load_project(".")
    result: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_at_start": os.getloadavg(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "setting": {name: getattr(arguments, name) for name in ("rounds", "steps", "batch", "length", "precision")},
        "limit": LIMIT,
        "peers": {name: peer.says for name, peer in PEERS.items()},
        "groups": {},
    }
    for (head, peer), cases in groups(arguments.only).items():
        found = measure(project, head, peer, cases, arguments)
        result["groups"][f"{head}: {peer}"] = found
        for name in cases:
            print(line(name, found[name]), flush=True)
        result["load_at_end"] = os.getloadavg()
        write_json(arguments.out, result)  # after each group, so that one that fails takes nothing away
    bare = [name for group in result["groups"].values() for name, item in group.items() if lacks_reason(item)]
    if bare:
        raise SystemExit(f"above {LIMIT} times their arithmetic, without a reason: {'; '.join(bare)}")


def groups(only: list[str] | None = None) -> dict[tuple[str, str], dict[str, Case]]:
    """Return the cases that share a head and a peer, by these two; raises SystemExit for a name that is neither a case nor a peer."""
    unknown = set(only or ()) - set(CASES) - {case.peer for case in CASES.values()}
    if unknown:
        raise SystemExit(f"error: no case or peer is named {', '.join(sorted(unknown))}; cases: {'; '.join(CASES)}")
    found: dict[tuple[str, str], dict[str, Case]] = {}
    for name, case in CASES.items():
        if not only or name in only or case.peer in only:
            found.setdefault((case.head, case.peer), {})[name] = case
    return found


def measure(project: Any, head: str, peer: str, cases: dict[str, Case], arguments: Any) -> dict[str, Any]:
    """Return what full fine-tuning, the peer and the cases of one group cost, by name."""
    names = dict.fromkeys([FULL, peer, *cases])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        loops = {}
        for place, name in enumerate(names):
            loops[name] = make_loop(project, head, name, cases.get(name), arguments, Path(folder) / str(place))
            stack.callback(loops[name].close)
            for _ in range(2):  # one-time work, and the optimizer's state
                loops[name].step()
        rounds = [
            {name: [loop.step() for _ in range(arguments.steps)] for name, loop in loops.items()}
            for _ in range(arguments.rounds)
        ]
        results = {
            name: {
                "trainable_parameters": loop.trained,
                "prepare_seconds": loop.prepare_seconds,
                **summary([steps[name] for steps in rounds]),
                **loop.step("flops"),
                **loop.step("memory"),
            }
            for name, loop in loops.items()
        }
    for name in cases:
        results[name]["against"] = {
            other: against(name, other, rounds, results) for other in dict.fromkeys([FULL, peer])
        }
        excess = results[name]["against"][peer]["excess"]
        results[name] |= {"peer": peer, "excess": excess, "flagged": excess > LIMIT, "reason": cases[name].reason}
    return results


def make_loop(project: Any, head: str, name: str, case: Case | None, arguments: Any, folder: Path) -> Any:
    """Return the training of a case, of a peer, or of all weights, ready for its first step."""
    from transformers import set_seed

    from benchmarks.timed_loop import TimedLoop, context_of
    from replica import models

    registered, changes = MODELS[head]
    set_seed(0)
    model = models.build(project.model(registered), head=head, labels=2, seed=0, changes=changes)
    rows = drawn_rows(model, head, 4 * arguments.batch, arguments.length)
    context = context_of(rows, head, arguments.batch)
    methods: list[tuple[frozenset[str], Any]] = []
    started = time.perf_counter()
    if case is not None:
        methods = own(case)
        context.restored = frozenset(case.restored)
        for reference, (_, method) in zip(case.methods, methods, strict=True):
            if reference["name"] in case.restored:
                method.restore(model)
        for _, method in methods:
            method.prepare(model, context)
    elif name != FULL:
        model, optimized = PEERS[name].build(model)
        methods = [] if optimized is None else [(frozenset({"optimizer"}), optimized)]
    prepared = time.perf_counter() - started
    loop = TimedLoop(
        model, rows, arguments.batch, methods, folder=folder, context=context, precision=arguments.precision
    )
    loop.prepare_seconds = prepared
    loop.counts_saved = case is None or not case.inner_gradients
    loop.trained = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values() if p.requires_grad)
    return loop


def drawn_rows(model: Any, head: str, count: int, length: int) -> Any:
    """Return `count` examples that a model takes, drawn once: sentences without padding, every tenth word to be found, or images."""
    import torch

    from benchmarks.timed_loop import Rows

    seeds = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (count,), generator=seeds)
    if head == "image":
        side, channels = model.config.image_size, model.config.num_channels
        return Rows(
            {"pixel_values": torch.randn(count, channels, side, side, generator=seeds), "labels": labels}, length
        )
    ids = torch.randint(1000, model.config.vocab_size, (count, length), generator=seeds)
    if head == "mlm":
        labels = torch.where(torch.arange(length) % 10 == 5, ids, -100)
    return Rows({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}, length)


def summary(rounds: list[list[dict[str, dict[str, float]]]]) -> dict[str, dict[str, float]]:
    """Return the median over rounds of the seconds of a step and its phases, wall and processor."""
    kinds = rounds[0][0]
    return {
        kind: {phase: median(mean(steps, kind, phase) for steps in rounds) for phase in kinds[kind]} for kind in kinds
    }


def mean(steps: list[dict[str, dict[str, float]]], kind: str, phase: str = "step") -> float:
    """Return a turn's mean seconds."""
    return sum(step[kind][phase] for step in steps) / len(steps)


def against(name: str, other: str, rounds: list[dict[str, Any]], results: dict[str, Any]) -> dict[str, float]:
    """Return the ratios of a method to another training: time (wall, processor), FLOPs, bytes, and time over FLOPs."""
    times = {
        kind: median(mean(steps[name], kind) / mean(steps[other], kind) for steps in rounds)
        for kind in ("seconds", "processor_seconds")
    }
    one, two = results[name], results[other]
    flops = one["flops"] / two["flops"]
    saved = one["saved_bytes"] / two["saved_bytes"] if one["saved_bytes"] is not None else None
    return {
        **times,
        "flops": flops,
        "excess": times["processor_seconds"] / flops,
        "peak_bytes": one["peak_bytes"] / two["peak_bytes"],
        "saved_bytes": saved,
    }


def lacks_reason(item: dict[str, Any]) -> bool:
    """Whether a method was flagged and nobody said why."""
    return item.get("flagged", False) and not item["reason"]


def line(name: str, item: dict[str, Any]) -> str:
    """Return one method's line of the printed table."""
    full, peer = item["against"][FULL], item["against"][item["peer"]]
    phases = " + ".join(f"{item['processor_seconds'][phase]:.3f}" for phase in ("forward", "backward", "update"))
    mark = "" if not item["flagged"] else f"  {'reason given' if item['reason'] else 'NO REASON'}"
    return (
        f"{name:36s} {item['seconds']['step']:6.3f} s ({phases})  full x{full['processor_seconds']:.2f} (FLOPs x{full['flops']:.2f})  "
        f"peer x{peer['processor_seconds']:.2f} (FLOPs x{peer['flops']:.2f})  excess {item['excess']:.2f}  "
        f"peak {item['peak_bytes'] / 2**20:.0f} MiB{mark}"
    )


if __name__ == "__main__":
    main(program)
