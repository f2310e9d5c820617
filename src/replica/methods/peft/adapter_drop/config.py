"""Configuration of AdapterDrop."""

from __future__ import annotations

from pydantic import Field

from replica.methods.peft.adapter.config import AdapterConfig
from replica.methods.registry import method


@method("adapter-drop", version=1, changes={"modules", "trainable"}, persistent=True)
class AdapterDropConfig(AdapterConfig):
    """AdapterDrop (Rueckle et al. 2021): the first layers of each stack have no adapters."""

    skip_layers: int = Field(5, ge=0, description="first layers of each stack that get no adapter")
