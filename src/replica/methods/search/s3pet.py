"""Sparse Structure Search on T5: gated slots at every matrix, norm and sublayer, within a budget of trained parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from replica.errors import ConfigError
from replica.methods.base import Context, Method
from replica.methods.peft.freeze import train_only
from replica.methods.peft.layers import Adapter, LowRankLinear
from replica.methods.peft.places import sublayer_outputs
from replica.methods.search.gates import choose, probabilities, soft_gates
from replica.models import encoder_layers

#: Name under which the model owns the structural parameters.
STRUCTURE = "s3_structure"
#: Name under which a module owns its slots.
SLOTS = "s3"


class Structure(nn.Module):
    """Structural parameters alpha of all slots, their sizes, and the gates of now.

    While it searches, gates are drawn from alpha with the step's `uniform`; afterwards they are `chosen`, 0 or 1.
    """

    def __init__(self, sizes: list[int], budget: float, beta: float):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(len(sizes)))
        self.register_buffer("uniform", torch.full((len(sizes),), 0.5))
        self.register_buffer("chosen", torch.zeros(len(sizes)))
        self.sizes, self.budget, self.beta = tuple(sizes), budget, beta
        self.searching = False
        self.gates = self.chosen

    def probabilities(self) -> torch.Tensor:
        """Return each slot's probability; the expected number of parameters is the budget."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        return probabilities(self.alpha, sizes, self.budget, self.beta)

    def refresh(self) -> None:
        """Set the gates for one forward pass: drawn while searching and training, probable while searching, else chosen."""
        if not self.searching:
            self.gates = self.chosen
        elif self.alpha.is_meta:
            self.gates = torch.sigmoid(self.alpha)
        else:
            chances = self.probabilities()
            self.gates = soft_gates(chances, self.uniform) if self.training else chances


class Slot(nn.Module):
    """A small module with a gate: `index` is its place among all slots, `kind` lora, bias, scale or adapter."""

    def __init__(self, index: int, kind: str):
        super().__init__()
        self.index, self.kind = index, kind

    def size(self) -> int:
        """Return how many parameters it has."""
        return sum(parameter.numel() for parameter in self.parameters())


