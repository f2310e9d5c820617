"""Slots of the structure search: small gated modules that add to a model's own, and the structural parameters of all of them."""

from __future__ import annotations

import math

import torch
from torch import nn

from replica.methods.peft.layers import Adapter, LowRankLinear, fill
from replica.methods.search.s3pet.gates import probabilities, soft_gates

#: Name under which the model owns the structural parameters.
STRUCTURE = "s3_structure"
#: Name under which a module owns its slots.
SLOTS = "s3"


class Structure(nn.Module):
    """Structural parameters alpha of all slots, their sizes, and the gates of now.

    While it searches, gates are drawn from alpha with the step's `uniform`; afterwards they are `chosen`, 0 or 1, and slots that are not
    chosen are not computed.
    """

    def __init__(self, sizes: list[int], budget: float, beta: float):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(len(sizes)))
        self.register_buffer("uniform", torch.full((len(sizes),), 0.5))
        self.register_buffer("chosen", torch.zeros(len(sizes)))
        self.sizes, self.budget, self.beta = tuple(sizes), budget, beta
        self.searching = False
        #: Whether alpha gets no gradient, as in the loss that trains the weights.
        self.fixed = False
        self.gates = self.chosen
        self.active: frozenset[int] | None = None
        #: Whether the whole model runs, so that its encoder has the gates of this pass.
        self.inside = False

    def probabilities(self) -> torch.Tensor:
        """Return each slot's probability; the expected number of parameters is the budget."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        alpha = self.alpha.detach() if self.fixed else self.alpha
        return probabilities(alpha, sizes, self.budget, self.beta)

    def refresh(self) -> None:
        """Set the gates for one forward pass: drawn while searching and training, probable while searching, else chosen."""
        self.active = None
        if self.alpha.is_meta:
            self.gates = torch.sigmoid(self.alpha) if self.searching else self.chosen
        elif not self.searching:
            self.gates, self.active = self.chosen, frozenset(self.chosen.nonzero().flatten().tolist())
        else:
            chances = self.probabilities()
            self.gates = soft_gates(chances, self.uniform) if self.training else chances

    def refresh_encoder(self, encoder: nn.Module, inputs: tuple) -> None:
        """Set the gates before an encoder that runs by itself, as in generation."""
        if not self.inside:
            self.refresh()

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rate: float, clip: float, state: dict) -> None:
        """Move alpha by AdamW (0.9, 0.999, no decay) on a gradient whose norm is cut at `clip`.

        `state` holds the step and the two moments under the names that torch's AdamW gives them.
        """
        gradient = gradient * torch.clamp(clip / (gradient.norm() + 1e-6), max=1.0)
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] += 1
        steps = int(state["step"])
        state["exp_avg"].lerp_(gradient, 0.1)
        state["exp_avg_sq"].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = (state["exp_avg_sq"] / (1 - 0.999**steps)).sqrt() + 1e-8
        self.alpha.sub_(rate * state["exp_avg"] / (1 - 0.9**steps) / size)


class Slot(nn.Module):
    """A small module with a gate: `index` is its place among all slots, `kind` lora, bias, scale or adapter."""

    def __init__(self, index: int, kind: str):
        super().__init__()
        self.index, self.kind = index, kind

    def reset(self, seeds: torch.Generator) -> None:
        """Start anew: the slot adds zero, or, as an adapter, has factors drawn by Glorot's rule."""
        raise NotImplementedError

    def size(self) -> int:
        """Return how many parameters it has."""
        return sum(parameter.numel() for parameter in self.parameters())


class Parallel(Slot):
    """An addition to a module's output, from its input x: rank-1 LoRA scale x a b, a bias, or a scale of the normalised input.

    `centred`: the norm takes the mean away before it divides by the root mean square, as BERT's do and T5's do not.
    """

    def __init__(self, index: int, kind: str, inputs: int, outputs: int, centred: bool = False, scale: float = 1.0):
        super().__init__(index, kind)
        self.centred, self.scale = centred, scale
        if kind == "lora":
            self.first = nn.Parameter(torch.zeros(inputs, 1))
        self.last = nn.Parameter(torch.zeros(1, outputs) if kind == "lora" else torch.zeros(outputs))

    def reset(self, seeds: torch.Generator) -> None:
        """Draw LoRA's first factor from uniform(+-1 / sqrt(inputs)); all else starts at zero."""
        if self.last.is_meta:
            return
        with torch.no_grad():
            self.last.zero_()
        if self.kind == "lora":
            fill(self.first, bound=1 / math.sqrt(len(self.first)), seeds=seeds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the addition; a scale takes the input over its root mean square."""
        if self.kind == "lora":
            return self.scale * ((x @ self.first) @ self.last)
        if self.kind == "bias":
            return self.last
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.last


class Sequential(Slot):
    """A rank-1 adapter on a sublayer's output, without its residual sum."""

    def __init__(self, index: int, width: int, bottleneck: int):
        super().__init__(index, "adapter")
        self.adapter = Adapter(LowRankLinear(width, bottleneck, 1), LowRankLinear(bottleneck, width, 1), "gelu_new")

    def reset(self, seeds: torch.Generator) -> None:
        """Draw the factors by Glorot's rule; the biases become zero."""
        self.adapter.reset(seeds)
        with torch.no_grad():
            for layer in (self.adapter.down, self.adapter.up):
                layer.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the addition to x."""
        return self.adapter.up(self.adapter.activation(self.adapter.down(x)))


class Gated:
    """Forward hook of a module with slots: adds their outputs, times their gates, to its output."""

    def __init__(self, structure: Structure):
        self.structure = structure

    def __call__(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        """Return the output with the slots': first the parallel, then the sequential ones."""
        base, gates = output, self.structure.gates
        active = self.structure.active
        slots = [slot for slot in getattr(module, SLOTS) if active is None or slot.index in active]
        for slot in slots:
            if isinstance(slot, Parallel):
                output = output + gates[slot.index] * slot(inputs[0])
        for slot in slots:
            if isinstance(slot, Sequential):
                output = output + gates[slot.index] * slot(output)
        return output.to(base.dtype)


def refresh(model: nn.Module, _inputs: tuple) -> None:
    """Set the gates before a model runs."""
    structure = getattr(model, STRUCTURE)
    structure.inside = True
    structure.refresh()


def leave(model: nn.Module, _inputs: tuple, _output: object) -> None:
    """Note that the model has run."""
    getattr(model, STRUCTURE).inside = False
