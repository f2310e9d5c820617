"""Learned linear maps from the student's width to the teacher's: trained with the student, not stored with it."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from replica.methods.base import Context, Method

_NAME = "distillation_maps"


def add_maps(method: Method, model: PreTrainedModel, names: list[str], context: Context) -> None:
    """Give the model one matrix d' -> d per name, drawn N(0, 0.02^2) by the run's seed, that its optimizer will train.

    The teacher's width is the loaded teacher's, else the configured `teacher_hidden_size`. Raises ConfigError where neither is known or
    the two differ.
    """
    known = context.teacher.config.hidden_size if context.teacher is not None else None
    configured = method.config.teacher_hidden_size
    if known is None and configured is None:
        method.fail("it maps to the teacher's width: set `teacher_hidden_size` where no teacher is loaded")
    if known is not None and configured not in (None, known):
        method.fail(f"`teacher_hidden_size` is {configured}, the teacher's width {known}")
    student, teacher = model.config.hidden_size, known or configured
    generator = torch.Generator().manual_seed(context.seed)
    maps = nn.ModuleDict()
    for name in names:
        maps[name] = nn.Linear(student, teacher, bias=False, device="meta")
        drawn = torch.empty(teacher, student).normal_(std=0.02, generator=generator)
        maps[name].weight = nn.Parameter(drawn.to(device=model.device))
    model.add_module(_NAME, maps)


def get_map(model: PreTrainedModel, name: str) -> nn.Module:
    """Return the map `name` of a prepared model."""
    return getattr(model, _NAME)[name]


def drop_maps(model: PreTrainedModel) -> PreTrainedModel:
    """Take the maps out of the model in place and return it."""
    if hasattr(model, _NAME):
        delattr(model, _NAME)
    return model
