"""Compacter: bottleneck adapters of low-rank hypercomplex layers that share their rules (Karimi Mahabadi et al. 2021)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.bottleneck_adapters import (
    adapters,
    count_trained,
    draw_adapters,
    insert_adapters,
    train_adapters,
)
from replica.methods.peft.layers import LowRankHypercomplexLinear, Rule, fill
from replica.models import body

#: Name under which the body of a model owns the matrices A that its adapters share.
RULE = "hypercomplex_rule"


class Compacter(Method):
    """H = sum_i A_i kron (s_i t_i^T) in both layers of an adapter.

    A is one parameter of the model's body, to which the layers refer; with `own_rules` each layer has its own.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put the adapters in (unless they were restored), drawn by the run's seed, and freeze the rest."""
        if self.name not in context.restored:
            self.restore(model)
            seeds = torch.Generator().manual_seed(context.seed)
            for rule in self._rules(model):
                fill(rule, std=self.config.rule_std, seeds=seeds)
            draw_adapters(self, model, seeds)
            if self.config.start == "tensors":
                self._draw_tensors(model, seeds)
        rules = self._rules(model)
        train_adapters(self, model, more=rules if self.config.train_rule else (), but=rules)

    def restore(self, model: Any) -> None:
        """Put adapters with zero weights into the model; raises ConfigError where sizes do not fit or some are there."""
        n, own = self.config.n, self.config.own_rules
        shared = None
        if not own:
            with torch.device(next(model.parameters()).device):
                shared = Rule(n)
            body(model).add_module(RULE, shared)

        def make(inputs: int, outputs: int) -> nn.Module:
            return LowRankHypercomplexLinear(inputs, outputs, shared or Rule(n), own=own)

        insert_adapters(self, model, make, n)

    def _draw_tensors(self, model: Any, seeds: torch.Generator) -> None:
        """Draw A, s and t anew by Glorot's normal rule, whose fans of a tensor (a, b, c) are b c inputs and a c outputs."""
        layers = [m for adapter in adapters(self, model) for m in adapter.modules() if hasattr(m, "left")]
        tensors = list(self._rules(model))
        shapes = [tuple(rule.shape) for rule in tensors]
        for layer in layers:
            tensors += [layer.left, layer.right]
            shapes += [(*layer.left.shape, 1), (layer.right.shape[0], 1, layer.right.shape[1])]
        for tensor, (a, b, c) in zip(tensors, shapes, strict=True):
            fill(tensor, std=math.sqrt(2.0) * math.sqrt(2 / (c * (a + b))), seeds=seeds)

    def expected(self, model: Any) -> dict[str, float]:
        """Count 2 (d + m) for each adapter, its biases, n^3 for each rule that trains, the norms and a new head."""
        n = self.config.n
        rule = n**3 if self.config.train_rule else 0
        own, shared = (rule, 0) if self.config.own_rules else (0, rule)
        trained = count_trained(self, model, lambda hidden, width: n * (hidden // n + width // n) + own, n)
        return {"trainable_parameters": trained + shared}

    def _rules(self, model: Any) -> list[nn.Parameter]:
        """Return the matrices A: the one that the layers share, or each layer's own."""
        if not self.config.own_rules:
            return [getattr(body(model), RULE).weight]
        return [m.weight for adapter in adapters(self, model) for m in adapter.modules() if isinstance(m, Rule)]
