"""A decoder for masked words that is thrown away when the model is stored (DrBERT / BPDec, arXiv 2401.15861)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertLayer

from replica.methods.base import Context, Method
from replica.methods.pretraining.throwaway_decoder.config import ThrowawayDecoderConfig
from replica.models import body
from replica.models.architectures import architecture_of

#: Name under which the body owns the decoder while it trains.
NAME = "throwaway_decoder"
#: Label of positions that are not predicted.
IGNORED = -100


class Decoder(nn.Module):
    """Blocks over the encoder's states whose keys are all positions but the masked ones that are not yet re-admitted.

    `mask_and_labels` are those of the batch that is run.
    """

    def __init__(self, config: ThrowawayDecoderConfig, model_config: Any):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(BertLayer(model_config) for _ in range(config.blocks))
        self.mask_and_labels: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        self.handles: list[Any] = []

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map the encoder's states (batch, length, width) to the vocabulary head's input, of the same shape.

        While training a position's vector is the encoder's own or the decoder's, by chance; in eval mode it is the decoder's and
        every block looks at all positions.
        """
        mask, labels = self.mask_and_labels
        seen = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask.bool()
        hidden = torch.zeros_like(seen) if labels is None or not self.training else labels != IGNORED
        chance = torch.rand(seen.shape, device=states.device)
        decoded = states
        for block, share in zip(self.blocks, self.config.readmitted, strict=True):
            keys = seen & (~hidden | (chance < share))
            bias = torch.zeros(keys.shape, dtype=states.dtype, device=states.device)
            bias = bias.masked_fill(~keys, torch.finfo(states.dtype).min)
            decoded = block(decoded, bias[:, None, None, :])
        if not self.training:
            return decoded
        own = torch.rand(seen.shape, device=states.device) < self.config.encoder_share
        return torch.where(own.unsqueeze(-1), states, decoded)


class ThrowawayDecoder(Method):
    """Puts the decoder between BERT's encoder and its head of masked words; the stored model is BERT, unchanged.

    Next sentences, where they are predicted too, are predicted from the encoder alone.
    """

    config: ThrowawayDecoderConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Put the decoder in, drawn by the run's seed; raises ConfigError for a model without BERT's head of masked words."""
        inner, head = body(model), getattr(model, "cls", None)
        if architecture_of(model).family != "bert" or head is None or not hasattr(head, "predictions"):
            self.fail(f"{type(model).__name__} is not BERT with a head of masked words; use it with a task of kind mlm")
        device = next(model.parameters()).device
        with torch.device(device):
            decoder = Decoder(self.config, inner.config)
        if device.type != "meta":
            _draw(decoder, inner.config.initializer_range, torch.Generator().manual_seed(context.seed))
        decoder.train(model.training)
        inner.add_module(NAME, decoder)

        def note(_model: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
            decoder.mask_and_labels = (kwargs.get("attention_mask"), kwargs.get("labels"))

        def decode(_head: nn.Module, args: tuple) -> tuple:
            return (decoder(args[0]), *args[1:])

        decoder.handles = [
            model.register_forward_pre_hook(note, with_kwargs=True),
            head.register_forward_pre_hook(decode),
        ]

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return BERT without the decoder."""
        decoder = getattr(body(model), NAME)
        for handle in decoder.handles:
            handle.remove()
        delattr(body(model), NAME)
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Count all parameters: BERT's, and for each block four square matrices, the two of the feed-forward, biases, two norms."""
        config = body(model).config
        width, inner = config.hidden_size, config.intermediate_size
        block = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
        decoder = getattr(body(model), NAME, None)
        own = set() if decoder is None else {id(parameter) for parameter in decoder.parameters()}
        rest = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in own)
        return {"total_parameters": rest + (0 if decoder is None else self.config.blocks * block)}


@torch.no_grad()
def _draw(decoder: Decoder, std: float, seeds: torch.Generator) -> None:
    """Draw the linear layers as BERT's are: normal(0, std), biases zero."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            module.weight.copy_(torch.empty(module.weight.shape).normal_(0.0, std, generator=seeds))
            module.bias.zero_()
