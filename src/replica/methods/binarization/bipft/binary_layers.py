"""Layers with 1-bit weights: latent (to train) and packed (to store and infer)."""

from __future__ import annotations

import torch
from torch import nn

from replica.methods.binarization.bipft.binarizers import (
    SCALE_FLOOR,
    SIGNED_FACTOR,
    ActivationScale,
    BinaryProduct,
    FixedScale,
    RowBinarizer,
    compute_type,
    scaled_product,
    signs,
    weight_binarization,
)
from replica.methods.bits import pack_bits, unpack_bits


class BinaryLinear(nn.Linear):
    """y = W_b x_b + bias with W_b = mean|W| sign(W - mean W) and x_b = alpha sign(x + shift).

    The latent weight and the bias are those of the linear it takes over; `shift` (one per input channel) starts at zero
    and `scale.alpha` by the first training batch.
    """

    def __init__(self, source: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight, self.bias = source.weight, source.bias
        device = source.weight.device
        self.shift = nn.Parameter(torch.zeros(self.in_features, device=device))
        self.scale = ActivationScale(SIGNED_FACTOR, device)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features), in float32 whatever autocast's type."""
        alpha = self.scale(input if self.scale._known else input + self.shift)
        return BinaryProduct.apply(input, self.weight, self.shift, alpha, self.bias, compute_type(self.weight))


class BinaryPooler(nn.Module):
    """tanh(LayerNorm(W_b x_b + bias) + x) of the first position, the norm and the residual connection in full precision.

    The released pooler (`BertPooler` of both `bipft.py` and `binary_bert.py`); the paper's text has no formula for it. The norm is new
    to a pretrained BERT and starts at gain 1, bias 0.
    """

    def __init__(self, source: nn.Module, epsilon: float):
        super().__init__()
        self.dense, self.activation = BinaryLinear(source.dense), source.activation
        self.LayerNorm = nn.LayerNorm(source.dense.out_features, eps=epsilon, device=source.dense.weight.device)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, hidden) to (batch, hidden)."""
        first = hidden_states[:, 0]
        return self.activation(self.LayerNorm(self.dense(first)) + first)


class BinaryEmbedding(nn.Module):
    """Word embedding whose rows are mean|row| sign(row - mean W); only the rows that are looked up are binarized."""

    def __init__(self, source: nn.Embedding):
        super().__init__()
        self.num_embeddings, self.embedding_dim = source.num_embeddings, source.embedding_dim
        self.padding_idx = source.padding_idx
        self.weight = source.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Map token ids (batch, length) to (batch, length, embedding_dim)."""
        rows = nn.functional.embedding(input_ids, self.weight, self.padding_idx)
        return RowBinarizer.apply(rows, self.weight.detach().mean())


class PackedLinear(nn.Module):
    """A BinaryLinear for inference: weights one bit each, unpacked once at the first use after loading.

    `packed` is uint8 (out_features, ceil(in_features / 8)), `weight_scale` the scalar mean|W|.
    """

    def __init__(self, source: BinaryLinear):
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        threshold, scales = weight_binarization(source.weight)
        self.register_buffer("packed", pack_bits(source.weight.detach() >= threshold))
        self.register_buffer("weight_scale", scales.mean())
        self.bias = _frozen(source.bias)
        self.shift = _frozen(source.shift)
        self.scale = FixedScale(source.scale.alpha)
        self._signs: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features); equal to the latent layer's eval mode."""
        dtype = compute_type(self.weight_scale)
        if self._signs is None or self._signs.dtype != dtype or self._signs.device != self.packed.device:
            self._signs = unpack_signs(self.packed, self.in_features, dtype)
        value_signs = signs(input + self.shift, 0, dtype)
        scale = self.scale(input).clamp(min=SCALE_FLOOR) * self.weight_scale
        return scaled_product(value_signs, self._signs, scale, self.bias)

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._signs = None


class PackedEmbedding(nn.Module):
    """A BinaryEmbedding for inference: `packed` uint8 (rows, ceil(columns / 8)) and `row_scales` float32 (rows,)."""

    def __init__(self, source: BinaryEmbedding):
        super().__init__()
        self.num_embeddings, self.embedding_dim = source.num_embeddings, source.embedding_dim
        self.padding_idx = source.padding_idx
        threshold, scales = weight_binarization(source.weight)
        self.register_buffer("packed", pack_bits(source.weight.detach() >= threshold))
        self.register_buffer("row_scales", scales.squeeze(-1))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Map token ids (batch, length) to (batch, length, embedding_dim); only those rows are unpacked."""
        scales = self.row_scales[input_ids].unsqueeze(-1)
        return unpack_signs(self.packed[input_ids], self.embedding_dim, scales.dtype).mul_(scales)


def unpack_signs(packed: torch.Tensor, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the signs -1 and +1 (..., columns) in `dtype` of packed bytes (..., ceil(columns / 8))."""
    return unpack_bits(packed, columns).to(dtype).mul_(2).sub_(1)


def _frozen(parameter: nn.Parameter | None) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.detach().clone(), requires_grad=False)
