"""The parameters to train and to freeze: heads, poolers, layer norms, and the parameters a method adds."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Any

from torch import nn

from replica.errors import ConfigError
from replica.models.factory import body_prefix
from replica.models.heads import is_head_key

#: Ends of the class names of models whose head is new to the task, and not a part of the pretrained model.
NEW_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForImageClassification")


def unique(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters without repetition, in order."""
    return list({id(parameter): parameter for parameter in parameters}.values())


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights (and biases) of every layer norm of the model."""
    return unique(
        parameter
        for module in model.modules()
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    )


def head_parameters(model: Any, pooler: bool = False) -> list[nn.Parameter]:
    """Return the parameters of a head that is new to the task: without the pooler unless asked for, [] for other heads."""
    if not type(model).__name__.endswith(NEW_HEADS):
        return []
    prefix = body_prefix(model)
    named = [(name, parameter) for name, parameter in model.named_parameters() if is_head_key(name, prefix)]
    return unique(parameter for name, parameter in named if pooler or "pooler" not in name.split("."))


def also_trained(model: Any, config: Any) -> list[nn.Parameter]:
    """Return the parameters that a configuration's `layer_norms`, `head`, `pooler`, `output_layer` and `also` choose to train.

    Raises ConfigError for a glob of `also` that fits no parameter.
    """
    parameters = norm_parameters(model) if getattr(config, "layer_norms", False) else []
    if getattr(config, "head", False):
        parameters = parameters + head_parameters(model, getattr(config, "pooler", False))
    output = model.get_output_embeddings() if getattr(config, "output_layer", False) else None
    if output is not None:
        parameters = parameters + list(output.parameters())
    for pattern in getattr(config, "also", []):
        parameters = parameters + named_parameters(model, pattern)
    return unique(parameters)


def named_parameters(model: nn.Module, pattern: str, field: str = "also") -> list[nn.Parameter]:
    """Return the parameters whose names a glob fits; ConfigError, naming the configuration's field, where there are none."""
    parameters = [parameter for name, parameter in model.named_parameters() if fnmatch.fnmatchcase(name, pattern)]
    if not parameters:
        raise ConfigError(f"{field}: '{pattern}' fits the name of no parameter of this {type(model).__name__}")
    return parameters


def train_only(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Freeze the model and let only these parameters get gradients."""
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Return the number of values of the parameters, each tensor once."""
    return sum(parameter.numel() for parameter in unique(parameters))
