"""Factor-Tuning: the weights of all layers as one tensor, whose change is a tensor train or a Tucker product (Jie and Deng 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from replica.methods.base import Context, Method
from replica.methods.peft.layers import fill
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.models import body, encoder_layers

#: Name under which the model's body owns the factors.
NAME = "fact"


@dataclass(frozen=True)
class Slices:
    """The place of a linear layer in the tensor: `outputs` x `inputs` matrices of d x d, from matrix number `start` on."""

    start: int
    outputs: int
    inputs: int

    @property
    def stop(self) -> int:
        """Number of the first matrix after the layer's."""
        return self.start + self.outputs * self.inputs


class Factors(nn.Module):
    """U (d, r) and V (r, d), shared by all matrices, and the parameters of each matrix's core (r, r): Delta W_j = s U core_j V.

    Tensor train: every core is a parameter of its own, together (matrices, r, r). Tucker: core_j = sum_k C[:, :, k] P[k, j] with
    the shared C (r, r, r) and a column of P (r, matrices); the cores of a layer that has several inputs are transposed. With
    `released_slices` core i of a layer of n matrices has in row a the numbers i r to i r + r - 1 of the n r numbers [a, q, j], j fastest.
    """

    def __init__(
        self, width: int, rank: int, matrices: int, tucker: bool, dropout: float, released_slices: bool = False
    ):
        super().__init__()
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.v = nn.Parameter(torch.zeros(rank, width))
        if tucker:
            self.core = nn.Parameter(torch.zeros(rank, rank, rank))
            self.columns = nn.Parameter(torch.zeros(rank, matrices))
        else:
            self.cores = nn.Parameter(torch.zeros(matrices, rank, rank))
        self.tucker, self.dropout, self.released_slices = tucker, dropout, released_slices

    def reset(self, layers: list[Slices], seeds: torch.Generator) -> None:
        """Draw all but V, which stays zero: U and the cores of a train as linear layers start, C and P by Xavier's rule."""
        width, rank = self.u.shape
        fill(self.u, bound=1 / math.sqrt(width), seeds=seeds)
        if self.tucker:
            fill(self.core, bound=math.sqrt(6 / (2 * rank * rank)), seeds=seeds)
            fill(self.columns, bound=math.sqrt(6 / sum(self.columns.shape)), seeds=seeds)
        else:
            for place in layers:
                bound = 1 / math.sqrt(rank * place.inputs)
                fill(self.cores[place.start : place.stop], bound=bound, seeds=seeds)

    def layer_cores(self, place: Slices) -> torch.Tensor:
        """Return the cores of a layer, (outputs, inputs, r, r)."""
        if not self.tucker:
            cores = self.cores[place.start : place.stop]
        else:
            cores = torch.einsum("abk,kj->jab", self.core, self.columns[:, place.start : place.stop])
            if self.released_slices:
                cores = cores.permute(1, 2, 0).reshape(len(self.core), -1, len(self.core)).transpose(0, 1)
            cores = cores.transpose(1, 2) if place.inputs > 1 else cores
        return cores.unflatten(0, (place.outputs, place.inputs))

    def forward(self, x: torch.Tensor, place: Slices) -> torch.Tensor:
        """Map a layer's input (..., inputs * d) to the change of its output (..., outputs * d), without s."""
        code = x.unflatten(-1, (place.inputs, -1)) @ self.u
        code = torch.einsum("...bp,abpq->...aq", code, self.layer_cores(place).to(code.dtype))
        return (functional.dropout(code, self.dropout, self.training) @ self.v).flatten(-2)

    def increment(self, place: Slices) -> torch.Tensor:
        """Return the change of a layer's weight, (outputs * d, inputs * d), without s."""
        blocks = self.u @ self.layer_cores(place) @ self.v
        return blocks.permute(0, 3, 1, 2).flatten(2, 3).flatten(0, 1)


class _AddChange:
    """A forward hook that adds s times the change; it refers to the factors that the model's body owns."""

    def __init__(self, factors: Factors, place: Slices, scale: float):
        self.factors, self.place, self.scale = factors, place, scale

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + self.scale * self.factors(inputs[0], self.place)


class FacT(Method):
    """Every linear layer of the transformer layers is changed through shared factors; `finalize` adds the change to the weights."""

    _handles: tuple = ()

    def prepare(self, model: Any, context: Context) -> None:
        """Add the factors, drawn by the run's seed, and freeze the rest; raises ConfigError for layers that are no d x d matrices."""
        layers = self._layers(model)
        if hasattr(body(model), NAME):
            self.fail("the model has factors already")
        with torch.device(next(model.parameters()).device):
            factors = Factors(
                body(model).config.hidden_size,
                self.config.rank,
                layers[-1][1].stop,
                self.config.form == "tucker",
                self.config.dropout,
                self.config.released_slices,
            )
        factors.reset([place for _, place in layers], torch.Generator().manual_seed(context.seed))
        factors.train(model.training)
        body(model).add_module(NAME, factors)
        self._handles = tuple(
            layer.register_forward_hook(_AddChange(factors, place, self.config.scale)) for layer, place in layers
        )
        train_only(model, [*factors.parameters(), *also_trained(model, self.config)])

    def finalize(self, model: Any) -> Any:
        """Add s times the change to the weights and take the factors out."""
        factors = getattr(body(model), NAME)
        with torch.no_grad():
            for layer, place in self._layers(model):
                layer.weight.add_(self.config.scale * factors.increment(place))
        delattr(body(model), NAME)
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count 2 d r + m r^2 (tensor train) or 2 d r + m r + r^3 (Tucker), m matrices of d x d (12 a layer where the MLP is 4 d wide)."""
        width, rank = body(model).config.hidden_size, self.config.rank
        weights = sum(layer.weight.numel() for layer, _ in self._layers(model))
        matrices = weights // width**2
        own = matrices * rank + rank**3 if self.config.form == "tucker" else matrices * rank**2
        return {"trainable_parameters": 2 * width * rank + own + count(also_trained(model, self.config))}

    def _layers(self, model: Any) -> list[tuple[nn.Linear, Slices]]:
        """Return the linear layers of the transformer layers, in order, and the place of each in the tensor."""
        width = body(model).config.hidden_size
        layers: list[tuple[nn.Linear, Slices]] = []
        start = 0
        for number, layer in enumerate(encoder_layers(model)):
            for name, module in layer.named_modules():
                if not isinstance(module, nn.Linear):
                    continue
                if module.out_features % width or module.in_features % width:
                    self.fail(
                        f"'{name}' of layer {number} is {module.out_features} x {module.in_features}, which no "
                        f"{width} x {width} matrices fill; the tensor is made of matrices as wide as the model"
                    )
                place = Slices(start, module.out_features // width, module.in_features // width)
                layers.append((module, place))
                start = place.stop
        if not layers:
            self.fail(f"the layers of '{body(model).config.model_type}' have no linear layer to change")
        return layers
