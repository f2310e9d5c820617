"""Configuration of the tuning of layer norms."""

from __future__ import annotations

from replica.methods.peft.shared_options import TrainedOptions
from replica.methods.registry import method


@method("layer-norm-tuning", version=1, changes={"trainable"})
class LayerNormTuningConfig(TrainedOptions):
    """Only the layer norms (and a new head) are trained."""
