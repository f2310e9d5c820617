"""DSEE: a low-rank plus sparse update of queries and values, whose learned size decides the pruning (Chen et al. 2021)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.dsee.sparse_update import (
    UPDATE,
    SparseLowRankUpdate,
    apply_update,
    random_support,
    sparse_support,
)
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.methods.pruning.masks import MASK, add_mask, bake_mask, global_masks
from replica.methods.pruning.removal import add_gate, cut_inputs, cut_outputs, keep_groups, kept_indices
from replica.models import body, encoder_layers, fused
from replica.models.architectures import architecture_of, require
from replica.models.sublayers import part_of


@dataclass(frozen=True)
class _Layer:
    """The linear layers of one transformer layer, and its self-attention module."""

    attention: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    up: nn.Linear
    down: nn.Linear


class DSEE(Method):
    """W x + alpha / r (B A + S2) x on queries and values; at `prune_at` the weights get masks S1, and heads are removed.

    The stored model keeps update and masked weights apart, since their sum would not be sparse; GPT-2's layers are linear ones in it.
    """

    #: Step before which masks and heads are drawn; None where none are.
    _step: int | None = None

    def prepare(self, model: Any, context: Context) -> None:
        """Add updates, and gates and masks that keep everything; freeze all but updates and head.

        A restored model is pruned already: its frozen weights hold the zeros, and no masks are drawn again.
        """
        layers = _layers(model)
        if self.name not in context.restored:
            self._add(model, layers)
            seeds = torch.Generator().manual_seed(context.seed)
            for layer in layers:
                for projection in (layer.query, layer.value):
                    self._start(projection, seeds)
            for consumer, _, _ in self._removals(model, layers):
                add_gate(consumer)
            for name, (linear, _) in self._masked(model, layers).items():
                add_mask(name, linear, torch.ones_like(linear.weight, dtype=torch.bool))
            if self._prunes():
                self._step = min(round(self.config.prune_at * context.total_steps), context.total_steps - 1)
        updates = [p for layer in layers for q in (layer.query, layer.value) for p in getattr(q, UPDATE).parameters()]
        train_only(model, [*updates, *also_trained(model, self.config)])

    def restore(self, model: Any) -> None:
        """Add updates with zero values, and cut heads and units to the stored sizes."""
        layers = _layers(model)
        self._add(model, layers)
        for consumer, producers, remaining in self._removals(model, layers):
            self._cut(model, consumer, producers, torch.arange(remaining))

    def on_step_begin(self, model: Any, context: Context) -> None:
        """Draw masks and heads by the update as it is now, once."""
        if context.step == self._step:
            self.draw(model)
            context.record(sparsity=self.config.sparsity, heads_removed=float(self.config.heads))

    @torch.no_grad()
    def draw(self, model: Any) -> None:
        """Draw the masks: weights over all layers by two thresholds, heads and units layer by layer.

        A query or value weight is scored by |its update|, a key or dense weight by |itself|; a head by the sum of |update of
        query| + |update of value| over its rows (the released mode ABS); a unit by the sum of its weights' magnitudes.
        """
        layers = _layers(model)
        masked = self._masked(model, layers)
        for pool in ("update", "weight"):
            linears = [linear for linear, its_pool in masked.values() if its_pool == pool]
            scores = [getattr(q, UPDATE).matrix() if pool == "update" else q.weight for q in linears]
            share = self.config.sparsity if pool == "update" else self._dense_sparsity()
            for linear, mask in zip(linears, global_masks(scores, share) if linears else [], strict=True):
                getattr(linear, MASK).copy_(mask)
        for layer in layers:
            if layer.query.weight.is_meta:
                break
            if self.config.heads:
                rows = sum(getattr(q, UPDATE).matrix().abs().sum(1) for q in (layer.query, layer.value))
                heads = rows.unflatten(0, (body(model).config.num_attention_heads, -1)).sum(1)
                keep_groups(layer.output, heads, self.config.heads)
            if self._units(model):
                keep_groups(
                    layer.down, layer.up.weight.abs().sum(1) + layer.down.weight.abs().sum(0), self._units(model)
                )

    def finalize(self, model: Any) -> Any:
        """Write the masks' zeros into the weights and cut removed heads and units out; the updates stay."""
        layers = _layers(model)
        for linear, _ in self._masked(model, layers).values():
            bake_mask(linear)
        if not self._is_cut(model, layers):
            for consumer, producers, remaining in self._removals(model, layers):
                self._cut(model, consumer, producers, kept_indices(consumer, remaining))
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count r (inputs + outputs) + N for the query and value of each layer, and a new head."""
        layers = _layers(model)
        pairs = [linear for layer in layers for linear in (layer.query, layer.value)]
        own = sum(self.config.rank * (q.in_features + q.out_features) + self.config.entries for q in pairs)
        return {"trainable_parameters": own + count(also_trained(model, self.config))}

    def cost(self, model: Any, length: int = 128, drawn: bool = False) -> dict[str, Any]:
        """Prune a copy and count it: heads and units that are left, FLOPs at `length` pieces with and without the update's own.

        `drawn` also instantiates the masks, on a model of this size on the processor whose weights and updates are random
        (their number does not depend on the values), and counts the zeros of both pools.
        """
        from replica.meters.flops import measure_flops
        from replica.meters.options import FlopsOptions

        pruned = copy.deepcopy(model)
        self.finalize(pruned)
        with_update = measure_flops(pruned, FlopsOptions(batch=1, length=length))
        cut = _layers(pruned)
        size = body(model).config.hidden_size // body(model).config.num_attention_heads
        heads = sum(layer.query.out_features // size for layer in cut)
        for layer in cut:
            for linear in (layer.query, layer.value):
                fold(linear)
        return {
            "heads": heads,
            "heads_removed_share": 1 - heads / (len(cut) * body(model).config.num_attention_heads),
            "units": sum(layer.up.out_features for layer in cut),
            "flops_with_update": with_update["forward"],
            "flops_folded": measure_flops(pruned, FlopsOptions(batch=1, length=length))["forward"],
            **(self._drawn(model) if drawn else {}),
        }

    def _drawn(self, model: Any) -> dict[str, Any]:
        """Instantiate the masks of both pools on random values of the model's shapes, and count their zeros."""
        seeds = torch.Generator().manual_seed(0)
        pools = {}
        for pool, share in (("update", self.config.sparsity), ("weight", self._dense_sparsity())):
            scores = []
            for linear, its_pool in self._masked(model, _layers(model)).values():
                if its_pool == pool == "update":
                    update = SparseLowRankUpdate(
                        linear.in_features, linear.out_features, self.config.rank, self.config.entries, 1.0
                    )
                    for parameter in update.parameters():
                        parameter.data.normal_(0.0, 0.02, generator=seeds)
                    update.positions.copy_(random_support(linear.weight, self.config.entries, seeds))
                    scores.append(update.matrix().detach())
                elif its_pool == pool:
                    scores.append(torch.empty(linear.weight.shape).normal_(0.0, 0.02, generator=seeds))
            zeros = sum(int((~mask).sum()) for mask in global_masks(scores, share)) if scores else 0
            entries = sum(score.numel() for score in scores)
            pools[pool] = {
                "matrices": len(scores),
                "entries": entries,
                "zeros": zeros,
                "sparsity": zeros / max(1, entries),
            }
        return {"pools": pools}

    def _add(self, model: Any, layers: list[_Layer]) -> None:
        config, heads = self.config, body(model).config.num_attention_heads
        if config.heads >= heads:
            self.fail(f"heads {config.heads} would leave none of {heads} in each layer")
        scale = config.alpha / config.rank
        for layer in layers:
            for linear in (layer.query, layer.value):
                if hasattr(linear, UPDATE):
                    self.fail("the model has updates already")
                if config.entries > linear.weight.numel():
                    self.fail(f"entries {config.entries} are more than the {linear.weight.numel()} weights")
                with torch.device(linear.weight.device):
                    update = SparseLowRankUpdate(
                        linear.in_features, linear.out_features, config.rank, config.entries, scale
                    )
                linear.add_module(UPDATE, update)
                linear.register_forward_hook(apply_update)

    def _start(self, linear: nn.Linear, seeds: torch.Generator) -> None:
        update = getattr(linear, UPDATE)
        update.reset(seeds)
        if linear.weight.is_meta or not self.config.entries:
            return
        if self.config.support == "random":
            positions = random_support(linear.weight, self.config.entries, seeds)
        else:
            positions = sparse_support(linear.weight, self.config.entries, self.config.rounds, seeds)
        update.positions.copy_(positions)

    def _prunes(self) -> bool:
        config = self.config
        return bool(config.sparsity or self._dense_sparsity() or config.heads or config.units)

    def _dense_sparsity(self) -> float:
        dense = self.config.dense_sparsity
        return self.config.sparsity if dense is None else dense

    def _units(self, model: Any) -> int:
        return round(self.config.units * _inner_size(model))

    def _is_cut(self, model: Any, layers: list[_Layer]) -> bool:
        wanted = (body(model).config.hidden_size, _inner_size(model))
        return any((layer.output.in_features, layer.down.in_features) != wanted for layer in layers)

    def _masked(self, model: Any, layers: list[_Layer]) -> dict[str, tuple[nn.Linear, str]]:
        """Return the layers that get a mask by name, and whose magnitude scores them: `update` or `weight`."""
        pools: dict[int, str] = {}
        for layer in layers:
            if self.config.sparsity:
                pools |= {id(layer.query): "update", id(layer.value): "update"}
            if self._dense_sparsity():
                pools |= {id(linear): "weight" for linear in (layer.key, layer.output, layer.up, layer.down)}
        pooler = getattr(getattr(body(model), "pooler", None), "dense", None)
        if pooler is not None and self._dense_sparsity():
            pools[id(pooler)] = "weight"
        return {name: (module, pools[id(module)]) for name, module in model.named_modules() if id(module) in pools}

    def _removals(self, model: Any, layers: list[_Layer]) -> list[tuple[nn.Linear, list[nn.Linear], int]]:
        """Return the removals: the layer that reads the units, those that make them, and how many units stay."""
        inner, removals = body(model).config, []
        for layer in layers:
            if self.config.heads:
                size = inner.hidden_size // inner.num_attention_heads
                remaining = inner.hidden_size - self.config.heads * size
                removals.append((layer.output, [layer.query, layer.key, layer.value], remaining))
            if self._units(model):
                removals.append((layer.down, [layer.up], _inner_size(model) - self._units(model)))
        return removals

    def _cut(self, model: Any, consumer: nn.Linear, producers: list[nn.Linear], remaining: torch.Tensor) -> None:
        for producer in producers:
            cut_outputs(producer, remaining)
            if hasattr(producer, UPDATE):
                getattr(producer, UPDATE).cut_outputs(remaining)
        cut_inputs(consumer, remaining)
        inner = body(model).config
        heads = len(remaining) // (inner.hidden_size // inner.num_attention_heads)
        for layer in _layers(model):
            if layer.output is consumer:
                for name, size in zip(architecture_of(model).attention.sizes, (heads, len(remaining)), strict=True):
                    setattr(layer.attention, name, size)


@torch.no_grad()
def fold(linear: nn.Linear) -> None:
    """Add the update of a linear layer to its weight and take it off."""
    linear.weight.add_(getattr(linear, UPDATE).matrix())
    delattr(linear, UPDATE)
    for number, hook in list(linear._forward_hooks.items()):
        if hook is apply_update:
            del linear._forward_hooks[number]


def _inner_size(model: Any) -> int:
    """Return how many feed-forward units a layer of the uncut model has."""
    config = body(model).config
    return getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size


def _layers(model: Any) -> list[_Layer]:
    """Return the linear layers of each transformer layer (GPT-2's are made such); raises ConfigError for an unknown architecture."""
    row = require(model, "attention.sizes", method="dsee")
    if not row.linear:
        fused.to_linear(model)
    attention = (row.attention.query, row.attention.key, row.attention.value, row.attention.output)
    paths = (row.attention.module, *attention, row.feed_forward.up[0], row.feed_forward.down)
    return [_Layer(*(part_of(layer, path) for path in paths)) for layer in encoder_layers(model)]
