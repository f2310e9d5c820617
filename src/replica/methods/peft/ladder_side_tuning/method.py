"""Ladder side-tuning: a narrow side network reads the layers of a frozen backbone and alone is trained (Sung et al. 2022)."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import nn

from replica.errors import ConfigError
from replica.methods.base import Context, Method
from replica.methods.peft.ladder_side_tuning.side_network import (
    SideStack,
    check_architecture,
    check_prunable,
    fisher,
    prune_into,
    side_config,
    squares,
    stacks_of,
)
from replica.methods.peft.layers import fill
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.models import body

#: Name under which a stack owns its side network.
LADDER = "ladder"


class Recorder:
    """The inputs that one forward pass of a stack gives to its side network; hooks fill it, and the pass's end empties it."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        """Forget everything of the last forward pass."""
        self.first: torch.Tensor | None = None
        self.memory: torch.Tensor | None = None
        self.memory_mask: torch.Tensor | None = None
        self.words: int | None = None
        self.arguments: dict[str, Any] = {}
        self.taps: dict[int, torch.Tensor] = {}

    def read(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Note how many words a stack that sees images is called with."""
        named = _named(stack, args, kwargs)
        ids = named.get("input_ids")
        self.words = (named["inputs_embeds"] if ids is None else ids).shape[1]

    def start(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Record the first layer's arguments, and call the layer with them cut by `cut` and detached."""
        arguments = _named(layer, args, kwargs)
        self.first, self.arguments, self.taps = arguments.pop("hidden_states"), arguments, {}
        return self.cut(layer, (self.first.detach(),), arguments)

    def cut(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Return a layer's call on the words alone: regions of images after them are the side network's."""
        arguments, words = _named(layer, args, kwargs), self.words
        hidden = arguments.pop("hidden_states")
        if words is not None:
            hidden = hidden[:, :words]
            square = {
                name: arguments[name] for name in ("attention_mask", "position_bias") if arguments.get(name) is not None
            }
            arguments |= {name: value[..., :words, :words] for name, value in square.items()}
        return (hidden,), arguments


def _named(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    return {**dict(zip(_parameters(type(module)), args, strict=False)), **kwargs}


@cache
def _parameters(kind: type[nn.Module]) -> list[str]:
    return list(inspect.signature(kind.forward).parameters)[1:]


class Tap:
    """A forward hook that keeps the output of layer `index`, cut off from any graph."""

    def __init__(self, recorder: Recorder, index: int):
        self.recorder, self.index = recorder, index

    def __call__(self, layer: nn.Module, args: tuple, output: Any) -> None:
        """Keep the layer's hidden states."""
        self.recorder.taps[self.index] = (output[0] if isinstance(output, tuple) else output).detach()


class Climb:
    """A forward hook of a stack that runs its side network on the recorded states and returns the side network's output.

    An encoder before a decoder gives the backbone's states (batch, words, d), which the decoder attends to; the side network's (batch,
    length, d / r), for the side decoder, travel with them as an attribute of that tensor, so that neither is copied.
    """

    def __init__(self, recorder: Recorder):
        self.recorder = recorder

    def __call__(self, stack: nn.Module, args: tuple, output: Any) -> Any:
        """Return the output with the side network's states."""
        seen, side = self.recorder, getattr(stack, LADDER)
        states = side(seen.first, seen.taps, seen.arguments, seen.memory, seen.memory_mask)
        seen.clear()
        if side.up is None:
            setattr(output.last_hidden_state, LADDER, states)
            return output
        output["last_hidden_state"] = states
        if output.get("pooler_output") is not None:
            output["pooler_output"] = stack.pooler(states)
        return output


class Descend:
    """A hook before the decoder of T5 or BART that hands the side encoder's states to the side decoder."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder

    def __call__(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Keep states and mask, and let the backbone see the words alone.

        Raises ConfigError where the states were lost (beams reorder the encoder's), or the call uses a cache.
        """
        if kwargs.get("use_cache") or kwargs.get("past_key_values") is not None:
            raise ConfigError("method 'ladder-side-tuning' keeps no cache: generate with use_cache=False")
        states, mask = kwargs["encoder_hidden_states"], kwargs.get("encoder_attention_mask")
        self.recorder.memory, self.recorder.memory_mask = getattr(states, LADDER, None), mask
        if self.recorder.memory is None:
            raise ConfigError(
                "method 'ladder-side-tuning': the encoder's states carry no side states; give them to the decoder as "
                "the encoder returned them, and generate with num_beams=1"
            )
        return args, kwargs if mask is None else {**kwargs, "encoder_attention_mask": mask[:, : states.shape[1]]}


class LadderSideTuning(Method):
    """Side networks for the stacks of T5 and BART, of BERT's kind and of decoders; the configuration has the equations.

    The backbone is frozen and its states are detached, so that it runs without a graph and saves for backward only the outputs of the
    layers with a rung, which the down-projections' gradients need. Parameters that `also` trains before the first layer get their
    gradient through Down_0. Generation keeps no cache of keys and values.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put the side networks in (unless they were restored), started by `start`, and freeze the rest."""
        if self.name not in context.restored:
            meta = next(model.parameters()).is_meta
            importance = squares
            pruned = self.config.start != "random" and not meta
            if pruned:
                check_prunable(model)
            if pruned and self.config.start == "fisher":  # before the side networks take the stacks' outputs' place
                importance = fisher(model, context, self.config.fisher_examples)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(context.seed)
                self.restore(model)
            if pruned:
                sides = [getattr(stack, LADDER) for stack, _ in stacks_of(model)]
                prune_into(model, sides, importance, self.config.within_heads, self.config.released_walk)
            if self.config.projection_std is not None:
                self._draw_projections(model, torch.Generator().manual_seed(context.seed))
        trained = [p for stack, _ in stacks_of(model) for p in getattr(stack, LADDER).parameters()]
        train_only(model, [*trained, *also_trained(model, self.config)])

    def _draw_projections(self, model: Any, seeds: torch.Generator) -> None:
        for stack, _ in stacks_of(model):
            side = getattr(stack, LADDER)
            for linear in (side.first, *(rung.down for rung in side.blocks), *([] if side.up is None else [side.up])):
                fill(linear.weight, std=self.config.projection_std, seeds=seeds)
                nn.init.zeros_(linear.bias)

    def restore(self, model: Any) -> None:
        """Put side networks with their hooks into the model; raises ConfigError for layers or widths that do not fit."""
        row, stacks = check_architecture(model), stacks_of(model)
        memory = len(stacks) > 1
        for number, (stack, layers) in enumerate(stacks):
            rungs = self.rungs(len(layers))
            config = side_config(stack.config, self.config.reduction, len(rungs))
            with torch.device(next(model.parameters()).device):
                last = number == len(stacks) - 1
                side = SideStack(stack, row, rungs, len(layers), config, self.config, up=last)
            recorder = Recorder()
            if memory and last:
                stack.register_forward_pre_hook(Descend(recorder), with_kwargs=True)
            layers[0].register_forward_pre_hook(recorder.start, with_kwargs=True)
            if hasattr(stack, "visual"):
                stack.register_forward_pre_hook(recorder.read, with_kwargs=True)
                for layer in layers[1:]:
                    layer.register_forward_pre_hook(recorder.cut, with_kwargs=True)
            for index in rungs:
                layers[index].register_forward_hook(Tap(recorder, index))
            stack.register_forward_hook(Climb(recorder))
            stack.add_module(LADDER, side)
        for part in (model, *(stack for stack, _ in stacks)):
            for config in (part.config, getattr(part, "generation_config", None)):
                if hasattr(config, "use_cache"):
                    config.use_cache = False

    def rungs(self, depth: int) -> list[int]:
        """Return the layers with a rung, of `depth`; raises ConfigError for those that are not there or come twice."""
        layers = self.config.layers
        wrong = [index for index in layers if not 0 <= index < depth]
        if wrong or len(set(layers)) < len(layers):
            fault = f"{wrong} are not among" if wrong else "repeats some of"
            self.fail(f"layers {layers}: {fault} the {depth} layers 0 to {depth - 1}")
        return sorted(layers) or list(range(depth))

    def expected(self, model: Any) -> dict[str, float]:
        """Count by the formulas: blocks of width d / r, projections d x d / r with a bias, norms, gates, and `also`."""
        config, r = body(model).config, self.config.reduction
        row, d = check_architecture(model), config.hidden_size
        s = d // r
        total = s * d + d  # the up-projection
        for number, (_, layers) in enumerate(stacks_of(model)):
            rungs = len(self.rungs(len(layers)))
            total += (
                (rungs + 1) * (d * s + s) + len(layers) + rungs * _block(config, row.family, s, r, decoder=number == 1)
            )
            if row.shared_bias:
                total += config.relative_attention_num_buckets * config.num_heads + s
            elif row.family == "opt" and config.do_layer_norm_before:
                total += 2 * s
            elif row.family == "llama":
                total += s
        return {"trainable_parameters": total + count(also_trained(model, self.config))}


def _block(config: Any, family: str, s: int, r: int, decoder: bool) -> int:
    """Return the parameters of one side block of width s."""
    if family == "t5":
        inner, wide = config.num_heads * (config.d_kv // r), config.d_ff // r
        attentions = 2 if decoder else 1
        matrices = 3 if config.is_gated_act else 2
        return attentions * (4 * s * inner + s) + matrices * s * wide + s
    if family == "llama":
        head = config.head_dim // r
        heads = config.num_attention_heads + config.num_key_value_heads
        return 2 * s * heads * head + 3 * s * (config.intermediate_size // r) + 2 * s
    if family == "bart":
        attentions, wide = (2, config.decoder_ffn_dim) if decoder else (1, config.encoder_ffn_dim)
    else:
        attentions, wide = 1, config.ffn_dim if family == "opt" else config.intermediate_size
    return attentions * (4 * (s * s + s) + 2 * s) + (2 * s + 1) * (wide // r) + s + 2 * s
