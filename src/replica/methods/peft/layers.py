"""The layers of adapters: full, low-rank and hypercomplex linear maps, and the bottleneck around two of them."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from replica.errors import ConfigError
from replica.methods.pruning.masks import masked_weight


def fill(
    parameter: torch.Tensor, *, std: float | None = None, bound: float | None = None, seeds: torch.Generator
) -> None:
    """Fill a tensor from normal(0, std) or uniform(-bound, bound); the values depend on the generator, not the device."""
    if parameter.is_meta:
        return
    values = torch.empty(parameter.shape)
    values = (
        values.normal_(0.0, std, generator=seeds) if bound is None else values.uniform_(-bound, bound, generator=seeds)
    )
    with torch.no_grad():
        parameter.copy_(values)


def glorot_bound(inputs: int, outputs: int) -> float:
    """Return the bound of Glorot's uniform distribution with gain sqrt(2): sqrt(2) sqrt(6 / (inputs + outputs))."""
    return math.sqrt(2.0) * math.sqrt(6.0 / (inputs + outputs))


class Rule(nn.Module):
    """The slow weights A of shape (n, n, n): n square matrices that all hypercomplex layers of a model share."""

    def __init__(self, n: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n, n, n))


class LowRankHypercomplexLinear(nn.Module):
    """y = x H + b with H = sum_i A_i kron (s_i t_i^T) (Compacter, equation 5); A belongs to a shared `Rule`.

    s has shape (n, inputs / n), t (n, outputs / n). H is never built: with x as n rows of inputs / n numbers,
    row b of y is sum_i (sum_a A_i[a, b] (x_a . s_i)) t_i. On one core with 1,024 tokens, forward and backward take 0.7 ms where
    building H takes 0.9 to 1.0 (384 -> 12), and 1.0 against 1.9 to 2.1 (768 -> 24); up-projections are even or faster.
    With `own` the rule belongs to this layer.
    """

    def __init__(self, inputs: int, outputs: int, rule: Rule, own: bool = False):
        super().__init__()
        if own:
            self.own_rule = rule
        n = rule.weight.shape[0]
        self.left = nn.Parameter(torch.zeros(n, inputs // n))
        self.right = nn.Parameter(torch.zeros(n, outputs // n))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._shared = (rule,)  # in a tuple, so that the rule is registered once, where the model owns it

    @property
    def rule(self) -> nn.Parameter:
        """A, of shape (n, n, n)."""
        return self._shared[0].weight

    def reset(self, seeds: torch.Generator) -> None:
        """Draw s and t by Glorot's rule for each i; A is its owner's business, the bias stays zero."""
        fill(self.left, bound=glorot_bound(self.left.shape[1], 1), seeds=seeds)
        fill(self.right, bound=glorot_bound(1, self.right.shape[1]), seeds=seeds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        n, part = self.left.shape
        inner = x.unflatten(-1, (n, part)) @ self.left.t()
        mixed = torch.einsum("...ai,iab->...bi", inner, self.rule)
        output = (mixed @ self.right.to(mixed.dtype)).flatten(-2)
        return output if self.bias is None else output + self.bias


class HypercomplexLinear(nn.Module):
    """y = x H + b with H = sum_i A_i kron B_i (equation 3): A (n, n, n) and B (n, inputs / n, outputs / n) are its own.

    H is built on every call: not building it costs as many multiplications a token, or more.
    """

    def __init__(self, inputs: int, outputs: int, n: int, rule_std: float):
        super().__init__()
        self.rule = nn.Parameter(torch.zeros(n, n, n))
        self.weight = nn.Parameter(torch.zeros(n, inputs // n, outputs // n))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.rule_std = rule_std

    def reset(self, seeds: torch.Generator) -> None:
        """Draw A from normal(0, rule_std) and each B_i by Glorot's rule; the bias stays zero."""
        fill(self.rule, std=self.rule_std, seeds=seeds)
        fill(self.weight, bound=glorot_bound(*self.weight.shape[1:]), seeds=seeds)

    def matrix(self) -> torch.Tensor:
        """Return H of shape (inputs, outputs): entry (a, r), (b, c) is sum_i A_i[a, b] B_i[r, c]."""
        return torch.einsum("iab,irc->arbc", self.rule, self.weight).flatten(2, 3).flatten(0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return functional.linear(x, self.matrix().t(), self.bias)


class LowRankLinear(nn.Module):
    """y = x (W_left W_right) + b with factors of shape (inputs, rank) and (rank, outputs)."""

    def __init__(self, inputs: int, outputs: int, rank: int):
        super().__init__()
        self.left = nn.Parameter(torch.zeros(inputs, rank))
        self.right = nn.Parameter(torch.zeros(rank, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def reset(self, seeds: torch.Generator) -> None:
        """Draw both factors by Glorot's rule; the bias stays zero."""
        fill(self.left, bound=glorot_bound(*self.left.shape), seeds=seeds)
        fill(self.right, bound=glorot_bound(*self.right.shape), seeds=seeds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        output = (x @ self.left) @ self.right
        return output if self.bias is None else output + self.bias


class FullLinear(nn.Linear):
    """A linear layer that starts at normal(0, std) with a zero bias; it computes with its mask where it has one."""

    honours_mask = True

    def __init__(self, inputs: int, outputs: int, std: float):
        super().__init__(inputs, outputs)
        self.std = std

    def reset(self, seeds: torch.Generator) -> None:
        """Draw the weight from normal(0, std) and set the bias to zero."""
        fill(self.weight, std=self.std, seeds=seeds)
        if self.bias is not None:
            with torch.no_grad():
                self.bias.zero_()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return functional.linear(input, masked_weight(self), self.bias)


class TaskLayers(nn.ModuleList):
    """One layer for each task; the one of `task` is run."""

    task = 0

    def reset(self, seeds: torch.Generator) -> None:
        """Draw every task's layer anew."""
        for layer in self:
            layer.reset(seeds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs) by the layer of the task."""
        return self[self.task](x)


def select_task(model: nn.Module, task: int) -> None:
    """Let the adapters of a model, or its hypernetworks, act for a task (from 0) until the next call.

    Raises ConfigError where a layer has no such task.
    """
    for name, module in model.named_modules():
        tasks = len(module) if isinstance(module, TaskLayers) else getattr(module, "tasks", None)
        if not hasattr(module, "task") or tasks is None:
            continue
        if not 0 <= task < tasks:
            raise ConfigError(f"task {task}: '{name}' has tasks 0 to {tasks - 1}")
        module.task = task


class Adapter(nn.Module):
    """y = x + Up(D(f(Down(z)))) on the output x of a sublayer, before its residual sum; D is dropout.

    z is x, or another input of x's shape; with `norm`, Down reads LayerNorm(z).
    """

    def __init__(
        self, down: nn.Module, up: nn.Module, activation: str, norm: nn.LayerNorm | None = None, dropout: float = 0.0
    ):
        super().__init__()
        self.down, self.up, self.activation, self.norm = down, up, ACT2FN[activation], norm
        self.dropout = nn.Dropout(dropout)

    def reset(self, seeds: torch.Generator) -> None:
        """Draw both layers anew; a norm starts as the identity's: ones and zeros."""
        self.down.reset(seeds)
        self.up.reset(seeds)
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., hidden) to (..., hidden)."""
        z = x if z is None else z
        inner = z if self.norm is None else self.norm(z)
        return x + self.up(self.dropout(self.activation(self.down(inner))))
