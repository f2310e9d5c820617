"""Quantisation-aware training to int8 (Q8BERT, arXiv 1910.06188; the rules of Prune-OFA, arXiv 2111.05754)."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from replica.methods.base import Context, Method
from replica.methods.pruning.masks import layers_to_mask, maskable_linears
from replica.methods.quantization.quantization_aware_training.config import QuantizationAwareTrainingConfig
from replica.methods.quantization.quantization_aware_training.fake_quantize import WEIGHT_RANGE
from replica.methods.quantization.quantization_aware_training.packed_int8 import packed_bytes
from replica.methods.quantization.quantization_aware_training.quantized_linear import (
    Int8Linear,
    QuantizedLinear,
    to_quantized,
)


class QuantizationAwareTraining(Method):
    """Every linear layer computes on int8 grids while it trains, and is stored in int8 when it is done.

    A layer whose weight is an embedding's too (a tied language-model head) stays as it is. Composes with masks in
    either order: a zero weight is the integer 0.
    """

    config: QuantizationAwareTrainingConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Make the linear layers simulate int8; those stored in int8 by an earlier run go on from their values and ranges."""
        self._first_step = round(self.config.start * context.total_steps)
        for name, module in _int8_linears(model).items():
            _replace(model, name, _resumed(module, name, self.config))
        for name, layer in layers_to_mask(self, model, self.config.exclude).items():
            if not isinstance(layer, QuantizedLinear):
                largest = self.config.weight_range == "largest"
                to_quantized(layer, name, self.config.averaging_constant, self._plain(name), largest)
            layer.active = self._first_step == 0

    def _plain(self, name: str) -> bool:
        return not self.config.requantize_outputs or any(part in name for part in self.config.plain_outputs)

    def _density(self, name: str) -> float | None:
        return None if any(part in name for part in self.config.unpacked) else self.config.packed_density

    def on_step_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Switch quantisation on from the start step."""
        active = context.step >= self._first_step
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.active = active

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with int8 layers; raises ConfigError where a matrix is less sparse than `packed_density`."""
        for name, layer in maskable_linears(model, self.config.exclude).items():
            _replace(model, name, Int8Linear.from_linear(layer, name, self._plain(name), self._density(name)))
        return model

    def restore(self, model: PreTrainedModel) -> None:
        """Put int8 layers where a stored model has them; weights of a new head are quantised as they are."""
        for name, layer in maskable_linears(model, self.config.exclude).items():
            density = self._density(name)
            if density is None and not layer.weight.is_meta:
                stored = Int8Linear.from_linear(layer, name, self._plain(name))
            else:
                sizes = layer.in_features, layer.out_features, layer.bias is not None
                stored = Int8Linear(*sizes, self._plain(name), density, layer.weight.device)
            _replace(model, name, stored)

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the bits of the finished model's stored tensors: int8 matrices, fp32 scales, uint8 zero points, the rest."""
        bits = 0
        layers = {**maskable_linears(model, self.config.exclude), **_int8_linears(model)}
        taken: set[int] = set()
        for name, layer in layers.items():
            taken.update(id(parameter) for parameter in layer.parameters())
            count = layer.in_features * layer.out_features
            density = self._density(name)
            bits += 8 * (count if density is None else sum(packed_bytes(count, density)))
            bits += 0 if layer.bias is None else 32 * layer.bias.numel()
            bits += 32 + (32 + 8) * (1 if self._plain(name) else 2)
        rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
        return {"storage_bits": bits + sum(8 * p.element_size() * p.numel() for p in rest)}

    def export(
        self, model: PreTrainedModel, path: Path | str, batch_size: int = 8, length: int = 64
    ) -> dict[str, float]:
        """Write the finished model to ONNX and time it on onnxruntime, against the same model with fp32 matrices.

        Returns `onnx_bytes`, `latency_onnx_median_ms`, `latency_onnx_samples_per_second`, of the fp32 form the same
        with `onnx_fp32`, `latency_onnx_speedup` (ratio of the medians), `onnx_threads`, and `onnx_int8_products`
        (integer products in the graph that runs). The fp32 form is not kept.
        """
        from replica.methods.quantization.quantization_aware_training.onnx_timing import measure_onnx

        return measure_onnx(model, Path(path), batch_size, length)


def _int8_linears(model: nn.Module) -> dict[str, Int8Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Int8Linear)}


def _resumed(module: Int8Linear, name: str, config: QuantizationAwareTrainingConfig) -> nn.Linear:
    """Return a stored int8 layer as one that trains with simulated int8 from the same ranges."""
    layer = module.to_linear()
    to_quantized(layer, name, config.averaging_constant, module.plain_output, config.weight_range == "largest")
    if layer.largest_weight is not None and not layer.weight.is_meta:
        layer.largest_weight.copy_(module.weight_scale * ((WEIGHT_RANGE[1] - WEIGHT_RANGE[0]) / 2))
    for side in ("input",) if module.plain_output else ("input", "output"):
        scale, zero_point = getattr(module, f"{side}_scale"), getattr(module, f"{side}_zero_point").float()
        if not scale.is_meta and float(scale) > 0:
            observer = getattr(layer, f"{side}_range")
            observer.low.copy_((0 - zero_point) * scale)
            observer.high.copy_((255 - zero_point) * scale)
    return layer.train(module.training)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    model.set_submodule(name, module.train(model.training))
