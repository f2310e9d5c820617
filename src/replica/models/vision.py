"""Convolutional image classifiers that transformers lacks: VGG, LeNet and wide residual networks, built like its models."""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithNoAttention, ImageClassifierOutputWithNoAttention

VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@strict
class VGGConfig(PretrainedConfig):
    """VGG (Simonyan and Zisserman 2015): stages of 3x3 convolutions, halved by pooling after each, then hidden linear layers."""

    model_type = "vgg"

    image_size: int = 224
    num_channels: int = 3
    stages: list[list[int]] | tuple[tuple[int, ...], ...] = VGG_STAGES
    batch_norm: bool = False
    convolution_bias: bool = True
    hidden_sizes: list[int] | tuple[int, ...] = (4096, 4096)
    dropout: float | int = 0.5


@strict
class LeNetConfig(PretrainedConfig):
    """LeNet (LeCun et al. 1998): convolutions with pooling by 2, if any, then hidden linear layers."""

    model_type = "lenet"

    image_size: int = 28
    num_channels: int = 1
    channels: list[int] | tuple[int, ...] = ()
    kernel_size: int = 5
    hidden_sizes: list[int] | tuple[int, ...] = (300, 100)


@strict
class WideResNetConfig(PretrainedConfig):
    """Wide residual network (Zagoruyko and Komodakis 2016): depth 6n + 4, widths 16, 16k, 32k, 64k."""

    model_type = "wideresnet"

    image_size: int = 32
    num_channels: int = 3
    depth: int = 22
    width: int = 2
    dropout: float | int = 0.0

    def __post_init__(self, **kwargs):
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth {self.depth} is not 6n + 4 with n at least 1")
        super().__post_init__(**kwargs)


class ImageModel(PreTrainedModel):
    """Base of the bodies and classifiers here: they read images (batch, channels, side, side) and start with He's initialisation."""

    main_input_name = "pixel_values"
    base_model_prefix = "body"
    input_modalities = ("image",)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class Body(ImageModel):
    """A list of layers run in turn; `features` is the width of its output (batch, features)."""

    def __init__(self, config: PretrainedConfig, layers: list[nn.Module], features: int):
        super().__init__(config)
        self.layers = nn.ModuleList(layers)
        self.features = features

    def forward(self, pixel_values: torch.Tensor, **_) -> BaseModelOutputWithNoAttention:
        """Return the features as `last_hidden_state`."""
        hidden = pixel_values
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutputWithNoAttention(last_hidden_state=hidden.flatten(1))


class VGGModel(Body):
    """VGG without its last linear layer."""

    config_class = VGGConfig

    def __init__(self, config: VGGConfig):
        layers, channels, side = [], config.num_channels, config.image_size
        for widths in config.stages:
            for place, width in enumerate(widths):
                norm = [nn.BatchNorm2d(width)] if config.batch_norm else []
                pool = [nn.MaxPool2d(2)] if place == len(widths) - 1 else []
                convolution = nn.Conv2d(channels, width, 3, padding=1, bias=config.convolution_bias)
                layers.append(nn.Sequential(convolution, *norm, nn.ReLU(), *pool))
                channels = width
            side = _left(side // 2, config)
        hidden, features = _hidden(channels * side**2, config.hidden_sizes, config.dropout)
        super().__init__(config, layers + hidden, features)
        self.post_init()


class LeNetModel(Body):
    """LeNet without its last linear layer."""

    config_class = LeNetConfig

    def __init__(self, config: LeNetConfig):
        layers, channels, side = [], config.num_channels, config.image_size
        for width in config.channels:
            layers.append(nn.Sequential(nn.Conv2d(channels, width, config.kernel_size), nn.ReLU(), nn.MaxPool2d(2)))
            channels, side = width, _left((side - config.kernel_size + 1) // 2, config)
        hidden, features = _hidden(channels * side**2, config.hidden_sizes, 0.0)
        super().__init__(config, layers + hidden, features)
        self.post_init()


class WideBlock(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, plus the input or its 1x1 projection where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int, dropout: float):
        super().__init__()
        self.first_norm = nn.BatchNorm2d(channels)
        self.first = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = channels == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, side, side) to (batch, width, side / stride, side / stride)."""
        active = torch.relu(self.first_norm(hidden))
        shortcut = hidden if self.shortcut is None else self.shortcut(active)
        inner = self.first(active)
        inner = self.second(self.dropout(torch.relu(self.second_norm(inner))))
        return inner + shortcut


class WideResNetModel(Body):
    """A wide residual network without its last linear layer."""

    config_class = WideResNetConfig

    def __init__(self, config: WideResNetConfig):
        layers, channels = [], 16
        for group in range(3):
            width = 16 * 2**group * config.width
            for block in range((config.depth - 4) // 6):
                stride = 2 if group and not block else 1
                layers.append(WideBlock(channels, width, stride, config.dropout))
                channels = width
        super().__init__(config, layers, channels)
        self.embedder = nn.Conv2d(config.num_channels, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **_) -> BaseModelOutputWithNoAttention:
        """Return the features, averaged over the image, as `last_hidden_state` (batch, features)."""
        hidden = self.embedder(pixel_values)
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = torch.relu(self.norm(hidden)).mean((2, 3))
        return BaseModelOutputWithNoAttention(last_hidden_state=hidden)


class ImageClassifier(ImageModel):
    """A body and a linear layer to the labels."""

    body_class: type[Body]

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        self.body = self.body_class(config)
        self.classifier = nn.Linear(self.body.features, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **_
    ) -> ImageClassifierOutputWithNoAttention:
        """Return logits (batch, labels), and with labels (batch,) the cross-entropy."""
        logits = self.classifier(self.body(pixel_values).last_hidden_state)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


class VGGForImageClassification(ImageClassifier):
    """VGG."""

    config_class, body_class = VGGConfig, VGGModel


class LeNetForImageClassification(ImageClassifier):
    """LeNet."""

    config_class, body_class = LeNetConfig, LeNetModel


class WideResNetForImageClassification(ImageClassifier):
    """A wide residual network."""

    config_class, body_class = WideResNetConfig, WideResNetModel


def _hidden(features: int, sizes: list[int] | tuple[int, ...], dropout: float) -> tuple[list[nn.Module], int]:
    """Return the hidden linear layers on flattened features, and the width of the last."""
    layers = []
    for size in sizes:
        drop = [nn.Dropout(dropout)] if dropout else []
        layers.append(nn.Sequential(nn.Flatten(), nn.Linear(features, size), nn.ReLU(), *drop))
        features = size
    return layers, features


def _left(side: int, config: PretrainedConfig) -> int:
    if side < 1:
        raise ValueError(f"images of {config.image_size} x {config.image_size} are too small for so many poolings")
    return side


for _config, _body, _classifier in (
    (VGGConfig, VGGModel, VGGForImageClassification),
    (LeNetConfig, LeNetModel, LeNetForImageClassification),
    (WideResNetConfig, WideResNetModel, WideResNetForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _body)
    AutoModelForImageClassification.register(_config, _classifier)
