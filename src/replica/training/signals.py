"""A teacher's signals stored once: ragged tensors per example, written by `targets` runs and looked up by batches.

File: safetensors with, per signal, `<name>` (all values of all examples, flat, float16) and `<name>.offsets` (int64, one more than
examples), plus `example_ids` and `lengths`. An axis named `length` has the example's own length; other axes have the sizes in the
file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from replica.errors import AssetError
from replica.files import atomic_path, parse_json

if TYPE_CHECKING:
    import torch


def store(path: Path, axes: dict[str, tuple[str, ...]], batches: Iterable[tuple[dict, dict]]) -> dict[str, int]:
    """Write the signals of `(batch, signals)` pairs; returns the number of examples and bytes.

    `axes` names each signal's axes after the batch axis. Padded positions are cut away.
    """
    import torch
    from safetensors.torch import save_file

    parts: dict[str, list] = {name: [] for name in axes}
    ids, lengths, sizes = [], [], {}
    for batch, signals in batches:
        mask = batch.get("attention_mask")
        for row in range(len(batch["example_id"])):
            length = int(mask[row].sum()) if mask is not None else 0
            ids.append(int(batch["example_id"][row]))
            lengths.append(length)
            for name, names in axes.items():
                value = signals[name][row]
                for axis, label in enumerate(names):
                    if label == "length":
                        value = value.narrow(axis, 0, length)
                sizes[name] = [-1 if label == "length" else value.shape[a] for a, label in enumerate(names)]
                parts[name].append(value.detach().to(torch.float16).reshape(-1).cpu())
    tensors = {"example_ids": torch.tensor(ids), "lengths": torch.tensor(lengths)}
    for name, values in parts.items():
        counts = torch.tensor([0, *(len(v) for v in values)])
        tensors[f"{name}.offsets"] = counts.cumsum(0)
        tensors[name] = torch.cat(values) if values else torch.zeros(0, dtype=torch.float16)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"sizes": json.dumps(sizes)})
    return {"examples": len(ids), "bytes": path.stat().st_size}


class StoredSignals:
    """Looks up stored signals for a batch and pads them to its length."""

    def __init__(self, path: Path):
        from safetensors import safe_open

        with safe_open(path, "pt") as handle:
            self.sizes = parse_json((handle.metadata() or {}).get("sizes", ""), f"{path}, sizes", AssetError)
            self.tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        self.path = path
        self.row = {int(example): row for row, example in enumerate(self.tensors["example_ids"])}

    def __call__(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return `{name: (batch, *axes)}` in float32 on the batch's device; padded positions are zero."""
        import torch

        try:
            rows = [self.row[int(example)] for example in batch["example_id"]]
        except KeyError as missing:
            raise AssetError(
                f"{self.path}: holds no signals for example {missing}; they were made from other data"
            ) from None
        width = batch["input_ids"].shape[1] if "input_ids" in batch else 0
        lengths = [int(self.tensors["lengths"][row]) for row in rows]
        signals = {}
        for name, sizes in self.sizes.items():
            shape = [width if size == -1 else size for size in sizes]
            out = torch.zeros(len(rows), *shape)
            flat, offsets = self.tensors[name], self.tensors[f"{name}.offsets"]
            for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                own = [length if size == -1 else size for size in sizes]
                value = flat[offsets[row] : offsets[row + 1]].reshape(own)
                out[(place, *(slice(0, size) for size in own))] = value.float()
            signals[name] = out.to(batch["example_id"].device)
        return signals
