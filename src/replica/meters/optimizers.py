"""Bytes of optimizer state by rule, and optimizers whose state has the right size for memory on the meta device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from replica.errors import ConfigError, nearest

GIB, MIB = 2**30, 2**20

#: Values that a quantised state keeps beside its one byte per parameter: one fp32 scale a block.
BLOCK = 2048
#: bitsandbytes and the 8-bit optimizer paper leave tensors below this size in 32 bits.
SMALL = 4096


def optimizer_bytes(
    model: nn.Module, rule: str = "adamw", *, block: int = BLOCK, momentum: float = 0.9, every: bool = False
) -> dict:
    """Return the bytes of state that an optimizer keeps for the trainable parameters (`every`: for all).

    Rules: `adamw` two fp32 values a parameter; `adamw8bit` two bytes a parameter and two fp32 scales a block of `block` (tensors
    below 4,096 values keep fp32); `sgd` one fp32 value with momentum, none without; `adafactor` one fp32 row and one column sum
    for each matrix (the last two dimensions), one value a parameter otherwise, no first moment; `lion` one fp32 value.
    Step counters are not counted. Raises ConfigError for an unknown rule.
    """
    shapes = [p.shape for p in _once(model) if every or p.requires_grad]
    count = sum(map(math.prod, shapes))
    size = sum(_state(rule, shape, block, momentum) for shape in shapes)
    baseline = 8 * count
    return {
        "bytes": size,
        "mib": size / MIB,
        "gib": size / GIB,
        "gb": size / 1e9,
        "bytes_per_parameter": size / count if count else 0.0,
        "parameters": count,
        "baseline_bytes": baseline,
        "saving": 1 - size / baseline if baseline else 0.0,
    }


def _once(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.parameters()


def _state(rule: str, shape: torch.Size, block: int, momentum: float) -> int:
    if rule not in RULES:
        raise ConfigError(f"unknown optimizer rule '{rule}'{nearest(rule, RULES)}")
    if rule == "sgd":
        return 4 * math.prod(shape) if momentum else 0
    return RULES[rule](shape, block)


def _adamw8bit(shape: torch.Size, block: int) -> int:
    count = math.prod(shape)
    return 8 * count if count < SMALL else 2 * (count + 4 * math.ceil(count / block))


def _adafactor(shape: torch.Size, _block: int) -> int:
    if len(shape) < 2:
        return 4 * math.prod(shape)
    return 4 * math.prod(shape[:-2]) * (shape[-2] + shape[-1])


RULES: dict[str, Callable[[torch.Size, int], int]] = {
    "adamw": lambda shape, _: 8 * math.prod(shape),
    "adamw8bit": _adamw8bit,
    "sgd": lambda shape, _: 4 * math.prod(shape),
    "adafactor": _adafactor,
    "lion": lambda shape, _: 4 * math.prod(shape),
}


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, Algorithm 2): the sign of an interpolated momentum; one fp32 value of state a parameter."""

    def __init__(self, parameters, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)):
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                update = state["exp_avg"].mul(first).add_(parameter.grad, alpha=1 - first).sign_()
                parameter.add_(update, alpha=-group["lr"])
                state["exp_avg"].mul_(second).add_(parameter.grad, alpha=1 - second)


class EightBitState(torch.optim.Optimizer):
    """Stands for block-wise 8-bit AdamW in memory measurements: state of its size, updated in place by one fused kernel."""

    def __init__(self, parameters, block: int = BLOCK):
        super().__init__(parameters, {"block": block})

    @torch.no_grad()
    def step(self, closure=None):
        """Make the state of parameters that have a gradient; values are not computed."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state, count, device = self.state[parameter], parameter.numel(), parameter.device
                if state:
                    continue
                small = count < SMALL
                for name in ("exp_avg", "exp_avg_sq"):
                    kind = torch.float32 if small else torch.uint8
                    state[name] = torch.zeros(count, dtype=kind, device=device)
                    if not small:
                        scales = math.ceil(count / group["block"])
                        state[f"{name}_scale"] = torch.zeros(scales, dtype=torch.float32, device=device)


def make_optimizer(rule: str, parameters: list[nn.Parameter], foreach: bool = False) -> torch.optim.Optimizer:
    """Return an optimizer for a memory measurement; raises ConfigError for an unknown rule."""
    if rule == "adamw":
        return torch.optim.AdamW(parameters, foreach=foreach, fused=False)
    if rule == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, foreach=foreach, fused=False)
    if rule == "adafactor":
        return torch.optim.Adafactor(parameters, foreach=foreach)
    if rule == "lion":
        return Lion(parameters)
    if rule == "adamw8bit":
        return EightBitState(parameters)
    raise ConfigError(f"unknown optimizer rule '{rule}'{nearest(rule, RULES)}")