class Parallel(Slot):
    """What a module's input adds to its output: rank-1 LoRA x a b, a bias, or a scale of the normalised input."""

    def __init__(self, index: int, kind: str, inputs: int, outputs: int):
        super().__init__(index, kind)
        if kind == "lora":
            self.first = nn.Parameter(torch.zeros(inputs, 1))
        self.last = nn.Parameter(torch.zeros(1, outputs) if kind == "lora" else torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the addition; a scale takes the input over its root mean square."""
        if self.kind == "lora":
            return (x @ self.first) @ self.last
        if self.kind == "bias":
            return self.last
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.last


class Sequential(Slot):
    """A rank-1 adapter on a sublayer's output, without its residual sum."""

    def __init__(self, index: int, width: int, bottleneck: int):
        super().__init__(index, "adapter")
        self.adapter = Adapter(LowRankLinear(width, bottleneck, 1), LowRankLinear(bottleneck, width, 1), "gelu_new")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the adapter adds to x."""
        return self.adapter.up(self.adapter.activation(self.adapter.down(x)))


class SparseStructureSearch(Method):
    """Output = base + sum_i z_i delta_i(input), then + z delta(output) for adapters; p_i = sigmoid((alpha_i - zeta) / beta).

    Slots: rank-1 LoRA and a bias at q, k, v, o of self-attention and at both feed-forward matrices, a bias and a scale at each
    layer norm, rank-1 adapters after self-attention and feed-forward; cross-attention's matrices have none. zeta keeps the expected
    number of trained parameters on the budget at every step; when training ends, the most probable slots that fit it are kept.
    Alpha and the slots' weights are trained on the same batches here; the paper's second-order bi-level step, on halves of the
    training set, and its retraining of the chosen slots from a fresh start are not part of it.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put the slots in, draw them by the run's seed, and train them and alpha alone."""
        if "s3pet" not in context.restored:
            self.restore(model)
            seeds = torch.Generator().manual_seed(context.seed)
            for slot in self.slots(model):
                if slot.kind == "adapter":
                    slot.adapter.reset(seeds)
                elif slot.kind == "lora" and not slot.first.is_meta:
                    with torch.no_grad():
                        slot.first.copy_(torch.empty(slot.first.shape).normal_(0.0, 0.02, generator=seeds))
        structure = getattr(model, STRUCTURE)
        structure.searching = True
        train_only(model, [structure.alpha, *(p for slot in self.slots(model) for p in slot.parameters())])

    def restore(self, model: Any) -> None:
        """Add the slots with weights of zero; raises ConfigError for another architecture than T5 or a second search."""
        if getattr(model.config, "model_type", "") != "t5":
            raise ConfigError(f"method 's3pet': architecture '{model.config.model_type}' is not known; known: t5")
        if hasattr(model, STRUCTURE):
            raise ConfigError("method 's3pet': the model has slots already; use it once a run")
        backbone = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
        device, sizes = next(model.parameters()).device, []
        holders = [(module, "matrix") for module in self._matrices(model)]
        if self.config.space == "mix":
            holders += [(module, "norm") for module in _norms(model)]
        adapted = {id(place.module) for place in sublayer_outputs(model)} if self.config.space == "mix" else set()
        for module, what in holders:
            slots = nn.ModuleList()
            for make in self._kinds(module, what, id(module) in adapted):
                with torch.device(device):
                    slots.append(make(len(sizes)))
                sizes.append(slots[-1].size())
            module.add_module(SLOTS, slots)
        with torch.device(device):
            structure = Structure(sizes, self.config.budget * backbone, self.config.beta)
        model.add_module(STRUCTURE, structure)
        model.register_forward_pre_hook(_refresh)
        for module, _ in holders:
            module.register_forward_hook(_Gated(structure))

    def optimizer(self, model: Any, context: Context) -> torch.optim.Optimizer:
        """Return AdamW with the structural parameters' own rate."""
        weights = [p for slot in self.slots(model) for p in slot.parameters()]
        groups = [{"params": weights}, {"params": [getattr(model, STRUCTURE).alpha], "lr": self.config.structure_rate}]
        return torch.optim.AdamW(groups, lr=context.learning_rate, weight_decay=context.weight_decay)

    def on_step_begin(self, model: Any, context: Context) -> None:
        """Draw the step's numbers, the same for every forward pass in it."""
        uniform = getattr(model, STRUCTURE).uniform
        seeds = torch.Generator().manual_seed((context.seed + 1) * 1_000_003 + context.step)
        draw = torch.rand(uniform.shape, generator=seeds).clamp(1e-6, 1 - 1e-6)
        uniform.copy_(draw)

    def finalize(self, model: Any) -> Any:
        """Keep the chosen slots at gate 1 and shut the others."""
        structure = getattr(model, STRUCTURE)
        with torch.no_grad():
            sizes = torch.tensor(structure.sizes, dtype=torch.float64)
            structure.chosen.copy_(choose(structure.probabilities(), sizes, structure.budget))
        structure.searching, structure.gates = False, structure.chosen
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count alpha and all slots from the configuration of T5."""
        space = self._space(model)
        return {"trainable_parameters": space["slots"] + space["parameters"]}

    def cost(self, model: Any) -> dict[str, Any]:
        """Return the space as built, by kind, and what the budget asks and the gates expect of it, at alpha = 0.

        slots, parameters, by_kind: {lora, bias, scale, adapter: {slots, parameters}}; backbone; budget (parameters asked for),
        expected (sum of n_i p_i), expected_share (of the backbone), chosen (parameters of the greedy structure), chosen_slots.
        """
        structure, by_kind = getattr(model, STRUCTURE), {}
        for slot in self.slots(model):
            kind = by_kind.setdefault(slot.kind, {"slots": 0, "parameters": 0})
            kind["slots"] += 1
            kind["parameters"] += slot.size()
        sizes = torch.tensor(structure.sizes, dtype=torch.float64)
        alpha = torch.zeros(len(sizes), dtype=torch.float64) if structure.alpha.is_meta else structure.alpha.detach()
        chances = probabilities(alpha, sizes, structure.budget, structure.beta)
        chosen = choose(chances, sizes, structure.budget)
        backbone = structure.budget / self.config.budget
        expected = float((sizes * chances).sum())
        return {
            "slots": len(sizes),
            "parameters": int(sizes.sum()),
            "by_kind": by_kind,
            "backbone": backbone,
            "budget": structure.budget,
            "expected": expected,
            "expected_share": expected / backbone,
            "chosen": int(sizes[chosen].sum()),
            "chosen_slots": int(chosen.sum()),
        }

    def slots(self, model: Any) -> Iterator[Slot]:
        """Yield the slots in the order of their indices."""
        yield from sorted((m for m in model.modules() if isinstance(m, Slot)), key=lambda slot: slot.index)

    def _kinds(self, module: nn.Module, what: str, adapted: bool) -> list:
        if what == "norm":
            width = module.weight.shape[0]
            return [lambda i: Parallel(i, "bias", width, width), lambda i: Parallel(i, "scale", width, width)]
        inputs, outputs = module.in_features, module.out_features
        kinds = [lambda i: Parallel(i, "lora", inputs, outputs)]
        if self.config.space == "mix":
            kinds.append(lambda i: Parallel(i, "bias", inputs, outputs))
        if adapted:
            kinds.append(lambda i: Sequential(i, outputs, max(1, outputs // self.config.reduction)))
        return kinds

    def _space(self, model: Any) -> dict[str, int]:
        """Count slots and their parameters by T5's sizes."""
        c = model.config
        layers, inner = c.num_layers + c.num_decoder_layers, c.num_heads * c.d_kv
        gated = 1 if c.is_gated_act else 0
        matrices = 6 + gated
        lora = 4 * (c.d_model + inner) + (2 + gated) * (c.d_model + c.d_ff)
        if self.config.space == "lora":
            return {"slots": layers * matrices, "parameters": layers * lora}
        norms = 2 * c.num_layers + 3 * c.num_decoder_layers + 2
        narrow = max(1, c.d_model // self.config.reduction)
        biases = 3 * inner + 2 * c.d_model + (1 + gated) * c.d_ff
        adapter = 3 * (c.d_model + narrow)
        return {
            "slots": layers * (2 * matrices + 2) + 2 * norms,
            "parameters": layers * (lora + biases + 2 * adapter) + 2 * norms * c.d_model,
        }

    @staticmethod
    def _matrices(model: Any) -> list[nn.Linear]:
        return [
            module
            for layer in encoder_layers(model)
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and ("SelfAttention" in name or "DenseReluDense" in name)
        ]


class _Gated:
    """Forward hook of a module with slots."""

    def __init__(self, structure: Structure):
        self.structure = structure

    def __call__(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        base, gates = output, self.structure.gates
        for slot in getattr(module, SLOTS):
            if isinstance(slot, Parallel):
                output = output + gates[slot.index] * slot(inputs[0])
        for slot in getattr(module, SLOTS):
            if isinstance(slot, Sequential):
                output = output + gates[slot.index] * slot(output)
        return output.to(base.dtype)


def _refresh(model: nn.Module, _inputs: tuple) -> None:
    getattr(model, STRUCTURE).refresh()


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if type(m).__name__ == "T5LayerNorm"]
