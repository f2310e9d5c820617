"""Training in a random subspace of all weights (structure-aware intrinsic dimension), by stacked Fastfood transforms."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.trainable import count, head_parameters, train_only
from replica.models import body, encoder_layers
from replica.models.architectures import architecture_of

#: Name under which the model's body owns the coordinates and the projection.
NAME = "intrinsic_subspace"


def hadamard(size: int) -> torch.Tensor:
    """Return Sylvester's Hadamard matrix of a size that is a power of two: entries 1 and -1, H H^T = size I."""
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


class Fastfood(nn.Module):
    """A random map from n numbers (n a power of two) to any number of outputs: H G Pi H B for each block of n outputs.

    B holds random signs, Pi a random permutation, G normal numbers (Le, Sarlos and Smola 2013, equation 8, without S). Each
    block is divided by sqrt(n sum(G^2)) and by the root of the number of blocks, so that a tensor made of whole blocks has
    the expected norm of the input. A last block that is used in part is divided by the root of n all the same, in the released code by
    that of its used length, so that its outputs are larger there by sqrt(n / length). The three are drawn by the seed and not stored.
    """

    def __init__(self, n: int, outputs: int, seed: int, device: torch.device):
        super().__init__()
        blocks = -(-outputs // n)
        self.outputs = outputs
        if device.type == "meta":
            signs = torch.empty(blocks, n, dtype=torch.int8, device=device)
            order = torch.empty(blocks, n, dtype=torch.int64, device=device)
            gauss = torch.empty(blocks, n, device=device)
        else:
            seeds = torch.Generator().manual_seed(seed)
            signs = torch.randint(0, 2, (blocks, n), generator=seeds, dtype=torch.int8) * 2 - 1
            order = torch.rand(blocks, n, generator=seeds).argsort(1)
            gauss = torch.randn(blocks, n, generator=seeds)
            gauss /= (n * gauss.square().sum(1, keepdim=True)).sqrt() * math.sqrt(blocks)
        for name, values in (("signs", signs), ("order", order), ("gauss", gauss)):
            self.register_buffer(name, values.to(device), persistent=False)

    def forward(self, x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Map (n,) to (outputs,); `left` and `right` are Hadamard matrices whose Kronecker product is H."""
        y = _transform(self.signs * x, left, right)
        y = _transform(y.gather(1, self.order) * self.gauss, left, right)
        return y.flatten()[: self.outputs]


def _transform(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply each row of (blocks, n) with H = left kron right."""
    return (left @ x.unflatten(1, (left.shape[0], right.shape[0])) @ right).flatten(1)


class Subspace(nn.Module):
    """theta = theta_0 + lambda_l P(theta_d): the coordinates, one scale for each layer, and a projection for each tensor."""

    def __init__(self, targets: list[tuple[nn.Parameter, int, list[tuple[str, str]]]], groups: int, d: int, seed: int):
        super().__init__()
        device = targets[0][0].device
        free = d - groups
        n = 2 ** math.ceil(math.log2(free))
        half = 2 ** (int(math.log2(n)) // 2)
        self.coordinates = nn.Parameter(torch.zeros(free, device=device))
        self.scales = nn.Parameter(torch.ones(groups, device=device))
        self.register_buffer("left", hadamard(half).to(device), persistent=False)
        self.register_buffer("right", hadamard(n // half).to(device), persistent=False)
        self.projections = nn.ModuleList(
            Fastfood(n, parameter.numel(), seed * 100_003 + number, device)
            for number, (parameter, _, _) in enumerate(targets)
        )
        self.places = [(group, tuple(parameter.shape), aliases) for parameter, group, aliases in targets]
        self.padding = n - free
        #: How many modules with the hooks run now: the model, and its encoder inside of it.
        self.depth = 0

    def increments(self) -> Any:
        """Yield for each tensor its aliases (module path, attribute) and lambda_l P(theta_d) in its shape."""
        x = nn.functional.pad(self.coordinates, (0, self.padding))
        for projection, (group, shape, aliases) in zip(self.projections, self.places, strict=True):
            yield aliases, self.scales[group] * projection(x, self.left, self.right).view(shape)


def _enter(model: nn.Module, module: nn.Module, inputs: Any) -> None:
    """Let the moved weights hide the frozen ones while the model, or its encoder alone, runs: attributes are found before parameters."""
    subspace = getattr(body(model), NAME)
    subspace.depth += 1
    if subspace.depth > 1:
        return
    kind = subspace.coordinates.device.type
    # Increments are small: they stay in float32 under autocast, which the meta device does not know.
    with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
        for aliases, increment in subspace.increments():
            modules = [(model.get_submodule(path), name) for path, name in aliases]
            moved = modules[0][0]._parameters[modules[0][1]] + increment
            for module, name in modules:
                module.__dict__[name] = moved


def _leave(model: nn.Module, module: nn.Module, inputs: Any, output: Any) -> None:
    subspace = getattr(body(model), NAME)
    subspace.depth -= 1
    if subspace.depth:
        return
    for _, _, aliases in subspace.places:
        for path, name in aliases:
            model.get_submodule(path).__dict__.pop(name, None)


class IntrinsicSAID(Method):
    """All weights move in a random subspace of d dimensions, with a learned scale for each layer; folded in at the end."""

    _handles: tuple = ()

    def prepare(self, model: Any, context: Context) -> None:
        """Add coordinates (zero) and scales (one), freeze all else but a new head; raises ConfigError for a small d."""
        head = {id(parameter) for parameter in head_parameters(model, pooler=True)} if self.config.head else set()
        layers = [{id(p) for p in layer.parameters()} for layer in encoder_layers(model)]
        targets: dict[int, tuple[nn.Parameter, int, list[tuple[str, str]]]] = {}
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in head:
                    group = next((i for i, ids in enumerate(layers) if id(parameter) in ids), len(layers))
                    targets.setdefault(id(parameter), (parameter, group, []))[2].append((path, name))
        groups = len(layers) + 1
        if self.config.dimension <= groups:
            self.fail(f"dimension must exceed the {groups} scales of the layers")
        subspace = Subspace(list(targets.values()), groups, self.config.dimension, context.seed)
        body(model).add_module(NAME, subspace)
        running = [model, body(model).encoder] if architecture_of(model).two_stacks else [model]
        self._handles = tuple(
            handle
            for module in running
            for handle in (
                module.register_forward_pre_hook(partial(_enter, model)),
                module.register_forward_hook(partial(_leave, model), always_call=True),
            )
        )
        own = [subspace.coordinates, subspace.scales]
        train_only(model, own + (head_parameters(model, pooler=True) if self.config.head else []))

    def finalize(self, model: Any) -> Any:
        """Add the increments to the weights and take the subspace out."""
        with torch.no_grad():
            for aliases, increment in getattr(body(model), NAME).increments():
                path, name = aliases[0]
                model.get_submodule(path)._parameters[name].add_(increment)
        delattr(body(model), NAME)
        for handle in self._handles:
            handle.remove()
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count d and a new head."""
        head = count(head_parameters(model, pooler=True)) if self.config.head else 0
        return {"trainable_parameters": self.config.dimension + head}
