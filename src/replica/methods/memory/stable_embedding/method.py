"""The stable embedding: words drawn by Xavier's rule and normalised before positions are added (Dettmers et al. 2022, Section 2.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.memory.stable_embedding_layer import StableEmbedding


class Stable(Method):
    """Replaces the word embedding; 8-bit optimizers know it and keep its states in 32 bits.

    The weight stays the same parameter, so that an output layer tied to it stays tied.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put the norm in and, where words start anew, draw them by Xavier's uniform rule (the padding word is zero)."""
        if self.name in context.restored:
            return
        self.restore(model)
        embedding = model.get_input_embeddings()
        if not self.config.draw or embedding.weight.is_meta:
            return
        words, width = embedding.weight.shape
        bound = (6 / (words + width)) ** 0.5
        seeds = torch.Generator().manual_seed(context.seed)
        with torch.no_grad():
            embedding.weight.copy_(torch.empty(words, width).uniform_(-bound, bound, generator=seeds))
            if embedding.padding_idx is not None:
                embedding.weight[embedding.padding_idx] = 0

    def restore(self, model: Any) -> None:
        """Put the norm into the model; raises ConfigError for a model without a word embedding, or with this one already."""
        embedding = model.get_input_embeddings()
        if isinstance(embedding, StableEmbedding) or not isinstance(embedding, nn.Embedding):
            stable = isinstance(embedding, StableEmbedding)
            self.fail(f"the model {'has one already' if stable else 'has no word embedding'}")
        model.set_input_embeddings(StableEmbedding(embedding))
