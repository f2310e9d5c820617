"""Backbones by name and size, built from their configuration or from retrieved weights, and the rows of their architectures."""

from __future__ import annotations

import importlib
from typing import Any

from replica.models.architectures import body
from replica.models.sublayers import encoder_layers

#: Functions that need torch, imported on first use: plans read `architectures` without it.
_WITH_TORCH = {
    "build": "replica.models.factory",
    "from_asset": "replica.models.factory",
    "grown": "replica.models.factory",
}

__all__ = ["body", "encoder_layers", *_WITH_TORCH]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'replica.models' has no attribute '{name}'")
    return getattr(importlib.import_module(_WITH_TORCH[name]), name)
