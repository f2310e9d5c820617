"""AdapterDrop: bottleneck adapters in the upper layers (Rueckle et al. 2021)."""

from __future__ import annotations

from replica.methods.peft.adapter.method import FullAdapters


class AdapterDrop(FullAdapters):
    """Adapters, except that `skip_layers` is above zero where the configuration does not give it."""
