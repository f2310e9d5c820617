"""Floating-point operations of a model's forward and backward pass, counted on its matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from replica.meters.batches import loss_of, make_batch
from replica.meters.model_parts import EMBEDDING_MODULES, Located, check_patterns, layer_modules, locate, matching
from replica.meters.options import FLOP_PARTS, FlopsOptions
from replica.meters.semantics import attention, scan_at_once, steady
from replica.meters.tracker import AnswerItems

#: Products of two activations: batched matrix products, as eager attention makes them.
_BATCHED = {torch.ops.aten.bmm, torch.ops.aten.baddbmm}

#: FLOPs by module name ("Global" for all) and operation.
Counts = dict[str, dict[object, int]]
ALL = "Global"
_DEFAULT = FlopsOptions()


class ModuleSpans:
    """Knows the modules inside which an operation runs, for `FlopCounterMode`, which reads `parents`.

    In the forward pass these are the modules now running. In the backward pass they are those whose forward call created the
    running autograd node, known by its sequence number; torch's own tracker fails where a module returns several tensors, as T5's
    attention does.
    """

    def __init__(self, model: nn.Module):
        self.names = {module: name for name, module in model.named_modules() if name}
        self.running: list[tuple[str, int]] = []
        self.spans: list[tuple[int, int, str]] = []
        self.handles: list = []

    @property
    def parents(self) -> set[str]:
        """Names of the modules that the running operation belongs to, and "Global"."""
        node = torch._C._current_autograd_node()
        if node is None:
            return {ALL, *(name for name, _ in self.running)}
        number = node._sequence_nr()
        return {ALL, *(name for start, end, name in self.spans if start <= number < end)}

    def __enter__(self) -> ModuleSpans:
        self.handles = [module.register_forward_pre_hook(self._start) for module in self.names]
        self.handles += [module.register_forward_hook(self._end) for module in self.names]
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()

    def _start(self, module: nn.Module, _inputs) -> None:
        self.running.append((self.names[module], torch.autograd._get_sequence_nr()))

    def _end(self, _module: nn.Module, _inputs, _output) -> None:
        name, start = self.running.pop()
        self.spans.append((start, torch.autograd._get_sequence_nr(), name))


def measure_flops(model: nn.Module, options: FlopsOptions = _DEFAULT) -> dict:
    """Count FLOPs (2 per multiply-add) of one forward pass and, with `backward`, of its backward pass; works on meta.

    Counted are matrix products and convolutions; norms, activation functions, softmax and look-ups are not. Attention is run
    eagerly, because fused kernels hide their products. The forward pass has no labels and no dropout; with `backward` a second,
    labelled pass is differentiated with respect to the trainable parameters. Returns the keys of `FlopsOptions.results`.
    Raises ConfigError for a density that fits no parameter.
    """
    shape = (options.batch, options.length, options.decoder_length)
    training = model.training
    model.eval()
    try:
        with attention(model, "eager"), steady(model), scan_at_once(model), AnswerItems():
            forward = _forward(model, make_batch(model, *shape, labels=False))
            back = _backward(model, make_batch(model, *shape)) if options.backward else {}
    finally:
        model.train(training)
    result = _summary(model, forward, "forward")
    result["macs_forward"] = result["forward"] // 2
    result.update(_summary(model, back, "backward") if options.backward else {"backward": 0})
    result["total"] = result["forward"] + result["backward"]
    result["by_part"] = {part: result[f"{part}_forward"] for part in FLOP_PARTS}
    if (density := options.density) is not None:
        shares = density if isinstance(density, dict) else {"layer_linears": density}
        result["sparse_forward"] = _sparse(model, forward, shares)
        result["sparse_total"] = result["sparse_forward"] + (_sparse(model, back, shares) if options.backward else 0)
    return result


def _forward(model: nn.Module, batch: dict) -> Counts:
    with torch.no_grad(), _counter(model) as counter:
        model(**batch)
    return counter.get_flop_counts()


def _counter(model: nn.Module) -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = ModuleSpans(model)
    return counter


def _backward(model: nn.Module, batch: dict) -> Counts:
    before = {name: p.grad for name, p in model.named_parameters()}
    with _counter(model) as counter:
        loss = loss_of(model, batch)
        forward = {name: dict(counts) for name, counts in counter.get_flop_counts().items()}
        loss.backward()
    for name, parameter in model.named_parameters():
        parameter.grad = before[name]
    return {
        name: {op: count - forward.get(name, {}).get(op, 0) for op, count in counts.items()}
        for name, counts in counter.get_flop_counts().items()
    }


def _summary(model: nn.Module, counts: Counts, phase: str) -> dict[str, int]:
    def at(names: list[str], batched: bool | None = None) -> int:
        return sum(
            n
            for name in names
            for op, n in counts.get(name, {}).items()
            if batched is None or (op in _BATCHED) == batched
        )

    layers = list(layer_modules(model))
    poolers = _outermost(model, lambda step: step == "pooler")
    embeddings = _outermost(model, lambda step: step in EMBEDDING_MODULES)
    everything = counts.get(ALL, {})
    total = sum(everything.values())
    batched = sum(n for op, n in everything.items() if op in _BATCHED)
    heads = at([name for name in _heads(model) if name not in poolers])
    parts = {"transformer": at(layers), "embeddings": at(embeddings), "pooler": at(poolers), "head": heads}
    return {
        phase: total,
        f"linear_{phase}": total - batched,
        f"attention_{phase}": batched,
        f"transformer_linear_{phase}": at(layers, batched=False),
        f"transformer_attention_{phase}": at(layers, batched=True),
        **{f"{part}_{phase}": value for part, value in parts.items()},
        f"other_{phase}": total - sum(parts.values()),
    }


def _outermost(model: nn.Module, fits) -> list[str]:
    """Return the names of modules outside the layers whose last step fits and that are inside no other such module."""
    layers = tuple(f"{name}." for name in layer_modules(model))
    outermost: list[str] = []
    for name, _ in model.named_modules():
        if fits(name.rpartition(".")[2]) and not name.startswith((*layers, *(f"{other}." for other in outermost))):
            outermost.append(name)
    return outermost


def _heads(model: nn.Module) -> list[str]:
    """Return the names of the head's modules: all children but the body, or T5's output layer."""
    body = getattr(model, "base_model", model)
    if body is not model:
        return [name for name, module in model.named_children() if module is not body]
    return [name for name, _ in model.named_children() if name == "lm_head"]


def _sparse(model: nn.Module, counts: Counts, density: Mapping[str, float]) -> float:
    """Return the total in which each matrix that has a density costs its share; other products stay whole."""
    located = list(locate(model))
    check_patterns(density, located, "flops.density")
    total = float(sum(counts.get(ALL, {}).values()))
    for item in located:
        share = matching(density, item)
        if share is not None and item.parameter.dim() > 1:
            total -= (1.0 - share) * _of_matrix(counts, item)
    return total


def _of_matrix(counts: Counts, item: Located) -> int:
    owner = item.name.rpartition(".")[0]
    return sum(count for op, count in counts.get(owner, {}).items() if op not in _BATCHED)
