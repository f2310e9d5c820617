"""Residual networks block by block: those for small images, and those that pruning leaves (He et al. 2016, post-activation)."""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

from replica.models.vision import Body, ImageClassifier

#: Widths inside the blocks of one stage; see `ResidualConfig.blocks`.
Stage = list[list[int]]


@strict
class ResidualConfig(PretrainedConfig):
    """A residual network of basic or bottleneck blocks, each with its own inner widths.

    `widths` are the stages' output widths. `blocks` lists each stage's blocks by the channels that their convolutions read and write on
    the way: [in, inner] of a basic block (two 3x3 convolutions), [in, first, second] of a bottleneck (1x1, 3x3, 1x1); `in` below the width
    of the block's input means that the block reads that many of its channels. An empty list is a block whose branch was removed: its
    shortcut is left. A stage's first block has a projecting shortcut where the shape changes (`projection`), or pads with zeros
    (`padding`); a bottleneck strides in its 3x3 convolution. `stem` is a 7x7 convolution with stride 2 and pooling, or a 3x3 one.
    """

    model_type = "residual"

    image_size: int = 32
    num_channels: int = 3
    stem: str = "3x3"
    stem_width: int = 16
    widths: list[int] | tuple[int, ...] = (16, 32, 64)
    blocks: list[Stage] | tuple[Stage, ...] = (
        [[16, 16]] * 3,
        [[16, 32], [32, 32], [32, 32]],
        [[32, 64], [64, 64], [64, 64]],
    )
    shortcut: str = "padding"
    convolution_bias: bool = False

    def __post_init__(self, **kwargs):
        if self.stem not in ("3x3", "7x7"):
            raise ValueError(f"stem '{self.stem}' is neither 3x3 nor 7x7")
        if self.shortcut not in ("padding", "projection"):
            raise ValueError(f"shortcut '{self.shortcut}' is neither padding nor projection")
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"{len(self.widths)} widths for {len(self.blocks)} stages of blocks")
        arriving = self.stem_width
        for width, stage in zip(self.widths, self.blocks, strict=True):
            for block in stage:
                if len(block) not in (0, 2, 3) or any(one < 1 for one in block) or (block and block[0] > arriving):
                    raise ValueError(
                        f"{block} is no block on {arriving} channels: give [], [in, inner] or [in, first, second]"
                    )
                arriving = width
        super().__post_init__(**kwargs)


class ResidualBlock(nn.Module):
    """ReLU of a branch of convolutions, each with its norm, plus a shortcut."""

    def __init__(self, arriving: int, inner: list[int], width: int, stride: int, config: ResidualConfig):
        super().__init__()
        sizes = [(1, 1), (3, stride), (1, 1)] if len(inner) == 3 else [(3, stride), (3, 1)]
        self.reads, self.width, self.stride = (inner[0] if inner else 0), width, stride
        path = [*inner, width]
        self.branch = nn.ModuleList(
            _convolution(path[at], path[at + 1], size, step, config.convolution_bias)
            for at, (size, step) in enumerate(sizes[: len(inner)])
        )
        changes = arriving != width or stride != 1
        self.shortcut = None
        if changes and config.shortcut == "projection":
            self.shortcut = _convolution(arriving, width, 1, stride, config.convolution_bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, side, side) to (batch, width, side / stride, side / stride)."""
        shortcut = self._padded(hidden) if self.shortcut is None else self.shortcut(hidden)
        if not len(self.branch):
            return torch.relu(shortcut)
        inner = hidden[:, : self.reads]
        for place, convolution in enumerate(self.branch):
            inner = convolution(inner)
            if place < len(self.branch) - 1:
                inner = torch.relu(inner)
        return torch.relu(inner + shortcut)

    def _padded(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.stride > 1:
            hidden = hidden[:, :, :: self.stride, :: self.stride]
        more = self.width - hidden.shape[1]
        return nn.functional.pad(hidden, (0, 0, 0, 0, more // 2, more - more // 2)) if more else hidden


class ResidualModel(Body):
    """A residual network without its last linear layer."""

    config_class = ResidualConfig

    def __init__(self, config: ResidualConfig):
        layers, arriving = [], config.stem_width
        for place, (width, stage) in enumerate(zip(config.widths, config.blocks, strict=True)):
            for number, inner in enumerate(stage):
                stride = 2 if place and not number else 1
                layers.append(ResidualBlock(arriving, inner, width, stride, config))
                arriving = width
        super().__init__(config, layers, arriving)
        size, stride = (7, 2) if config.stem == "7x7" else (3, 1)
        self.embedder = _convolution(config.num_channels, config.stem_width, size, stride, config.convolution_bias)
        self.pool = nn.MaxPool2d(3, 2, 1) if config.stem == "7x7" else nn.Identity()
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **_) -> BaseModelOutputWithNoAttention:
        """Return the features, averaged over the image, as `last_hidden_state` (batch, features)."""
        hidden = self.pool(torch.relu(self.embedder(pixel_values)))
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutputWithNoAttention(last_hidden_state=hidden.mean((2, 3)))


class ResidualForImageClassification(ImageClassifier):
    """A residual network."""

    config_class, body_class = ResidualConfig, ResidualModel


def _convolution(channels: int, width: int, size: int, stride: int, bias: bool) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, size, stride=stride, padding=size // 2, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


AutoConfig.register(ResidualConfig.model_type, ResidualConfig)
AutoModel.register(ResidualConfig, ResidualModel)
AutoModelForImageClassification.register(ResidualConfig, ResidualForImageClassification)
