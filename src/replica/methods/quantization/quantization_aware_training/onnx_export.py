"""ONNX files of finished models: int8 initializers between quantise and dequantise nodes, which onnxruntime turns into int8 kernels.

Every int8 layer becomes QuantizeLinear → DequantizeLinear on its input (uint8), DequantizeLinear on its weight (an int8
initializer), MatMul and Add; the runtime fuses that into an integer matrix product.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from replica.errors import ConfigError
from replica.files import atomic_path
from replica.methods.quantization.quantization_aware_training.quantized_linear import Int8Linear

OPSET = 17

#: Inputs that an exported model takes where the batch has them; the rest of a batch (labels) is not exported.
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
#: What a model reads where its batch has no such input, made from the tokens: no padding, and one sentence.
ABSENT = {"attention_mask": torch.ones_like, "token_type_ids": torch.zeros_like}
OUTPUTS = ("logits", "prediction_logits", "seq_relationship_logits", "start_logits", "end_logits", "last_hidden_state")

#: Operators by which onnxruntime multiplies integer matrices.
INT8_PRODUCTS = (
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QLinearMatMul",
    "DynamicQuantizeMatMul",
    "QGemm",
    "QAttention",
)


class _Dequantize(torch.autograd.Function):
    """DequantizeLinear: (q - zero_point) * scale."""

    @staticmethod
    def forward(ctx, integers, scale, zero_point):
        return (integers.float() - zero_point.float()) * scale

    @staticmethod
    def symbolic(g, integers, scale, zero_point):
        return g.op("DequantizeLinear", integers, scale, zero_point)


class _DequantizeWeight(torch.autograd.Function):
    """DequantizeLinear of symmetric integers: q * scale."""

    @staticmethod
    def forward(ctx, integers, scale):
        return integers.float() * scale

    @staticmethod
    def symbolic(g, integers, scale):
        return g.op("DequantizeLinear", integers, scale)


class _Quantize(torch.autograd.Function):
    """QuantizeLinear: clamp(round(x / scale) + zero_point) as uint8."""

    @staticmethod
    def forward(ctx, x, scale, zero_point):
        return (torch.round(x / scale) + zero_point.float()).clamp(0, 255).to(torch.uint8)

    @staticmethod
    def symbolic(g, x, scale, zero_point):
        return g.op("QuantizeLinear", x, scale, zero_point)


class _ExportedLinear(nn.Module):
    """An int8 layer as it is traced; its weight is (in, out), so that no transpose parts it from the product."""

    def __init__(self, layer: Int8Linear, name: str):
        super().__init__()
        for side in ("input",) if layer.plain_output else ("input", "output"):
            if float(getattr(layer, f"{side}_scale")) == 0.0:
                raise ConfigError(
                    f"layer '{name}' has no {side} range: train with quantisation before exporting to ONNX"
                )
            self.register_buffer(f"{side}_scale", getattr(layer, f"{side}_scale").clone())
            self.register_buffer(f"{side}_zero_point", getattr(layer, f"{side}_zero_point").clone())
        self.plain_output = layer.plain_output
        self.register_buffer("integers", layer.integers().t().contiguous())
        self.register_buffer("weight_scale", layer.weight_scale.clone())
        self.bias = layer.bias

    def _on_grid(self, x: torch.Tensor, side: str) -> torch.Tensor:
        scale, zero_point = getattr(self, f"{side}_scale"), getattr(self, f"{side}_zero_point")
        return _Dequantize.apply(_Quantize.apply(x, scale, zero_point), scale, zero_point)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = _DequantizeWeight.apply(self.integers, self.weight_scale)
        output = torch.matmul(self._on_grid(x, "input"), weight)
        output = output if self.bias is None else output + self.bias
        return output if self.plain_output else self._on_grid(output, "output")


class _Traced(nn.Module):
    """A transformers model as a function of tensors to tensors."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(**dict(zip(self.names, tensors, strict=True)), return_dict=True)
        return tuple(output[name] for name in OUTPUTS if name in output)


def export_onnx(model: nn.Module, example_batch: dict[str, torch.Tensor], path: Path | str) -> Path:
    """Write a model, its int8 layers as integers, to an ONNX file for batches of any size and length.

    `example_batch` is a batch of the model (`input_ids`, `attention_mask`, … (batch, length), or `pixel_values`);
    labels in it are left out. The model itself is not changed. Outputs are named as in transformers (`logits`, …).

    Raises ConfigError for an int8 layer without an activation range, or a batch without inputs.
    """
    path = Path(path)
    names = [name for name in INPUTS if name in example_batch]
    if not names:
        raise ConfigError(
            f"export to ONNX needs a batch with one of {', '.join(INPUTS)}; got {', '.join(example_batch)}"
        )
    model = copy.deepcopy(model).cpu().eval()
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, Int8Linear)]:
        model.set_submodule(name, _ExportedLinear(layer, name))
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    traced = _Traced(model, names)
    inputs = tuple(example_batch[name].cpu() for name in names)
    with torch.no_grad():
        outputs = model(**dict(zip(names, inputs, strict=True)), return_dict=True)
    produced = [name for name in OUTPUTS if name in outputs]
    axes = {name: {0: "batch", 1: "length"} for name in names if example_batch[name].ndim == 2}
    axes |= {name: {0: "batch"} for name in names if example_batch[name].ndim != 2}
    for name in produced:
        per_token = outputs[name].ndim == 3 or name in ("start_logits", "end_logits")
        axes[name] = {0: "batch", 1: "length"} if per_token else {0: "batch"}
    with atomic_path(path) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            traced,
            inputs,
            str(temporary),
            input_names=names,
            output_names=produced,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return path


def session(path: Path | str, threads: int = 1, optimized: Path | str | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the processor; `optimized` is where the graph is written as the runtime will run it.

    On processors without VNNI instructions products of uint8 by int8 can overflow 16 bits; there the runtime is asked
    for its slower, exact kernels.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not _has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(opened: onnxruntime.InferenceSession, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the session's outputs by name for a batch; inputs of `ABSENT` may be missing in it, as in the model's own call.

    Raises ConfigError where another input of the exported graph is missing.
    """
    names = [item.name for item in opened.get_inputs()]
    missing = [name for name in names if name not in batch and (name not in ABSENT or "input_ids" not in batch)]
    if missing:
        raise ConfigError(f"the exported model reads {', '.join(names)}; the batch lacks {', '.join(missing)}")
    inputs = {name: (batch[name] if name in batch else ABSENT[name](batch["input_ids"])).numpy() for name in names}
    outputs = opened.run(None, inputs)
    return {item.name: torch.from_numpy(value) for item, value in zip(opened.get_outputs(), outputs, strict=True)}


def operators(path: Path | str) -> dict[str, int]:
    """Count the operators of an ONNX file by type."""
    import onnx

    return dict(Counter(node.op_type for node in onnx.load(str(path)).graph.node))


def _has_vnni() -> bool:
    probe = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(probe and probe())
