"""Hard-concrete masks over frozen weights (Louizos et al. 2018, arXiv 1712.01312; Zheng et al. 2022, arXiv 2211.03013)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from replica.errors import ConfigError
from replica.methods.base import Context, Method
from replica.methods.pruning.hard_concrete_mask.config import HardConcreteMaskConfig
from replica.methods.pruning.masks import MASK, layers_to_mask, lowest

SCORE = "mask_score"


class HardConcrete:
    """The gate's formulas (Louizos et al. 2018, section 4): a concrete variable, stretched to (gamma, zeta), clipped to [0, 1]."""

    def __init__(self, gamma: float, zeta: float, beta: float, noise: float = 1e-4):
        self.gamma, self.zeta, self.beta, self.noise = gamma, zeta, beta, noise

    def concrete(self, score: torch.Tensor, uniform: torch.Tensor | None = None) -> torch.Tensor:
        """Return s before it is stretched.

        With `uniform` u it is sigmoid((log u - log(1 - u) + log alpha) / beta); without, as the released code evaluates, sigmoid(log
        alpha) with no temperature.
        """
        if uniform is None:
            return torch.sigmoid(score)
        return torch.sigmoid((torch.log(uniform) - torch.log1p(-uniform) + score) / self.beta)

    def stretched(self, concrete: torch.Tensor) -> torch.Tensor:
        """Return s (zeta - gamma) + gamma."""
        return concrete * (self.zeta - self.gamma) + self.gamma

    def sample(self, score: torch.Tensor) -> torch.Tensor:
        """Return the gates of training, in [0, 1], with u drawn from (noise, 1 - noise)."""
        uniform = torch.empty_like(score).uniform_(self.noise, 1 - self.noise)
        return self.stretched(self.concrete(score, uniform)).clamp(0, 1)

    def value(self, score: torch.Tensor) -> torch.Tensor:
        """Return the gates of evaluation, in [0, 1]."""
        return self.stretched(self.concrete(score)).clamp(0, 1)

    def open_share(self, score: torch.Tensor) -> torch.Tensor:
        """Return the probability that a sampled gate is not 0: sigmoid(log alpha - beta log(-gamma / zeta)) (eq. 12)."""
        return torch.sigmoid(score - self.beta * math.log(-self.gamma / self.zeta))

    def score_of(self, value: float) -> float:
        """Return the log alpha whose gate in evaluation has a value in (0, 1): log(p / (1 - p)), p = (value - gamma) / (zeta - gamma)."""
        p = (value - self.gamma) / (self.zeta - self.gamma)
        return math.log(p / (1 - p))


class GatedLinear(nn.Linear):
    """A linear layer that computes with weight * gate, a gate for every weight: sampled in training, its value in evaluation."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (…, in_features) to (…, out_features)."""
        score = getattr(self, SCORE)
        gate = self.gate.sample(score) if self.training else self.gate.value(score)
        return functional.linear(input, self.weight * gate, self.bias)


class HardConcreteMask(Method):
    """Freezes the model and trains one score for every weight of its linear layers (the pooler's among them).

    The loss is the task's plus lambda(t) times the mean over layers of each layer's mean share of open gates (unweighted by size, as
    released); lambda rises linearly. `finalize` draws the ticket: one cut over all scores at `sparsity`, its zeros written into the
    weights. The adversarial part of the paper's loss is not part of this method.
    """

    config: HardConcreteMaskConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Freeze all parameters and put scores on the linear layers; raises ConfigError where a layer has a mask already."""
        model.requires_grad_(False)
        gate = self._gate()
        for name, layer in layers_to_mask(self, model, self.config.exclude).items():
            if getattr(layer, MASK, None) is not None or type(layer) is not nn.Linear:
                raise ConfigError(f"layer '{name}' is a {type(layer).__name__} or has a mask: it cannot be gated too")
            layer.__class__ = GatedLinear
            layer.gate = gate
            score = torch.full_like(layer.weight, gate.score_of(self.config.initial))
            layer.register_parameter(SCORE, nn.Parameter(score))

    def loss(self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the task's loss plus lambda(t) times the expected share of open gates."""
        share = self.open_share(model)
        context.record(open_gates=float(share.detach()))
        return context.forward(model, batch).loss + self.penalty(context.step, context.total_steps) * share

    def penalty(self, step: int, total_steps: int) -> float:
        """Return lambda at a step: 0 until the start, then linear up to its value."""
        start, rise = self.config.penalty_start * total_steps, self.config.penalty_rise * total_steps
        if step < start:
            return 0.0
        return self.config.penalty * (min(1.0, (step - start) / rise) if rise else 1.0)

    def open_share(self, model: nn.Module) -> torch.Tensor:
        """Return the mean over gated layers of the mean probability that a gate is open; a scalar."""
        return torch.stack([self._gate().open_share(getattr(layer, SCORE)).mean() for layer in _gated(model)]).mean()

    @torch.no_grad()
    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the drawn ticket: plain linear layers with exact zeros where the scores are lowest over all layers."""
        layers = _gated(model)
        if not layers:
            return model
        scores = [getattr(layer, SCORE) for layer in layers]
        count = round(self.config.sparsity * sum(score.numel() for score in scores))
        for layer, pruned in zip(layers, lowest(scores, count), strict=True):
            layer.weight.masked_fill_(pruned, 0.0)
            delattr(layer, SCORE)
            del layer.gate
            layer.__class__ = nn.Linear
        return model.requires_grad_(True)

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the trainable parameters: one score for each weight of the gated layers."""
        return {"trainable_parameters": sum(layer.weight.numel() for layer in _gated(model))}

    def cost(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return properties of the gates, read off a small layer that is prepared as the model's are.

        `scores` (one per weight); `lower`, `upper`: the stretched gate's limits as the score falls and rises without bound; `temperature`:
        the slope of log alpha against the logit of a sampled gate at u = 1/2; `initial_score`, `initial_gate` (evaluation) and
        `initial_open_share`; `expected_sparsity` of a sampled mask at the start, and `kept` after the cut.
        """
        layers = _gated(model)
        small = nn.ModuleDict({"layer": nn.Linear(2, 2)})
        self.prepare(small, Context())
        gate, score = small["layer"].gate, getattr(small["layer"], SCORE).detach().double()[0, 0]
        limits = gate.stretched(gate.concrete(torch.tensor([-1e4, 1e4], dtype=torch.float64)))
        probe = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        logits = torch.logit(gate.concrete(probe, torch.full_like(probe, 0.5)))
        count = sum(getattr(layer, SCORE).numel() for layer in layers)
        return {
            "scores": count,
            "layers": len(layers),
            "lower": float(limits[0]),
            "upper": float(limits[1]),
            "temperature": float((probe[1] - probe[0]) / (logits[1] - logits[0])),
            "initial_score": float(score),
            "initial_gate": float(gate.value(score)),
            "initial_open_share": float(gate.open_share(score)),
            "expected_sparsity": 1 - float(gate.open_share(score)),
            "kept": count - round(self.config.sparsity * count),
        }

    def _gate(self) -> HardConcrete:
        return HardConcrete(self.config.gamma, self.config.zeta, self.config.beta, self.config.noise)


def _gated(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if getattr(layer, SCORE, None) is not None]
