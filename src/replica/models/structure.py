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
    "clip-t5": ("encoder.block", "decoder.block"),
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


#: Parts of a path that say nothing about where in a layer something stands.
_SILENT = ("self", "dense", "layer", "weight")
#: What stands in no layer.
OUTSIDE = "other"


def place_in_layers(model: nn.Module, name: str) -> tuple[str, str]:
    """Return the number of the layer in which a module or parameter stands, and its path there: `("3", "attention-output")`.

    `name` is its dotted path in the model, layers are numbered as in `encoder_layers`; what stands in none is in `other`. Both are
    words without dots, so that they can be parts of a reported number's name.
    """
    inner = body(model)
    paths = {id(module): path for path, module in model.named_modules()}
    for number, layer in enumerate(encoder_layers(model)):
        start = f"{paths[id(layer)]}."
        if name.startswith(start):
            return str(number), _short(name.removeprefix(start))
    start = paths.get(id(inner), "")
    return OUTSIDE, _short(name.removeprefix(f"{start}.") if start else name)


def _short(path: str) -> str:
    parts = [part for part in path.split(".") if part not in _SILENT]
    return "-".join(parts) or path.replace(".", "-")
