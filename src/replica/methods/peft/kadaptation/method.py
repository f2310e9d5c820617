"""KAdaptation: the query and value weights of a transformer move by sums of Kronecker products (He et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from replica.methods.base import Context, Method
from replica.methods.peft.layers import fill, glorot_bound
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.models import body
from replica.models.sublayers import query_value

#: Name under which the body owns the shared matrices, and each transformer layer its own.
NAME = "kronecker"


class SharedFactors(nn.Module):
    """The slow matrices A_i = a_i b_i^T of the queries and of the values, each as its rows a and b (n, n), for all layers."""

    def __init__(self, n: int):
        super().__init__()
        self.query_left, self.query_right, self.value_left, self.value_right = (
            nn.Parameter(torch.zeros(n, n)) for _ in range(4)
        )

    def reset(self, bound: float, seeds: torch.Generator) -> None:
        """Draw all four from uniform(-bound, bound)."""
        for parameter in self.parameters():
            fill(parameter, bound=bound, seeds=seeds)


class LayerFactors(nn.Module):
    """The fast matrices B_i = u_i v_i^T of one layer's query and value, rows u and v (n, d / n), and the bias (d) of both."""

    def __init__(self, n: int, width: int):
        super().__init__()
        self.query_left, self.query_right, self.value_left, self.value_right = (
            nn.Parameter(torch.zeros(n, width // n)) for _ in range(4)
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def reset(self, seeds: torch.Generator) -> None:
        """Draw u by Glorot's rule and leave v at zero: the update starts at zero and has a gradient."""
        for parameter in (self.query_left, self.value_left):
            fill(parameter, bound=glorot_bound(parameter.shape[1], 1), seeds=seeds)


def _rows(slow: torch.Tensor, fast: torch.Tensor) -> torch.Tensor:
    """Return the Kronecker product of each pair of rows, (n, d)."""
    return (slow.unsqueeze(-1) * fast.unsqueeze(-2)).flatten(-2)


def factors(shared: SharedFactors, own: LayerFactors, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return L and R, both (n, d), with sum_i A_i kron B_i = L^T R: a product of rank-one matrices is one of Kronecker rows."""
    sides = ("left", "right")
    left, right = (_rows(getattr(shared, f"{part}_{side}"), getattr(own, f"{part}_{side}")) for side in sides)
    return left, right


class _AddUpdate:
    """A forward hook of a projection that adds scale * x H + b, with dropout on the entries of H while training."""

    def __init__(self, shared: SharedFactors, own: LayerFactors, part: str, scale: float, dropout: float):
        self.shared, self.own, self.part, self.scale, self.dropout = shared, own, part, scale, dropout

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        left, right = factors(self.shared, self.own, self.part)
        if module.training and self.dropout:
            change = inputs[0] @ functional.dropout(left.t() @ right, self.dropout)
        else:
            change = (inputs[0] @ left.t()) @ right
        return output + self.scale * change + self.own.bias


class KAdaptation(Method):
    """Delta W = scale sum_i A_i kron B_i on every query and value projection; `finalize` adds it to the weights."""

    _handles: tuple = ()

    def prepare(self, model: Any, context: Context) -> None:
        """Add the factors, drawn by the run's seed, and freeze the rest; raises ConfigError where n does not divide the width."""
        config, width = self.config, body(model).config.hidden_size
        if width % config.n:
            self.fail(f"n = {config.n} must divide the width {width} of the model")
        if hasattr(body(model), NAME):
            self.fail("the model has Kronecker factors already")
        places = self._places(model, width)
        seeds = torch.Generator().manual_seed(context.seed)
        with torch.device(next(model.parameters()).device):
            shared = SharedFactors(config.n)
            owned = [LayerFactors(config.n, width) for _ in places]
        shared.reset(config.shared_bound, seeds)
        handles = []
        for (layer, *projections), own in zip(places, owned, strict=True):
            if not config.both_zero:
                own.reset(seeds)
            layer.add_module(NAME, own)
            for part, projection in zip(("query", "value"), projections, strict=True):
                hook = _AddUpdate(shared, own, part, config.scale, config.dropout)
                handles.append(projection.register_forward_hook(hook))
        body(model).add_module(NAME, shared)
        self._handles = tuple(handles)
        added = [*shared.parameters(), *(parameter for own in owned for parameter in own.parameters())]
        train_only(model, [*added, *also_trained(model, config)])

    def finalize(self, model: Any) -> Any:
        """Add the updates to the weights and biases and take the factors out."""
        shared = getattr(body(model), NAME)
        with torch.no_grad():
            for layer, *projections in query_value(model):
                own = getattr(layer, NAME)
                for part, projection in zip(("query", "value"), projections, strict=True):
                    left, right = factors(shared, own, part)
                    projection.weight.add_(self.config.scale * right.t() @ left)
                    projection.bias.add_(own.bias)
                delattr(layer, NAME)
        delattr(body(model), NAME)
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count 4 n d / n and a bias of d for each layer, and 4 n^2 shared (two rules of two factors)."""
        width = body(model).config.hidden_size
        own = len(query_value(model)) * (4 * width + width) + 4 * self.config.n**2
        return {"trainable_parameters": own + count(also_trained(model, self.config))}

    def _places(self, model: Any, width: int) -> list[tuple[nn.Module, nn.Linear, nn.Linear]]:
        places = query_value(model)
        for _, *projections in places:
            for projection in projections:
                if projection.weight.shape != (width, width) or projection.bias is None:
                    self.fail(
                        f"needs {width} x {width} projections with a bias, and found one of "
                        f"{tuple(projection.weight.shape)}{'' if projection.bias is not None else ' without one'}"
                    )
        return places
