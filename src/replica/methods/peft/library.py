"""Methods that the peft library holds in full: LoRA, and the prompt and prefix modules, put into the model in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.errors import ConfigError, nearest
from replica.methods.base import Context, Method
from replica.methods.peft.freeze import also_trained, count, train_only
from replica.methods.peft.layers import fill
from replica.models import body, encoder_layers, fused
from replica.models.architectures import architecture_of, position_limit, require, upper_layers


class LoRA(Method):
    """W + alpha / r * B A on chosen linear layers, with peft's layers while training; merged into W by `finalize`.

    GPT-2's layers are linear while training, its fused projection `query`, `key` and `value` with a pair each; at the end they are its
    own again.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put peft's LoRA layers in place, drawn by the run's seed, and freeze the rest."""
        from peft import LoraConfig, inject_adapter_in_model

        config = self.config
        fused.to_linear(model)
        named = list(self._targets(model))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(context.seed)
            inject_adapter_in_model(
                LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=named),
                model,
            )
        added = [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
        if config.initial_std is not None:
            seeds = torch.Generator().manual_seed(context.seed)
            for parameter in added:
                fill(parameter, std=config.initial_std, seeds=seeds)
        train_only(model, [*added, *also_trained(model, config)])

    def finalize(self, model: Any) -> Any:
        """Return the model with plain linear layers whose weights are W + alpha / r * B A."""
        from peft.tuners.lora import LoraLayer

        wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
        for name, module in wrapped:
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
        for attribute in ("peft_config", "peft_type"):
            model.__dict__.pop(attribute, None)
        fused.to_transposed(model)
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count r (inputs + outputs) for each chosen layer, and what is trained besides."""
        was_fused = fused.to_linear(model)
        layers = self._targets(model).values()
        own = sum(self.config.rank * (layer.in_features + layer.out_features) for layer in layers)
        if was_fused:
            fused.to_transposed(model)
        return {"trainable_parameters": own + count(also_trained(model, self.config))}

    def _targets(self, model: Any) -> dict[str, Any]:
        """Return the linear layers to adapt by name; raises ConfigError where none fits."""
        from peft.tuners.lora import LoraLayer

        row = architecture_of(model)
        query_value = [path for path in (row.get("attention.query"), row.get("attention.value")) if path]
        ends = tuple(self.config.targets) or tuple(path.rpartition(".")[2] for path in query_value)
        linear = {
            name: module.get_base_layer() if isinstance(module, LoraLayer) else module
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, LoraLayer)) and not name.endswith(".base_layer") and ".lora_" not in name
        }
        found = {name: layer for name, layer in linear.items() if name.rpartition(".")[2] in ends}
        if not found:
            known = {name.rpartition(".")[2] for name in linear}
            if not ends:
                wanted = f"some of: {', '.join(sorted(known))}"
                raise ConfigError(
                    f"method 'lora': of architecture '{row.name}' no layers are known to adapt; give `targets`, {wanted}"
                )
            missing = f"no linear layer of architecture '{row.name}' is named {list(ends)}{nearest(ends[0], known)}"
            raise ConfigError(f"method 'lora': {missing}")
        return self._above(model, found) if self.config.skip_layers else found

    def _above(self, model: Any, found: dict[str, Any]) -> dict[str, Any]:
        """Leave out what stands in the first `skip_layers` layers of a stack; raises ConfigError where nothing is left."""
        kept = {id(layer) for _, _, layer in upper_layers(model, self.config.skip_layers)}
        below = {id(part) for layer in encoder_layers(model) if id(layer) not in kept for part in layer.modules()}
        above = {name: layer for name, layer in found.items() if id(layer) not in below}
        if not above:
            raise ConfigError(
                f"method 'lora-top': skip_layers {self.config.skip_layers} leaves no layer of this model's "
                f"{body(model).config.num_hidden_layers} to adapt"
            )
        return above


class PromptTuning(Method):
    """Trained embeddings before the encoder's input (peft's PromptEmbedding); the model's frozen body reads them.

    In T5 and BART the encoder gets them and cross-attention sees them, as in Lester et al. In encoders of BERT's kind the outputs
    at the prompt are dropped again, so that heads see as many positions as without a prompt.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put the prompt in (unless it was restored), drawn by the run's seed, and freeze the rest."""
        if "prompt-tuning" not in context.restored:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(context.seed)
                self.restore(model)
        train_only(model, [*_reader(model).prompt.parameters(), *also_trained(model, self.config)])

    def restore(self, model: Any) -> None:
        """Put a prompt module and its hooks into the model; raises ConfigError for architectures without support."""
        from peft import PromptEmbedding, PromptTuningConfig

        reader = _reader(model)
        words = reader.get_input_embeddings()
        config = PromptTuningConfig(
            num_virtual_tokens=self.config.tokens,
            token_dim=words.embedding_dim,
            num_transformer_submodules=1,
            prompt_tuning_init="SAMPLE_VOCAB" if self.config.init == "vocabulary" else "RANDOM",
        )
        prompt = PromptEmbedding(config, words)
        if self.config.hidden is not None:
            prompt = PromptNet(prompt.embedding, self.config.hidden)
        reader.add_module("prompt", prompt.to(words.weight.device))
        reader.register_forward_pre_hook(_prepend_prompt, with_kwargs=True)
        if reader is body(model):
            reader.register_forward_hook(_drop_prompt)
        else:
            body(model).decoder.register_forward_pre_hook(_see_prompt, with_kwargs=True)

    def expected(self, model: Any) -> dict[str, float]:
        """Count tokens x width of the word embeddings, the two layers of the net if there is one, and what is trained besides."""
        width, hidden = _reader(model).get_input_embeddings().embedding_dim, self.config.hidden
        own = self.config.tokens * width + (0 if hidden is None else 2 * width * hidden + hidden + width)
        return {"trainable_parameters": own + count(also_trained(model, self.config))}


