"""An image classifier on CLIP's image embedding: tower, projection, one linear layer (ELEVATER, Li et al. 2022; transformers' own
averages the patches before the projection, as CLIP does not)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForImageClassification, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.clip.modeling_clip import CLIPPreTrainedModel


class ClipImageModel(CLIPVisionModelWithProjection):
    """CLIP's image tower with its projection, as a body: both are pretrained, neither is the head."""

    @property
    def encoder(self) -> nn.Module:
        """The tower's encoder, where a body has it."""
        return self.vision_model.encoder


class ClipForImageClassification(CLIPPreTrainedModel):
    """CLIP's image embedding and a linear layer to the labels."""

    config_class = CLIPVisionConfig
    base_model_prefix = "clip"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: CLIPVisionConfig):
        super().__init__(config)
        self.clip = ClipImageModel(config)
        self.classifier = nn.Linear(config.projection_dim, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> ImageClassifierOutput:
        """Return logits (batch, labels) of images (batch, channels, side, side), and with labels (batch,) the cross-entropy."""
        embedded = self.clip(pixel_values, **kwargs)
        logits = self.classifier(embedded.image_embeds)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=embedded.hidden_states, attentions=embedded.attentions
        )


# `exist_ok`: a native configuration is passed over without it.
AutoModelForImageClassification.register(CLIPVisionConfig, ClipForImageClassification, exist_ok=True)
