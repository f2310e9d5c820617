"""Compression ratios of an encoder's linear layers, by each way of counting that papers use."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from replica import models

#: Bits of a weight in the dense model.
DENSE_BITS = 32


def compression_ratio(weights: int, kept: int, bits: int = 32, *, dense: int = 0, index_bits: float = 0.0) -> float:
    """Return the bits of the dense fp32 form over those of the compressed form.

    `kept` of `weights` are stored with `bits` each; `dense` further parameters (biases, layer norms) keep 32 bits on
    both sides; `index_bits` are added for every position of the matrices (1: a bit mask).
    """
    stored = kept * bits + weights * index_bits + dense * DENSE_BITS
    return (weights + dense) * DENSE_BITS / stored


def encoder_compression(model: nn.Module, kept_of: Callable[[nn.Linear], int], bits: int = 32) -> dict[str, float]:
    """Return counts and ratios over the transformer layers of a model (poolers, embeddings and heads left out).

    `kept_of` gives the weights stored of a linear layer. Keys: `linear_weights`, `kept_weights`, `other_parameters`
    (biases and norms of the layers), `values_only_ratio` (kept values alone, as Prune-OFA counts), `with_rest_ratio`
    (biases and norms in fp32 on both sides), `with_mask_ratio` (values and a one-bit mask), `with_mask_and_rest_ratio`.
    """
    layers = models.encoder_layers(model)
    linears = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in linears)
    kept = sum(kept_of(layer) for layer in linears)
    other = sum(parameter.numel() for layer in layers for parameter in layer.parameters()) - weights
    return {
        "linear_weights": weights,
        "kept_weights": kept,
        "other_parameters": other,
        "values_only_ratio": compression_ratio(weights, kept, bits),
        "with_rest_ratio": compression_ratio(weights, kept, bits, dense=other),
        "with_mask_ratio": compression_ratio(weights, kept, bits, index_bits=1),
        "with_mask_and_rest_ratio": compression_ratio(weights, kept, bits, dense=other, index_bits=1),
    }


def nonzero_share(model: nn.Module) -> float:
    """Return the share of nonzero weights in the linear layers of a real model's transformer layers."""
    linears = [m for layer in models.encoder_layers(model) for m in layer.modules() if isinstance(m, nn.Linear)]
    return sum(int(m.weight.count_nonzero()) for m in linears) / sum(m.weight.numel() for m in linears)
