"""Bytes of optimizer state by rule, and optimizers whose state has the right size for memory on the meta device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from replica.errors import ConfigError, nearest
from replica.meters.model_parts import locate
from replica.meters.options import OptimizerOptions

GIB, MIB = 2**30, 2**20

#: Values of 8-bit state that share one fp32 scale.
BLOCK = 2048
#: bitsandbytes and the 8-bit optimizer paper leave tensors below this size in 32 bits.
SMALL = 4096
#: Bytes of a value, by type of the state.
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
LOW_RANK = ("galore", "galore8bit")
_DEFAULT = OptimizerOptions()


def optimizer_bytes(model: nn.Module, options: OptimizerOptions = _DEFAULT) -> dict:
    """Return the bytes of state that an optimizer keeps for the trainable parameters, under the keys of `OptimizerOptions.results`.

    Rules: `adamw` two values a parameter; `adamw8bit` two bytes a parameter and two fp32 scales a block of `block` (tensors
    below 4,096 values keep fp32); `sgd` one value with momentum, none without; `adafactor` one row and one column sum
    for each matrix (the last two dimensions), one value a parameter otherwise, no first moment; `lion` one value.
    `galore` (Zhao et al. 2024, Table 1): for each matrix m x n of the layers, m <= n, two moments of `rank` x n and a projector of
    m x `rank`; `adamw` for everything else. `galore8bit`: the moments as `adamw8bit` keeps them, and so everything else.
    torch's optimizers keep state in the parameter's type, the option `dtype`. Step counters are not counted.
    Raises ConfigError for a rank above a matrix's short side.
    """
    rule, block = options.rule, options.block
    trained = [p for p in model.parameters() if options.all or p.requires_grad]
    low = projected_shapes(model, trained, options.rank) if rule in LOW_RANK else {}
    count = sum(p.numel() for p in trained)
    width, sizes = WIDTHS[options.dtype], []
    for parameter in trained:
        if id(parameter) not in low:
            stateless = rule == "sgd" and not options.momentum
            sizes.append((0 if stateless else RULES[rule](parameter.shape, block, width), 0))
            continue
        moments, matrix = low[id(parameter)]
        projector_bytes = _projector_bytes(math.prod(matrix), options.projector or options.dtype, block)
        sizes.append((RULES[rule](moments, block, width), projector_bytes))
    size, baseline = sum(map(sum, sizes)), 2 * width * count
    return {
        "bytes": size,
        "mib": size / MIB,
        "gib": size / GIB,
        "gb": size / 1e9,
        "bytes_per_parameter": size / count if count else 0.0,
        "parameters": count,
        "baseline_bytes": baseline,
        "saving": 1 - size / baseline if baseline else 0.0,
        "projected_parameters": sum(p.numel() for p in trained if id(p) in low),
        "projector_bytes": sum(size for _, size in sizes),
    }


def projected_shapes(
    model: nn.Module, trained: list[nn.Parameter], rank: int | None
) -> dict[int, tuple[tuple[int, int], tuple[int, int]]]:
    """Return, by the id of each trained matrix of the layers, the shapes of GaLore's moments and of its projector.

    Raises ConfigError without a rank, and for one above a matrix's short side.
    """
    if rank is None:
        raise ConfigError("optimizer galore: give a `rank`")
    ids = {id(p) for p in trained}
    shapes = {}
    for item in locate(model):
        if item.part != "layer_linears" or item.parameter.dim() != 2 or id(item.parameter) not in ids:
            continue
        short, long = sorted(item.parameter.shape)
        if not 1 <= rank <= short:
            raise ConfigError(
                f"optimizer galore: rank {rank} does not lie between 1 and {short}, the short side of '{item.name}' "
                f"({' x '.join(map(str, item.parameter.shape))})"
            )
        shapes[id(item.parameter)] = ((rank, long), (short, rank))
    return shapes


def _projector_bytes(count: int, kind: str, block: int) -> int:
    return count + 4 * math.ceil(count / block) if kind == "int8" else WIDTHS[kind] * count


def _adamw8bit(shape: torch.Size | tuple[int, ...], block: int, _width: int) -> int:
    count = math.prod(shape)
    return 8 * count if count < SMALL else 2 * (count + 4 * math.ceil(count / block))


def _adamw(shape: torch.Size | tuple[int, ...], _block: int, width: int) -> int:
    return 2 * width * math.prod(shape)


def _one_value(shape: torch.Size, _block: int, width: int) -> int:
    return width * math.prod(shape)


def _adafactor(shape: torch.Size, _block: int, width: int) -> int:
    if len(shape) < 2:
        return width * math.prod(shape)
    return width * math.prod(shape[:-2]) * (shape[-2] + shape[-1])


#: Bytes of state of a parameter by (shape, block, bytes of a value); GaLore's rules have it of moments and unprojected parameters.
RULES: dict[str, Callable[[torch.Size, int, int], int]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "sgd": _one_value,
    "adafactor": _adafactor,
    "lion": _one_value,
    "galore": _adamw,
    "galore8bit": _adamw8bit,
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


class StandIn(torch.optim.Optimizer):
    """Has state and temporaries of the size that block-wise 8-bit AdamW or GaLore need, and computes no values.

    8-bit AdamW updates in one fused kernel, without temporaries. GaLore takes the singular vectors of the first gradient in fp32,
    projects each gradient, and projects the update back to the size of the matrix. `low` is the result of `projected_shapes`.
    """

    def __init__(self, parameters, *, eight_bit: bool, low: dict | None = None, projector: str | None = None):
        super().__init__(parameters, {})
        self.eight_bit, self.low, self.projector = eight_bit, low or {}, projector

    @torch.no_grad()
    def step(self, closure=None):
        """Make the state of parameters that have a gradient, and the temporaries of their update; values are not computed."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                if id(parameter) in self.low:
                    self._project(parameter)
                else:
                    self._moments(parameter, parameter.grad)
                    if not self.eight_bit:
                        _adam_update(self.state[parameter])

    def _project(self, parameter: nn.Parameter) -> None:
        state, (moments, matrix) = self.state[parameter], self.low[id(parameter)]
        if not state:
            _left, _values, _right = torch.linalg.svd(parameter.grad.float(), full_matrices=False)
            kind = torch.uint8 if self.projector == "int8" else getattr(torch, self.projector or "", parameter.dtype)
            state["projector"] = parameter.new_empty(matrix, dtype=kind)
            if kind == torch.uint8:
                state["projector_scale"] = parameter.new_empty(
                    math.ceil(math.prod(matrix) / BLOCK), dtype=torch.float32
                )
            del _left, _values, _right
        low = parameter.new_empty(moments)
        self._moments(parameter, low)
        update = low if self.eight_bit else _adam_update(state)
        back = parameter.new_empty(parameter.shape)
        parameter.add_(back)
        del update

    def _moments(self, parameter: nn.Parameter, like: torch.Tensor) -> None:
        state, count = self.state[parameter], like.numel()
        if "exp_avg" in state:
            return
        small = count < SMALL
        for name in ("exp_avg", "exp_avg_sq"):
            kind = like.dtype if not self.eight_bit else torch.float32 if small else torch.uint8
            state[name] = torch.zeros(count, dtype=kind, device=like.device)
            if self.eight_bit and not small:
                scales = math.ceil(count / BLOCK)
                state[f"{name}_scale"] = torch.zeros(scales, dtype=torch.float32, device=like.device)


def _adam_update(state: dict) -> torch.Tensor:
    """Return Adam's normalised step, with which needs a denominator of the same size."""
    denominator = state["exp_avg_sq"].sqrt().add_(1e-8)
    return state["exp_avg"] / denominator


def make_optimizer(
    rule: str,
    parameters: list[nn.Parameter],
    foreach: bool = False,
    *,
    model: nn.Module | None = None,
    rank: int | None = None,
    projector: str | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer for a memory measurement; GaLore's need the model and a rank. Raises ConfigError for an unknown rule."""
    if rule not in RULES:
        raise ConfigError(f"unknown optimizer rule '{rule}'{nearest(rule, RULES)}")
    if rule == "adamw":
        return torch.optim.AdamW(parameters, foreach=foreach, fused=False)
    if rule == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, foreach=foreach, fused=False)
    if rule == "adafactor":
        return torch.optim.Adafactor(parameters, foreach=foreach)
    if rule == "lion":
        return Lion(parameters)
    low = projected_shapes(model, parameters, rank) if rule in LOW_RANK else {}
    return StandIn(parameters, eight_bit=rule.endswith("8bit"), low=low, projector=projector)
