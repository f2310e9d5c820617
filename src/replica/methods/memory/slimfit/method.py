"""SlimFit: the tensors that moved least are frozen at each step, and the activations that backward reads are compressed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.memory.slimfit.compressed_functions import SlimAttention, SlimGELU, SlimLinear, SlimNorm
from replica.models import body, encoder_layers
from replica.models.architectures import architecture_of, require
from replica.models.sublayers import part_of, place_in_layers

#: Name under which the model owns the scores and the copy of its weights while it is trained.
STATE = "slimfit_state"


class State(nn.Module):
    """Buffers of a run: one score a tensor, and the copy of the tensors where it is kept."""

    def __init__(self, scores: torch.Tensor, copies: list[torch.Tensor]):
        super().__init__()
        self.register_buffer("scores", scores)
        for index, copy in enumerate(copies):
            self.register_buffer(f"copy_{index}", copy)


def units(model: Any) -> dict[str, nn.Parameter]:
    """Return the tensors that are frozen one by one: all with more than one dimension, and the layer norms' weights.

    102 of a BERT-base classifier, 100 of a ViT-B classifier, whose norm after the last layer is always trained, as in the
    released code. Biases are never frozen. Raises ConfigError for an architecture that is not known here.
    """
    row = require(model, like="bert vit", method="slimfit")
    roots = encoder_layers(model) if row.reads == "images" else [model]
    norms = {id(m.weight) for root in roots for m in root.modules() if isinstance(m, nn.LayerNorm)}
    return {name: p for name, p in model.named_parameters() if p.dim() > 1 or id(p) in norms}


def distance(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the mean over elements of |(before - after) / before| (the paper's score of a tensor), as a scalar.

    Elements that were zero have no relative distance and are left out, where the released code gets infinity or NaN; a tensor
    of zeros scores infinity, so that it is trained again.
    """
    known = before != 0
    ratios = torch.where(known, (before - after) / torch.where(known, before, torch.ones_like(before)), 0.0).abs()
    return torch.where(known.any(), ratios.sum() / known.sum(), math.inf)


