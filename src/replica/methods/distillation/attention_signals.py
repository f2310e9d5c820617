"""Queries, keys and values of an encoder's layers, and the relations that distillation compares."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from replica.errors import ConfigError
from replica.models.architectures import require
from replica.models.sublayers import encoder_layers, part_of

_BODY_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


class Projections(NamedTuple):
    """A layer's projected heads: three tensors (batch, heads, length, head size)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


class _Captured(Exception):
    """Ends a forward pass once all projections have been read."""


def attention_linears(model: PreTrainedModel) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
    """Return the query, key and value modules of every layer, first to last.

    Raises ConfigError for an architecture whose layers are not encoders of words with one plain self-attention.
    """
    attention = require(model, like="bert distilbert").attention
    paths = (attention.query, attention.key, attention.value)
    return [tuple(part_of(layer, path) for path in paths) for layer in encoder_layers(model)]


def body_inputs(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the entries of a batch that the model's body takes; segment ids only where it has several segments."""
    inputs = {name: batch[name] for name in _BODY_INPUTS if name in batch}
    if getattr(model.config, "type_vocab_size", 0) < 2:
        inputs.pop("token_type_ids", None)
    return inputs


def attention_mask(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return which positions are real, (batch, length) bool; all of them where the batch has no mask."""
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    return torch.ones_like(batch["input_ids"], dtype=torch.bool)


def project(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], layers: Sequence[int], *, hidden_states: bool = False
) -> tuple[list[Projections], tuple[torch.Tensor, ...]]:
    """Run the body and return the projections of `layers` (counted from 0), and all hidden states with `hidden_states`.

    The linears' outputs are read by forward hooks, so any attention kernel serves. Heads of the model are not run, and
    without `hidden_states` the pass ends at the last projection that is needed. Hidden states are the embeddings' output
    and each layer's, (batch, length, hidden) each.
    """
    linears = attention_linears(model)
    seen: dict[tuple[int, int], torch.Tensor] = {}
    wanted = 3 * len(set(layers))
    may_stop = not hidden_states and not getattr(model, "is_activation_checkpointing", False)

    def keep(layer: int, which: int):
        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            seen[layer, which] = output
            if may_stop and len(seen) == wanted:
                raise _Captured

        return hook

    handles = [
        linear.register_forward_hook(keep(layer, which))
        for layer in set(layers)
        for which, linear in enumerate(linears[layer])
    ]
    states: tuple[torch.Tensor, ...] = ()
    try:
        options = {"output_hidden_states": True} if hidden_states else {}
        output = model.base_model(**body_inputs(model, batch), **options)
        states = output.hidden_states if hidden_states else ()
    except _Captured:
        pass
    finally:
        for handle in handles:
            handle.remove()
    heads = model.config.num_attention_heads
    return [Projections(*(_split(seen[layer, which], heads) for which in range(3))) for layer in layers], states


def _split(projected: torch.Tensor, heads: int) -> torch.Tensor:
    batch, length, _ = projected.shape
    return projected.view(batch, length, heads, -1).transpose(1, 2)


def scores(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left right^T / sqrt(head size), (batch, heads, length, length); rows are positions of `left`."""
    return torch.matmul(left, right.transpose(-1, -2)) * left.shape[-1] ** -0.5


def log_relation(left: torch.Tensor, right: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return log softmax over real key positions of the scores (MiniLM, equations 7 and 9).

    `mask` is (batch, length) bool. Padding keys get the lowest finite number, so that zero probability times it stays
    zero.
    """
    products = scores(left, right)
    products = products.masked_fill(~mask[:, None, None, :], torch.finfo(products.dtype).min)
    return torch.log_softmax(products, dim=-1)


def uniform_map(student_layers: int, teacher_layers: int) -> list[int]:
    """Return for each student layer the teacher's, counted from 0: g(m) = m * L / M in the paper's count from 1.

    Raises ConfigError where M does not divide L.
    """
    if teacher_layers % student_layers:
        raise ConfigError(
            f"the uniform layer map needs a student depth that divides the teacher's: student {student_layers}, "
            f"teacher {teacher_layers}"
        )
    step = teacher_layers // student_layers
    return [step * (layer + 1) - 1 for layer in range(student_layers)]


def check_heads(student: int, teacher: int) -> None:
    """Raise ConfigError unless both models have as many attention heads: relations are compared head by head."""
    if student != teacher:
        raise ConfigError(
            f"attention distillation compares head by head: the student has {student} attention heads, "
            f"the teacher {teacher}; give the student `num_attention_heads: {teacher}`"
        )


def single_precision(tensor: torch.Tensor) -> AbstractContextManager:
    """Return a context in which autocast is off on the tensor's device, for losses that are computed in 32 bits."""
    if tensor.device.type == "meta":
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def sentence_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average (batch, length) over each sentence's real positions, then over the sentences."""
    counts = mask.sum(dim=-1).clamp(min=1)
    return ((values * mask).sum(dim=-1) / counts).mean()


def masked_mean_square(difference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the squares of `difference` over the places where `mask`, broadcast to its shape, is true."""
    mask = mask.expand_as(difference)
    return (difference.square() * mask).sum() / mask.sum().clamp(min=1)


def record_losses(context, **losses: torch.Tensor) -> None:
    """Keep partial losses for the run's history, unless there are no values (meta device)."""
    context.record(**{name: loss.item() for name, loss in losses.items() if loss.device.type != "meta"})
