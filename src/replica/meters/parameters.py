"""How many parameters a model has and trains, by part, and how many of its stored numbers are not zero."""

from __future__ import annotations

import torch
from torch import nn

from replica.meters.model_parts import EMBEDDINGS, LAYERS, PARTS, is_norm, layer_modules, locate


def count_parameters(model: nn.Module) -> dict:
    """Count a model's parameters; works on meta, and a tensor that several modules share counts once.

    Returns the keys that the package's docstring lists under `parameters`. `transformer` is the sum over all encoder and decoder
    layers, without final norms, poolers and heads: 12 H^2 + 13 H for each layer of BERT with H the width. `running_statistics` are the
    means and variances that batch norms keep: no parameters, but numbers of the state that is stored.
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


def count_nonzero(model: nn.Module) -> dict:
    """Count the numbers that are not zero in a real model (not on meta), by part.

    Returns `{total, nonzero, density, sparsity, by_part: {part: {parameters, nonzero, density, sparsity}}}`; density is the share
    kept and sparsity the share of zeros. Raises ValueError on the meta device, where there is nothing to count.
    """
    parts = {part: [0, 0] for part in PARTS}
    for item in locate(model):
        if item.parameter.is_meta:
            raise ValueError(f"parameter '{item.name}' is on the meta device: it has no values to count")
        parts[item.part][0] += item.parameter.numel()
        parts[item.part][1] += int(torch.count_nonzero(item.parameter.detach()))
    total, nonzero = (sum(pair[i] for pair in parts.values()) for i in (0, 1))
    shares = {part: _shares(*pair) for part, pair in parts.items() if pair[0]}
    whole = _shares(total, nonzero)
    return {"total": whole.pop("parameters"), **whole, "by_part": shares}


def _shares(parameters: int, nonzero: int) -> dict:
    density = nonzero / parameters if parameters else 0.0
    return {"parameters": parameters, "nonzero": nonzero, "density": density, "sparsity": 1.0 - density}