class SlimFit(Method):
    """Inter-layer scheduling with compressed activations.

    Scores start at huge random numbers. A step freezes the floor(rate t) tensors of least score and trains the others, whose scores
    become the distance they moved. A frozen tensor has no gradient (not a zero one: Adam's momentum and decay would move it) and
    keeps no input for it. Adam's moments exist for each tensor that was trained once.
    """

    #: Layer and name of each tensor, as written in the history.
    _places: list[str] | None = None

    def prepare(self, model: Any, context: Context) -> None:
        """Compress the saved activations, draw the scores by the run's seed and freeze the first tensors."""
        tensors = units(model)
        if self.config.compress:
            self._compress(model)
        draw = torch.rand(len(tensors), generator=torch.Generator().manual_seed(context.seed)) * self.config.start
        device = next(model.parameters()).device
        copies = [torch.zeros_like(p, requires_grad=False) for p in tensors.values()] if self.config.full_copy else []
        model.add_module(STATE, State(draw.to(device), copies))
        model.requires_grad_(True)
        self._freeze(tensors, draw)

    def optimizer(self, model: Any, context: Context) -> torch.optim.Optimizer:
        """Return AdamW for all tensors, frozen now or not; biases and norms are not decayed."""
        decayed = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": context.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=context.learning_rate, eps=self.config.epsilon)

    def on_step_begin(self, model: Any, context: Context) -> None:
        """Freeze by the scores of now."""
        self._freeze(units(model), getattr(model, STATE).scores)

    def on_gradients(self, model: Any, context: Context) -> None:
        """Copy the weights before the optimizer moves them."""
        state = getattr(model, STATE)
        with torch.no_grad():
            for index, parameter in enumerate(units(model).values()):
                if not parameter.requires_grad:
                    continue  # its distance is not taken in this step
                if self.config.full_copy:
                    getattr(state, f"copy_{index}").copy_(parameter)
                else:
                    state.register_buffer(f"copy_{index}", parameter.detach().clone(), persistent=False)

    def on_step_end(self, model: Any, context: Context) -> None:
        """Score the tensors just trained; the others keep their score."""
        state, tensors = getattr(model, STATE), units(model)
        trained = {}
        with torch.no_grad():
            for index, (name, parameter) in enumerate(tensors.items()):
                if parameter.requires_grad:
                    trained[index] = name
                    state.scores[index] = distance(getattr(state, f"copy_{index}"), parameter)
                    if not self.config.full_copy:
                        delattr(state, f"copy_{index}")
        context.record(frozen=self.frozen_count(len(state.scores)) / len(state.scores))
        self._record(model, trained, state.scores[list(trained)].tolist(), context)

    def _record(self, model: Any, trained: dict[int, str], scores: list[float], context: Context) -> None:
        """Keep for the history how far each tensor moved when last trained, and in how many steps it was trained so far.

        `moved.<layer>.<tensor>` (its score, to four digits) and `trained.<layer>.<tensor>` appear from its first training on. Recorded
        values are part of every checkpoint, so that the counts go on after a stop.
        """
        if self._places is None:
            self._places = [".".join(place_in_layers(model, name)) for name in units(model)]
        for index, score in zip(trained, scores, strict=True):
            place = self._places[index]
            count = context.recorded.get(f"trained.{place}", 0.0) + 1
            context.record(**{f"moved.{place}": float(f"{score:.4g}"), f"trained.{place}": count})

    def finalize(self, model: Any) -> Any:
        """Put the plain modules back and drop the state."""
        for layer in encoder_layers(model) if self.config.compress else ():
            for path, module in self._paths(model, layer).items():
                layer.set_submodule(path, module._replaced[0])
        for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, SlimNorm)]:
            model.set_submodule(name, module._replaced[0])
        delattr(model, STATE)
        return model.train(model.training).requires_grad_(True)

    def frozen_count(self, tensors: int) -> int:
        """Return how many of `tensors` are frozen at a time: floor(rate t)."""
        return math.floor(self.config.rate * tensors + 1e-9)

    def cost(self, model: Any, length: int = 128) -> dict[str, Any]:
        """Return how many tensors there are, how many are frozen, and bytes that a layer keeps for each token, by kind.

        `static`: the bytes of GELU, both attention products, softmax, frozen norms and dropout masks; `dynamic`: the bytes that each
        trained tensor adds (the second feed-forward matrix keeps a quarter of its fourfold input, so that all add about the same);
        `plain`: the bytes of a layer without SlimFit, and `plain_static` the part of them that no trained matrix needs.
        All in fp32, one byte for a value of a dropout mask, for one layer of BERT or ViT at `length` tokens.
        """
        settings = body(model).config
        width, inner, heads = settings.hidden_size, settings.intermediate_size, settings.num_attention_heads
        hidden = 2 * width if settings.hidden_dropout_prob else 0
        probabilities = heads * length
        dropped = settings.attention_probs_dropout_prob > 0
        static = {
            "gelu": inner / 2,
            "query_key": 2 * width,
            "softmax_value": probabilities + width,
            "norms": 2 * (8 * self.config.norm_density * width + 4),
            "dropout": hidden + (width if dropped else 0),
        }
        plain_static = {
            "gelu": 4 * inner,
            "query_key": 8 * width,
            "softmax_value": (8 if dropped else 4) * probabilities + 4 * width,
            "norms": 2 * (4 * width + 8),
            "dropout": hidden + (probabilities if dropped else 0),
        }
        dynamic = {"query_key_value": 4 * width, "attention_output": 4 * width, "first_feed_forward": 4 * width}
        tensors = units(model)
        frozen = self.frozen_count(len(tensors))
        return {
            "tensors": len(tensors),
            "frozen_tensors": frozen,
            "frozen_share": frozen / len(tensors),
            "static": {**static, "total": sum(static.values())},
            "dynamic": {**dynamic, "second_feed_forward": inner, "norm": 4 * width + 8},
            "plain_static": {**plain_static, "total": sum(plain_static.values())},
            "plain_dynamic": {**dynamic, "second_feed_forward": 4 * inner},
            "plain": sum(plain_static.values()) + sum(dynamic.values()) + 4 * inner,
        }

    def _freeze(self, tensors: dict[str, nn.Parameter], scores: torch.Tensor) -> None:
        order = torch.argsort(scores, stable=True).tolist()
        frozen = set(order[: self.frozen_count(len(tensors))])
        for index, parameter in enumerate(tensors.values()):
            parameter.requires_grad_(index not in frozen)
            if index in frozen:
                parameter.grad = None

    def _compress(self, model: Any) -> None:
        settings = body(model).config
        if settings.hidden_act != "gelu":
            self.fail(f"the activation is '{settings.hidden_act}'; its 4-bit form is GELU's")
        attention = architecture_of(model).attention
        start = f"{attention.module}."
        names = [path.removeprefix(start) for path in (attention.query, attention.key, attention.value)]
        names.append(attention.output.removeprefix(start) if attention.output.startswith(start) else None)
        for layer in encoder_layers(model):
            for path, module in self._paths(model, layer).items():
                if path == attention.module:
                    slim = SlimAttention(module, names, settings.attention_probs_dropout_prob)
                elif isinstance(module, nn.Linear):
                    slim = SlimLinear(module)
                else:
                    slim = SlimGELU()
                _replace(layer, path, module, slim)
        for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)]:
            _replace(model, name, module, SlimNorm(module, self.config.norm_density))

    @staticmethod
    def _paths(model: Any, layer: nn.Module) -> dict[str, nn.Module]:
        row = architecture_of(model)
        paths = (row.attention.module, row.feed_forward.activation, row.feed_forward.down)
        return {path: part_of(layer, path) for path in paths}


def _replace(root: nn.Module, path: str, old: nn.Module, new: nn.Module) -> None:
    """Put `new` in the place of `old`, which it holds without registering it."""
    new._replaced = (old,)
    new.train(old.training)
    root.set_submodule(path, new)
