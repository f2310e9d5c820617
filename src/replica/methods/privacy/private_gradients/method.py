"""Private gradients: each example's is clipped, the sum of a logical batch is noised once and divided by the batch."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.attention
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.privacy.private_gradients.accounting import ACCOUNTANTS, find_noise, spent
from replica.methods.privacy.private_gradients.carriers import Carriers, find_carriers, gradient_shapes, reparametrised
from replica.methods.privacy.private_gradients.config import PrivateGradientsConfig
from replica.methods.privacy.private_gradients.poisson_sampler import PoissonSampler
from replica.models.heads import DECODERS
from replica.tasks.kinds.kind import model_inputs

#: Added to the scores of masked places: far below any score, and finite in bfloat16.
_MASKED = -1e30


class PrivateGradients(Method):
    """g = (sum_i g_i min(1, C / |g_i|) + sigma C N(0, 1)) / B (Yu et al. 2022, Section 3; Abadi et al. 2016, Algorithm 1).

    The norm of g_i is over all trained tensors jointly. Any method may choose the trained tensors. Where a batch is computed in
    parts, by one process or several, their clipped gradients are summed, and the noise comes once, on the sum; it is divided by the
    nominal B, however many examples were drawn. Single examples' gradients do not leave `clipped_sum`. The run's clipping of the
    gradient's norm has no effect. The noise depends on seed and step, so that a resumed run draws the same: who knows the seed
    can take it away. Training losses in the history are not private.

    With `rank` an example's gradient is that of a step's low-rank carriers of each matrix (`Carriers`): their joint norm, with that of
    the other tensors, is clipped, the noise is added to them, and the step's gradient is rebuilt from their noisy mean.
    """

    config: PrivateGradientsConfig
    #: Sum of the clipped gradients of the step so far, in the order of `Carriers.tensors`.
    _sum: list[torch.Tensor] | None = None
    #: The carriers, and the step that they are of.
    _carriers: tuple[int, Carriers] = (-1, Carriers({}))
    #: The matrices before training, by name.
    _start: dict[str, torch.Tensor] | None = None

    def __init__(self, config: PrivateGradientsConfig):
        super().__init__(config)
        self.sigma, self.batch = config.noise, config.batch

    def prepare(self, model: Any, context: Context) -> None:
        """Settle the batch and the noise; raises ConfigError for a batch that is not the run's, or a budget without data."""
        self.batch = self.config.batch or context.batch_size or None
        if self.config.batch and context.batch_size and self.config.batch != context.batch_size:
            self.fail(f"batch {self.config.batch} is not the run's batch_size {context.batch_size}; leave it out")
        if self.batch is None:
            self.fail("give `batch` where there is no run to take it from")
        if self.config.epsilon is not None and self.sigma is None:
            if not context.rows:
                self.fail("`epsilon` needs a run with data; give `noise` here")
            self.sigma = find_noise(
                self.config.epsilon, self.config.delta, self._rate(context), context.total_steps, self.config.accountant
            )

        if self.config.rank is not None:
            self._start = {
                name: p.detach().clone()
                for name, p in model.named_parameters()
                if p.requires_grad and reparametrised(p, self.config.rank)
            }

    def carriers(self, trained: dict[str, nn.Parameter], context: Context) -> Carriers:
        """Return the carriers of the context's step, the same in every process and part of it; without `rank` there are none."""
        if self.config.rank is not None and self._carriers[0] != context.step:
            seeds = self.generator(context.seed, context.step, stream=1)
            carriers = find_carriers(trained, self._start, self.config.rank, self.config.power_iterations, seeds)
            self._carriers = (context.step, carriers)
        return self._carriers[1]

    def _rate(self, context: Context) -> float:
        return min(1.0, self.batch / context.rows)

    def sampler(self, rows: int, batch_size: int, seed: int, followers: list[Any]) -> PoissonSampler | None:
        """Return the Poisson sampler; raises ConfigError with `accumulate`: one example could then be in a logical batch twice."""
        if self.config.sampling == "shuffled":
            return None
        if batch_size != self.batch:
            self.fail(
                "Poisson sampling draws a logical batch at once: use accumulate: 1 (`chunk` limits the examples in memory)"
            )
        return PoissonSampler(rows, batch_size, seed, followers)

    def loss(self, model: Any, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Add the clipped gradients of the batch's examples to the step's sum; return the mean loss, which has a gradient of zero."""
        numbers = batch.get("example_id")
        rows = model_inputs(batch, answers=True)
        if numbers is not None and bool((numbers < 0).any()):
            rows = {key: value[numbers >= 0] for key, value in rows.items()}
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        zero = sum(0.0 * p.sum() for p in trained.values())
        if not len(next(iter(rows.values()))):
            return zero
        config = self.config
        chunk, carriers = config.chunk if config.vectorised else 0, self.carriers(trained, context)
        total, losses = clipped_sum(model, rows, context, trained, config.clip, chunk, carriers)
        if self._sum is None:
            self._sum = total
        else:
            torch._foreach_add_(self._sum, total)
        return losses.mean() + zero

    def on_gradients(self, model: Any, context: Context) -> None:
        """Make the step's gradient: (the sum over all processes + noise of standard deviation sigma C) / B."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        carriers = self.carriers(trained, context)
        tensors = carriers.tensors(trained)
        total = self._sum or [torch.zeros_like(t, dtype=torch.float32) for t in tensors.values()]
        self._sum = None
        seeds = self.generator(context.seed, context.step)
        means = {}
        for (name, tensor), gradient in zip(tensors.items(), total, strict=True):
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(gradient)
            means[name] = gradient.div_(self.batch).to(tensor.dtype)
            self.add_noise(means[name], seeds)
        for name, gradient in carriers.rebuild(means, trained).items():
            trained[name].grad = gradient.to(trained[name].dtype)

    @staticmethod
    def generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
        """Return the source of a step's noise (stream 1: carriers), from seed and step alone, so that a resumed run draws the same."""
        return torch.Generator().manual_seed((stream << 48) + (seed + 1) * 1_000_003 + step)

    def add_noise(self, gradient: torch.Tensor, seeds: torch.Generator) -> None:
        """Add noise of standard deviation sigma C / B to every coordinate of a gradient, in place."""
        draw = torch.empty(gradient.shape).normal_(0.0, self.deviation, generator=seeds)
        gradient.add_(draw.to(gradient.device, gradient.dtype))

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on a coordinate of the mean gradient: sigma C / B."""
        return self.sigma * self.config.clip / self.batch

    def reported(self, model: Any, context: Context) -> dict[str, float | int | str]:
        """Return the budget that the run has spent, by both accountants, and the settings that it follows from.

        epsilon (by the configured accountant), epsilon_prv, epsilon_rdp, delta, noise_multiplier, sample_rate, steps; `stated` in words.
        """
        rate, steps = self._rate(context), context.total_steps
        epsilons = {name: spent(self.sigma, rate, steps, self.config.delta, name) for name in ACCOUNTANTS}
        epsilon, which = epsilons[self.config.accountant], self.config.accountant
        other = "" if self.config.sampling == "poisson" else ", as if batches had been drawn by Poisson sampling"
        return {
            "epsilon": epsilon,
            **{f"epsilon_{name}": value for name, value in epsilons.items()},
            "delta": self.config.delta,
            "noise_multiplier": self.sigma,
            "clip": self.config.clip,
            "sample_rate": rate,
            "steps": steps,
            "stated": f"epsilon {epsilon:.3g} ({which}) at delta {self.config.delta:g}{other}",
        }

    def cost(self, model: Any) -> dict[str, float]:
        """Return the size of one step's noise on the tensors of an example's gradient, all of zeros.

        noise_std (of all coordinates), noise_norm (of all tensors jointly), trained (coordinates; with `rank` of the carriers).
        """
        squares, total, count, seeds = 0.0, 0.0, 0, self.generator(0, 0)
        for parameter in model.parameters():
            for shape in gradient_shapes(parameter, self.config.rank) if parameter.requires_grad else []:
                gradient = torch.zeros(shape)
                self.add_noise(gradient, seeds)
                squares += float(gradient.double().square().sum())
                total += float(gradient.double().sum())
                count += gradient.numel()
        variance = squares / count - (total / count) ** 2 if count else 0.0
        return {"noise_std": math.sqrt(variance), "noise_norm": math.sqrt(squares), "trained": count}


def clipped_sum(
    model: nn.Module,
    rows: dict[str, torch.Tensor],
    context: Context,
    trained: dict[str, nn.Parameter],
    clip: float,
    chunk: int = 0,
    carriers: Carriers | None = None,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the sum over examples of their clipped gradients, a tensor for each that is differentiated, and the examples' losses.

    That is each trained parameter, or its two carriers. `chunk` examples are computed in one pass by torch.func.vmap, each with a dropout
    of its own; 0: one after the other. An example's gradient of a whole matrix is on the way to its carriers', of one matrix at a time.
    """
    carriers = carriers or Carriers({})
    count = len(next(iter(rows.values())))
    total = [torch.zeros_like(t, dtype=torch.float32) for t in carriers.tensors(trained).values()]
    losses = []
    for start in range(0, count, chunk or 1):
        part = {key: value[start : start + (chunk or 1)] for key, value in rows.items()}
        gradients, loss = (_many if chunk else _one)(model, part, context, trained, carriers)
        with torch.autocast(loss.device.type, enabled=False):  # the bound holds to float32
            squares = sum(g.flatten(1).float().square().sum(1) for g in gradients)
            factor = torch.clamp(clip / squares.sqrt(), max=1.0)
            for running, gradient in zip(total, gradients, strict=True):
                running.add_(torch.einsum("b,b...->...", factor, gradient.float()))
        losses.append(loss.detach())
    return total, torch.cat(losses)


def _one(
    model: nn.Module,
    row: dict[str, torch.Tensor],
    context: Context,
    trained: dict[str, nn.Parameter],
    carriers: Carriers,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the gradients of one example, with a first dimension of 1, and its loss, (1,)."""
    values = carriers.tensors(trained)
    if carriers.pairs:
        values = {name: value.detach().requires_grad_() for name, value in values.items()}
        loss = torch.func.functional_call(model, carriers.weights(values, trained), (), row).loss
    else:
        loss = context.forward(model, row).loss
    gradients = torch.autograd.grad(loss, list(values.values()), allow_unused=True, materialize_grads=True)
    return [g[None] for g in gradients], loss.reshape(1)


def _many(
    model: nn.Module,
    rows: dict[str, torch.Tensor],
    context: Context,
    trained: dict[str, nn.Parameter],
    carriers: Carriers,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the gradients of all examples by one pass, each (rows, ...), and their losses, (rows,)."""
    values = {name: value.detach() for name, value in carriers.tensors(trained).items()}

    def one(values: dict[str, torch.Tensor], row: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {key: value.unsqueeze(0) for key, value in row.items()}
        return torch.func.functional_call(model, carriers.weights(values, trained), (), inputs).loss

    single = torch.func.vmap(torch.func.grad_and_value(one), in_dims=(None, 0), randomness="different")
    # Fused kernels would run example by example.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        gradients, losses = single(values, _without_a_look(rows, context))
    return [gradients[name] for name in values], losses


def _without_a_look(rows: dict[str, torch.Tensor], context: Context) -> dict[str, torch.Tensor]:
    """Return the rows with a mask of attention that no model looks into, which one pass for all examples does not allow.

    The mask is returned as numbers to add to the scores, (rows, 1, 1, length), of a decoder (rows, 1, length, length), since a
    word there sees none that comes after it. A decoder without a mask would look for padding itself.
    """
    mask = rows.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return rows
    seen = mask.bool()[:, None, None, :]
    if context.head in DECODERS:
        seen = seen & mask.new_ones(mask.shape[1], mask.shape[1]).tril().bool()
    return {**rows, "attention_mask": torch.where(seen, 0.0, _MASKED)}
