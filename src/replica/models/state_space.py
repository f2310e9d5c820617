"""Vision Mamba: images by a selective state-space model that reads the patches in both directions (Zhu et al. 2024, 2401.09417)."""

from __future__ import annotations

import math

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

from replica.models.vision import ImageClassifier, ImageModel


@strict
class VimConfig(PretrainedConfig):
    """Vision Mamba: patches, a class token in their middle, blocks of two scans that share their projections."""

    model_type = "vim"

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 192
    num_hidden_layers: int = 24
    state_size: int = 16
    expand: int = 2
    conv_kernel: int = 4
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    time_step_min: float = 0.001
    time_step_max: float = 0.1


class SelectiveScan(nn.Module):
    """One direction of a block: a causal depthwise convolution, then h = exp(dt A) h + dt B x and y = C h + D x.

    dt, B and C are read from each token; A = -exp(A_log). Mamba (Gu and Dao 2023, 2312.00752), algorithm 2.
    """

    def __init__(self, config: VimConfig):
        super().__init__()
        inner, state = config.expand * config.hidden_size, config.state_size
        self.rank = math.ceil(config.hidden_size / 16)
        self.conv1d = nn.Conv1d(inner, inner, config.conv_kernel, groups=inner, padding=config.conv_kernel - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, inner) to the same shape; a token's output depends on it and on those before it."""
        x = functional.silu(self.conv1d(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        step, b, c = self.x_proj(x).split([self.rank, self.A_log.shape[1], self.A_log.shape[1]], -1)
        step = functional.softplus(self.dt_proj(step))
        decay = torch.exp(step.unsqueeze(-1) * -torch.exp(self.A_log))
        added = (step * x).unsqueeze(-1) * b.unsqueeze(-2)
        state, states = torch.zeros_like(added[:, 0]), []
        for token in range(x.shape[1]):
            state = decay[:, token] * state + added[:, token]
            states.append(state)
        return (torch.stack(states, 1) * c.unsqueeze(-2)).sum(-1) + self.D * x


class VimBlock(nn.Module):
    """Norm, projection to x and gate, a scan forwards and one backwards, their mean times the gate, projection back, residual sum."""

    def __init__(self, config: VimConfig):
        super().__init__()
        width, inner = config.hidden_size, config.expand * config.hidden_size
        self.norm = nn.RMSNorm(width, eps=config.layer_norm_eps)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.forwards, self.backwards = SelectiveScan(config), SelectiveScan(config)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, width) to the same shape."""
        x, gate = self.in_proj(self.norm(hidden)).chunk(2, -1)
        both = (self.forwards(x) + self.backwards(x.flip(1)).flip(1)) / 2
        return hidden + self.out_proj(both * functional.silu(gate))


class VimEmbeddings(nn.Module):
    """Patches, the class token in their middle, and an embedding of each place."""

    def __init__(self, config: VimConfig):
        super().__init__()
        width, patches = config.hidden_size, (config.image_size // config.patch_size) ** 2
        if not patches:
            raise ValueError(f"images of {config.image_size} hold no patch of {config.patch_size}")
        self.patches = nn.Conv2d(config.num_channels, width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, patches + 1, width))
        self.middle = patches // 2

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, side, side) to (batch, patches + 1, width); the class token is at `middle`."""
        patches = self.patches(pixel_values).flatten(2).transpose(1, 2)
        token = self.class_token.expand(patches.shape[0], -1, -1)
        return torch.cat([patches[:, : self.middle], token, patches[:, self.middle :]], 1) + self.positions


class VimModel(ImageModel):
    """Vision Mamba without its classifier."""

    config_class = VimConfig

    def __init__(self, config: VimConfig):
        super().__init__(config)
        self.features = config.hidden_size
        self.embeddings = VimEmbeddings(config)
        self.layers = nn.ModuleList(VimBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, VimEmbeddings):
            nn.init.normal_(module.class_token, std=self.config.initializer_range)
            nn.init.normal_(module.positions, std=self.config.initializer_range)
        elif isinstance(module, SelectiveScan):
            low, high = math.log(self.config.time_step_min), math.log(self.config.time_step_max)
            step = torch.exp(torch.empty_like(module.dt_proj.bias).uniform_(low, high))
            module.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step

    def forward(self, pixel_values: torch.Tensor, **_) -> BaseModelOutputWithNoAttention:
        """Return the class token's normed state after the last block as `last_hidden_state` (batch, width)."""
        hidden = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutputWithNoAttention(last_hidden_state=self.norm(hidden)[:, self.embeddings.middle])


class VimForImageClassification(ImageClassifier):
    """Vision Mamba."""

    config_class, body_class = VimConfig, VimModel


AutoConfig.register(VimConfig.model_type, VimConfig)
AutoModel.register(VimConfig, VimModel)
AutoModelForImageClassification.register(VimConfig, VimForImageClassification)
