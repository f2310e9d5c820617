"""The retrieve stage: data sets and models by name, from the first source that has them, checked against pins.

`retrieve_dataset(project, name, out_folder)` and `retrieve_model(project, name, out_folder)` make canonical folders;
`manifest.write` and `manifest.verify` keep the record in every folder of files. Only this stage may use a network.
"""

from __future__ import annotations

from typing import Any

from replica.assets import manifest

__all__ = ["manifest", "retrieve_dataset", "retrieve_model"]


def __getattr__(name: str) -> Any:
    """Import on first use: a Snakefile may import this package without loading pyarrow."""
    import importlib

    if name in ("retrieve_dataset", "retrieve_model"):
        return getattr(importlib.import_module("replica.assets.retrieve"), name)
    raise AttributeError(f"module 'replica.assets' has no attribute {name!r}")
