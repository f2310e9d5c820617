"""How many parameters a model has and trains, by part."""

from __future__ import annotations

from torch import nn

from replica.meters.model_parts import EMBEDDINGS, LAYERS, PARTS, is_norm, layer_modules, locate


def count_parameters(model: nn.Module) -> dict:
    """Count a model's parameters; works on meta, and a tensor that several modules share counts once.

    Returns the keys of `ParametersOptions.results` up to `trainable_by_part`. `transformer` is 12 H^2 + 13 H for each layer of BERT with H
    the width. `running_statistics` are no parameters, but numbers of the stored state.
    """
    by_part = dict.fromkeys(PARTS, 0)
    trainable_by_part = dict.fromkeys(PARTS, 0)
    norms = biases = relative = encoder = decoder = 0
    for item in locate(model):
        count = item.parameter.numel()
        by_part[item.part] += count
        if item.parameter.requires_grad:
            trainable_by_part[item.part] += count
        if is_norm(item.module):
            norms += count
        elif item.name.rpartition(".")[2] == "bias":
            biases += count
        relative += count if "relative_attention_bias" in item.name else 0
        if item.part in LAYERS:
            inside_decoder = "decoder" in item.name.split(".")
            decoder += count if inside_decoder else 0
            encoder += 0 if inside_decoder else count
    total, trainable = sum(by_part.values()), sum(trainable_by_part.values())
    return {
        "total": total,
        "trainable": trainable,
        "frozen": total - trainable,
        "trainable_share": trainable / total if total else 0.0,
        "buffers": sum({id(buffer): buffer.numel() for buffer in model.buffers()}.values()),
        "running_statistics": sum(
            buffer.numel() for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))
        ),
        "embeddings": sum(by_part[part] for part in EMBEDDINGS),
        "word_embeddings": by_part["word_embeddings"],
        "transformer": sum(by_part[part] for part in LAYERS),
        "encoder": encoder,
        "decoder": decoder,
        "layers": len(layer_modules(model)),
        "layer_linears": by_part["layer_linears"],
        "layer_biases": by_part["layer_biases"],
        "layer_norms_in_layers": by_part["layer_norms"],
        "relative_attention_bias": relative,
        "final_norms": by_part["final_norms"],
        "pooler": by_part["pooler"],
        "head": by_part["head"],
        "layer_norms": norms,
        "biases": biases,
        "by_part": by_part,
        "trainable_by_part": trainable_by_part,
    }
