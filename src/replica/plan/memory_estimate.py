"""Peak memory of training and evaluating a transformer in closed form, from its configuration alone. Imports no torch.

The terms are those that the structural memory meter measures operation by operation (`replica measure`), for float32 and attention
that keeps its maps: the memory of a device without bfloat16, and an upper bound where the kernel is fused or fewer weights are trained.
Tests hold them against the meter: within `ERROR` of it for encoders, encoder-decoders and image transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

from replica.config.asset_schema import ModelEntry
from replica.models.architectures import architecture

#: How far the closed form may lie from the meter's measurement, as a share of it; held by tests.
ERROR = 0.15
#: What a job asks for beyond the closed form: its error, workspaces of kernels and the allocator's fragments.
MARGIN = 1.3
#: Bytes of a float32, and of a value of a dropout mask.
FLOAT, MASK = 4, 1
#: A device's context and its libraries' workspaces, and a process with the training libraries loaded, in bytes.
DEVICE_BASE, PROCESS_BASE = 1.0e9, 1.4e9


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer that decide its memory; `decoder` and `inner_attention` are 0 and `hidden` for an encoder.

    `regions` are those of the most images that an encoder reads after its words.
    """

    layers: int
    decoder: int
    hidden: int
    heads: int
    inner: int
    inner_attention: int
    vocabulary: int
    image_tokens: int
    regions: int
    normed: bool
    dropout: bool

    @property
    def blocks(self) -> int:
        """Weights of the layers' matrices."""
        attention = 4 * self.hidden * self.inner_attention
        feed_forward = 2 * self.hidden * self.inner
        return self.layers * (attention + feed_forward) + self.decoder * (2 * attention + feed_forward)

    @property
    def embeddings(self) -> int:
        """Weights of the word embeddings."""
        return self.vocabulary * self.hidden


def shape_of(entry: ModelEntry) -> Shape:
    """Read the sizes of a registered configuration, whatever the architecture calls them."""
    config = entry.config

    def first(*names: str, default: int = 0) -> int:
        return next((int(config[name]) for name in names if isinstance(config.get(name), int | float)), default)

    hidden = first("hidden_size", "d_model", "dim", "n_embd")
    layers = first("num_hidden_layers", "num_layers", "n_layers", "encoder_layers", "n_layer")
    heads = first("num_attention_heads", "num_heads", "n_heads", "encoder_attention_heads", "n_head", default=1)
    row = architecture(entry.architecture)
    patch, image = first("patch_size"), first("image_size")
    return Shape(
        layers=layers,
        decoder=first("num_decoder_layers", "decoder_layers", default=layers) if row.two_stacks else 0,
        hidden=hidden,
        heads=heads,
        inner=first("intermediate_size", "d_ff", "hidden_dim", "encoder_ffn_dim", "n_inner", default=4 * hidden),
        inner_attention=first("d_kv") * heads or hidden,
        vocabulary=first("vocab_size"),
        image_tokens=(image // patch) ** 2 + 1 if patch else 0,
        regions=first("regions") * first("images", default=1),
        normed=row.family == "t5",
        dropout=row.dropout,
    )


def saved_activations(shape: Shape, batch: float, length: float, *, masked_share: float | None = None) -> float:
    """Return the bytes that the forward pass of a micro-batch keeps for the backward pass.

    A layer keeps, per token: the inputs of its four attention matrices and of its two others (one, three, one, one and `inner`
    values), the inputs of its non-linearity and its two normalisations, and the masks of its dropouts; and per pair of tokens and
    head the attention before and after dropout with its mask. `masked_share` is the share of tokens at which a masked-language head
    is computed (None: there is none); an encoder-decoder's head is computed at every token of the decoder.
    """
    tokens = batch * (shape.image_tokens or length)
    read = tokens + batch * shape.regions
    hidden, attention, inner = shape.hidden, shape.inner_attention, shape.inner
    norm = 3 if shape.normed else 2  # a root-mean-square norm of separate operations keeps its scaled input, too
    mask, maps = (MASK, 2 * FLOAT + MASK) if shape.dropout else (0, FLOAT)

    def mixing(queries: float, keys: float) -> float:
        saved = FLOAT * (queries * (norm * hidden + 2 * attention) + keys * 2 * attention) + mask * queries * hidden
        return saved + maps * shape.heads * queries * keys / batch

    def feeding(count: float) -> float:
        return FLOAT * count * (norm * hidden + 2 * inner) + mask * count * (hidden + inner * shape.normed)

    total = shape.layers * (mixing(read, read) + feeding(read))
    total += shape.decoder * (mixing(tokens, tokens) + mixing(tokens, read) + feeding(tokens))
    total += (read + (tokens if shape.decoder else 0)) * hidden * (2 * FLOAT + MASK)
    if shape.decoder:
        total += 3 * FLOAT * tokens * shape.vocabulary  # logits, their logarithm of softmax and its gradient
    elif masked_share:
        total += masked_share * tokens * FLOAT * (3 * shape.vocabulary + 4 * hidden)
    return total


def training_bytes(
    shape: Shape,
    batch: float,
    length: float,
    *,
    masked_share: float | None = None,
    teacher: Shape | None = None,
    extra_tensors: int = 0,
    processes: int = 1,
) -> float:
    """Return the peak bytes of one process that trains all weights with AdamW on micro-batches of `batch` rows.

    Weights and two moments stay; added to them are either the saved activations with the largest gradient in flight, or the gradients
    with the temporaries of the update. A `teacher` adds its weights, and its hidden states and attention maps of a batch.
    `extra_tensors` counts values that methods keep for each weight of the layers (masks, start values); several `processes` keep
    their gradients once more, for the exchange.
    """
    weights = shape.blocks + shape.embeddings
    read = (shape.image_tokens or length) + shape.regions
    tokens, pairs = batch * read, shape.heads * batch * read**2
    flight = FLOAT * max(tokens * shape.inner, 2 * pairs)
    acting = saved_activations(shape, batch, length, masked_share=masked_share) + flight
    updating = 2 * FLOAT * weights
    total = 3 * FLOAT * weights + max(acting, updating) + extra_tensors * FLOAT * shape.blocks
    if processes > 1:
        total += FLOAT * weights
    if teacher is not None:
        maps = teacher.layers * teacher.heads * batch * length * length
        states = (teacher.layers + 4) * tokens * teacher.hidden
        total += FLOAT * (teacher.blocks + teacher.embeddings + maps + states)
    return total


def inference_bytes(shape: Shape, batch: float, length: float) -> float:
    """Return the peak bytes of a model that scores a batch: weights, and the activations of two layers."""
    length = (shape.image_tokens or length) + shape.regions
    tokens, pairs = batch * length, shape.heads * batch * length * length
    live = tokens * (6 * shape.hidden + 2 * shape.inner) + 2 * pairs
    logits = tokens * shape.vocabulary if shape.decoder else 0
    return FLOAT * (shape.blocks + shape.embeddings + live + 2 * logits)
