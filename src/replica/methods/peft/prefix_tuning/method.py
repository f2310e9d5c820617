"""Prefix tuning with the prefix of the peft library, put into the model in place (Li and Liang 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.positions import check_length, with_tokens
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.models import body
from replica.models.architectures import require


class PrefixTuning(Method):
    """Trained keys and values before those of every self-attention layer (peft's PrefixEncoder), for BERT and RoBERTa."""

    def prepare(self, model: Any, context: Context) -> None:
        """Put the prefix in (unless it was restored), drawn by the run's seed, and freeze the rest."""
        if self.name not in context.restored:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(context.seed)
                self.restore(model)
        train_only(model, [*body(model).prefix.parameters(), *also_trained(model, self.config)])

    def restore(self, model: Any) -> None:
        """Put a prefix module and its hook into the model; raises ConfigError for architectures without support."""
        from peft import PrefixEncoder, PrefixTuningConfig

        inner = body(model)
        require(model, like="bert", method=self.name)
        config = PrefixTuningConfig(
            num_virtual_tokens=self.config.tokens,
            token_dim=inner.config.hidden_size,
            num_layers=inner.config.num_hidden_layers,
            num_attention_heads=inner.config.num_attention_heads,
            num_transformer_submodules=1,
            encoder_hidden_size=inner.config.hidden_size,
        )
        inner.add_module("prefix", PrefixEncoder(config).to(next(model.parameters()).device))
        inner.register_forward_pre_hook(_attend_to_prefix, with_kwargs=True)

    def expected(self, model: Any) -> dict[str, float]:
        """Count tokens x layers x 2 x hidden size, and the other trained parameters."""
        config = body(model).config
        own = self.config.tokens * config.num_hidden_layers * 2 * config.hidden_size
        return {"trainable_parameters": own + count(also_trained(model, self.config))}


def _attend_to_prefix(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    from transformers import DynamicCache

    names = ("input_ids", "attention_mask", "token_type_ids")
    kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    inputs = kwargs.get("input_ids")
    inputs = kwargs["inputs_embeds"] if inputs is None else inputs
    rows, length = inputs.shape[:2]
    config, tokens = module.config, module.prefix.embedding.num_embeddings
    check_length(module, tokens + length)
    heads = config.num_attention_heads
    flat = module.prefix(torch.arange(tokens, device=inputs.device))
    parts = flat.view(tokens, 2 * config.num_hidden_layers, heads, config.hidden_size // heads).permute(1, 2, 0, 3)
    cache = DynamicCache()
    for layer in range(config.num_hidden_layers):
        key, value = (part.expand(rows, -1, -1, -1) for part in parts[2 * layer : 2 * layer + 2])
        cache.update(key, value, layer)
    mask = kwargs.get("attention_mask")
    mask = torch.ones(rows, length, dtype=torch.long, device=inputs.device) if mask is None else mask
    kwargs["attention_mask"] = with_tokens(mask, tokens)
    return (), {**kwargs, "past_key_values": cache}
