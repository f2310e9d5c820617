"""BiPFT (Xing et al. 2024, arXiv 2312.08937): a BERT whose weights and activations are one bit each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.bert.modeling_bert import BertSelfAttention

from replica.errors import ConfigError, TrainingError
from replica.methods.base import Context, Method
from replica.methods.binarization.bipft import binary_cost as cost
from replica.methods.binarization.bipft.binarizers import ActivationScale
from replica.methods.binarization.bipft.binary_attention import BinarySelfAttention
from replica.methods.binarization.bipft.binary_layers import (
    BinaryEmbedding,
    BinaryLinear,
    BinaryPooler,
    PackedEmbedding,
    PackedLinear,
)
from replica.methods.binarization.bipft.config import BiPFTConfig
from replica.models.architectures import require


class BiPFT(Method):
    """Binarizes the word embedding, all linears of the encoder and the pooler, queries, keys, values and attention.

    Position and type embeddings, LayerNorms, biases, residual connections and heads keep full precision. The pooler gets a LayerNorm
    and a residual connection around its binary matrix, as in the released code; otherwise all that a classifier sees of a sentence
    would go through one 1-bit product. The activation between the feed-forward linears is GELU whatever the model's configuration.
    Latent weights are trained by the plain identity gradient. A masked-language-model head that is tied to the word embedding uses the
    latent matrix.
    """

    config: BiPFTConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Binarize a full-precision BERT in place; a model restored from a stored BiPFT is left as it is.

        Raises ConfigError for other architectures, for a decoder, and for attention kernels that hand over no mask to add.
        """
        if self.name in context.restored:
            return
        if self.config.form == "packed":
            self.fail("`form` is the form of a stored model and is written by packing; use `store: packed`")
        install(model, self.config.estimators)
        if self.config.estimators:
            self._draw_estimators(model, context.seed)

    def restore(self, model: PreTrainedModel) -> None:
        """Rebuild the modules that the stored model has: latent, or packed where the file holds bits."""
        install(model, self.config.estimators)
        if self.config.form == "packed":
            pack(model)

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the latent model, or with `store: packed` the model with one bit for each binary weight.

        Raises TrainingError when an activation scale was never set by a training batch.
        """
        if self.config.store == "packed" and self.config.form == "latent":
            unset = [
                name
                for name, module in model.named_modules()
                if isinstance(module, ActivationScale) and not module.alpha.is_meta and not module.initialised
            ]
            if unset:
                raise TrainingError(
                    f"method '{self.name}': {len(unset)} activation scales were never set by a training batch, the first is "
                    f"'{unset[0]}'; train before packing, or use `store: latent`"
                )
            pack(model)
            self.config = self.config.model_copy(update={"form": "packed"})
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the trainable parameters in training, and the bits of the form that is stored."""
        return cost.expected(model, estimators=self.config.estimators, packed=self.config.store == "packed")

    def cost(self, model: PreTrainedModel, batch: int = 1, length: int = 128) -> dict[str, Any]:
        """Return `storage` and `operations` of the model as `cost.storage_bits` and `cost.operations` count them."""
        return {"storage": cost.storage_bits(model), "operations": cost.operations(model, batch, length)}

    def _draw_estimators(self, model: PreTrainedModel, seed: int) -> None:
        """Initialise the estimators as the model's other linears: normal weights by the run's seed, zero biases."""
        generator = torch.Generator().manual_seed(seed)
        for module in model.modules():
            if isinstance(module, BinarySelfAttention) and not module.estimators.weight.is_meta:
                weight = torch.empty(module.estimators.weight.shape)
                weight.normal_(0.0, model.config.initializer_range, generator=generator)
                with torch.no_grad():
                    module.estimators.weight.copy_(weight)
                    module.estimators.bias.zero_()


def install(model: PreTrainedModel, estimators: bool) -> None:
    """Replace the modules of a BERT by latent binary ones, in place; they take over its parameters (ties hold)."""
    _check(model)
    body = model.base_model
    body.embeddings.word_embeddings = BinaryEmbedding(body.embeddings.word_embeddings)
    for layer in body.encoder.layer:
        layer.attention.self = BinarySelfAttention(layer.attention.self, estimators)
        layer.attention.output.dense = BinaryLinear(layer.attention.output.dense)
        layer.intermediate.dense = BinaryLinear(layer.intermediate.dense)
        layer.intermediate.intermediate_act_fn = ACT2FN["gelu"]
        layer.output.dense = BinaryLinear(layer.output.dense)
    if body.pooler is not None:
        body.pooler = BinaryPooler(body.pooler, model.config.layer_norm_eps)
    body.train(model.training)


def pack(model: PreTrainedModel) -> None:
    """Replace latent binary modules by packed ones, in place; only modules in full precision keep parameters."""
    body = model.base_model
    body.embeddings.word_embeddings = PackedEmbedding(body.embeddings.word_embeddings)
    for layer in body.encoder.layer:
        layer.attention.self.pack()
        for holder in (layer.attention.output, layer.intermediate, layer.output):
            holder.dense = PackedLinear(holder.dense)
    if body.pooler is not None:
        body.pooler.dense = PackedLinear(body.pooler.dense)
    body.train(model.training)


def _check(model: PreTrainedModel) -> None:
    config = model.config
    require(model, like="bert", copies=False, method="bipft")
    if config.is_decoder:
        raise ConfigError("method 'bipft' binarizes encoders; this model is a decoder")
    if config._attn_implementation not in ("eager", "sdpa"):
        raise ConfigError(
            f"method 'bipft' adds its own mask; build the model with attention 'sdpa' or 'eager', not '{config._attn_implementation}'"
        )
    attention: nn.Module = model.base_model.encoder.layer[0].attention.self
    if type(attention) is not BertSelfAttention:
        raise ConfigError(
            f"method 'bipft' replaces BERT's own self-attention, and this model has {type(attention).__name__}; "
            "put bipft first in `methods`, and never twice"
        )
