"""DEFT: a loss on the share of feed-forward activations that are not zero, and that share counted (Runwal et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.deft.config import DEFTConfig
from replica.models import body, encoder_layers
from replica.models.architectures import require
from replica.models.sublayers import part_of

#: Examples that are looked at together when the density is counted.
_BATCH = 32
#: Name under which a model owns the density that was counted.
DENSITY = "activation_density"


class Seen:
    """The outputs of the activations in one forward pass, in the order of the layers; hooks fill it while it is open."""

    def __init__(self, modules: list[nn.Module]):
        self.outputs: list[torch.Tensor] = []
        self._modules = modules

    def __enter__(self) -> Seen:
        self._handles = [m.register_forward_hook(lambda _m, _i, out: self.outputs.append(out)) for m in self._modules]
        return self

    def __exit__(self, *_error: Any) -> None:
        for handle in self._handles:
            handle.remove()


def activations(model: Any) -> list[nn.Module]:
    """Return the activation modules of the feed-forward blocks, layer by layer; of a gated block that of the activated branch.

    Raises ConfigError for an architecture whose blocks have no known activation.
    """
    path = require(model, "feed_forward.activation", method="deft").feed_forward.activation
    return [part_of(layer, path) for layer in encoder_layers(model)]


class DEFT(Method):
    """The density loss, added to the task's own; it moves the trained parameters alone."""

    config: DEFTConfig

    def prepare(self, model: Any, context: Context) -> None:
        """Find the activations, and give the model a place for their densities, so that a checkpoint keeps them."""
        holder = nn.Module()
        device = next(model.parameters()).device
        holder.register_buffer("values", torch.full((len(activations(model)),), float("nan"), device=device))
        model.add_module(DENSITY, holder)

    def loss(self, model: Any, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the task's loss + weight * density loss."""
        with Seen(activations(model)) as seen:
            loss = context.forward(model, batch).loss
        if not self.config.weight:
            return loss
        density = density_loss(
            seen.outputs, self._masks(model, batch, seen.outputs), self.config.epsilon, self._split(model)
        )
        context.record(task_loss=float(loss.detach()), density_loss=float(density.detach()))
        return loss + self.config.weight * density

    @staticmethod
    def _split(model: Any) -> int:
        """Return how many of the layers are the encoder's."""
        return body(model).config.num_hidden_layers

    def _masks(
        self, model: Any, batch: dict[str, torch.Tensor], outputs: list[torch.Tensor]
    ) -> list[torch.Tensor | None]:
        """Return for each layer which tokens count, (batch, length), None for all."""
        if self.config.padding:
            return [None] * len(outputs)
        encoder, labels = batch.get("attention_mask"), batch.get("labels")
        decoder = None if labels is None or labels.dim() < 2 else (labels != -100)
        split = self._split(model)
        return [encoder if index < split else decoder for index in range(len(outputs))]

    @torch.no_grad()
    def on_step_end(self, model: Any, context: Context) -> None:
        """Count the share of activations that are not exactly zero in float32, layer by layer, when training ends."""
        if context.step < context.total_steps or context.unseen is None:
            return
        batch = context.unseen(self.config.examples)
        device, total = next(model.parameters()).device, len(next(iter(batch.values())))
        counts = torch.zeros(len(activations(model)), 2, dtype=torch.float64)
        training = model.training
        model.eval()
        for start in range(0, total, _BATCH):
            part = {key: value[start : start + _BATCH].to(device) for key, value in batch.items()}
            with Seen(activations(model)) as seen:
                context.exactly(model, part)
            for index, (output, mask) in enumerate(
                zip(seen.outputs, self._masks(model, part, seen.outputs), strict=True)
            ):
                outputs = output if mask is None else output[mask.bool()]
                counts[index] += torch.tensor([int(outputs.count_nonzero()), outputs.numel()])
        model.train(training)
        getattr(model, DENSITY).values.copy_(counts[:, 0] / counts[:, 1])

    def reported(self, model: Any, context: Context) -> dict[str, float]:
        """Return the density of each layer (`layer<i>`) and their mean (`density`; of T5 also `encoder` and `decoder`)."""
        values, split = getattr(model, DENSITY).values, self._split(model)
        densities = {f"layer{index}": value for index, value in enumerate(values.tolist())}
        if len(values) > split:
            densities |= {"encoder": float(values[:split].mean()), "decoder": float(values[split:].mean())}
        return {"density": float(values.mean()), **densities}

    def finalize(self, model: Any) -> Any:
        """Take the densities' place away."""
        delattr(model, DENSITY)
        return model


def density_loss(
    outputs: list[torch.Tensor], masks: list[torch.Tensor | None], epsilon: float, encoder_layers: int
) -> torch.Tensor:
    """Return the mean over layers and examples of mean(o^2 / (o^2 + eps)) over tokens and units; encoder's and decoder's are added.

    In float32: the square of a small activation is zero in half precision.
    """
    shares = []
    for output, mask in zip(outputs, masks, strict=True):
        squares = output.float().square()
        share = (squares / (squares + epsilon)).flatten(2).mean(2)
        if mask is None:
            shares.append(share.mean())
        else:
            shares.append(((share * mask).sum(1) / mask.sum(1).clamp(min=1)).mean())
    parts = [part for part in (shares[:encoder_layers], shares[encoder_layers:]) if part]
    return sum(torch.stack(part).mean() for part in parts)
