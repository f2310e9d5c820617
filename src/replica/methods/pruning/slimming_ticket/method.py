"""Structured tickets by learned coefficients on heads and neurons (EarlyBERT, Chen et al. 2021, arXiv 2101.00063, section 3)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from replica.errors import ConfigError, TrainingError
from replica.methods.base import Context, Method
from replica.methods.pruning.removal import cut_inputs, cut_outputs
from replica.methods.pruning.slimming_ticket.config import SlimmingTicketConfig
from replica.models import body, encoder_layers
from replica.models.architectures import require

#: Parameter of the layer that reads the heads or the neurons: one coefficient for each.
COEFFICIENTS = "slimming_coefficients"
#: Buffers: on that layer, the units that the ticket keeps; on the body, whether the ticket is drawn, and the weights before the search.
KEPT = "slimming_kept"
DRAWN = "slimming_drawn"
INITIAL = "slimming_initial"


class SlimmingTicket(Method):
    """One coefficient, first 1, on every head's output and every activated neuron; those with the smallest are cut out.

    A coefficient on the attention weights of a head, after softmax and dropout, is one on the head's input to the output layer:
    (c P) V = c (P V). The penalty adds lambda * sign(c) to a coefficient's gradient, which is the gradient of lambda * sum |c|.
    Coefficients are compared with their sign, as the published code does.
    """

    config: SlimmingTicketConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Put coefficients in and keep a copy of the weights; with random scores, cut at once."""
        if self.name in context.restored:
            return
        require(model, like="bert", method=self.name)
        for reader, units in _readers(model):
            _add_coefficients(reader, units)
        inner = body(model)
        if self.config.scores == "random":
            seeds = torch.Generator().manual_seed(context.seed)
            self._cut(model, self._choose([torch.rand(units, generator=seeds) for _, units in _readers(model)]))
            return
        for reader, units in _readers(model):
            device = reader.weight.device
            reader.register_buffer(KEPT, torch.ones(units, dtype=torch.bool, device=device))
        inner.register_buffer(DRAWN, torch.zeros((), dtype=torch.bool, device=next(model.parameters()).device))
        copies = nn.Module()
        for name, parameter in model.named_parameters():
            copies.register_buffer(_flat(name), parameter.detach().clone())
        inner.add_module(INITIAL, copies)

    def restore(self, model: PreTrainedModel) -> None:
        """Give the layers the sizes of the stored ticket; raises ConfigError where the configuration does not hold them."""
        require(model, like="bert", method=self.name)
        heads, neurons, depth = self.config.kept_heads, self.config.kept_neurons, len(encoder_layers(model))
        if heads is None or neurons is None or len(heads) != depth or len(neurons) != depth:
            self.fail(f"kept_heads and kept_neurons must give one number for each of {depth} layers")
        for reader, units in _readers(model):
            _add_coefficients(reader, units)
        self._cut(model, [torch.arange(count) for pair in zip(heads, neurons, strict=True) for count in pair])

    def on_gradients(self, model: PreTrainedModel, context: Context) -> None:
        """Add the gradient of the penalty while the ticket is searched for; it is part of the gradient whose norm is clipped."""
        if not hasattr(body(model), DRAWN):
            return
        for number, (reader, _) in enumerate(_readers(model)):
            penalty = self.config.neurons_penalty if number % 2 else self.config.heads_penalty
            coefficients = getattr(reader, COEFFICIENTS)
            if coefficients.grad is not None:
                coefficients.grad.add_(coefficients.detach().sign(), alpha=penalty)

    def on_step_end(self, model: PreTrainedModel, context: Context) -> None:
        """Draw the ticket once, at its step; later coefficients do not change it."""
        drawn = getattr(body(model), DRAWN, None)
        if drawn is None or bool(drawn):
            return
        epoch_steps = round(context.step / context.epoch) if context.epoch else context.total_steps
        if context.step < draw_step(self.config, epoch_steps):
            return
        readers = _readers(model)
        chosen = self._choose([getattr(reader, COEFFICIENTS).detach().cpu() for reader, _ in readers])
        for (reader, units), indices in zip(readers, chosen, strict=True):
            mask = torch.zeros(units, dtype=torch.bool)
            mask[indices] = True
            getattr(reader, KEPT).copy_(mask)
        drawn.fill_(True)

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the ticket with the weights (and coefficients) from before the search; raises TrainingError before the draw."""
        inner = body(model)
        drawn = getattr(inner, DRAWN, None)
        if drawn is None:
            return model
        if not bool(drawn):
            raise TrainingError(
                f"method '{self.name}': the search ended before the ticket was drawn (draw {self.config.draw}); "
                "train for more steps or draw earlier"
            )
        chosen = [getattr(reader, KEPT).nonzero().flatten().cpu() for reader, _ in _readers(model)]
        copies = getattr(inner, INITIAL)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(getattr(copies, _flat(name)))
        delattr(inner, INITIAL)
        delattr(inner, DRAWN)
        for reader, _ in _readers(model):
            delattr(reader, KEPT)
        self._cut(model, chosen)
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Count all parameters by the sizes of heads and neurons, with their coefficients."""
        layers = {id(parameter) for layer in encoder_layers(model) for parameter in layer.parameters()}
        total = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in layers)
        width = body(model).config.hidden_size
        size = width // body(model).config.num_attention_heads
        heads, neurons = self._sizes(model)
        for kept_heads, kept_neurons in zip(heads, neurons, strict=True):
            inner = kept_heads * size
            attention = 3 * (width + 1) * inner + (inner + 1) * width + 2 * width + kept_heads
            total += attention + (width + 1) * kept_neurons + (kept_neurons + 1) * width + 2 * width + kept_neurons
        return {"total_parameters": total}

    def cost(self, model: PreTrainedModel) -> dict[str, float]:
        """Return how many heads each layer lost (the most and the fewest), and how many neurons all layers lost together."""
        config = body(model).config
        heads, neurons = self._sizes(model)
        every = config.intermediate_size * len(neurons)
        return {
            "most_heads_cut": config.num_attention_heads - min(heads),
            "fewest_heads_cut": config.num_attention_heads - max(heads),
            "heads_cut_share": 1 - sum(heads) / (config.num_attention_heads * len(heads)),
            "neurons": every,
            "neurons_cut": every - sum(neurons),
            "neurons_cut_share": 1 - sum(neurons) / every,
        }

    def schedule(self, total_steps: int) -> dict[str, float]:
        """Return at which step the ticket is drawn where the first epoch has `total_steps`, and that as a share of the epoch."""
        step = draw_step(self.config, total_steps)
        return {"draw_step": step, "epoch_steps": total_steps, "draw_epochs": step / total_steps}

    def _choose(self, scores: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the indices kept of each layer's heads and neurons, from their scores in the order of `_readers`."""
        threshold = torch.quantile(torch.cat(scores[1::2]), self.config.neurons)
        chosen = []
        for number, values in enumerate(scores):
            least = threshold if number % 2 else torch.quantile(values, self.config.heads)
            chosen.append((values > least).nonzero().flatten())
            if not len(chosen[-1]):
                units = "neurons" if number % 2 else "heads"
                raise TrainingError(
                    f"method '{self.name}': layer {number // 2} would keep no {units}: no coefficient lies above the "
                    f"threshold {float(least):.6g} (they are equal before the first step); draw later"
                )
        return chosen

    def _cut(self, model: PreTrainedModel, chosen: list[torch.Tensor]) -> None:
        size = body(model).config.hidden_size // body(model).config.num_attention_heads
        for layer, heads, neurons in zip(encoder_layers(model), chosen[::2], chosen[1::2], strict=True):
            attention = layer.attention.self
            inside = (heads[:, None] * size + torch.arange(size)).flatten()
            for projection in (attention.query, attention.key, attention.value):
                cut_outputs(projection, inside.to(projection.weight.device))
            _keep_inputs(layer.attention.output.dense, inside, heads)
            attention.num_attention_heads, attention.all_head_size = len(heads), len(inside)
            cut_outputs(layer.intermediate.dense, neurons.to(layer.intermediate.dense.weight.device))
            _keep_inputs(layer.output.dense, neurons, neurons)
        heads, neurons = self._sizes(model)
        self.config = self.config.model_copy(update={"kept_heads": heads, "kept_neurons": neurons})

    def _sizes(self, model: PreTrainedModel) -> tuple[list[int], list[int]]:
        readers = _readers(model)
        return [units for _, units in readers[::2]], [units for _, units in readers[1::2]]


def draw_step(config: SlimmingTicketConfig, epoch_steps: int) -> int:
    """Return after how many steps the ticket is drawn: `draw` itself from 1 on, else its share of the first epoch, rounded."""
    return max(1, round(config.draw if config.draw >= 1 else config.draw * epoch_steps))


def _readers(model: PreTrainedModel) -> list[tuple[nn.Linear, int]]:
    """Return, layer by layer, the output layers of attention and feed-forward, with how many heads or neurons they read."""
    size = body(model).config.hidden_size // body(model).config.num_attention_heads
    readers = []
    for layer in encoder_layers(model):
        attention, feed_forward = layer.attention.output.dense, layer.output.dense
        readers += [(attention, attention.in_features // size), (feed_forward, feed_forward.in_features)]
    return readers


def _add_coefficients(reader: nn.Linear, units: int) -> None:
    if hasattr(reader, COEFFICIENTS):
        raise ConfigError(
            "method 'slimming-ticket': the model has coefficients already; it is a ticket, train it as it is"
        )
    reader.register_parameter(COEFFICIENTS, nn.Parameter(torch.ones(units, device=reader.weight.device)))
    reader.register_forward_pre_hook(_scale)


def _scale(reader: nn.Module, inputs: tuple) -> tuple:
    coefficients = getattr(reader, COEFFICIENTS)
    states, *others = inputs
    scaled = states.unflatten(-1, (coefficients.shape[0], -1)) * coefficients[:, None].to(states.dtype)
    return (scaled.flatten(-2), *others)


def _keep_inputs(layer: nn.Linear, inputs: torch.Tensor, units: torch.Tensor) -> None:
    cut_inputs(layer, inputs.to(layer.weight.device))
    coefficients = getattr(layer, COEFFICIENTS)
    cut = coefficients.detach()[units.to(coefficients.device)]
    setattr(layer, COEFFICIENTS, nn.Parameter(cut, coefficients.requires_grad))


def _flat(name: str) -> str:
    return name.replace(".", "/")
