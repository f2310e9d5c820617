"""GaLore: Adam on gradients that are projected onto their leading singular vectors (Zhao et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from replica.errors import ConfigError
from replica.meters.optimizers import projected_shapes
from replica.methods.base import Context, Method
from replica.methods.memory.codes import CodedOptimizer, Store
from replica.methods.memory.galore.config import GaLoreConfig
from replica.models import encoder_layers


class GaLore(Method):
    """The matrices of the layers are projected; embeddings, norms, biases, heads and the output layer get plain Adam."""

    config: GaLoreConfig

    def optimizer(self, model: Any, context: Context) -> torch.optim.Optimizer:
        """Return the optimizer; raises ConfigError for a rank above the short side of one of the matrices."""
        config = self.config
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        low = projected_shapes(model, trained, config.rank)
        rest = [p for p in trained if id(p) not in low]
        groups = [
            {"params": [p for p in trained if id(p) in low], "rank": config.rank},
            {"params": [p for p in rest if p.dim() > 1]},
            {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return GaLoreAdamW(
            [group for group in groups if group["params"]],
            lr=context.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            form=config.form,
            weight_decay=context.weight_decay,
            update_every=config.update_every,
            scale=config.scale,
            store=Store("dynamic", config.block, config.smallest, keep_sign=True) if config.bits == 8 else None,
            per_layer=config.per_layer,
        )

    def matrices(self, model: Any) -> dict[str, nn.Parameter]:
        """Return the trainable weights of the linear modules in the layers, by `<layer>.<module>`."""
        return {
            f"{index}.{name}": module.weight
            for index, layer in enumerate(encoder_layers(model))
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear) and module.weight.requires_grad
        }

    def cost(self, model: Any) -> dict[str, Any]:
        """Return the size of the optimizer's state after one step, counted on its tensors, in numbers.

        `matrices`: {module of the first layer: weights, projector, moments, states, stored (weights and states)}; `states` of the
        whole model, `projected_states` of the matrices. The step is taken with gradients of zero; it needs no values.
        """
        optimizer = self.optimizer(model, Context())
        matrices = self.matrices(model)
        gradients = [p.grad for p in model.parameters()]
        try:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            optimizer.step()
        finally:
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
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


class GaLoreAdamW(CodedOptimizer):
    """AdamW whose moments for the matrices of groups with a `rank` are kept in a subspace of their gradient.

    For a matrix W of m x n with gradient G, m < n, the projector P (m x r) holds the leading left singular vectors of G, taken
    anew every T steps; R = P^T G (r x n) goes through Adam, and W moves by alpha P N, N being Adam's normalised step (Algorithm 2).
    For m >= n the right singular vectors Q (n x r) take their place: R = G Q and alpha N Q^T. State of a matrix: two moments of R's
    shape and the projector, in the type of the parameter; the singular vectors are computed in fp32. Moments are kept when the
    projector changes, as in the paper. Weight decay is decoupled (Loshchilov and Hutter 2019) and follows the step.

    N = sqrt(1 - b2^t) / (1 - b1^t) M / (sqrt(V) + eps): epsilon is added before the bias correction, as the released optimizer does. With
    `store` it is sqrt(V) + sqrt(1 - b2^t) eps, as in bitsandbytes. `form="algorithm-2"` is the text of the paper: left vectors for
    m = n, eps after the correction, decay before the step. Without `eps` it is 1e-6, with `store` 1e-8.

    `store` keeps moments in 8 bits (8-bit GaLore). With `per_layer` each parameter is updated, and its gradient freed, as soon as that is
    complete in the backward pass (Section 4.3): `step` then finds no gradient, and a gradient must be whole after one pass.
    """

    def __init__(
        self,
        parameters: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        update_every: int = 200,
        scale: float = 0.25,
        store: Store | None = None,
        per_layer: bool = False,
        form: Literal["released", "algorithm-2"] = "released",
    ):
        if eps is None:
            eps = 1e-6 if store is None else 1e-8
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, {**defaults, "update_every": update_every, "scale": scale, "rank": None})
        self.store, self._textbook, self._done = store, form == "algorithm-2", set()
        if per_layer:
            for number, group in enumerate(self.param_groups):
                for parameter in group["params"]:
                    parameter.register_post_accumulate_grad_hook(partial(self._at_once, number))

    @torch.no_grad()
    def _at_once(self, number: int, parameter: nn.Parameter) -> None:
        """Update a parameter whose gradient has just been completed, and free that."""
        if id(parameter) in self._done:
            raise ConfigError(
                "method 'galore': per_layer updates need whole batches at once; use accumulate: 1 and memory for a whole batch"
            )
        self._done.add(id(parameter))
        self._update(parameter, self.param_groups[number])
        parameter.grad = None

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Update every parameter that still has a gradient; returns the closure's loss where there is a closure."""
        loss = super().step(closure)
        self._done.clear()
        return loss

    def _update(self, parameter: nn.Parameter, group: dict) -> None:
        if self._textbook:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        if group["rank"] is None:
            update = self._adam(parameter, parameter.grad, group)
            parameter.add_(update, alpha=-group["lr"])
        else:
            self._project(parameter, group)
        if not self._textbook:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])

    def _project(self, parameter: nn.Parameter, group: dict) -> None:
        state, gradient = self.state[parameter], parameter.grad
        rows, columns = gradient.shape
        wide = rows < columns or (self._textbook and rows == columns)
        if state.get("step", 0) % group["update_every"] == 0:
            state["projector"] = _leading_vectors(gradient, group["rank"], wide)
        projector = state["projector"]
        low = projector.T @ gradient if wide else gradient @ projector
        update = self._adam(parameter, low, group)
        back = projector @ update if wide else update @ projector.T
        parameter.add_(back, alpha=-group["lr"] * group["scale"])

    def _adam(self, parameter: nn.Parameter, gradient: torch.Tensor, group: dict) -> torch.Tensor:
        """Return Adam's normalised step for a gradient, with corrected moments (Kingma and Ba 2015)."""
        state, (first, second) = self.state[parameter], group["betas"]
        state["step"] = state.get("step", 0) + 1
        mean, square = self._moments(state, gradient)
        mean.lerp_(gradient.to(mean.dtype), 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        if self.store is not None:  # the update uses the moments from before they are quantized again
            self.store.write(state, "exp_avg", mean, True)
            self.store.write(state, "exp_avg_sq", square, False)
        correction = (1 - second ** state["step"]) ** 0.5
        epsilon = group["eps"] if self._textbook or self.store is not None else group["eps"] / correction
        denominator = square.sqrt().div_(correction).add_(epsilon)
        return torch.div(mean, denominator, out=denominator).div_(1 - first ** state["step"]).to(gradient.dtype)

    def _moments(self, state: dict, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both moments: the state's own tensors, or float32 copies of the 8-bit moments."""
        names = ("exp_avg", "exp_avg_sq")
        if self.store is not None:
            return tuple(self.store.read(state, name, gradient, name == "exp_avg") for name in names)
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(gradient)
        return state["exp_avg"], state["exp_avg_sq"]


def _leading_vectors(gradient: torch.Tensor, rank: int, wide: bool) -> torch.Tensor:
    """Return the leading singular vectors of the shorter side, as columns (short side, rank), in the gradient's type."""
    left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    leading = left[:, :rank] if wide else right[:rank].T
    return leading.to(gradient.dtype).clone(memory_format=torch.contiguous_format)


def _numbers(state: dict[str, Any]) -> dict[str, int]:
    """Count the numbers of one parameter's state tensors."""
    base = state.get("projector")
    return {
        "moments": state["exp_avg"].numel() + state["exp_avg_sq"].numel(),
        "projector": 0 if base is None else base.numel(),
    }
