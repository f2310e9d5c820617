"""Bottleneck adapters of every kind: put into the sublayers, trained with the layer norms, kept in the stored model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from replica.errors import ConfigError, nearest
from replica.methods.base import Context, Method
from replica.methods.peft.config import (
    AdapterConfig,
    AdapterLowRankConfig,
    CompacterConfig,
    PHMAdapterConfig,
    SparseAdapterConfig,
)
from replica.methods.peft.freeze import also_trained, count, train_only
from replica.methods.peft.layers import (
    Adapter,
    FullLinear,
    HypercomplexLinear,
    LowRankHypercomplexLinear,
    LowRankLinear,
    Rule,
    TaskLayers,
    fill,
)
from replica.models import body
from replica.models.architectures import Place, sublayer_outputs

#: Name under which the body of a model owns the matrices A that its adapters share.
RULE = "hypercomplex_rule"


def _through_adapter(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return module.adapter(output)


class BottleneckAdapters(Method):
    """Adapters, PHM-adapters, low-rank adapters and Compacter, by the type of the configuration.

    An adapter is a child of the output layer of its sublayer, and a forward hook of that layer applies it: the layer's own
    weights keep their names. Compacter's A is one parameter of the model's body; the layers only refer to it.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put the adapters in (unless they were restored), drawn by the run's seed, and freeze the rest."""
        if self._name() not in context.restored:
            self.restore(model)
            seeds = torch.Generator().manual_seed(context.seed)
            for rule in self._rules(model):
                fill(rule, std=self.config.rule_std, seeds=seeds)
            for adapter in self.adapters(model):
                adapter.reset(seeds)
        rules = {id(rule): rule for rule in self._rules(model)}
        added = [p for adapter in self.adapters(model) for p in adapter.parameters() if id(p) not in rules]
        if isinstance(self.config, CompacterConfig) and self.config.train_rule:
            added += rules.values()
        train_only(model, [*added, *also_trained(model, self.config)])

    def restore(self, model: Any) -> None:
        """Put adapters with zero weights into the model; raises ConfigError where sizes do not fit or some are there."""
        config, hidden = self.config, body(model).config.hidden_size
        if config.activation not in ACT2FN:
            known = nearest(config.activation, ACT2FN)
            raise ConfigError(f"method '{self._name()}': unknown activation '{config.activation}'{known}")
        places = self._places(model)
        if not places:
            raise ConfigError(
                f"method '{self._name()}': skip_layers {config.skip_layers} leaves no layer with an adapter"
            )
        device = next(model.parameters()).device
        width = self.bottleneck(hidden)
        rule = None
        if isinstance(config, CompacterConfig) and not config.own_rules:
            with torch.device(device):
                rule = Rule(config.n)
            body(model).add_module(RULE, rule)
        for place in places:
            if hasattr(place.module, "adapter"):
                raise ConfigError(
                    f"method '{self._name()}': the model has adapters already; use one adapter method a run"
                )
            with torch.device(device):
                norm = nn.LayerNorm(hidden) if config.norm else None
                down, up = self._half("down", hidden, width, rule), self._half("up", width, hidden, rule)
                adapter = Adapter(down, up, config.activation, norm)
            place.module.add_module("adapter", adapter)
            place.module.register_forward_hook(_through_adapter)

    def _rules(self, model: Any) -> list[nn.Parameter]:
        """Return Compacter's matrices A: the one that the layers share, or each layer's own."""
        if not isinstance(self.config, CompacterConfig):
            return []
        if not self.config.own_rules:
            return [getattr(body(model), RULE).weight]
        return [m.weight for adapter in self.adapters(model) for m in adapter.modules() if isinstance(m, Rule)]

    def expected(self, model: Any) -> dict[str, float]:
        """Count the trained parameters by the formulas: per adapter, for A, the norms and a new head."""
        config, hidden = self.config, body(model).config.hidden_size
        width = self.bottleneck(hidden)
        places = len(self._places(model))
        shared = 0
        if isinstance(config, CompacterConfig):
            n = config.n
            shared = n**3 if config.train_rule and not config.own_rules else 0
            own = n**3 if config.train_rule and config.own_rules else 0
            matrices = 2 * (n * (hidden // n + width // n) + own)
        elif isinstance(config, PHMAdapterConfig):
            n = config.n
            matrices = 2 * (n**3 + n * (hidden // n) * (width // n))
        elif isinstance(config, AdapterLowRankConfig):
            matrices = 2 * config.rank * (hidden + width)
        else:
            matrices = 2 * hidden * width
        downs, ups = (1 if config.shared == half else config.tasks for half in ("down", "up"))
        norm = 2 * hidden if config.norm else 0
        biases = (width, hidden) if config.biases else (0, 0)
        adapters = places * (downs * (matrices // 2 + biases[0]) + ups * (matrices // 2 + biases[1]) + norm)
        others = also_trained(model, config)
        if config.norm and config.layer_norms:
            own = {id(parameter) for adapter in self.adapters(model) for parameter in adapter.parameters()}
            others = [parameter for parameter in others if id(parameter) not in own]
        return {"trainable_parameters": adapters + shared + count(others)}

    def bottleneck(self, hidden: int) -> int:
        """Return the width of the bottleneck; raises ConfigError where n does not divide the sizes."""
        n = getattr(self.config, "n", 1)
        width = self.config.bottleneck or -(-max(1, hidden // self.config.reduction) // n) * n
        if hidden % n or width % n:
            raise ConfigError(
                f"method '{self._name()}': n = {n} must divide the hidden size {hidden} and the bottleneck {width}"
            )
        return width

    def _half(self, half: str, inputs: int, outputs: int, rule: Rule | None) -> nn.Module:
        """Return the down- or up-projection: one layer, or one for each task that has its own."""
        if self.config.tasks == 1 or self.config.shared == half:
            return self._linear(inputs, outputs, rule)
        return TaskLayers(self._linear(inputs, outputs, rule) for _ in range(self.config.tasks))

    def _linear(self, inputs: int, outputs: int, rule: Rule | None) -> nn.Module:
        layer = self._with_bias(inputs, outputs, rule)
        if not self.config.biases:
            layer.bias = None
        return layer

    def _with_bias(self, inputs: int, outputs: int, rule: Rule | None) -> nn.Module:
        config = self.config
        if isinstance(config, CompacterConfig):
            return LowRankHypercomplexLinear(inputs, outputs, rule or Rule(config.n), own=config.own_rules)
        if isinstance(config, PHMAdapterConfig):
            return HypercomplexLinear(inputs, outputs, config.n, config.rule_std)
        if isinstance(config, AdapterLowRankConfig):
            return LowRankLinear(inputs, outputs, config.rank)
        return FullLinear(inputs, outputs, config.initial_std)

    def adapters(self, model: Any) -> list[Adapter]:
        """Return the adapters of a prepared or restored model, in the order of their places."""
        return [place.module.adapter for place in self._places(model)]

    def _places(self, model: Any) -> list[Place]:
        config = self.config
        return sublayer_outputs(model, config.places, config.skip_layers, config.cross_attention)

    def _name(self) -> str:
        names = {CompacterConfig: "compacter", PHMAdapterConfig: "phm-adapter", AdapterLowRankConfig: "adapter-lowrank"}
        names[SparseAdapterConfig] = "sparse-adapter"
        default = "adapter" if type(self.config) is AdapterConfig else "adapter-drop"
        return names.get(type(self.config), default)
