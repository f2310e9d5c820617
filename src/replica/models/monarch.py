"""M2-BERT: an encoder without attention, whose long convolutions mix tokens and whose block-diagonal matrices mix channels.

Monarch Mixer (Fu et al. 2023, 2310.12109), in the shapes of the published configurations.
"""

from __future__ import annotations

import math

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, BertConfig
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.models.bert.modeling_bert import BertEmbeddings, BertOnlyMLMHead, BertPreTrainedModel


@strict
class M2BertConfig(BertConfig):
    """BERT's fields, and the sizes of filters and blocks; `max_position_embeddings` is also the longest convolution."""

    model_type = "m2-bert"

    max_position_embeddings: int = 128
    filter_order: int = 128
    filter_embedding: int = 5
    filter_frequency: float = 10.0
    mlp_blocks: int = 4


class BlockDiagonalLinear(nn.Module):
    """A linear layer whose matrix has `blocks` dense blocks on its diagonal and zeros elsewhere."""

    def __init__(self, inputs: int, outputs: int, blocks: int, bias: bool):
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(f"{blocks} blocks do not divide a matrix of {outputs} x {inputs}")
        self.weight = nn.Parameter(torch.empty(blocks, outputs // blocks, inputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        bound = 1 / math.sqrt(inputs // blocks)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        blocks, _, part = self.weight.shape
        mixed = torch.einsum("...bi,boi->...bo", x.unflatten(-1, (blocks, part)), self.weight).flatten(-2)
        return mixed if self.bias is None else mixed + self.bias


class Sine(nn.Module):
    """sin(f x) with a trained frequency f for each channel."""

    def __init__(self, width: int, frequency: float):
        super().__init__()
        self.frequency = nn.Parameter(torch.full((width,), frequency))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to the same shape."""
        return torch.sin(self.frequency * x)


class LongConvolution(nn.Module):
    """A convolution over the whole sequence in both directions; small nets make the filters from embeddings of the position.

    The nets of the two directions share the frequencies of their sines.
    """

    def __init__(self, config: M2BertConfig):
        super().__init__()
        width, length, order = config.hidden_size, config.max_position_embeddings, config.filter_order
        bands = (config.filter_embedding - 1) // 2
        time = torch.linspace(0, 1, length)[:, None]
        angle = torch.linspace(1e-4, bands - 1, bands) * 2 * math.pi * torch.arange(length)[:, None] / length
        self.positions = nn.Parameter(torch.cat([time, torch.cos(angle), -torch.sin(angle)], -1))
        sine = Sine(order, config.filter_frequency)
        self.after = _filter(config.filter_embedding, order, width, sine)
        self.before = _filter(config.filter_embedding, order, width, sine)
        self.bias = nn.Parameter(torch.randn(width))
        decay = torch.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, width).abs()
        self.register_buffer("decay", torch.exp(-time * decay), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, width): y_t = bias x_t + sum_{s <= t} a_{t-s} x_s + sum_{s > t} b_{s-t-1} x_s, channel by channel."""
        length = x.shape[1]
        after, before = (net(self.positions[:length]) * self.decay[:length] for net in (self.after, self.before))
        kernel = torch.cat([after, before.flip(0)])
        product = torch.fft.rfft(x, 2 * length, dim=1) * torch.fft.rfft(kernel, dim=0)
        return torch.fft.irfft(product, 2 * length, dim=1)[:, :length] + self.bias * x


class SequenceMixer(nn.Module):
    """Three projections through short convolutions, a gated long convolution, plus a second one of the input itself."""

    def __init__(self, config: M2BertConfig):
        super().__init__()
        width = config.hidden_size
        self.in_linear = nn.Linear(width, 3 * width)
        self.short = nn.Conv1d(3 * width, 3 * width, 3, groups=3 * width, padding=2)
        self.long, self.residual = LongConvolution(config), LongConvolution(config)
        self.out_linear = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, width) to the same shape."""
        projected = self.short(self.in_linear(x).transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        first, second, value = projected.chunk(3, -1)
        return self.out_linear(self.long(value * first) * second + self.residual(x))


class M2BertLayer(nn.Module):
    """The sequence mixer, then a gated feed-forward of block-diagonal matrices with residual sum and norm."""

    def __init__(self, config: M2BertConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.mixer = SequenceMixer(config)
        self.gated = BlockDiagonalLinear(width, 2 * inner, config.mlp_blocks, bias=False)
        self.out = BlockDiagonalLinear(inner, width, config.mlp_blocks, bias=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, width) to the same shape."""
        mixed = self.mixer(x)
        gate, value = self.gated(mixed).chunk(2, -1)
        return self.norm(mixed + self.out(self.dropout(functional.gelu(gate) * value)))


class M2BertModel(BertPreTrainedModel):
    """M2-BERT without a head; it sees no mask, so padding must be trained with."""

    config_class = M2BertConfig

    def __init__(self, config: M2BertConfig):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(M2BertLayer(config) for _ in range(config.num_hidden_layers))}
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embeddings of words."""
        return self.embeddings.word_embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **_,
    ) -> BaseModelOutput:
        """Return states (batch, length, width)."""
        hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        for layer in self.encoder["layer"]:
            hidden = layer(hidden)
        return BaseModelOutput(last_hidden_state=hidden)


class M2BertForMaskedLM(BertPreTrainedModel):
    """M2-BERT with BERT's head of masked words."""

    config_class = M2BertConfig
    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: M2BertConfig):
        super().__init__(config)
        self.bert = M2BertModel(config)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Return the output layer."""
        return self.cls.predictions.decoder

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **kwargs) -> MaskedLMOutput:
        """Return logits (batch, length, vocabulary), and with labels (batch, length) the cross-entropy where they are not -100."""
        logits = self.cls(self.bert(input_ids, **kwargs).last_hidden_state)
        loss = None if labels is None else functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)


def _filter(inputs: int, order: int, width: int, sine: Sine) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, order),
        sine,
        nn.Linear(order, order),
        sine,
        nn.Linear(order, order),
        sine,
        nn.Linear(order, width, bias=False),
    )


AutoConfig.register(M2BertConfig.model_type, M2BertConfig)
AutoModel.register(M2BertConfig, M2BertModel)
AutoModelForMaskedLM.register(M2BertConfig, M2BertForMaskedLM)
