#!/usr/bin/env python
"""Hold the memory meter against this machine's NVIDIA GPU and write results/reference/<gpu>/memory.json and memory.md.

Every row of `replica.measure.reference` is predicted on meta and trained for two steps on the GPU. Without a GPU nothing is
written. `--dry` needs none: it prints the predictions, and trains every row small, on the processor.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

from replica.jobs.programs import main

#: What a model is cut down to in a dry run, by architecture.
TINY = {
    "bert": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
    "t5": {"d_model": 64, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2},
    "llama": {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
}


def program() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=".", help="root of the checkout (default: here)")
    parser.add_argument("--out", default="results/reference", help="folder for the results, below the root")
    parser.add_argument("--seconds", type=float, default=210, help="start no further row after this time (default 210)")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--dry", action="store_true", help="predict, and train small on the processor; writes nothing")
    arguments = parser.parse_args()

    import torch

    if not arguments.dry and not torch.cuda.is_available():
        print("no NVIDIA GPU on this machine: no measurement was made")
        return 0

    from replica.config import load_project
    from replica.measure import reference

    project = load_project(arguments.root)
    rows = [row for row in reference.rows() if arguments.only in row.name]
    if arguments.dry:
        return _dry(project, rows)
    return _measure(project, rows, Path(arguments.root) / arguments.out, arguments.seconds)


def _measure(project, rows, out: Path, seconds: float) -> int:
    import torch
    import transformers

    from replica.files import write_json, write_text
    from replica.measure import reference

    start, found, failed = time.perf_counter(), [], 0
    reference.warm_up()
    for row in rows:
        began = time.perf_counter()
        try:
            if began - start > seconds:
                raise reference.NotHere(f"the {seconds:.0f} seconds were over")
            item = reference.hold(project, row)
        except Exception as error:  # one row that fails must not lose the others
            if isinstance(error, reference.NotHere):
                item = {**reference.fields(row), "skipped": str(error)}
            else:
                failed += 1
                item = {
                    **reference.fields(row),
                    "skipped": f"failed: {type(error).__name__}: {str(error).splitlines()[0]}",
                }
        found.append(item)
        text = f"ratio {item['ratio']:.4f}, {item['ratio_tensors']:.4f}" if "ratio" in item else item["skipped"]
        print(f"{row.name}: {text} ({time.perf_counter() - began:.1f} s)", flush=True)
    name = torch.cuda.get_device_name()
    result = {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "allocator": torch.cuda.get_allocator_backend(),
        "rounding": reference.ROUNDING,
        "assumptions": reference.NOTE,
        "seconds": time.perf_counter() - start,
        "rows": found,
    }
    folder = out / reference.folder_name(name)
    write_json(folder / "memory.json", result)
    write_text(folder / "memory.md", reference.as_markdown(result))
    print(f"wrote {folder}/memory.json and memory.md ({result['seconds']:.0f} s, {failed} failed)")
    return 1 if failed else 0


def _dry(project, rows) -> int:
    from dataclasses import replace

    from replica.measure import reference

    for row in rows:
        began = time.perf_counter()
        try:
            predicted = reference.predict(project, row)
            small = replace(row, batch=2, length=16, decoder_length=row.decoder_length and 4, rank=row.rank and 8)
            loss = reference.run(project, small, "cpu", **TINY[project.model(row.model).architecture])
        except reference.NotHere as reason:
            print(f"{row.name}: skipped: {reason}")
            continue
        took = time.perf_counter() - began
        print(
            f"{row.name}: {predicted['peak'] / 2**20:,.1f} MiB in {predicted['peak_phase']}; loss {loss:.3f} ({took:.1f} s)"
        )
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    main(program)
