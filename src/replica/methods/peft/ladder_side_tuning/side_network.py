"""The side network of ladder side-tuning: narrow blocks of the backbone's own kind, with down-projections and gates.

The blocks can start as the backbone's own, structurally pruned to the side network's widths.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from replica.errors import ConfigError
from replica.methods.base import Context
from replica.models import body
from replica.models.architectures import Architecture, Attention, require
from replica.models.sublayers import part_of, ups
from replica.models.vision_language import SEEN
from replica.models.vision_language_t5 import joint_bias

#: A linear layer or embedding of the backbone -> importance of each value of its weight, of the same shape.
Importance = Callable[[nn.Module], torch.Tensor]


def check_architecture(model: Any) -> Architecture:
    """Return the row of the model's architecture; raises ConfigError where no ladder is known for it."""
    row, config = require(model, like="bert t5 bart opt llama", method="ladder-side-tuning"), body(model).config
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise ConfigError(
            f"method 'ladder-side-tuning': word embeddings of width {config.word_embed_proj_dim} in a model of width "
            f"{config.hidden_size} are not supported"
        )
    return row


def check_prunable(model: Any) -> None:
    """Raise ConfigError where no side network can start as a pruning of the model: rotated pairs of rows cannot be kept one by one."""
    row = check_architecture(model)
    if row.rotary:
        raise ConfigError(
            f"method 'ladder-side-tuning': `start: fisher` and `start: magnitude` are not known for {row.name}, whose rows are rotated "
            "in pairs; use `start: random`"
        )


def stacks_of(model: Any) -> list[tuple[nn.Module, nn.ModuleList]]:
    """Return the modules whose output a ladder replaces, each with its list of layers (of T5 and BART: encoder, decoder)."""
    row, inner = check_architecture(model), body(model)
    return [(inner.get_submodule(stack.module), inner.get_submodule(stack.path)) for stack in row.stacks]


