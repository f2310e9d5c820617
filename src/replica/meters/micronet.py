"""Operations as the counter of the MicroNet challenge counts them, which RigL's released notebook calls (google-research/rigl)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from replica.errors import ConfigError, nearest
from replica.meters.batches import make_batch


def count_operations(
    model: nn.Module,
    density: Mapping[str, float],
    batch: int = 1,
    length: int = 128,
    padded_twice: tuple[str, ...] = (),
) -> dict[str, float]:
    """Count a forward pass, layer by layer, with all weights and with those that are kept; works on meta.

    A convolution or linear layer with n weights for each output channel makes for each number of its output n multiplications and
    n - 1 additions, one addition of a bias and one multiplication of a ReLU, whether the network has these there or not
    (`micronet_challenge/counting.py` as `rigl/sparse_utils.py: get_stats` calls it). `density` (name of a weight: share kept)
    scales n alone: additions of biases and ReLUs never become sparse. Norms, pooling and products of two activations cost nothing.

    The counter takes a convolution's input without its padding. Where the network pads in an operation of its own, as the first
    convolution of the notebook's ResNet-50 does, the counter pads once more and counts more positions (115 x 115 for 112 x 112);
    `padded_twice` names such convolutions by parts of their names. Returns `{"flops", "sparse_flops"}`.
    Raises ConfigError for a name that fits no convolution.
    """
    outputs: dict[str, int] = {}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    for part in padded_twice:
        if not any(part in name and isinstance(layer, nn.Conv2d) for name, layer in layers.items()):
            raise ConfigError(f"padded_twice: '{part}' fits no convolution{nearest(part, layers)}")

    def note(name: str, layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        numbers = output.numel()
        if isinstance(layer, nn.Conv2d) and any(part in name for part in padded_twice):
            numbers = output.shape[0] * output.shape[1] * _positions(layer, inputs[0])
        outputs[name] = outputs.get(name, 0) + numbers

    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: note(name, layer, inputs, output))
        for name, layer in layers.items()
    ]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(**make_batch(model, batch, length, labels=False))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    weights = {name: layers[name].weight[0].numel() for name in outputs}
    return {
        "flops": sum(numbers * (2 * weights[name] + 1) for name, numbers in outputs.items()),
        "sparse_flops": sum(
            numbers * (2 * weights[name] * density.get(f"{name}.weight", 1.0) + 1) for name, numbers in outputs.items()
        ),
    }


def _positions(layer: nn.Conv2d, arriving: torch.Tensor) -> int:
    """Return the output positions of a convolution whose input is padded beforehand and then by half the kernel again."""
    sides = zip(arriving.shape[2:], layer.padding, layer.kernel_size, layer.stride, strict=True)
    return math.prod(
        math.ceil((side + 2 * padding + 2 * (kernel // 2) - kernel + 1) / stride)
        for side, padding, kernel, stride in sides
    )
