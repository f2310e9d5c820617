"""Configuration of SparseAdapter's pruning of other modules."""

from __future__ import annotations

from replica.methods.peft.shared_options import StartPruningOptions
from replica.methods.registry import method


@method(
    "sparse-modules",
    version=1,
    changes={"masks"},
    costs="prunable pruned kept",
    excludes={
        "it masks matrices of layers, and the other trains none": (
            "adapter-lowrank bitfit compacter dsee fact hyperformer "
            "intrinsic-said kadaptation layer-norm-tuning phm-adapter s3pet prompt-tuning prefix-tuning"
        ),
    },
)
class SparseModulesConfig(StartPruningOptions):
    """SparseAdapter's pruning for any module: the matrices that are trained, but for a new head's, are pruned before training.

    Put it after the method that trains them (`lora`, `prefix-tuning`, `adapter`). A matrix that starts at zero has no scores:
    LoRA needs an `initial_std`.
    """
