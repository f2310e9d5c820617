"""Bytes and time of a finished int8 model on onnxruntime, and its number of integer products."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from torch import nn

from replica.files import scratch_folder
from replica.meters.batches import make_batch
from replica.meters.timing import latency
from replica.methods.quantization.quantization_aware_training import onnx_export
from replica.methods.quantization.quantization_aware_training.quantized_linear import Int8Linear


def dequantized(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose int8 layers are ordinary linear layers with the same values."""
    model = copy.deepcopy(model)
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, Int8Linear)]:
        model.set_submodule(name, layer.to_linear())
    return model.eval()


def measure_onnx(model: nn.Module, path: Path, batch_size: int, length: int) -> dict[str, float]:
    """Export a finished model and time it and its fp32 form on a full batch (`QuantizationAwareTraining.export`).

    The file is moved to `path` when all is measured.
    """
    batch = make_batch(model, batch_size, length, None, labels=False)
    threads = torch.get_num_threads()
    result: dict[str, float] = {"onnx_threads": threads}
    with scratch_folder(path) as folder:
        int8, dense, optimized = (folder / name for name in ("int8.onnx", "fp32.onnx", "optimized.onnx"))
        onnx_export.export_onnx(model, batch, int8)
        onnx_export.export_onnx(dequantized(model), batch, dense)
        for prefix, file in (("onnx", int8), ("onnx_fp32", dense)):
            opened = onnx_export.session(file, threads, optimized if file == int8 else None)
            taken = latency(lambda opened=opened: onnx_export.run(opened, batch), batch_size, length)
            result[f"{prefix}_bytes"] = os.path.getsize(file)
            result[f"latency_{prefix}_median_ms"] = taken["median_ms"]
            result[f"latency_{prefix}_samples_per_second"] = taken["samples_per_second"]
        counts = onnx_export.operators(optimized)
        os.replace(int8, path)
    result["onnx_int8_products"] = sum(counts.get(name, 0) for name in onnx_export.INT8_PRODUCTS)
    result["latency_onnx_speedup"] = result["latency_onnx_fp32_median_ms"] / result["latency_onnx_median_ms"]
    return result