def side_config(config: Any, reduction: int, layers: int) -> Any:
    """Return a copy of a stack's configuration whose widths are divided by r, with as many heads and `layers` layers.

    Raises ConfigError naming the width that r does not divide, or that leaves no whole number for every head.
    """
    changed = copy.deepcopy(config)
    if hasattr(config, "d_kv"):
        widths = {"d_model": config.d_model, "d_ff": config.d_ff, "d_kv": config.d_kv}
    elif hasattr(config, "encoder_ffn_dim"):
        widths = {name: getattr(config, name) for name in ("d_model", "encoder_ffn_dim", "decoder_ffn_dim")}
    elif hasattr(config, "ffn_dim"):
        widths = {"hidden_size": config.hidden_size, "ffn_dim": config.ffn_dim}
    else:
        widths = {"hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size}
        if getattr(config, "head_dim", None) is not None:
            widths["head_dim"] = config.head_dim
    for name, width in widths.items():
        if width % reduction:
            raise ConfigError(f"method 'ladder-side-tuning': reduction {reduction} does not divide {name} {width}")
        setattr(changed, name, width // reduction)
    heads = [] if "d_kv" in widths else [heads_of(config, decoder) for decoder in (False, True)]
    for number in heads:
        if changed.hidden_size % number:
            raise ConfigError(
                f"method 'ladder-side-tuning': reduction {reduction} leaves width {changed.hidden_size} for "
                f"{number} heads, which they do not divide; choose another reduction"
            )
    for name in ("vocab_size", "max_position_embeddings", "type_vocab_size", "embedding_size", "word_embed_proj_dim"):
        if hasattr(changed, name):
            setattr(changed, name, changed.hidden_size if name == "word_embed_proj_dim" else 2)
    if getattr(changed, "pad_token_id", None) is not None:
        changed.pad_token_id = 0
    for name in ("num_hidden_layers", "decoder_layers"):
        if name == "num_hidden_layers" or hasattr(changed, name):
            setattr(changed, name, layers)
    return changed


def heads_of(config: Any, decoder: bool) -> int:
    """Return how many heads the layers of a model's decoder have, or those of its encoder or only stack."""
    own = getattr(config, "decoder_attention_heads", None) if decoder else None
    return config.num_attention_heads if own is None else own


class Rung(nn.Module):
    """One kept layer of a ladder: the down-projection of the backbone's layer, and the side block."""

    def __init__(self, down: nn.Linear, block: nn.Module):
        super().__init__()
        self.down, self.block = down, block


class SideStack(nn.Module):
    """The side network of one stack (equations in `LadderSideTuningConfig`); it has no embeddings of its own.

    `blocks[j]` belongs to layer `rungs[j]`. `gates` holds an alpha for every layer of the stack, those that are dropped included.
    `up` is there where the stack's output goes to a head.

    Regions of images, which come after the words, are the side network's alone: the backbone reads words, and Down_i(b_i) counts as
    zero at a region, as in the released code.
    """

    def __init__(
        self, stack: nn.Module, row: Architecture, rungs: list[int], depth: int, config: Any, options: Any, up: bool
    ):
        super().__init__()
        width, narrow = stack.config.hidden_size, config.hidden_size
        source = type(stack)(config)
        parts = row.stacks[0]  # a decoder names its parts as its encoder does
        blocks = part_of(source, parts.layers)
        self.rungs, self.temperature, self.biased = list(rungs), options.temperature, row.shared_bias
        self.config, self.attention = stack.config, row.attention.module
        self.first = nn.Linear(width, narrow)
        self.gates = nn.Parameter(torch.zeros(depth))
        self.blocks = nn.ModuleList(Rung(nn.Linear(width, narrow), block) for block in blocks)
        self.norm = part_of(source, parts.norm) if parts.norm else None
        self.rotary = source.rotary_emb if row.rotary else None
        self.dropout = nn.Dropout(_dropout(config))
        self.up = nn.Linear(narrow, width) if up else None
        self.train(stack.training)

    def forward(
        self,
        first: torch.Tensor,
        taps: dict[int, torch.Tensor],
        arguments: dict[str, Any] | None = None,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the side state after the last block, normed and dropped out, and through `up` where there is one.

        `first` (batch, length, width) is the input of the backbone's first layer and `taps` (batch, words, width) the outputs of its
        layers with a rung; without images `words` equals `length`. `arguments` holds the first layer's other arguments by name: masks,
        positions. `memory` (batch, source length, width / r) is the side encoder's output, which the side decoder attends to, as far
        as `memory_mask` (batch, source length) lets it.
        """
        hidden = self.first(first)
        length = hidden.shape[1]
        arguments = {
            key: value for key, value in (arguments or {}).items() if key not in ("past_key_values", "use_cache")
        }
        if self.rotary is not None:
            arguments["position_embeddings"] = self.rotary(hidden, position_ids=arguments["position_ids"])
        if memory is not None:
            arguments["encoder_hidden_states"] = memory
            arguments["encoder_attention_mask"] = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden, attention_mask=memory_mask, encoder_hidden_states=memory
            )
        if self.biased:  # the first block's table serves all
            attention, words = part_of(self.blocks[0].block, self.attention), taps[self.rungs[0]].shape[1]
            arguments["position_bias"] = joint_bias(attention, words, length)
        for index, rung in zip(self.rungs, self.blocks, strict=True):
            share = torch.sigmoid(self.gates[index] / self.temperature)
            down = rung.down(taps[index])
            if down.shape[1] < length:
                down = nn.functional.pad(down, (0, 0, 0, length - down.shape[1]))
            hidden = share * hidden + (1 - share) * down
            output = rung.block(hidden, **arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        if self.norm is not None:
            hidden = self.norm(hidden)
        hidden = self.dropout(hidden)
        return hidden if self.up is None else self.up(hidden)


def _dropout(config: Any) -> float:
    for name in ("dropout_rate", "hidden_dropout_prob", "dropout"):
        if hasattr(config, name):
            return float(getattr(config, name))
    return 0.0


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


def _sublayers(row: Architecture, layer: nn.Module, decoder: bool, config: Any) -> list[Sublayer]:
    """Return the sublayers of a layer in order; with `decoder` cross-attention too."""
    first = row.norms_first(config)

    def sublayer(read: Sequence[str], write: str, norm: str, **more: bool) -> Sublayer:
        return Sublayer(tuple(read), write, norm=norm if first else None, after=None if first else norm, **more)

    def attention(part: Attention, memory: bool) -> Sublayer:
        return sublayer((part.query, part.key, part.value), part.output, part.norm, heads=True, memory=memory)

    cross = [attention(row.cross_attention, True)] if decoder else []
    feed_forward = sublayer(ups(layer, row), row.feed_forward.down, row.feed_forward.norm)
    return [attention(row.attention, False), *cross, feed_forward]


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
    before = [(p, p.requires_grad) for p in model.parameters()]
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
            for total, gradient in zip(sums, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
    finally:
        model.to(home).train(training)
        for parameter, required in before:
            parameter.requires_grad_(required)
    importance = {id(weight): total.to(home) for weight, total in zip(weights, sums, strict=True)}
    return lambda module: importance[id(module.weight)]


def prune_into(
    model: Any,
    sides: list[SideStack],
    importance: Importance = squares,
    within_heads: bool = False,
    released_walk: bool = False,
) -> None:
    """Copy the most important rows and columns of the backbone's layers into the side blocks.

    The walk starts at the embedding's columns. The columns kept of a matrix are the rows kept of its input; the rows kept
    are those of the largest summed importance over these columns. Query, key and value are pruned together by the product of
    their importances, over all rows, or within every head so that heads stay whole. Dropped layers are walked through as well. Norms
    and biases are cut to the rows kept, tables of relative positions are copied.

    The walk starts anew in the decoder, and keys and values of cross-attention keep the columns of the encoder's last rows. With
    `released_walk` it goes on from the encoder's last rows, and keys and values keep the columns of the decoder's rows, as queries do.
    Raises ConfigError for LLaMA, whose rotated pairs of rows cannot be chosen one by one, and whose heads may share keys.
    """
    check_prunable(model)
    inner, row = body(model), check_architecture(model)
    config = inner.config
    words = importance(inner.get_input_embeddings())
    memory: torch.Tensor | None = None
    for number, ((stack, layers), side) in enumerate(zip(stacks_of(model), sides, strict=True)):
        width = side.first.out_features
        if memory is None or not released_walk:
            rows = _largest(words.sum(0), width) if words.shape[1] == config.hidden_size else torch.arange(width)
        rungs = dict(zip(side.rungs, side.blocks, strict=True))
        heads = heads_of(config, number == 1) if within_heads else 1
        sublayers = _sublayers(row, layers[0], number == 1, config)
        for index, layer in enumerate(layers):
            target = rungs[index].block if index in rungs else None
            for sublayer in sublayers:
                rows = _prune(
                    layer, target, sublayer, rows, rows if released_walk else memory, heads, width, importance
                )
        if side.norm is not None:
            _copy_vectors(part_of(stack, row.stacks[0].norm), side.norm, rows)
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
    read = [part_of(layer, name) for name in sublayer.read]
    write = part_of(layer, sublayer.write)
    columns = [memory if sublayer.memory and position else rows for position in range(len(read))]
    score = torch.ones(())
    for linear, chosen in zip(read, columns, strict=True):
        score = score * importance(linear)[:, chosen]
    score = score.sum(1)
    narrow = score.numel() * width // write.out_features
    groups = heads if sublayer.heads else 1
    inside = _largest_in_groups(score, narrow, groups)
    outside = _largest(importance(write)[:, inside].sum(1), width)
    if target is not None:
        for name, linear, chosen in zip(sublayer.read, read, columns, strict=True):
            _copy(linear, part_of(target, name), inside, chosen)
        _copy(write, part_of(target, sublayer.write), outside, inside)
        for name, chosen in ((sublayer.norm, rows), (sublayer.after, outside)):
            if name is not None:
                _copy_vectors(part_of(layer, name), part_of(target, name), chosen)
    return outside


def _largest(score: torch.Tensor, count: int) -> torch.Tensor:
    return score.topk(count).indices.sort().values


def _largest_in_groups(score: torch.Tensor, count: int, groups: int) -> torch.Tensor:
    indices = score.view(groups, -1).topk(count // groups, dim=1).indices.sort(1).values
    return (indices + torch.arange(groups, device=score.device)[:, None] * (score.numel() // groups)).flatten()


@torch.no_grad()
def _copy(source: nn.Linear, target: nn.Linear, rows: torch.Tensor, columns: torch.Tensor) -> None:
    target.weight.copy_(source.weight[rows][:, columns])
    if source.bias is not None:
        target.bias.copy_(source.bias[rows])


@torch.no_grad()
def _copy_vectors(source: nn.Module, target: nn.Module, rows: torch.Tensor) -> None:
    for name, parameter in target.named_parameters(recurse=False):
        parameter.copy_(getattr(source, name)[rows])
