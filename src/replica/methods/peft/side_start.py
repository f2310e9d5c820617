"""How a ladder's blocks start: the backbone's own blocks, structurally pruned to the side network's widths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from replica.errors import ConfigError
from replica.methods.base import Context
from replica.methods.peft.side import heads_of, shape_of, stacks_of
from replica.models import body
from replica.models.vision_language import SEEN

if TYPE_CHECKING:
    from replica.methods.peft.side import SideStack

#: A linear layer or embedding of the backbone -> importance of each value of its weight, of the same shape.
Importance = Callable[[nn.Module], torch.Tensor]


@dataclass(frozen=True)
class Sublayer:
    """Matrices that are pruned together: `read` share their rows, `write` reads those and gives the next hidden state.

    `norm` and `after`: the norms before and after the sublayer. `heads`: rows are kept within every head. `memory`: all of `read`
    but the first read the encoder's states.
    """

    read: tuple[str, ...]
    write: str
    norm: str | None = None
    after: str | None = None
    heads: bool = False
    memory: bool = False


def _t5(decoder: bool, gated: bool) -> list[Sublayer]:
    def attention(at: str, name: str, memory: bool) -> Sublayer:
        read = tuple(f"{at}.{name}.{key}" for key in "qkv")
        return Sublayer(read, f"{at}.{name}.o", norm=f"{at}.layer_norm", heads=True, memory=memory)

    found = [attention("layer.0", "SelfAttention", False)]
    if decoder:
        found.append(attention("layer.1", "EncDecAttention", True))
    last = f"layer.{len(found)}"
    read = tuple(f"{last}.DenseReluDense.{name}" for name in (("wi_0", "wi_1") if gated else ("wi",)))
    return [*found, Sublayer(read, f"{last}.DenseReluDense.wo", norm=f"{last}.layer_norm")]


def _separate(decoder: bool, before: bool) -> list[Sublayer]:
    """Layers of OPT and BART; a `decoder` looks at an encoder as well."""
    side = "norm" if before else "after"

    def attention(name: str, memory: bool) -> Sublayer:
        read = tuple(f"{name}.{key}_proj" for key in "qkv")
        norm = {side: f"{name}_layer_norm"}
        return Sublayer(read, f"{name}.out_proj", heads=True, memory=memory, **norm)

    looking = [attention("encoder_attn", True)] if decoder else []
    return [attention("self_attn", False), *looking, Sublayer(("fc1",), "fc2", **{side: "final_layer_norm"})]


def _bert() -> list[Sublayer]:
    read = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
    return [
        Sublayer(read, "attention.output.dense", after="attention.output.LayerNorm", heads=True),
        Sublayer(("intermediate.dense",), "output.dense", after="output.LayerNorm"),
    ]


def squares(module: nn.Module) -> torch.Tensor:
    """Return the square of every weight: importance without data."""
    return module.weight.detach().square()


def fisher(model: Any, context: Context, examples: int) -> Importance:
    """Return Fisher's importance: the sum over training examples of the squared gradient of each one's loss, by the weight.

    `examples` are drawn by the run's seed (all, if there are no more) and go through the whole backbone one at a time, without dropout,
    their words alone: images are the side network's. Raises ConfigError where there is no data to look at.
    """
    modules = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    weights = list({id(m.weight): m.weight for m in modules}.values())
    asked = [(p, p.requires_grad) for p in model.parameters()]
    training, home = model.training, next(model.parameters()).device
    model.requires_grad_(False).eval()
    for weight in weights:
        weight.requires_grad_(True)
    try:
        if torch.cuda.is_available():
            model.to("cuda")
        sums = [torch.zeros_like(weight) for weight in weights]
        for place in context.drawn(examples):
            row = context.examples([place], model)
            loss = context.forward(model, {name: value for name, value in row.items() if name not in SEEN}).loss
            for kept, gradient in zip(sums, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                if gradient is not None:
                    kept.addcmul_(gradient, gradient)
    finally:
        model.to(home).train(training)
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)
    found = {id(weight): kept.to(home) for weight, kept in zip(weights, sums, strict=True)}
    return lambda module: found[id(module.weight)]


def prune_into(
    model: Any, sides: list[SideStack], importance: Importance = squares, within_heads: bool = False
) -> None:
    """Copy the most important rows and columns of the backbone's layers into the side blocks.

    The walk starts at the embedding's columns. The columns kept of a matrix are the rows that were kept of what it reads; the rows
    kept are those of the largest summed importance over these columns. Query, key and value are pruned together by the product of
    their importances, over all rows, or within every head so that heads stay whole. Dropped layers are walked through as well. Norms
    and biases are cut to the rows kept, tables of relative positions are copied. Raises ConfigError for LLaMA, whose rotated pairs of rows
    cannot be chosen one by one, and whose heads may share keys.
    """
    inner = body(model)
    config = inner.config
    if config.model_type == "llama":
        raise ConfigError("method 'ladder-side-tuning': start 'pruned' is not known for llama; use start: random")
    words = importance(inner.get_input_embeddings())
    memory: torch.Tensor | None = None
    for number, ((stack, layers), side) in enumerate(zip(stacks_of(model), sides, strict=True)):
        width = side.first.out_features
        rows = _largest(words.sum(0), width) if words.shape[1] == config.hidden_size else torch.arange(width)
        rungs = dict(zip(side.kept, side.blocks, strict=True))
        heads = heads_of(config, number == 1) if within_heads else 1
        if shape_of(model).biased:
            plan = _t5(number == 1, config.is_gated_act)
        elif config.model_type in ("opt", "bart", "clip-bart"):
            plan = _separate(number == 1, getattr(config, "do_layer_norm_before", False))
        else:
            plan = _bert()
        for index, layer in enumerate(layers):
            target = rungs[index].block if index in rungs else None
            for sublayer in plan:
                rows = _prune(layer, target, sublayer, rows, memory, heads, width, importance)
        if side.norm is not None:
            _copy_vectors(_closing_norm(stack), side.norm, rows)
        tables = [m for m in layers.modules() if isinstance(m, nn.Embedding)]
        for source, table in zip(
            tables, (m for m in side.blocks.modules() if isinstance(m, nn.Embedding)), strict=True
        ):
            with torch.no_grad():
                table.weight.copy_(source.weight)
        memory = rows


def _prune(
    layer: nn.Module,
    target: nn.Module | None,
    sublayer: Sublayer,
    rows: torch.Tensor,
    memory: torch.Tensor | None,
    heads: int,
    width: int,
    importance: Importance,
) -> torch.Tensor:
    """Prune one sublayer into the target block (if it is kept) and return the rows of the hidden state that it leaves."""
    read = [layer.get_submodule(name) for name in sublayer.read]
    write = layer.get_submodule(sublayer.write)
    columns = [memory if sublayer.memory and position else rows for position in range(len(read))]
    score = torch.ones(())
    for linear, kept in zip(read, columns, strict=True):
        score = score * importance(linear)[:, kept]
    score = score.sum(1)
    narrow = score.numel() * width // write.out_features
    groups = heads if sublayer.heads else 1
    inside = _largest_in_groups(score, narrow, groups)
    outside = _largest(importance(write)[:, inside].sum(1), width)
    if target is not None:
        for name, linear, kept in zip(sublayer.read, read, columns, strict=True):
            _copy(linear, target.get_submodule(name), inside, kept)
        _copy(write, target.get_submodule(sublayer.write), outside, inside)
        for name, kept in ((sublayer.norm, rows), (sublayer.after, outside)):
            if name is not None:
                _copy_vectors(layer.get_submodule(name), target.get_submodule(name), kept)
    return outside


def _largest(score: torch.Tensor, count: int) -> torch.Tensor:
    return score.topk(count).indices.sort().values


def _largest_in_groups(score: torch.Tensor, count: int, groups: int) -> torch.Tensor:
    found = score.view(groups, -1).topk(count // groups, dim=1).indices.sort(1).values
    return (found + torch.arange(groups, device=score.device)[:, None] * (score.numel() // groups)).flatten()


@torch.no_grad()
def _copy(source: nn.Linear, target: nn.Linear, rows: torch.Tensor, columns: torch.Tensor) -> None:
    target.weight.copy_(source.weight[rows][:, columns])
    if source.bias is not None:
        target.bias.copy_(source.bias[rows])


@torch.no_grad()
def _copy_vectors(source: nn.Module, target: nn.Module, rows: torch.Tensor) -> None:
    for name, parameter in target.named_parameters(recurse=False):
        parameter.copy_(getattr(source, name)[rows])


def _closing_norm(stack: nn.Module) -> nn.Module:
    return stack.final_layer_norm
