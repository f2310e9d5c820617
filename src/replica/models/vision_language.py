"""CLIP-BART: BART whose encoder also reads the features of an image, as VL-Adapter (Sung et al. 2022) and VL-BART use it.

CLIP-T5 (`vision_language_t5`) uses its embedding of regions, their mask, and the way images reach encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bart.configuration_bart import BartConfig
from transformers.models.bart.modeling_bart import BartEncoder, BartForConditionalGeneration, BartModel

from replica.errors import ConfigError

#: A box is its left, top, right and bottom edge; its area is computed.
BOX = 4
#: Arguments of a forward pass that hold images or their regions.
SEEN = ("features", "boxes", "images", "pixel_values", "image_mask")


@strict
class ClipBartConfig(BartConfig):
    """BART with images: `regions` features of `feature_size` an image (36 cells of CLIP's grid), from up to `images` images.

    With `vision` the model has an encoder of images of `image_size` squared of its own, convolutions of these widths, each of which
    halves the sides; else features come from outside. The last words of the vocabulary, counted backwards, name the regions' places
    in their order.
    """

    model_type = "clip-bart"

    feature_size: int = 2048
    regions: int = 36
    images: int = 2
    vision: list[int] | None = None
    image_size: int = 224


class GridEncoder(nn.Sequential):
    """Convolutions of stride 2 without biases: an image becomes a grid of features, as CLIP's RN101 gives in the paper."""

    def __init__(self, widths: list[int]):
        layers: list[nn.Module] = []
        for inputs, outputs in zip([3, *widths], widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.GELU()]
        super().__init__(*layers)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map images (batch, images, 3, height, width) to features (batch, images, regions, width of the last layer)."""
        grids = super().forward(pixel_values.flatten(0, 1))
        return grids.flatten(2).transpose(1, 2).unflatten(0, pixel_values.shape[:2])


def grid_boxes(regions: int, like: torch.Tensor) -> torch.Tensor:
    """Return the cells (regions, 4) of a square grid, row by row: left, top, right and bottom as shares of the sides."""
    side = round(regions**0.5)
    if side * side != regions:
        raise ConfigError(f"{regions} regions are no square grid; give their boxes")
    cell = torch.arange(regions, device=like.device)
    left, top = (cell % side) / side, (cell // side) / side
    return torch.stack([left, top, left + 1 / side, top + 1 / side], 1).to(like.dtype)


class VisualEmbedding(nn.Module):
    """Regions of an image as vectors of the encoder: feature, box, image and place in the order, summed.

    Feature and box go each through a linear layer and a norm, which `norm` makes for a width; the place is a word embedding, which is
    not its own.
    """

    def __init__(self, config: Any, norm: Callable[[int], nn.Module] = nn.LayerNorm):
        super().__init__()
        self.feature = nn.Sequential(nn.Linear(config.feature_size, config.d_model), norm(config.d_model))
        self.box = nn.Sequential(nn.Linear(BOX + 1, config.d_model), norm(config.d_model))
        self.image = nn.Embedding(config.images, config.d_model)

    def forward(
        self,
        features: torch.Tensor,
        boxes: torch.Tensor | None,
        words: nn.Embedding,
        images: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map features (batch, regions, feature_size) and boxes (batch, regions, 4) to (batch, regions, width).

        `images` (batch, regions) are the numbers of the regions' images; 0 when absent. Features (batch, images, regions,
        feature_size) become (batch, images x regions, width): each image's places are counted from its first, and without boxes its
        regions are the cells of a square grid.
        """
        if features.dim() == 4:
            return self._images(features, boxes, words)
        area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).unsqueeze(-1)
        images = torch.zeros(boxes.shape[:2], dtype=torch.long, device=boxes.device) if images is None else images
        places = words.num_embeddings - 1 - torch.arange(boxes.shape[1], device=boxes.device)
        box = self.box(torch.cat([boxes, area], -1))
        return self.feature(features) + box + self.image(images) + words(places)

    def _images(self, features: torch.Tensor, boxes: torch.Tensor | None, words: nn.Embedding) -> torch.Tensor:
        rows, images, regions = features.shape[:3]
        boxes = grid_boxes(regions, features).expand(rows, images, -1, -1) if boxes is None else boxes
        numbers = torch.arange(images, device=features.device).repeat(rows)
        flat = self(features.flatten(0, 1), boxes.flatten(0, 1), words, numbers.unsqueeze(1).expand(-1, regions))
        return flat.view(rows, images * regions, -1)


