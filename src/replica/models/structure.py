"""Where the parts of a backbone are: its body and its transformer layers."""

from __future__ import annotations

from torch import nn

from replica.errors import ConfigError

#: Model type: attribute paths, from the body, of the lists of transformer layers.
LAYERS = {
    "bert": ("encoder.layer",),
    "roberta": ("encoder.layer",),
    "xlm-roberta": ("encoder.layer",),
    "electra": ("encoder.layer",),
    "deberta-v2": ("encoder.layer",),
    "distilbert": ("transformer.layer",),
    "vit": ("layers",),
    "t5": ("encoder.block", "decoder.block"),
    "mt5": ("encoder.block", "decoder.block"),
    "gpt2": ("h",),
    "llama": ("layers",),
    "opt": ("decoder.layers",),
    "bart": ("encoder.layers", "decoder.layers"),
    "clip-bart": ("encoder.layers", "decoder.layers"),
    "albert": ("encoder.albert_layer_groups",),
    "deberta": ("encoder.layer",),
    "longformer": ("encoder.layer",),
    "big_bird": ("encoder.layer",),
    "nystromformer": ("encoder.layer",),
    "mamba": ("layers",),
    "vim": ("layers",),
    "m2-bert": ("encoder.layer",),
    "clip_vision_model": ("encoder.layers",),
    "wav2vec2": ("encoder.layers",),
    "vgg": ("layers",),
    "lenet": ("layers",),
    "wideresnet": ("layers",),
}


def body(model: nn.Module) -> nn.Module:
    """Return the backbone without its head: `base_model`, of a model that peft wraps the model inside.

    For T5 with a language-model head, whose encoder and decoder stand beside the head, it is the model itself.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model.base_model


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the transformer layers in order (for T5 and BART the encoder's, then the decoder's).

    Raises ConfigError for an architecture whose layers are not known here.
    """
    inner = body(model)
    kind = inner.config.model_type
    if kind not in LAYERS:
        raise ConfigError(f"where the layers of architecture '{kind}' stand is not known; known: {', '.join(LAYERS)}")
    return [layer for path in LAYERS[kind] for layer in inner.get_submodule(path)]
