"""BERT's self-attention with binarized query, key, value and probabilities, and the residual estimators of BiPFT-B."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertSelfAttention

from replica.errors import ConfigError
from replica.methods.binarization.bipft.binarizers import (
    PROBABILITY_FACTOR,
    SIGNED_FACTOR,
    ActivationScale,
    FixedScale,
    ProbabilityBinarizer,
    SignedBinarizer,
)
from replica.methods.binarization.bipft.binary_layers import BinaryLinear, PackedLinear

#: Rows of the estimators' weight, in order: p estimates the residuals R, m the binary terms, of query, key and value.
ESTIMATORS = ("q_p", "k_p", "q_m", "k_m", "v_p")

#: The activation scales of a self-attention, without those of its linears.
SCALES = ("query_scale", "key_scale", "value_scale", "probability_scale")


class BinarySelfAttention(BertSelfAttention):
    """softmax((Q_b K_b^T + residual) / sqrt(head size) + mask), binarized to {0, alpha}, times V_b and the value residual.

    With Q = Q_b + R_q and K = K_b + R_k, the exact score is Q_b K_b^T + Q_b R_k^T + R_q K_b^T + R_q R_k^T. BiPFT-B estimates
    the last three from the layer's input h by rank-1 linears, shared by all heads:
    q_m(h) k_p(h)^T + q_p(h) k_m(h)^T + q_p(h) k_p(h)^T; and R_v by v_p(h), one number per token for all channels.
    """

    def __init__(self, source: BertSelfAttention, estimators: bool):
        nn.Module.__init__(self)
        self.config = source.config
        self.num_attention_heads = source.num_attention_heads
        self.attention_head_size = source.attention_head_size
        self.all_head_size = source.all_head_size
        self.scaling = source.scaling
        self.is_decoder, self.is_causal, self.layer_idx = source.is_decoder, source.is_causal, source.layer_idx
        self.query = BinaryLinear(source.query)
        self.key = BinaryLinear(source.key)
        self.value = BinaryLinear(source.value)
        self.dropout = source.dropout
        device = source.query.weight.device
        for name in SCALES:
            factor = PROBABILITY_FACTOR if name == "probability_scale" else SIGNED_FACTOR
            setattr(self, name, ActivationScale(factor, device))
        width = source.query.in_features
        self.estimators = nn.Linear(width, len(ESTIMATORS), device=device) if estimators else None

    def pack(self) -> None:
        """Replace the linears and scales by their packed forms, in place."""
        for name in ("query", "key", "value"):
            setattr(self, name, PackedLinear(getattr(self, name)))
        for name in SCALES:
            setattr(self, name, FixedScale(getattr(self, name).alpha))
        if self.estimators is not None:
            self.estimators.requires_grad_(False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return context (batch, length, hidden) and the binarized probabilities (batch, heads, length, length).

        `attention_mask` is (batch, 1, length, length): bool with True for keys that may be attended to, or numbers added to the scores.
        """
        if past_key_values is not None:
            raise ConfigError(
                "method 'bipft': binary attention keeps no cache of keys and values; use it in an encoder"
            )
        query = self._binary_heads(self.query(hidden_states), self.query_scale)
        key = self._binary_heads(self.key(hidden_states), self.key_scale)
        value = self._binary_heads(self.value(hidden_states), self.value_scale)
        added, value_residual = self._estimate(hidden_states)
        scores = query @ key.mT
        scores = scores if scores.dtype == torch.float64 else scores.float()
        scores = scores * self.scaling if added is None else torch.add(added * self.scaling, scores, alpha=self.scaling)
        if attention_mask is not None:
            if attention_mask.dtype == torch.bool:
                scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
            else:
                scores = scores + attention_mask
        probabilities = self.dropout(scores.softmax(dim=-1))
        probabilities = ProbabilityBinarizer.apply(probabilities, self.probability_scale(probabilities))
        context = probabilities @ value
        if value_residual is not None:
            context = context + probabilities @ value_residual
        return context.transpose(1, 2).reshape(*hidden_states.shape[:-1], self.all_head_size), probabilities

    def _binary_heads(self, projected: torch.Tensor, scale: nn.Module) -> torch.Tensor:
        """Binarize (batch, length, hidden) and split it into (batch, heads, length, head size)."""
        binary = SignedBinarizer.apply(projected, scale(projected))
        return binary.unflatten(-1, (self.num_attention_heads, self.attention_head_size)).transpose(1, 2)

    def _estimate(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the estimated score residual (batch, 1, length, length) and value residual (batch, 1, length, 1).

        Full precision even under autocast: five numbers a token, whose products are added to integers times a scale.
        """
        if self.estimators is None:
            return None, None
        weight, bias = self.estimators.weight, self.estimators.bias
        with torch.autocast(_autocast_kind(hidden_states), enabled=False):
            estimated = nn.functional.linear(hidden_states.to(weight.dtype), weight, bias).unsqueeze(1)
            q_p, k_p, q_m, k_m, v_p = estimated.split(1, dim=-1)
            # q_m k_p^T + q_p k_p^T + q_p k_m^T as one product over two channels
            residual = torch.cat((q_m + q_p, q_p), dim=-1) @ torch.cat((k_p, k_m), dim=-1).mT
        return residual, v_p


def _autocast_kind(tensor: torch.Tensor) -> str:
    """Return the device type for autocast's switch; meta has none of its own, and any does for switching it off."""
    return tensor.device.type if torch.amp.is_autocast_available(tensor.device.type) else "cpu"
