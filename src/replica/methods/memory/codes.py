"""Eight-bit codes for optimizer states: maps of 256 values, and quantization by blocks (Dettmers et al. 2022, Section 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

#: Values of an 8-bit code.
SIZE = 256
#: Decades of the dynamic maps.
_DECADES = 7


def dynamic_map(signed: bool) -> torch.Tensor:
    """Return the dynamic tree code, ascending: decade i of seven holds the midpoints of 2^i (unsigned: 2^(i+1)) equal parts.

    The parts are of [0.1, 1], times 10^(i - 6); 0 and 1 are added. There is no -1: the signed map holds 127 negative values, 0, and 128
    positive ones.
    """
    values = _decades(signed, [2 ** (i if signed else i + 1) for i in range(_DECADES)])
    return torch.tensor(sorted([*values, 0.0, 1.0]), dtype=torch.float32)


def inverse_dynamic_map(signed: bool) -> torch.Tensor:
    """Return the dynamic code with its precision turned round: the smallest decade has the most values, the largest the fewest."""
    parts = [2 ** (i if signed else i + 1) for i in range(_DECADES)]
    return torch.tensor(sorted([*_decades(signed, parts[::-1]), 0.0, 1.0]), dtype=torch.float32)


def linear_map(signed: bool) -> torch.Tensor:
    """Return equal steps from -1 (unsigned: 0) to 1; the signed map has 0 twice, so that it holds 0 exactly."""
    if not signed:
        return torch.linspace(0, 1, SIZE)
    steps = torch.linspace(-1, 1, SIZE - 1)
    steps[SIZE // 2 - 1] = 0.0
    return torch.cat([steps, torch.zeros(1)]).sort().values


def quantile_map(scaled: torch.Tensor) -> torch.Tensor:
    """Return the code that uses every value equally often: means of neighbouring quantiles of the values (equation 5).

    q_i = (Q(i / 257) + Q((i + 1) / 257)) / 2 for i = 0 to 255, Q being the quantile function of `scaled`, whose values lie in [-1, 1].
    The value nearest to 0 becomes 0, and the ends are the largest and smallest values, so that none is clipped.
    """
    ordered = scaled.flatten().float().sort().values
    places = torch.linspace(0, 1, SIZE + 1, dtype=torch.float64) * (len(ordered) - 1)
    low = places.floor().long()
    share = (places - low).float().to(ordered.device)
    high = (low + 1).clamp(max=len(ordered) - 1)
    quantiles = ordered[low.to(ordered.device)] * (1 - share) + ordered[high.to(ordered.device)] * share
    code = (quantiles[:-1] + quantiles[1:]) / 2
    code[0], code[-1] = ordered[0], ordered[-1]
    code[code.abs().argmin()] = 0.0
    return code.sort().values


#: Codes that do not depend on the values, by name.
MAPS = {"dynamic": dynamic_map, "inverse-dynamic": inverse_dynamic_map, "linear": linear_map}
#: All codes.
CODES = (*MAPS, "quantile")


def _decades(signed: bool, parts: list[int]) -> list[float]:
    values = []
    for exponent, count in enumerate(parts):
        ends = torch.linspace(0.1, 1, count + 1, dtype=torch.float64)
        middles = ((ends[:-1] + ends[1:]) / 2 * 10.0 ** (exponent - _DECADES + 1)).tolist()
        values += middles + ([-value for value in middles] if signed else [])
    return values


def code_for(name: str, values: torch.Tensor, signed: bool, block: int | None = None) -> torch.Tensor:
    """Return the code `name` on the values' device; the quantile code is made of them, each block divided by its largest."""
    if name != "quantile":
        return MAPS[name](signed).to(values.device)
    blocks, absmax = _blocks(values, block)
    return quantile_map(_scaled(blocks, absmax).flatten()[: values.numel()])