class PromptNet(nn.Module):
    """A prompt that is made by a net of two layers from trained embeddings (as in Li and Liang 2021 for prefixes)."""

    def __init__(self, embedding: nn.Embedding, hidden: int):
        super().__init__()
        width = embedding.embedding_dim
        self.embedding = embedding
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width))

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        """Map indices (...) to (..., width)."""
        return self.net(self.embedding(indices))


class PrefixTuning(Method):
    """Trained keys and values before those of every self-attention layer (peft's PrefixEncoder), for BERT and RoBERTa."""

    def prepare(self, model: Any, context: Context) -> None:
        """Put the prefix in (unless it was restored), drawn by the run's seed, and freeze the rest."""
        if "prefix-tuning" not in context.restored:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(context.seed)
                self.restore(model)
        train_only(model, [*body(model).prefix.parameters(), *also_trained(model, self.config)])

    def restore(self, model: Any) -> None:
        """Put a prefix module and its hook into the model; raises ConfigError for architectures without support."""
        from peft import PrefixEncoder, PrefixTuningConfig

        inner = body(model)
        require(model, like="bert", method="prefix-tuning")
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
        """Count tokens x layers x 2 x hidden size, and what is trained besides."""
        config = body(model).config
        own = self.config.tokens * config.num_hidden_layers * 2 * config.hidden_size
        return {"trainable_parameters": own + count(also_trained(model, self.config))}


def _reader(model: Any) -> nn.Module:
    """Return the module that reads the prompt: the encoder of T5 or BART, the body of an encoder of BERT's kind."""
    row = require(model, like="bert t5 bart", method="prompt-tuning")
    return body(model).encoder if row.two_stacks else body(model)


def _room(module: nn.Module, length: int) -> None:
    limit = position_limit(module.config)
    if limit is not None and length > limit:
        raise ConfigError(f"prompt and input have {length} positions, the model {limit}: lower `tokens` or max_length")


def _prepend_prompt(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    ids = args[0] if args else kwargs.get("input_ids")
    words = kwargs.get("inputs_embeds")
    words = module.get_input_embeddings()(ids) if words is None else words
    rows = words.shape[0]
    prompt = module.prompt(torch.arange(module.prompt.embedding.num_embeddings, device=words.device))
    tokens = prompt.shape[0]
    _room(module, tokens + words.shape[1])
    changed = {**kwargs, "input_ids": None, "inputs_embeds": torch.cat([prompt.expand(rows, -1, -1), words], 1)}
    for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
        position = 1 if name == "attention_mask" else 2
        given = kwargs.get(name, args[position] if len(args) > position and "decoder" not in kwargs else None)
        if given is not None:
            changed[name] = torch.cat([given.new_full((rows, tokens), value), given], 1)
    return (), changed


def _drop_prompt(module: nn.Module, args: tuple, output: Any) -> Any:
    tokens = module.prompt.embedding.num_embeddings
    output["last_hidden_state"] = output.last_hidden_state[:, tokens:]
    if getattr(module, "pooler", None) is not None:
        output["pooler_output"] = module.pooler(output.last_hidden_state)
    if output.get("hidden_states") is not None:
        output["hidden_states"] = tuple(states[:, tokens:] for states in output.hidden_states)
    return output


def _see_prompt(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
    if states is None or mask is None or mask.shape[1] == states.shape[1]:
        return args, kwargs
    prompt = mask.new_ones(mask.shape[0], states.shape[1] - mask.shape[1])
    return args, {**kwargs, "encoder_attention_mask": torch.cat([prompt, mask], 1)}


def _attend_to_prefix(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    from transformers import DynamicCache

    names = ("input_ids", "attention_mask", "token_type_ids")
    kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    given = kwargs.get("input_ids")
    given = kwargs["inputs_embeds"] if given is None else given
    rows, length = given.shape[:2]
    config, tokens = module.config, module.prefix.embedding.num_embeddings
    _room(module, tokens + length)
    heads = config.num_attention_heads
    flat = module.prefix(torch.arange(tokens, device=given.device))
    parts = flat.view(tokens, 2 * config.num_hidden_layers, heads, config.hidden_size // heads).permute(1, 2, 0, 3)
    cache = DynamicCache()
    for layer in range(config.num_hidden_layers):
        key, value = (part.expand(rows, -1, -1, -1) for part in parts[2 * layer : 2 * layer + 2])
        cache.update(key, value, layer)
    mask = kwargs.get("attention_mask")
    mask = torch.ones(rows, length, dtype=torch.long, device=given.device) if mask is None else mask
    kwargs["attention_mask"] = torch.cat([mask.new_ones(rows, tokens), mask], 1)
    return (), {**kwargs, "past_key_values": cache}
