"""Backbones by name and size: built from their configuration, from retrieved weights, or from a finished run."""

from replica.models.build import build, from_asset, grown
from replica.models.heads import HEADS
from replica.models.storage import load, save
from replica.models.structure import body, encoder_layers

__all__ = ["HEADS", "body", "build", "encoder_layers", "from_asset", "grown", "load", "save"]
