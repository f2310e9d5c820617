"""Bits and operations of a binary BERT, by the conventions of the field, each under its own name."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import PreTrainedModel

from replica.methods.binarization.bipft.binarizers import ActivationScale, FixedScale
from replica.methods.binarization.bipft.binary_attention import ESTIMATORS, SCALES, BinarySelfAttention
from replica.methods.binarization.bipft.binary_layers import (
    BinaryEmbedding,
    BinaryLinear,
    BinaryPooler,
    PackedEmbedding,
    PackedLinear,
)

MIB_BITS = 8 * 2**20

#: Binary multiply-adds that a 64-bit processor does in one operation (XNOR and population count).
BINARY_LANES = 64

#: Elementary operations an element costs: LayerNorm (mean, centre, square, variance, normalise, gain, bias), GELU (two products,
#: error function, sum, product), softmax with mask and scale (scale, mask, maximum, difference, exponential, sum, quotient).
LAYER_NORM, GELU, SOFTMAX = 7, 5, 7

#: Parts of a model that `storage_bits` counts.
PARTS = (
    "binary_weights",
    "biases",
    "layer_norms",
    "pooler_norm",
    "position_type_embeddings",
    "embedding_scales",
    "weight_scales",
    "shifts",
    "activation_scales",
    "estimators",
    "head",
)


def storage_bits(model: PreTrainedModel) -> dict[str, float]:
    """Return the bits of a BiPFT with one bit for each binary weight, by part, whether the model is latent or packed.

    Parts: `binary_weights`, `biases` (of binary linears), `layer_norms` (BERT's own), `pooler_norm`, `position_type_embeddings`,
    `embedding_scales` (one a row), `weight_scales`, `shifts`, `activation_scales`, `estimators`, `head` (a matrix tied to the word
    embedding counts in full: it cannot be shared with bits). Everything but binary weights takes 32 bits.

    Conventions: `paper` is binary weights, biases, norms, position and type embeddings; `released` adds row scales, shifts, estimators
    and the pooler's norm; `total` is all of it, as it is stored. Each has `_bits`, `_mib` (2**20 bytes) and `_ratio`, the last against
    `full_precision_bits`, the same architecture in 32 bits; `paper` and `released` leave out heads on both sides.
    """
    parts = dict.fromkeys(PARTS, 0)
    values = 0
    for module in model.modules():
        if isinstance(module, (BinaryLinear, PackedLinear)):
            parts["binary_weights"] += module.out_features * math.ceil(module.in_features / 8) * 8
            parts["weight_scales"] += 32
            parts["shifts"] += 32 * module.in_features
            parts["biases"] += 0 if module.bias is None else 32 * module.out_features
            values += module.out_features * module.in_features
        elif isinstance(module, (BinaryEmbedding, PackedEmbedding)):
            parts["binary_weights"] += module.num_embeddings * math.ceil(module.embedding_dim / 8) * 8
            parts["embedding_scales"] += 32 * module.num_embeddings
            values += module.num_embeddings * module.embedding_dim
        elif isinstance(module, (ActivationScale, FixedScale)):
            parts["activation_scales"] += 32
        elif isinstance(module, BinarySelfAttention) and module.estimators is not None:
            parts["estimators"] += 32 * _count(module.estimators)
    body = model.base_model
    pooler_norm = body.pooler.LayerNorm if isinstance(body.pooler, BinaryPooler) else None
    for module in body.modules():
        if isinstance(module, nn.LayerNorm):
            parts["pooler_norm" if module is pooler_norm else "layer_norms"] += 32 * _count(module)
        elif isinstance(module, nn.Embedding):
            parts["position_type_embeddings"] += 32 * _count(module)
    head, tied = _head_values(model)
    parts["head"] = 32 * (head + tied)

    paper = sum(parts[name] for name in ("binary_weights", "biases", "layer_norms", "position_type_embeddings"))
    released = paper + sum(parts[name] for name in ("embedding_scales", "shifts", "estimators", "pooler_norm"))
    total = sum(parts.values())
    full = 32 * values + paper - parts["binary_weights"]
    result: dict[str, float] = {f"{name}_bits": bits for name, bits in parts.items()}
    result.update(full_precision_bits=full + 32 * head, full_precision_mib=(full + 32 * head) / MIB_BITS)
    for name, bits, against in (
        ("paper", paper, full),
        ("released", released, full),
        ("total", total, full + 32 * head),
    ):
        result.update({f"{name}_bits": bits, f"{name}_mib": bits / MIB_BITS, f"{name}_ratio": against / bits})
    return result


def operations(model: PreTrainedModel, batch: int = 1, length: int = 128) -> dict[str, float]:
    """Return the operations of one forward pass on (batch, length) tokens, counted on a real or meta forward in eval mode.

    `binary_macs`: products of binary operands (encoder linears, pooler, Q_b K_b^T, P_b V_b); `full_macs`: the others, of which
    `estimator_macs` (the five linears, three rank-1 score products shared by the heads, one value product per head) and
    `head_macs`. `full_precision_macs`: the same architecture without binarization.

    Conventions, as operations and as ratio to the full-precision model (a multiply-add is 2 operations):
    `binary` counts binary products alone at 1/64; `products` adds the full-precision products; `network` adds to both sides
    the operations element by element (norms, softmax, GELU, residuals, biases); `elementwise` adds to the binary side those of
    binarizing (shifts, signs, scales).
    """
    counter = _Counter()
    handles = [
        module.register_forward_hook(counter.seen)
        for module in model.modules()
        if isinstance(module, (nn.Linear, PackedLinear, BinarySelfAttention, BinaryPooler, nn.LayerNorm))
    ]
    training = model.training
    device = next(model.parameters()).device
    try:
        model.eval()
        with torch.no_grad():
            model(input_ids=torch.zeros(batch, length, dtype=torch.long, device=device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    config = model.config
    tokens, layers = batch * length, config.num_hidden_layers
    elementwise = counter.elementwise + layers * tokens * (GELU * config.intermediate_size + 2 * config.hidden_size)
    elementwise += 2 * tokens * config.hidden_size
    added = counter.added_elementwise + tokens * config.hidden_size
    full = counter.estimators + counter.other
    binary = 2 * counter.binary / BINARY_LANES
    products = binary + 2 * full
    reference = 2 * (counter.binary + counter.other)
    network, everything = products + elementwise, products + elementwise + added
    return {
        "binary_macs": counter.binary,
        "full_macs": full,
        "estimator_macs": counter.estimators,
        "head_macs": counter.other,
        "full_precision_macs": counter.binary + counter.other,
        "full_precision_flops": reference,
        "full_precision_elementwise": elementwise,
        "full_precision_operations": reference + elementwise,
        "binarization_elementwise": added,
        "binary_operations": binary,
        "binary_ratio": 2 * counter.binary / binary,
        "products_operations": products,
        "products_ratio": reference / products,
        "network_operations": network,
        "network_ratio": (reference + elementwise) / network,
        "elementwise_operations": everything,
        "elementwise_ratio": (reference + elementwise) / everything,
    }


def expected(model: PreTrainedModel, *, estimators: bool, packed: bool) -> dict[str, float]:
    """Return `trainable_parameters` of the latent model and `storage_bits` of the stored one, from the configuration alone.

    With hidden size H, feed-forward size I, L layers, vocabulary V: binary weights V H + L (4 H^2 + 2 H I) + H^2 (pooler); shifts L (5
    H + I) + H; activation scales 10 L + 1; estimators 5 L (H + 1); the pooler's norm 2 H. A latent model has 8 more bits for each
    activation scale, which say whether it was set; a packed one has 32 for each weight matrix and embedding row instead.
    """
    config = model.config
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    pooler = int(model.base_model.pooler is not None)
    matrices = {(hidden, hidden): 4 * layers + pooler, (hidden, inner): layers, (inner, hidden): layers}
    weights = config.vocab_size * hidden + sum(count * rows * columns for (rows, columns), count in matrices.items())
    plain = (config.max_position_embeddings + config.type_vocab_size) * hidden + 2 * hidden * (2 * layers + 1)
    plain += layers * (5 * hidden + inner) + 3 * pooler * hidden
    learned = layers * (5 * hidden + inner) + pooler * hidden
    learned += len(ESTIMATORS) * (hidden + 1) * layers if estimators else 0
    scales = (6 + len(SCALES)) * layers + pooler
    head, tied = _head_values(model)
    trainable = weights + plain + learned + scales + head
    if not packed:
        return {"trainable_parameters": trainable, "storage_bits": 32 * trainable + 8 * scales}
    bits = 8 * sum(count * rows * math.ceil(columns / 8) for (rows, columns), count in matrices.items())
    bits += 8 * config.vocab_size * math.ceil(hidden / 8)
    bits += 32 * (config.vocab_size + 6 * layers + pooler)
    return {
        "trainable_parameters": trainable,
        "storage_bits": bits + 32 * (plain + learned + scales + head + tied),
    }


class _Counter:
    """Multiply-adds and elementary operations of the modules it is hooked into."""

    def __init__(self) -> None:
        self.binary = self.estimators = self.other = self.elementwise = self.added_elementwise = 0

    def seen(self, module: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
        if isinstance(module, BinarySelfAttention):
            batch, heads, length, _ = output[1].shape
            self.binary += 2 * output[0].numel() * length
            self.elementwise += SOFTMAX * output[1].numel()
            self.added_elementwise += 2 * output[1].numel() + 3 * output[0].numel()
            if module.estimators is not None:
                tokens = batch * length
                self.estimators += tokens * module.estimators.weight.numel()
                self.estimators += 3 * tokens * length + heads * tokens * length
                self.added_elementwise += tokens * len(ESTIMATORS) + output[1].numel() + output[0].numel()
        elif isinstance(module, BinaryPooler):  # its norm and residual connection, which BERT has not
            self.elementwise -= LAYER_NORM * output.numel()
            self.added_elementwise += (LAYER_NORM + 1) * output.numel()
        elif isinstance(module, nn.LayerNorm):
            self.elementwise += LAYER_NORM * output.numel()
        else:
            self.elementwise += output.numel()
            if isinstance(module, (BinaryLinear, PackedLinear)):
                self.binary += output.numel() * module.in_features
                self.added_elementwise += (
                    output.numel() + 2 * output.numel() // module.out_features * module.in_features
                )
            else:
                self.other += output.numel() * module.in_features


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _head_values(model: PreTrainedModel) -> tuple[int, int]:
    """Return the head's own values, and those of an output matrix that the latent model ties to the word embedding."""
    body = model.base_model
    if body is model:
        return 0, 0
    inside = {id(parameter) for parameter in body.parameters()}
    outside = {id(p): p.numel() for p in model.parameters() if id(p) not in inside}
    output = model.get_output_embeddings()
    if output is None or not model.config.tie_word_embeddings:
        return sum(outside.values()), 0
    outside.pop(id(output.weight), None)
    return sum(outside.values()), output.weight.numel()
