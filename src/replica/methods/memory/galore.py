"""GaLore: Adam whose moments live in the span of each gradient's leading singular vectors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from replica.errors import ConfigError
from replica.methods.base import Context, Method
from replica.methods.memory.config import GaLoreConfig
from replica.models import encoder_layers


class GaLoreAdam(torch.optim.Optimizer):
    """Adam (Zhao et al. 2024, Algorithm 2) that keeps moments of projected gradients for the parameters in `projected`.

    For a gradient G (m x n, m <= n) the projector P (m x r) holds the leading left singular vectors, taken anew every `interval`
    steps from the gradient of that step; R = P^T G is what Adam sees, and W <- W - lr alpha P N, N the normalised update. With m > n
    the right singular vectors are taken, so that the short side is always projected: states are P (mr) and two moments (2nr). Moments
    are kept as they are when the projector changes. Weight decay is decoupled and acts on the full weight.
    """

    def __init__(self, groups: Iterable, config: GaLoreConfig, projected: Iterable[nn.Parameter], lr: float):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.config, self.projected = config, {id(parameter) for parameter in projected}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                self._update(parameter, group["lr"], group["weight_decay"])

    def _update(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        config, state, gradient = self.config, self.state[parameter], parameter.grad
        step, low = int(state.get("step", 0)), id(parameter) in self.projected
        wide = gradient.dim() == 2 and gradient.shape[0] <= gradient.shape[1]
        if low:
            if step % config.interval == 0:
                state["projector"] = projector(gradient, config.rank)
            base = state["projector"]
            gradient = base.t() @ gradient if wide else gradient @ base
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] = step = step + 1
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.mul_(config.beta1).add_(gradient, alpha=1 - config.beta1)
        second.mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
        update = first / second.sqrt().add_(config.epsilon)
        size = rate * math.sqrt(1 - config.beta2**step) / (1 - config.beta1**step)
        if low:
            update = (base @ update if wide else update @ base.t()) * config.scale
        parameter.add_(update, alpha=-size)
        if decay:
            parameter.mul_(1 - rate * decay)


def projector(gradient: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the `rank` leading singular vectors of a gradient (m x n) on its short side, (min(m, n), rank), from fp32."""
    left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    wide = gradient.shape[0] <= gradient.shape[1]
    return (left[:, :rank] if wide else right[:rank].t()).to(gradient.dtype).contiguous()


class GaLore(Method):
    """The matrices of the layers are projected; embeddings, norms, biases, heads and the output layer get plain Adam."""

    def optimizer(self, model: Any, context: Context) -> torch.optim.Optimizer:
        """Return the optimizer; raises ConfigError for a rank that is not below a matrix's short side."""
        matrices = self.matrices(model)
        for name, parameter in matrices.items():
            if self.config.rank >= min(parameter.shape):
                shape = " x ".join(map(str, parameter.shape))
                raise ConfigError(
                    f"method 'galore': rank {self.config.rank} is not below the short side of '{name}' ({shape})"
                )
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": context.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1]},
        ]
        groups = [group for group in groups if group["params"]]
        return GaLoreAdam(groups, self.config, matrices.values(), context.learning_rate)

    def matrices(self, model: Any) -> dict[str, nn.Parameter]:
        """Return the trainable weights of the linear modules in the layers, by `<layer>.<module>`."""
        return {
            f"{index}.{name}": module.weight
            for index, layer in enumerate(encoder_layers(model))
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and module.weight.requires_grad
        }

    def cost(self, model: Any) -> dict[str, Any]:
        """Return what one step of the optimizer keeps, counted on its state tensors, in numbers.

        `matrices`: {module of the first layer: weights, projector, moments, states, stored (weights and states)}; `states` of the
        whole model, `projected_states` of the matrices. The step is taken with gradients of zero; it needs no values.
        """
        optimizer = self.optimizer(model, Context())
        matrices = self.matrices(model)
        kept = [p.grad for p in model.parameters()]
        try:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            optimizer.step()
        finally:
            for parameter, gradient in zip(model.parameters(), kept, strict=True):
                parameter.grad = gradient
        sizes = {id(p): _numbers(state) for p, state in optimizer.state.items()}
        first = {}
        for name, parameter in matrices.items():
            index, _, module = name.partition(".")
            if index == "0":
                moments, base = (sizes[id(parameter)][part] for part in ("moments", "projector"))
                states = moments + base
                first[module] = {
                    "weights": parameter.numel(), "moments": moments, "projector": base,
                    "states": states, "stored": parameter.numel() + states,
                }  # fmt: skip
        return {
            "matrices": first,
            "states": sum(size["moments"] + size["projector"] for size in sizes.values()),
            "projected_states": sum(sum(sizes[id(p)].values()) for p in matrices.values()),
        }


def _numbers(state: dict[str, Any]) -> dict[str, int]:
    """Count the numbers of one parameter's state tensors."""
    base = state.get("projector")
    return {
        "moments": state["exp_avg"].numel() + state["exp_avg_sq"].numel(),
        "projector": 0 if base is None else base.numel(),
    }
