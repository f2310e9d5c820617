"""CLIP-BART: BART whose encoder also reads the features of an image, as VL-Adapter (Sung et al. 2022) and VL-BART use it."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bart.configuration_bart import BartConfig
from transformers.models.bart.modeling_bart import BartEncoder, BartForConditionalGeneration, BartModel

#: A box is its left, top, right and bottom edge; its area is computed.
BOX = 4


@strict
class ClipBartConfig(BartConfig):
    """BART with images: `regions` features of `feature_size` an example (36 cells of CLIP's grid), from up to `images` images.

    The last words of the vocabulary, counted backwards, name the regions' places in their order.
    """

    model_type = "clip-bart"

    feature_size: int = 2048
    regions: int = 36
    images: int = 2


class VisualEmbedding(nn.Module):
    """Regions of an image as vectors of the encoder: feature, box, image and place in the order, summed.

    Feature and box go each through a linear layer and a layer norm; the place is a word embedding, which is not its own.
    """

    def __init__(self, config: ClipBartConfig):
        super().__init__()
        self.feature = nn.Sequential(nn.Linear(config.feature_size, config.d_model), nn.LayerNorm(config.d_model))
        self.box = nn.Sequential(nn.Linear(BOX + 1, config.d_model), nn.LayerNorm(config.d_model))
        self.image = nn.Embedding(config.images, config.d_model)

    def forward(
        self, features: torch.Tensor, boxes: torch.Tensor, words: nn.Embedding, images: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map features (batch, regions, feature_size) and boxes (batch, regions, 4) to (batch, regions, width).

        `images` (batch, regions) says which image a region is of; the first when absent.
        """
        area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).unsqueeze(-1)
        images = torch.zeros(boxes.shape[:2], dtype=torch.long, device=boxes.device) if images is None else images
        places = words.num_embeddings - 1 - torch.arange(boxes.shape[1], device=boxes.device)
        box = self.box(torch.cat([boxes, area], -1))
        return self.feature(features) + box + self.image(images) + words(places)


class JointEncoder(BartEncoder):
    """BART's encoder over words and then regions: the words are embedded as in BART, the regions get no word position."""

    config_class = ClipBartConfig

    def __init__(self, config: ClipBartConfig):
        super().__init__(config)
        self.visual = VisualEmbedding(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Return states (batch, words + regions, width); the mask covers both, words first."""
        words = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        states = self.layernorm_embedding(words + self.embed_positions(words[:, :, -1]))
        if features is not None:
            states = torch.cat([states, self.visual(features, boxes, self.embed_tokens, images)], 1)
        states = nn.functional.dropout(states, p=self.dropout, training=self.training)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        for layer in self.layers:
            states = layer(states, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=states)


class ClipBartModel(BartModel):
    """BART with a joint encoder; its decoder looks at words and regions."""

    config_class = ClipBartConfig

    def __init__(self, config: ClipBartConfig):
        super().__init__(config)
        self.encoder = JointEncoder(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run encoder and decoder; `attention_mask` (batch, words) is that of the words, every region is seen."""
        if features is not None:
            given = input_ids if inputs_embeds is None else inputs_embeds
            seen = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
            seen = seen if attention_mask is None else attention_mask
            attention_mask = torch.cat([seen, seen.new_ones(features.shape[:2])], 1)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                features=features,
                boxes=boxes,
                images=images,
            )
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, encoder_outputs=encoder_outputs, **kwargs
        )


class ClipBartForConditionalGeneration(BartForConditionalGeneration):
    """CLIP-BART with BART's output layer: answers and captions are generated."""

    config_class = ClipBartConfig

    def __init__(self, config: ClipBartConfig):
        super().__init__(config)
        self.model = ClipBartModel(config)
        self.post_init()


AutoConfig.register(ClipBartConfig.model_type, ClipBartConfig)
AutoModel.register(ClipBartConfig, ClipBartModel)
AutoModelForSeq2SeqLM.register(ClipBartConfig, ClipBartForConditionalGeneration)