def region_mask(
    config: Any,
    features: torch.Tensor | None,
    pixel_values: torch.Tensor | None,
    image_mask: torch.Tensor | None,
) -> torch.Tensor | None:
    """Return which regions are there, (batch, all regions), or None where there are no images."""
    if features is None and pixel_values is None:
        return None
    if features is not None and features.dim() == 3:
        return torch.ones(features.shape[:2], dtype=torch.long, device=features.device)
    images = pixel_values if features is None else features
    seen = torch.ones(images.shape[:2], dtype=torch.long, device=images.device) if image_mask is None else image_mask
    return seen.repeat_interleave(config.regions if features is None else features.shape[2], 1)


class Looking:
    """Of a model with an `encoder` of words and regions: it runs that encoder, and its decoder looks at both."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run encoder and decoder; `attention_mask` (batch, words) is that of the words, every region of an image is seen."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                features=features,
                boxes=boxes,
                images=images,
                pixel_values=pixel_values,
                image_mask=image_mask,
            )
        seen = region_mask(self.config, features, pixel_values, image_mask)
        if seen is not None:
            if attention_mask is None:
                text = input_ids if inputs_embeds is None else inputs_embeds
                words = encoder_outputs[0].shape[1] - seen.shape[1] if text is None else text.shape[1]
                attention_mask = seen.new_ones(seen.shape[0], words)
            attention_mask = torch.cat([attention_mask, seen.to(attention_mask.dtype)], 1)
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, encoder_outputs=encoder_outputs, **kwargs
        )


class Answering:
    """Of a model with an output layer: it takes images with words and labels, and in every step of generating."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the decoder's output for words and images, with the loss where there are labels."""
        seen = {"features": features, "boxes": boxes, "images": images, "pixel_values": pixel_values}
        seen = {name: value for name, value in {**seen, "image_mask": image_mask}.items() if value is not None}
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **seen, **kwargs)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a step's inputs, images in every step and not in the first alone: the mask over the encoder's states counts regions."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        return {**inputs, **{name: kwargs[name] for name in SEEN if kwargs.get(name) is not None}}


class JointEncoder(BartEncoder):
    """BART's encoder over words and then regions: the words are embedded as in BART, the regions get no word position."""

    config_class = ClipBartConfig

    def __init__(self, config: ClipBartConfig):
        super().__init__(config)
        self.visual = VisualEmbedding(config)
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
        """Return states (batch, words + regions, width), words first.

        `attention_mask` (batch, words) is that of the words. Regions are those of `pixel_values` (batch, images, 3, height, width) or
        `features`; `image_mask` (batch, images) is 0 for an image that is not there.
        """
        words = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        states = self.layernorm_embedding(words + self.embed_positions(words[:, :, -1]))
        seen = region_mask(self.config, features, pixel_values, image_mask)
        if seen is not None:
            features = self.vision(pixel_values) if features is None else features
            if attention_mask is None:
                attention_mask = seen.new_ones(states.shape[:2])
            attention_mask = torch.cat([attention_mask, seen.to(attention_mask.dtype)], 1)
            states = torch.cat([states, self.visual(features, boxes, self.embed_tokens, images)], 1)
        states = nn.functional.dropout(states, p=self.dropout, training=self.training)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        for layer in self.layers:
            states = layer(states, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=states)


class ClipBartModel(Looking, BartModel):
    """BART with a joint encoder."""

    config_class = ClipBartConfig

    def __init__(self, config: ClipBartConfig):
        super().__init__(config)
        self.encoder = JointEncoder(config)
        self.post_init()


class ClipBartForConditionalGeneration(Answering, BartForConditionalGeneration):
    """CLIP-BART with BART's output layer: answers and captions are generated."""

    config_class = ClipBartConfig

    def __init__(self, config: ClipBartConfig):
        super().__init__(config)
        self.model = ClipBartModel(config)
        self.post_init()


AutoConfig.register(ClipBartConfig.model_type, ClipBartConfig)
AutoModel.register(ClipBartConfig, ClipBartModel)
AutoModelForSeq2SeqLM.register(ClipBartConfig, ClipBartForConditionalGeneration)
