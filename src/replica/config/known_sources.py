"""The sources inside the project that registries name, with the columns that they give; tests hold them against `replica.assets`."""

from __future__ import annotations

from replica.config.asset_schema import DatasetEntry

#: Generators of data sets and their columns.
GENERATORS: dict[str, tuple[str, ...]] = {
    "sentiment": ("id", "text", "label"),
    "pair": ("id", "sentence1", "sentence2", "label"),
    "similarity": ("id", "sentence1", "sentence2", "label"),
    "tagging": ("id", "tokens", "tags"),
    "span": ("id", "title", "context", "question", "answers"),
    "image": ("image", "label"),
    "scenes": ("task", "kind", "scenes", "images", "text", "answer"),
    "text": ("document", "position", "kind", "text"),
}
#: Generators of models.
MODEL_GENERATORS = ("smoke-tokenizer", "scenes-tokenizer")
#: Builders that turn a source's raw file into canonical splits, and the columns of all of these.
BUILDERS: dict[str, tuple[str, ...]] = {
    "rotten-tomatoes": ("id", "text", "label", "movie", "document", "position", "kind")
}
#: Data sets that an installed package carries.
LOADERS: dict[str, tuple[str, ...]] = {"sklearn-digits": ("image", "label")}


def columns_of(entry: DatasetEntry) -> tuple[str, ...]:
    """Return the columns of a data set as far as its sources tell without being read; none where a hub's files decide."""
    sources = entry.sources
    if entry.build is not None:
        return BUILDERS[entry.build]
    if sources.generated is not None:
        return GENERATORS[sources.generated.generator]
    return LOADERS[sources.package.loader] if sources.package is not None else ()
