"""Mixture-of-Domain-Adapters: knowledge of a domain in adapters next to the feed-forward layers, mixed in by a gate (Diao et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.mixture_of_domain_adapters.config import MixtureConfig
from replica.methods.peft.trainable import also_trained, train_only
from replica.models import body, encoder_layers
from replica.models.architectures import require

#: Name under which a feed-forward output layer owns its mixture.
MIXTURE = "mixture"
#: Entries of a batch that a body reads.
_READ = ("input_ids", "attention_mask", "token_type_ids")
#: Width inside the released gate.
_RELEASED_WIDTH = 768


class DomainAdapter(nn.Module):
    """K(x) = Up(GELU(Down(x))) on the feed-forward activation x, without a residual; Up and the biases start at zero."""

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.down, self.up, self.activation = nn.Linear(inputs, width), nn.Linear(width, outputs), nn.GELU()

    def reset(self, seeds: torch.Generator) -> None:
        """Draw Down by Kaiming's uniform rule with a = sqrt(5), uniform(+-1 / sqrt(inputs)); the rest is zero."""
        if self.down.weight.is_meta:
            return
        bound = self.down.in_features**-0.5
        with torch.no_grad():
            self.down.weight.copy_(torch.empty(self.down.weight.shape).uniform_(-bound, bound, generator=seeds))
            for parameter in (self.down.bias, self.up.weight, self.up.bias):
                parameter.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the feed-forward activation (..., inputs) to (..., outputs)."""
        return self.up(self.activation(self.down(x)))


class Mixture(nn.Module):
    """The domain adapters of one layer, their gate, and the states of the layer's last forward pass that they read.

    It takes over the dropout of the layer's feed-forward output, so that the mixture's output is not dropped again.
    """

    def __init__(self, width: int, hidden: int, config: MixtureConfig, dropout: float):
        super().__init__()
        self.adapters = nn.ModuleList(
            DomainAdapter(width, width // config.reduction, hidden) for _ in range(config.adapters)
        )
        self.kind, self.dropout = config.gate, nn.Dropout(dropout)
        self.gate = _gate(width, hidden, config)
        self.clear()

    def clear(self) -> None:
        """Forget the last forward pass."""
        self.attended: torch.Tensor | None = None
        self.plain: torch.Tensor | None = None
        self.weights: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Mix: x is the feed-forward activation (batch, length, width), output the layer's own (batch, length, hidden)."""
        self.plain = self.dropout(output)
        parts = [*(adapter(x) for adapter in self.adapters), self.plain]
        if self.gate is None:
            return sum(parts)
        weights = (
            self.gate(self.attended).sigmoid() if self.kind == "paper" else self.gate(x[:, -1]).softmax(-1)[:, None]
        )
        self.weights = weights.detach()
        return sum(weights[..., index : index + 1] * part for index, part in enumerate(parts))