def quantize(
    values: torch.Tensor,
    code: torch.Tensor,
    block: int | None = None,
    keep_sign: bool = False,
    lookup: bool = False,
    table: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest codes (uint8, of the values' shape) and each block's largest magnitude (float32).

    `block` is a number of consecutive values, None the whole tensor; a block of zeros gets the code of 0 and magnitude 0. With
    `keep_sign` a code whose sign bit is not the value's is moved one step towards it, as the library's GPU kernel does: a negative value
    never becomes 0. `lookup` rounds a value, over its block's magnitude, to the middle of one of 2^16 equal steps first, as bitsandbytes
    0.50 does on processors: there 0 is not 0 but about 2e-5 of the magnitude, and all smaller values are. `table` is the
    code's `search_table`: the same result, in a quarter of the time.
    """
    blocks, absmax = _blocks(values, block)
    scaled = _scaled(blocks, absmax).flatten()[: values.numel()]
    sought = scaled if not lookup else (((scaled + 1) * 2**15).floor().clamp(max=2**16 - 1) + 0.5) / 2**15 - 1
    codes = (
        torch.bucketize(sought, (code[1:] + code[:-1]) / 2, out_int32=True) if table is None else _find(sought, table)
    )
    if keep_sign:
        codes = codes - (torch.signbit(scaled) & (codes == int((code == 0).nonzero()[0]))).to(codes.dtype)
    return codes.to(torch.uint8).view(values.shape), absmax


#: Low bits of a float32 that do not count for its row of a search table.
_BELOW = 12


def search_table(code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return a table that finds the nearest value of a code by a number's sign, exponent and first 11 bits.

    A row holds the code of the smallest number that belongs to it, and the number up to which that holds; above it the next one does.
    None for a code with more than two values to a row.
    """
    bounds = ((code[1:] + code[:-1]) / 2).cpu()
    rows = torch.arange(2 ** (32 - _BELOW - 1) + 1, dtype=torch.int64)
    edges = (
        (rows << _BELOW).clamp(max=0x7F7FFFFF).to(torch.int32).view(torch.float32)
    )  # up to the largest finite number
    low, high = torch.cat([edges[:-1], -edges[1:]]), torch.cat([edges[1:], -edges[:-1]])
    first, last = torch.bucketize(low, bounds), torch.bucketize(high, bounds)
    if int((last - first).max()) > 1:
        return None
    limit = torch.cat([bounds, torch.tensor([torch.inf])])[first]
    return first.to(torch.int32).to(code.device), limit.to(code.device)


def _find(values: torch.Tensor, table: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    first, limit = table
    rows = (values.contiguous().view(torch.int32) >> _BELOW) & (2 ** (32 - _BELOW) - 1)
    return first.index_select(0, rows) + (values > limit.index_select(0, rows)).to(torch.int32)


def dequantize(codes: torch.Tensor, absmax: torch.Tensor, code: torch.Tensor, block: int | None = None) -> torch.Tensor:
    """Return the values of codes, float32, of the codes' shape."""
    size = codes.numel() if block is None else block
    values = code.index_select(0, codes.flatten().int())
    whole = codes.numel() // size * size
    values[:whole].view(-1, size).mul_(absmax[: whole // size, None])
    values[whole:].mul_(absmax[-1])
    return values.view(codes.shape)


def _blocks(values: torch.Tensor, block: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    flat = values.detach().float().flatten()
    size = flat.numel() if block is None else block
    rest = -flat.numel() % size
    blocks = (functional.pad(flat, (0, rest)) if rest else flat).view(-1, size)
    return blocks, blocks.abs().amax(1)


def _scaled(blocks: torch.Tensor, absmax: torch.Tensor) -> torch.Tensor:
    return blocks / torch.where(absmax > 0, absmax, torch.ones_like(absmax))[:, None]


class Store:
    """How an optimizer keeps a moment in a parameter's state: as float32 `name`, or as codes `name` with scales `name_absmax`.

    The quantile code, which is made of the values, is kept too, as `name_code`. Tensors of fewer than `smallest` values stay in float32.
    First moments are `signed`.
    """

    def __init__(self, code: str, block: int | None, smallest: int, keep_sign: bool = False, lookup: bool = False):
        self.code, self.block, self.smallest = code, block, smallest
        self.keep_sign, self.lookup = keep_sign, lookup
        self._maps: dict[tuple[bool, torch.device], tuple] = {}

    def read(self, state: dict, name: str, like: torch.Tensor, signed: bool) -> torch.Tensor:
        """Return a moment in float32, zero before the first step, as a tensor that may be changed."""
        if name not in state:
            return torch.zeros_like(like, dtype=torch.float32)
        codes = state[name]
        if codes.dtype != torch.uint8:
            return codes.clone()
        return dequantize(codes, state[f"{name}_absmax"], self._code(state, name, codes, signed)[0], self.block)

    def write(self, state: dict, name: str, values: torch.Tensor, signed: bool, bits: int = 8) -> None:
        """Keep a moment; in 32 bits where there are few values or `bits` is 32."""
        if values.numel() < self.smallest or bits == 32:
            state[name] = values
            return
        if self.code == "quantile":
            state[f"{name}_code"] = code_for("quantile", values, signed, self.block)
        code, table = self._code(state, name, values, signed)
        codes, absmax = quantize(values, code, self.block, self.keep_sign and signed, self.lookup, table)
        state[name], state[f"{name}_absmax"] = codes, absmax

    def _code(self, state: dict, name: str, like: torch.Tensor, signed: bool) -> tuple:
        """Return the code and its search table."""
        if self.code == "quantile":
            return state[f"{name}_code"], None
        key = (signed, like.device)
        if key not in self._maps:
            code = MAPS[self.code](signed).to(like.device)
            self._maps[key] = (code, search_table(code))
        return self._maps[key]


class CodedOptimizer(torch.optim.Optimizer):
    """Base of optimizers that update parameters one by one, by `_update`, and keep moments in a `Store`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Update every parameter that has a gradient; returns the closure's loss where there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.nn.Parameter, group: dict) -> None:
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a stored state; its tensors keep their own types, where torch would give them the parameter's."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        numbers = [index for group in state_dict["param_groups"] for index in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, torch.Tensor):
                    self.state[parameter][name] = value.detach().clone().to(parameter.device)
