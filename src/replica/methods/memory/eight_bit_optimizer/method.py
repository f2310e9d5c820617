"""Optimizers whose states are kept in 8 bits: bitsandbytes', and a reference with other codes and blocks (Dettmers et al. 2022)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.memory.codes import CodedOptimizer, Store
from replica.methods.memory.eight_bit_optimizer.config import EightBitConfig
from replica.methods.memory.stable_embedding_layer import StableEmbedding


class EightBit(Method):
    """AdamW, or SGD with momentum, with states in 8 bits; a stable embedding's and small tensors' stay in 32 bits."""

    config: EightBitConfig

    def optimizer(self, model: Any, context: Context) -> torch.optim.Optimizer:
        """Return the library's optimizer, or the reference where the configuration asks for it."""
        config = self.config
        groups = self._groups(model)
        rates = {"lr": context.learning_rate, "weight_decay": context.weight_decay}
        if config.engine == "reference":
            return BlockwiseOptimizer(
                groups, **rates, update=config.update, betas=config.betas, eps=config.epsilon, code=config.code,
                block=config.block, smallest=config.smallest, keep_sign=config.keep_sign,
            )  # fmt: skip
        options = {**rates, "min_8bit_size": config.smallest}
        if config.update == "momentum":
            return _library("SGD8bit")(groups, **options, momentum=config.betas[0])
        return _library("AdamW8bit")(groups, **options, betas=config.betas, eps=config.epsilon)

    @staticmethod
    def _groups(model: Any) -> list[dict[str, Any]]:
        stable = {id(m.weight) for m in model.modules() if isinstance(m, StableEmbedding)}
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1 and id(p) not in stable]},
            {"params": [p for p in trained if id(p) in stable], "optim_bits": 32},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


def _library(name: str) -> type:
    """Return an optimizer class of bitsandbytes whose parameter groups may set `optim_bits` (8 unless they do).

    The library's own way is a list of overrides that all optimizers of a process share, kept by the places of parameters.
    """
    # The library warns that it misses a package, one that is for other models.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes

    class Grouped(getattr(bitsandbytes.optim, name)):
        def get_config(self, gindex: int, pindex: int, group: dict) -> dict:
            return super().get_config(gindex, pindex, group) | {"optim_bits": group.get("optim_bits", 8)}

    Grouped.__name__ = name
    return Grouped


class BlockwiseOptimizer(CodedOptimizer):
    """The paper's optimizers written out: states are dequantized, updated in float32, used, and quantized again.

    AdamW: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2; p moves by these fresh values, not by the stored codes:
    -lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + sqrt(1 - b2^t) eps), and then shrinks by 1 - lr wd. The first moment has the signed
    code, the second the unsigned one. Momentum: m = b1 m + g (the first time m = g), p moves by -lr m; decay is added to g.
    Gradients that are not finite count as zero. `lookup`: see `quantize`. Tensors below `smallest` values, and groups with
    `optim_bits: 32`, keep float32.
    """

    def __init__(
        self,
        parameters: Iterable,
        lr: float = 1e-3,
        *,
        update: str = "adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        code: str = "dynamic",
        block: int | None = 2048,
        smallest: int = 4096,
        keep_sign: bool = True,
        lookup: bool = False,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "optim_bits": 8}
        super().__init__(parameters, defaults)
        self.update = update
        self.store = Store(code, block, smallest, keep_sign, lookup)

    def _update(self, parameter: nn.Parameter, group: dict) -> None:
        state, move = self.state[parameter], self._adamw if self.update == "adamw" else self._momentum
        state["step"] = state.get("step", 0) + 1
        move(parameter, torch.nan_to_num(parameter.grad.float(), 0.0, 0.0, 0.0), state, group)

    def _adamw(self, parameter: nn.Parameter, gradient: torch.Tensor, state: dict, group: dict) -> None:
        (first, second), step = group["betas"], state["step"]
        m = self.store.read(state, "state1", gradient, True).mul_(first).add_(gradient, alpha=1 - first)
        v = self.store.read(state, "state2", gradient, False).mul_(second)
        v.addcmul_(gradient, gradient, value=1 - second)
        correction = (1 - second**step) ** 0.5
        rate = group["lr"] * correction / (1 - first**step)
        parameter.sub_((rate * m / (v.sqrt() + correction * group["eps"])).to(parameter.dtype))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        self.store.write(state, "state1", m, True, group["optim_bits"])
        self.store.write(state, "state2", v, False, group["optim_bits"])

    def _momentum(self, parameter: nn.Parameter, gradient: torch.Tensor, state: dict, group: dict) -> None:
        gradient = gradient + group["weight_decay"] * parameter
        m = self.store.read(state, "state1", gradient, True).mul_(group["betas"][0]).add_(gradient)
        parameter.sub_((group["lr"] * m).to(parameter.dtype))
        self.store.write(state, "state1", m, True, group["optim_bits"])
