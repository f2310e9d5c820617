"""Compares the memory meter with a CUDA device: predicted and actual memory of two training steps.

A prediction is `measure_memory` on meta under the semantics that fit today's torch on CUDA: dropout keeps boolean masks, every storage
is rounded up to the 512 bytes of the caching allocator, AdamW runs tensor by tensor, by groups (`foreach`) or in one kernel
(`fused`). Attention is eager, or fused through one named kernel: memory-efficient in fp32, flash in 16 bits. The meter does
not see cuBLAS's workspaces (they stay allocated, so they are measured after the run), temporaries inside kernels, or blocks that
the allocator leaves up to 1 MiB larger than requested.
"""

from __future__ import annotations

import gc
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from replica.errors import ConfigError
from replica.meters.batches import loss_of, make_batch
from replica.meters.memory import DTYPES, measure_memory
from replica.meters.optimizers import make_optimizer
from replica.meters.options import MemoryOptions
from replica.meters.semantics import attention, steady

if TYPE_CHECKING:
    from replica.config import Project

#: The caching allocator's smallest unit, in bytes.
ROUNDING = 512


class NotHere(Exception):
    """Why a row cannot run in this place: a library, a method or memory that is missing."""


@dataclass(frozen=True)
class Row:
    """One training setting that is predicted on meta and run on the device.

    `methods` are references as in a paper's file. `optimizer`: adamw, sgd (momentum 0.9), adamw8bit (bitsandbytes'), galore (the
    registered method of `rank`), or `method`, the one that the last of `methods` brings. `kernel` is AdamW's: single, foreach or fused.
    """

    name: str
    model: str
    head: str = "classification"
    batch: int = 32
    length: int = 128
    decoder_length: int | None = None
    methods: tuple[dict[str, Any], ...] = ()
    optimizer: str = "adamw"
    kernel: str = "single"
    rank: int | None = None
    attention: str = "eager"
    dtype: str = "float32"
    autocast: str | None = None
    checkpointing: bool = False

    @property
    def attention_kernel(self) -> str:
        """Name the kernel that attention runs through on the device."""
        if self.attention == "eager":
            return "eager"
        return "memory-efficient" if self.dtype == "float32" and not self.autocast else "flash"


_T5 = {"model": "t5-base", "head": "text2text", "batch": 16, "decoder_length": 32}
_LLAMA = {"model": "llama-130m", "head": "causal", "batch": 8, "length": 256}

ROWS: tuple[Row, ...] = (
    Row("bert-base full fp32 eager", "bert-base-uncased"),
    Row("bert-base full fp32 sdpa", "bert-base-uncased", attention="fused"),
    Row("bert-base full bf16 autocast eager", "bert-base-uncased", autocast="bfloat16"),
    Row("bert-base full bf16 autocast sdpa", "bert-base-uncased", autocast="bfloat16", attention="fused"),
    Row("bert-base AdamW foreach", "bert-base-uncased", kernel="foreach", batch=4),
    Row("bert-base AdamW fused", "bert-base-uncased", kernel="fused", batch=4),
    Row("bert-base AdamW single", "bert-base-uncased", batch=4),
    Row("bert-base SGD", "bert-base-uncased", optimizer="sgd"),
    Row("bert-base 8-bit Adam (bitsandbytes)", "bert-base-uncased", optimizer="adamw8bit", batch=4),
    Row("bert-base checkpointing", "bert-base-uncased", checkpointing=True),
    Row("bert-base checkpointing sdpa", "bert-base-uncased", checkpointing=True, attention="fused"),
    Row("bert-base LoRA r=8", "bert-base-uncased", methods=({"name": "lora", "rank": 8},)),
    Row("bert-base adapters", "bert-base-uncased", methods=({"name": "adapter"},)),
    Row("bert-base BitFit", "bert-base-uncased", methods=({"name": "bitfit"},)),
    Row("bert-base GaLore r=128", "bert-base-uncased", optimizer="galore", rank=128, batch=4),
    Row("t5-base full fp32", **_T5),
    Row("t5-base checkpointing", **_T5, checkpointing=True),
    Row("t5-base LoRA r=8", **_T5, methods=({"name": "lora", "rank": 8},)),
    Row("t5-base adapters", **_T5, methods=({"name": "adapter"},)),
    Row("t5-base ladder side network", **_T5, methods=({"name": "ladder-side-tuning"},)),
    Row("llama-130m full fp32 eager", **_LLAMA),
    Row("llama-130m full fp32 sdpa", **_LLAMA, attention="fused"),
    Row("llama-130m bf16 sdpa", **_LLAMA, dtype="bfloat16", attention="fused"),
    Row(
        "llama-130m bf16 sdpa GaLore r=256", **_LLAMA, dtype="bfloat16", attention="fused", optimizer="galore", rank=256
    ),
    Row("llama-130m bf16 sdpa checkpointing", **_LLAMA, dtype="bfloat16", attention="fused", checkpointing=True),
)


