"""Prompt tuning with the prompt of the peft library, put into the model in place (Lester et al. 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.positions import check_length, with_tokens
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.models import body
from replica.models.architectures import require


class PromptTuning(Method):
    """Trained embeddings before the encoder's input (peft's PromptEmbedding); the model's frozen body reads them.

    In T5 and BART the encoder gets them and cross-attention sees them, as in Lester et al. In encoders of BERT's kind the outputs
    at the prompt are dropped again, so that heads see as many positions as without a prompt.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put the prompt in (unless it was restored), drawn by the run's seed, and freeze the rest."""
        if self.name not in context.restored:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(context.seed)
                self.restore(model)
        train_only(model, [*self._reader(model).prompt.parameters(), *also_trained(model, self.config)])

    def restore(self, model: Any) -> None:
        """Put a prompt module and its hooks into the model; raises ConfigError for architectures without support."""
        from peft import PromptEmbedding, PromptTuningConfig

        reader = self._reader(model)
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
        """Count tokens x width of the word embeddings, the two layers of the net if there is one, and the other trained parameters."""
        width, hidden = self._reader(model).get_input_embeddings().embedding_dim, self.config.hidden
        own = self.config.tokens * width + (0 if hidden is None else 2 * width * hidden + hidden + width)
        return {"trainable_parameters": own + count(also_trained(model, self.config))}

    def _reader(self, model: Any) -> nn.Module:
        """Return the module that reads the prompt: the encoder of T5 or BART, the body of an encoder of BERT's kind."""
        row = require(model, like="bert t5 bart", method=self.name)
        return body(model).encoder if row.two_stacks else body(model)


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


def _prepend_prompt(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    ids = args[0] if args else kwargs.get("input_ids")
    words = kwargs.get("inputs_embeds")
    words = module.get_input_embeddings()(ids) if words is None else words
    rows = words.shape[0]
    prompt = module.prompt(torch.arange(module.prompt.embedding.num_embeddings, device=words.device))
    tokens = prompt.shape[0]
    check_length(module, tokens + words.shape[1])
    changed = {**kwargs, "input_ids": None, "inputs_embeds": torch.cat([prompt.expand(rows, -1, -1), words], 1)}
    for name, position in (("attention_mask", 1), ("token_type_ids", 2)):
        entry = kwargs.get(name, args[position] if len(args) > position and "decoder" not in kwargs else None)
        if entry is not None and name == "attention_mask":
            changed[name] = with_tokens(entry, tokens)
        elif entry is not None:
            changed[name] = torch.cat([entry.new_zeros(rows, tokens), entry], 1)
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
    if states is None or mask is None or mask.shape[-1] == states.shape[1]:
        return args, kwargs
    return args, {**kwargs, "encoder_attention_mask": with_tokens(mask, states.shape[1] - mask.shape[-1])}
