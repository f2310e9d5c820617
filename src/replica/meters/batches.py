"""Batches of the right shapes for a model's inputs and head, made from its configuration, on its own device."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from replica.models.architectures import architecture, check_length

#: Length of the decoder's side where a measurement of an encoder-decoder model does not give one.
DECODER_LENGTH = 128
#: Side of an image where the architecture takes any (ResNet).
IMAGE_SIDE = 224


def make_batch(
    model: nn.Module, batch: int, length: int, decoder_length: int | None = None, labels: bool = True
) -> dict[str, torch.Tensor]:
    """Return a batch that the model accepts, with labels.

    Inputs are `input_ids` and `attention_mask` (batch, length); `pixel_values` (batch, channels, side, side), without a length; or
    `input_values` (batch, samples), with as many samples as give `length` frames of 20 ms. CLIP-BART and CLIP-T5 get the features and
    boxes of their regions in addition to the words.
    Token ids are 1 and the mask is all ones. `decoder_length` is the length of an encoder-decoder model's labels (without labels:
    of its `decoder_input_ids`). The head's labels follow from the class of the model; a model without a head gets none.
    Raises ConfigError for a length beyond the model's position embeddings.
    """
    first = next(model.parameters())
    config, device = model.config, first.device
    kind = getattr(model, "main_input_name", "input_ids")
    if kind in ("pixel_values", "input_values"):
        shape = (batch, *_image(config)) if kind == "pixel_values" else (batch, samples_of(config, length))
        inputs = {kind: torch.zeros(shape, device=device, dtype=first.dtype)}
        return {**inputs, **(_labels(model, batch, length, device) if labels else {})}
    check_length(config, length)
    ids = torch.ones(batch, length, dtype=torch.long, device=device)
    inputs = {"input_ids": ids}
    if architecture(config.model_type).mask:
        inputs["attention_mask"] = torch.ones_like(ids)
    if getattr(config, "type_vocab_size", 0) and config.model_type == "bert":
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if hasattr(config, "regions"):
        shape = (batch, config.regions)
        inputs["features"] = torch.zeros(*shape, config.feature_size, device=device, dtype=first.dtype)
        inputs["boxes"] = torch.zeros(*shape, 4, device=device, dtype=first.dtype)
    if getattr(config, "is_encoder_decoder", False):
        if decoder_length is not None:
            check_length(config, decoder_length)
        target = torch.ones(batch, decoder_length or DECODER_LENGTH, dtype=torch.long, device=device)
        return {**inputs, "labels" if labels and _generates(model) else "decoder_input_ids": target}
    return {**inputs, **(_labels(model, batch, length, device) if labels else {})}


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the scalar that is differentiated: the model's own loss, or without a head the sum of its first output."""
    output = model(**batch)
    loss = getattr(output, "loss", None)
    return loss if loss is not None else output[0].sum()


def samples_of(config, length: int) -> int:
    """Return how many samples of sound the convolutions of a speech model turn into `length` frames."""
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        length = (length - 1) * stride + kernel
    return length


def _image(config) -> tuple[int, int, int]:
    side = getattr(config, "image_size", None) or IMAGE_SIDE
    high, wide = side if isinstance(side, (list, tuple)) else (side, side)
    return config.num_channels, high, wide


def _generates(model: nn.Module) -> bool:
    return "ForConditionalGeneration" in type(model).__name__


def _labels(model: nn.Module, batch: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
    head, config = type(model).__name__, model.config

    def whole(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=torch.long, device=device)

    if "SequenceClassification" in head and config.num_labels == 1:
        return {"labels": torch.ones(batch, device=device)}
    if "SequenceClassification" in head or "ImageClassification" in head:
        return {"labels": whole(batch)}
    if "QuestionAnswering" in head:
        return {"start_positions": whole(batch), "end_positions": whole(batch)}
    if "ForPreTraining" in head:
        taken = inspect.signature(type(model).forward).parameters
        pairs = {"next_sentence_label", "sentence_order_label"} & set(taken)
        return {"labels": whole(batch, length), **{name: whole(batch) for name in pairs}}
    if any(kind in head for kind in ("MaskedLM", "TokenClassification", "CausalLM", "LMHead")):
        return {"labels": whole(batch, length)}
    return {}
