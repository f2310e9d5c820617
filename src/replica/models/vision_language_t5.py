"""CLIP-T5: T5 whose encoder also reads the features of an image, as VL-T5 (Cho et al. 2021) and VL-Adapter (Sung et al. 2022) use it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5ForConditionalGeneration,
    T5LayerNorm,
    T5Model,
    T5Stack,
)

from replica.models.vision_language import Answering, GridEncoder, Looking, VisualEmbedding, region_mask


@strict
class ClipT5Config(T5Config):
    """T5 with images; the fields of images are those of `ClipBartConfig`."""

    model_type = "clip-t5"

    feature_size: int = 2048
    regions: int = 36
    images: int = 2
    vision: list[int] | None = None
    image_size: int = 224


def joint_bias(attention: T5Attention, words: int, length: int) -> torch.Tensor:
    """Return position biases (1, heads, length, length): T5's own among the first `words`, and none from or to later positions."""
    rest = length - words
    return nn.functional.pad(attention.compute_bias(words, words), (0, rest, 0, rest))


class JointT5Encoder(T5Stack):
    """T5's encoder over words and then regions; relative positions count between words alone."""

    config_class = ClipT5Config

    def __init__(self, config: ClipT5Config):
        super().__init__(config)
        self.visual = VisualEmbedding(config, partial(T5LayerNorm, eps=config.layer_norm_epsilon))
        self.vision = GridEncoder(config.vision) if config.vision else None
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Return states (batch, words + regions, width), words first; arguments are those of CLIP-BART's encoder."""
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        words = states.shape[1]
        seen = region_mask(self.config, features, pixel_values, image_mask)
        if seen is not None:
            features = self.vision(pixel_values) if features is None else features
            if attention_mask is None:
                attention_mask = seen.new_ones(states.shape[:2])
            attention_mask = torch.cat([attention_mask, seen.to(attention_mask.dtype)], 1)
            states = torch.cat([states, self.visual(features, boxes, self.embed_tokens, images)], 1)
        states = self.dropout(states)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        bias = joint_bias(self.block[0].layer[0].SelfAttention, words, states.shape[1])
        for block in self.block:
            states, bias, _ = block(states, mask, bias, **kwargs)
        return BaseModelOutput(last_hidden_state=self.dropout(self.final_layer_norm(states)))


class ClipT5Model(Looking, T5Model):
    """T5 with a joint encoder."""

    config_class = ClipT5Config

    def __init__(self, config: ClipT5Config):
        super().__init__(config)
        self.encoder = JointT5Encoder(self.encoder.config)
        self.post_init()


class ClipT5ForConditionalGeneration(Answering, Looking, T5ForConditionalGeneration):
    """CLIP-T5 with T5's output layer: answers and captions are generated."""

    config_class = ClipT5Config

    def __init__(self, config: ClipT5Config):
        super().__init__(config)
        self.encoder = JointT5Encoder(self.encoder.config)
        self.post_init()


AutoConfig.register(ClipT5Config.model_type, ClipT5Config)
AutoModel.register(ClipT5Config, ClipT5Model)
AutoModelForSeq2SeqLM.register(ClipT5Config, ClipT5ForConditionalGeneration)
