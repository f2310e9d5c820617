"""Configuration of frozen parameters."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("freeze", version=1, changes={"frozen"})
class FreezeConfig(MethodConfig):
    """Parts of the model stay as they are (CLIP's encoder of images, with a BART that trains); the rest is trained as before."""

    names: list[str] = Field(min_length=1, description="globs over names of parameters that are not trained")