def _gate(width: int, hidden: int, config: MixtureConfig) -> nn.Sequential | None:
    ends = config.adapters + 1
    if config.gate == "none":
        return None
    if config.gate == "paper":
        inner = config.gate_width or max(1, hidden // 16)
        return nn.Sequential(nn.Linear(hidden, inner), nn.ReLU(), nn.Linear(inner, ends))
    inner, drop = config.gate_width or _RELEASED_WIDTH, config.dropout
    layers: list[nn.Module] = [nn.Dropout(drop), nn.Linear(width, inner)]
    for outputs in (inner, inner, ends):
        layers += [nn.ReLU(), nn.Dropout(drop), nn.Linear(inner, outputs)]
    return nn.Sequential(*layers)


def _keep_attended(layer: nn.Module, args: tuple) -> None:
    _owner(layer).attended = args[0]


def _mix(dense: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return getattr(dense, MIXTURE)(args[0], output)


def _owner(intermediate: nn.Module) -> Mixture:
    return intermediate.its_mixture[0]


class _Agreement:
    """Forward hooks of the layers' output modules that add up L_S over the layers of one forward pass."""

    def __init__(self) -> None:
        self.distances: list[torch.Tensor] = []

    def __call__(self, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        plain = module.LayerNorm(getattr(module.dense, MIXTURE).plain + args[1])
        self.distances.append((output - plain).square().mean())


class MixtureOfDomainAdapters(Method):
    """Domain adapters and gates of some layers; see the configuration for the two stages."""

    config: MixtureConfig

    def prepare(self, model: Any, context: Context) -> None:
        """Put the mixtures in, drawn by the run's seed; train adapter and gates (stage domain) or gates (stage task).

        Stage task leaves other methods' trained parameters as they are. Raises ConfigError where stage task starts from no stage domain.
        """
        config = self.config
        if self.name not in context.restored:
            if config.stage == "task" and not next(model.parameters()).is_meta:
                self.fail("stage `task` starts `from:` a run of stage `domain`")
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(context.seed)
                self.restore(model)
            seeds = torch.Generator().manual_seed(context.seed)
            for mixture in self.mixtures(model):
                for adapter in mixture.adapters:
                    adapter.reset(seeds)
        gates = [p for mixture in self.mixtures(model) if mixture.gate is not None for p in mixture.gate.parameters()]
        if config.stage == "domain":
            own = [p for mixture in self.mixtures(model) for p in mixture.adapters[config.which].parameters()]
            train_only(model, [*own, *gates])
            return
        for mixture in self.mixtures(model):
            mixture.adapters.requires_grad_(False)
        for parameter in [*gates, *also_trained(model, config)]:
            parameter.requires_grad_(True)

    def restore(self, model: Any) -> None:
        """Put the mixtures into the model; raises ConfigError for another architecture, or layers that are not there."""
        config = self.config
        require(model, like="bert", method=self.name)
        if config.which >= config.adapters:
            self.fail(f"which {config.which} is not one of {config.adapters} adapters, counted from 0")
        layers = encoder_layers(model)
        wrong = [index for index in config.layers if not 0 <= index < len(layers)]
        if wrong:
            self.fail(f"layers {wrong} are not among the {len(layers)} layers 0 to {len(layers) - 1}")
        for index in config.layers:
            layer = layers[index]
            dense, drop = layer.output.dense, layer.output.dropout
            with torch.device(dense.weight.device):
                mixture = Mixture(dense.in_features, dense.out_features, config, drop.p)
            mixture.train(dense.training)
            drop.p = 0.0
            dense.add_module(MIXTURE, mixture)
            layer.intermediate.its_mixture = (mixture,)  # in a tuple: the output layer owns it
            layer.intermediate.register_forward_pre_hook(_keep_attended)
            dense.register_forward_hook(_mix)

    def optimizer(self, model: Any, context: Context) -> torch.optim.Optimizer:
        """Return AdamW; the gates have a rate of their own where the configuration gives one."""
        gates = {id(p) for m in self.mixtures(model) if m.gate is not None for p in m.gate.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        rate = self.config.gate_rate or context.learning_rate
        groups = [
            {"params": [p for p in trained if id(p) not in gates]},
            {"params": [p for p in trained if id(p) in gates], "lr": rate},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=context.learning_rate, weight_decay=context.weight_decay)

    def loss(self, model: Any, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the stage's loss; raises ConfigError where L_S has no general text, or another method has frozen the gates."""
        config = self.config
        mixtures = list(self.mixtures(model))
        if any(m.gate is not None and not m.gate[-1].weight.requires_grad for m in mixtures):
            self.fail("the gates are frozen; name this method after the one that chooses the trained parameters")
        own = context.forward(model, batch).loss
        if config.gate != "none":
            shares = torch.stack([m.weights[..., -1].mean() for m in mixtures])
            context.record(gate_backbone=float(shares.mean()))
        if config.stage == "task" or not config.general:
            return own
        if context.beside is None:
            self.fail("stage `domain` keeps to general text, which the run must name; or general: false")
        rows = len(next(iter(batch.values())))
        device = next(model.parameters()).device
        general = {key: value.to(device) for key, value in context.beside(context.step, rows).items()}
        agreement = _Agreement()
        handles = [encoder_layers(model)[index].output.register_forward_hook(agreement) for index in config.layers]
        try:
            # only the layers' outputs count: the words' logits would cost as much as a small body, and the body runs without them
            context.forward(body(model), {name: general[name] for name in _READ if name in general})
        finally:
            for handle in handles:
                handle.remove()
        apart = torch.stack(agreement.distances).mean()
        for mixture in mixtures:
            mixture.clear()
        context.record(domain_loss=float(own.detach()), sampling_loss=float(apart.detach()))
        return config.balance * own + apart

    def reported(self, model: Any, context: Context) -> dict[str, float]:
        """Return each layer's mean gate weights on unseen examples: `layer<i>.adapter<j>` and `layer<i>.backbone`."""
        if context.unseen is None or self.config.gate == "none":
            return {}
        device = next(model.parameters()).device
        batch = {key: value.to(device) for key, value in context.unseen(64).items()}
        training = model.training
        model.eval()
        with torch.no_grad():
            context.exactly(model, batch)
        model.train(training)
        shares = {}
        for index, mixture in zip(self.config.layers, self.mixtures(model), strict=True):
            means = mixture.weights.flatten(0, -2).mean(0).tolist()
            names = [f"adapter{number}" for number in range(len(means) - 1)] + ["backbone"]
            shares |= {f"layer{index}.{name}": value for name, value in zip(names, means, strict=True)}
        return shares

    def finalize(self, model: Any) -> Any:
        """Forget the last forward pass; the mixtures stay."""
        for mixture in self.mixtures(model):
            mixture.clear()
        return model

    def mixtures(self, model: Any) -> list[Mixture]:
        """Return the mixtures, in the order of `layers`."""
        layers = encoder_layers(model)
        return [getattr(layers[index].output.dense, MIXTURE) for index in self.config.layers]

    def expected(self, model: Any) -> dict[str, float]:
        """Count stage domain by the formula: per layer one adapter of two layers with biases, and a gate."""
        if self.config.stage == "task":
            return {}
        inner, config = body(model).config, self.config
        wide, d = inner.intermediate_size, inner.hidden_size
        narrow, ends = wide // config.reduction, config.adapters + 1
        own = wide * narrow + narrow + narrow * d + d
        if config.gate == "paper":
            g = config.gate_width or max(1, d // 16)
            own += d * g + g + g * ends + ends
        elif config.gate == "released":
            g = config.gate_width or _RELEASED_WIDTH
            own += wide * g + g + 2 * (g * g + g) + g * ends + ends
        return {"trainable_parameters": len(config.layers) * own}
