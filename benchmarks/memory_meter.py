"""Our memory meter against torch's MemTracker under FakeTensorMode, on full-size models, in one run on one machine.

Both follow two AdamW training steps of BERT-base, T5-base and LLaMA-1B without holding a weight, under the same rules (eager attention,
one byte a dropped value), and both must give the same peak made up of the same bytes of parameters, buffers, gradients, optimizer state
and the rest (inputs, activations, temporaries). torch's tracker follows the processor, where Adam's step counters are: 4 bytes a trained
tensor, given apart and taken off. Ours is the median
of several measurements, torch's tracker runs once; processor time is given beside wall time. Writes benchmarks/memory_meter.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from typing import Any

from replica.config import load_project
from replica.files import write_json
from replica.jobs.programs import main

#: Model: head, batch, length, decoder length.
MODELS = {
    "bert-base-uncased": ("classification", 32, 128, None),
    "t5-base": ("text2text", 16, 128, 32),
    "llama-1b": ("causal", 1, 256, None),
}


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5, help="measurements of ours, of which the median counts")
    parser.add_argument("--out", default="benchmarks/memory_meter.json")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    project = load_project(".")
    result: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_at_start": os.getloadavg(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "models": {},
    }
    for name, setting in MODELS.items():
        ours, theirs = _ours(project, name, setting, arguments.repeat), _theirs(project, name, setting)
        counters = theirs.pop("step_counters")
        item = {
            "setting": dict(zip(("head", "batch", "length", "decoder_length"), setting, strict=True)),
            "ours": ours,
            "mem_tracker": theirs,
            "step_counters": counters,
            "ratio": theirs["seconds"] / ours["seconds"],
            "ratio_processor": theirs["processor_seconds"] / ours["processor_seconds"],
            "difference": {key: size - ours["at_peak"][key] for key, size in theirs["at_peak"].items()},
        }
        result["models"][name] = item
        print(
            f"{name:18s} ours {ours['seconds']:.2f} s  MemTracker {theirs['seconds']:.1f} s  ratio {item['ratio']:.0f} "
            f"(processor {item['ratio_processor']:.0f})  peak {ours['peak']:,}, differences {item['difference']}",
            flush=True,
        )
    result["load_at_end"] = os.getloadavg()
    write_json(arguments.out, result)


def _ours(project, name: str, setting: tuple, repeat: int) -> dict:
    """Measure with our meter; building the model counts for neither side."""
    from replica.meters.memory import measure_memory
    from replica.meters.options import MemoryOptions

    head, batch, length, decoder_length = setting
    model = _build(project, name, head)
    walls, cpus = [], []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        found = measure_memory(model, MemoryOptions(batch=batch, length=length, decoder_length=decoder_length))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    parts = found["at_peak"]
    return {
        "seconds": statistics.median(walls),
        "processor_seconds": statistics.median(cpus),
        "all_seconds": walls,
        "peak": found["peak"],
        "peak_phase": found["peak_phase"],
        "at_peak": {
            **{key: parts[key] for key in ("parameter", "buffer", "gradient", "optimizer")},
            "rest": parts["input"] + parts["forward"] + parts["backward"],
            "total": found["peak"],
        },
    }


def _build(project, name: str, head: str):
    from replica import models

    return models.build(project.model(name), head=head, device="meta", attention="eager")


def _theirs(project, name: str, setting: tuple) -> dict:
    """Measure with torch's tracker on fake tensors."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from replica.meters.batches import loss_of, make_batch
    from replica.meters.semantics import rules

    head, batch, length, decoder_length = setting
    like = _build(project, name, head)
    with FakeTensorMode(), torch.device("cpu"):
        model = type(like)(like.config).train()
        inputs = make_batch(model, batch, length, decoder_length)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False, fused=False)
        tracker = MemTracker()
        wall, cpu = time.perf_counter(), time.process_time()
        tracker.track_external(model, optimizer, *inputs.values())
        with rules(model), tracker:
            for _ in range(2):
                loss_of(model, inputs).backward()
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        parts = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    counters = 4 * len(list(model.parameters()))
    return {
        "seconds": wall,
        "processor_seconds": cpu,
        "peak": parts["Total"],
        "step_counters": counters,
        "at_peak": {
            "parameter": parts["Parameter"],
            "buffer": parts["Buffer"],
            "gradient": parts["Gradient"],
            "optimizer": parts["Optstate"] - counters,
            "rest": parts["Activation"] + parts["Temp"] + parts["Other"],
            "total": parts["Total"] - counters,
        },
        "parts": parts,
    }


if __name__ == "__main__":
    main(program)
