"""The errors that 8-bit codes would make in the states of a 32-bit Adam (Dettmers et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.memory.codes import CODES, code_for, dequantize, quantize
from replica.methods.memory.optimizer_state_error.config import StateErrorConfig

#: Name under which a model owns the errors that were measured at the last step.
ERRORS = "state_errors"


class StateError(Method):
    """Measures the errors of 8-bit codes on the states of a 32-bit Adam once, after the last step; changes no state.

    Tensors of at least `smallest` values count, each by its number of values. Reported: `<code>.<block>.<error>` with block a number or
    `tensor`, and the errors `first`, `second` and `update` of `adam_errors`.
    """

    config: StateErrorConfig

    def prepare(self, model: Any, context: Context) -> None:
        """Give the model a place for the numbers, so that a checkpoint keeps them."""
        holder = nn.Module()
        device = next(model.parameters()).device
        holder.register_buffer("values", torch.full((len(self._names()),), float("nan"), device=device))
        model.add_module(ERRORS, holder)

    def _names(self) -> list[str]:
        blocks = [str(block) for block in self.config.blocks] + ["tensor"]
        return [
            f"{code}.{block}.{error}" for code in CODES for block in blocks for error in ("first", "second", "update")
        ]

    @torch.no_grad()
    def on_step_end(self, model: Any, context: Context) -> None:
        """Measure when training ends."""
        if context.step < context.total_steps:
            return
        states = [context.optimizer.state.get(p, {}) for p in model.parameters() if p.requires_grad]
        pairs = [(s["exp_avg"], s["exp_avg_sq"]) for s in states if "exp_avg_sq" in s]
        pairs = [(m.float(), v.float()) for m, v in pairs if m.numel() >= self.config.smallest]
        total = sum(m.numel() for m, _ in pairs)
        means = []
        for code in CODES:
            for block in [*self.config.blocks, None]:
                errors = [(m.numel(), adam_errors(m, v, code, block)) for m, v in pairs]
                for name in ("first", "second", "update"):
                    means.append(sum(count * e[name] for count, e in errors) / total if total else float("nan"))
        getattr(model, ERRORS).values.copy_(torch.tensor(means))

    def reported(self, model: Any, context: Context) -> dict[str, float]:
        """Return the errors by code and block."""
        return dict(zip(self._names(), getattr(model, ERRORS).values.tolist(), strict=True))

    def cost(self, model: Any, values: int = 2**16, outlier: float = 100.0) -> dict[str, Any]:
        """Return the codes' errors on drawn states, those of Adam's first step on `values` gradients from the standard normal.

        `plain` and `outliers`: `<code>.<block>.<error>` as in `reported`, and `magnitude.<first or second>`, the moment's mean magnitude;
        for `outliers` one gradient in 4,096 is `outlier` times larger. m = (1 - b1) g and v = (1 - b2) g^2 with the usual b1 = 0.9 and
        b2 = 0.999. The model itself does not matter.
        """
        drawn = torch.randn(values, generator=torch.Generator().manual_seed(0))
        spiked = drawn.clone()
        spiked[::4096] *= outlier
        errors: dict[str, Any] = {}
        for name, gradient in (("plain", drawn), ("outliers", spiked)):
            moments = 0.1 * gradient, 0.001 * gradient.square()
            magnitude = {moment: float(m.abs().mean()) for moment, m in zip(("first", "second"), moments, strict=True)}
            errors[name] = {"magnitude": magnitude} | {
                code: {
                    str(block or "tensor"): adam_errors(*moments, code, block) for block in [*self.config.blocks, None]
                }
                for code in CODES
            }
        return errors

    def finalize(self, model: Any) -> Any:
        """Take the numbers' place away."""
        delattr(model, ERRORS)
        return model


def adam_errors(
    first: torch.Tensor, second: torch.Tensor, name: str, block: int | None, epsilon: float = 1e-8
) -> dict[str, float]:
    """Return the errors that quantization by a code and block makes in Adam's two moments and in their update.

    first, second: mean absolute error of each moment; update: mean of |u8 - u32| / |u32|, u = m / (sqrt(v) + epsilon), over the values
    whose 32-bit update is not zero (the paper's relative Adam error).
    """
    quantized = []
    for values, signed in ((first, True), (second, False)):
        code = code_for(name, values, signed, block)
        quantized.append(dequantize(*quantize(values, code, block), code, block))
    exact = first / (second.sqrt() + epsilon)
    rough = quantized[0] / (quantized[1].sqrt() + epsilon)
    moved = exact != 0
    relative = ((rough - exact).abs() / exact.abs())[moved]
    return {
        "first": float((quantized[0] - first).abs().mean()),
        "second": float((quantized[1] - second).abs().mean()),
        "update": float(relative.mean()) if relative.numel() else 0.0,
    }