def rows(extra: bool = True) -> tuple[Row, ...]:
    """Return the rows; with `extra`, one more for every registered method that brings an 8-bit optimizer."""
    if not extra:
        return ROWS
    from replica.methods.registry import entries

    own = [e.name for e in entries().values() if "optimizer" in e.changes and re.search(r"8-?bit", e.name)]
    return ROWS + tuple(
        Row(f"bert-base {name}", "bert-base-uncased", methods=({"name": name},), optimizer="method", batch=4)
        for name in own
    )


def predict(project: Project, row: Row, **changes: Any) -> dict:
    """Return `measure_memory` of a row on meta; `changes` are of the model's configuration.

    Raises NotHere for a method that is not registered or a library that it lacks.
    """
    model, methods = _prepared(project, row, "meta", changes)
    shared = ("batch", "length", "decoder_length", "attention", "dtype", "autocast", "checkpointing")
    options: dict[str, Any] = {"rounding": ROUNDING, **{key: getattr(row, key) for key in shared}}
    make_optimizers = None
    if row.optimizer == "method":
        make_optimizers = lambda m: [methods[-1].optimizer(m, _context(row))]  # noqa: E731
    elif row.optimizer == "adamw" and row.kernel == "fused":
        make_optimizers = lambda m: [MomentsAlone([p for p in m.parameters() if p.requires_grad])]  # noqa: E731
    else:
        options |= {"optimizer": row.optimizer, "foreach": row.kernel == "foreach", "rank": row.rank}
    return measure_memory(model, MemoryOptions(**options), make_optimizers=make_optimizers)


def run(
    project: Project, row: Row, device: str, mark: Callable[[str], None] = lambda stage: None, **changes: Any
) -> float:
    """Train a row for two steps on a device and return the last loss.

    `mark` is called when a stage is reached: `model` (built, with a batch), `forward`, `backward` and `step` of both steps.
    """
    model, methods = _prepared(project, row, device, changes)
    if row.dtype != "float32":
        model.to(DTYPES[row.dtype])
    model.train()
    if row.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    inputs = make_batch(model, row.batch, row.length, row.decoder_length)
    optimizer = _optimizer(row, model, methods)
    mark("model")
    with steady(model), _attending(row, model, device):
        for _ in range(2):
            with ExitStack() as stack:
                if row.autocast:
                    stack.enter_context(torch.autocast(torch.device(device).type, dtype=DTYPES[row.autocast]))
                loss = loss_of(model, inputs)
            mark("forward")
            loss.backward()
            mark("backward")
            last = loss.detach()
            del loss
            optimizer.step()
            mark("step")
            optimizer.zero_grad(set_to_none=True)
    return float(last)


class MomentsAlone(torch.optim.Optimizer):
    """Has the state of AdamW in one fused kernel, two moments and no temporaries, and computes no values."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure=None):
        """Make the state of parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)


def cuda_reading(project: Project, row: Row, **changes: Any) -> dict:
    """Run a row on the CUDA device and return its allocator's numbers, in bytes.

    `peak` is `torch.cuda.max_memory_allocated` from the built model on; `workspace` stays allocated when everything of the row is
    gone (cuBLAS's); `tensors` is their difference; `requested` the largest sum of requests, without the allocator's rounding;
    `after` the allocated bytes at the end of each stage of the second step.
    Raises NotHere when the device's memory does not suffice.
    """
    after: dict[str, int] = {}

    def mark(stage: str) -> None:
        torch.cuda.synchronize()
        if stage == "model":
            torch.cuda.reset_peak_memory_stats()
        after[stage] = torch.cuda.memory_allocated()

    try:
        loss = run(project, row, "cuda", mark, **changes)
        peak, requested = torch.cuda.max_memory_allocated(), torch.cuda.memory_stats()["requested_bytes.all.peak"]
    except torch.cuda.OutOfMemoryError:
        raise NotHere("the device has too little memory") from None
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    workspace = torch.cuda.memory_allocated()
    return {
        "peak": peak,
        "workspace": workspace,
        "tensors": peak - workspace,
        "requested": requested,
        "after": after,
        "loss": loss,
    }


def warm_up() -> None:
    """Make cuBLAS allocate its workspaces, in the forward and the backward thread, before anything is measured."""
    for dtype in (torch.float32, torch.bfloat16):
        layer = nn.Linear(64, 64, device="cuda", dtype=dtype)
        first = layer(torch.ones(64, 64, device="cuda", dtype=dtype))
        (first @ first).sum().backward()
    torch.cuda.synchronize()


def fields(row: Row) -> dict:
    """Return the settings of a row for its reading."""
    return {
        "name": row.name,
        "model": row.model,
        "batch": row.batch,
        "length": row.length,
        "decoder_length": row.decoder_length,
        "methods": [dict(m) for m in row.methods],
        "optimizer": row.optimizer if row.optimizer != "adamw" else f"adamw ({row.kernel})",
        "rank": row.rank,
        "attention": row.attention_kernel,
        "dtype": row.dtype,
        "autocast": row.autocast,
        "checkpointing": row.checkpointing,
    }


def hold(project: Project, row: Row) -> dict:
    """Predict and run a row; returns both with their ratios, or under `skipped` the reason why it could not run."""
    try:
        predicted = predict(project, row)
        actual = cuda_reading(project, row)
    except NotHere as reason:
        return {**fields(row), "skipped": str(reason)}
    shown = ("peak", "peak_phase", "at_peak", "by_category", "saved_bytes")
    return {
        **fields(row),
        "predicted": {key: predicted[key] for key in shown},
        "actual": actual,
        "ratio": predicted["peak"] / actual["peak"],
        "ratio_tensors": predicted["peak"] / actual["tensors"],
    }


def as_markdown(result: dict) -> str:
    """Return the readings as a page: one row a setting, sizes in MiB (2**20 bytes)."""
    lines = [
        f"# Predicted and actual training memory on {result['device']}",
        "",
        f"torch {result['torch']}, CUDA {result['cuda']}, transformers {result['transformers']}, Python {result['python']}. {NOTE}",
        "",
        "| setting | batch x length | attention | optimizer | predicted | of it at the peak | actual peak | workspace | ratio "
        "| without workspace |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        shape = f"{row['batch']} x {row['length']}" + (f" + {row['decoder_length']}" if row["decoder_length"] else "")
        start = f"| {row['name']} | {shape} | {row['attention']} | {row['optimizer']} |"
        if "skipped" in row:
            lines.append(f"{start} skipped: {row['skipped']} | | | | | |")
            continue
        parts = ", ".join(f"{name} {_mib(size)}" for name, size in row["predicted"]["at_peak"].items() if size >= 2**19)
        actual = row["actual"]
        lines.append(
            f"{start} {_mib(row['predicted']['peak'])} | {parts} | {_mib(actual['peak'])} | {_mib(actual['workspace'])} "
            f"| {row['ratio']:.4f} | {row['ratio_tensors']:.4f} |"
        )
    return "\n".join(lines) + "\n"


NOTE = (
    "Sizes in MiB. Predicted: live tensors of two training steps on meta, each rounded up to 512 bytes. Actual: "
    "torch.cuda.max_memory_allocated; workspace: memory that cuBLAS keeps allocated, which the meter does not count."
)


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f}"


def folder_name(device: str) -> str:
    """Return a device's name as a folder's: `NVIDIA H100 80GB HBM3` gives nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def _prepared(project: Project, row: Row, device: str, changes: dict) -> tuple[nn.Module, list]:
    from replica import models
    from replica.methods.registry import parse

    methods = []
    try:
        for reference in row.methods:
            entry, config = parse(dict(reference))
            methods.append(entry.create(config))
    except (ConfigError, ImportError) as reason:
        raise NotHere(str(reason)) from None
    model = models.build(project.model(row.model), head=row.head, device=device, attention="eager", changes=changes)
    try:
        for method in methods:
            method.prepare(model, _context(row))
    except ImportError as reason:
        raise NotHere(str(reason)) from None
    return model.to(device), methods


def _context(row: Row):
    from replica.methods.base import Context

    return Context(head=row.head, learning_rate=1e-4)


def _optimizer(row: Row, model: nn.Module, methods: list) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if row.optimizer == "method":
        return methods[-1].optimizer(model, _context(row))
    if row.optimizer == "galore":
        from replica.methods.registry import parse

        entry, config = parse({"name": "galore", "rank": row.rank})
        return entry.create(config).optimizer(model, _context(row))
    if row.optimizer == "adamw8bit":
        return _bitsandbytes().optim.AdamW8bit(trained, lr=1e-4)
    if row.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=1e-4, foreach=row.kernel == "foreach", fused=row.kernel == "fused")
    return make_optimizer(row.optimizer, trained)


def _bitsandbytes() -> Any:
    try:
        return importlib.import_module("bitsandbytes")
    except Exception as reason:  # it may be installed and find no library of its own for this CUDA
        raise NotHere(f"bitsandbytes cannot be imported here: {str(reason).splitlines()[0]}") from None


@contextmanager
def _attending(row: Row, model: nn.Module, device: str) -> Iterator[None]:
    """Run attention through the row's kernel; on a CUDA device through no other."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with ExitStack() as stack:
        stack.enter_context(attention(model, "sdpa" if row.attention == "fused" else "eager"))
        if row.attention == "fused" and torch.device(device).type == "cuda":
            kernels = {"flash": SDPBackend.FLASH_ATTENTION, "memory-efficient": SDPBackend.EFFICIENT_ATTENTION}
            stack.enter_context(sdpa_kernel(kernels[row.attention_kernel]))
        yield
