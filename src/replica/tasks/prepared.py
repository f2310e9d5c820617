"""A prepared split: rows of token ids or pixels, and the facts of all rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from replica.assets import manifest
from replica.errors import AssetError
from replica.files import read_json

FACTS = "facts.json"
EXAMPLES = "examples"


class PreparedSplit:
    """Rows of one prepared split, as a map-style data set for `torch.utils.data.DataLoader`.

    `split[i]` is a dict of numbers, strings and numpy arrays; `lengths` are the rows' lengths in tokens, `facts` is
    the folder's `facts.json`, and `examples` (span, else None) a table with one row per question. `prepare` documents
    the columns.
    """

    def __init__(
        self,
        columns: dict[str, Any],
        facts: dict[str, Any],
        folder: Path | None = None,
        examples: pd.DataFrame | None = None,
        indices: np.ndarray | None = None,
    ):
        self._columns = columns
        self.facts = facts
        self.folder = folder
        self.examples = examples
        size = _size(columns["example_id"])
        self.indices = np.arange(size) if indices is None else np.asarray(indices)

    @classmethod
    def read(cls, folder: Path | str, split: str) -> PreparedSplit:
        """Read `{split}.parquet` of a prepared folder; raises AssetError when it is missing, broken or not what was prepared."""
        folder = Path(folder)
        path = folder / f"{split}.parquet"
        for needed in (path, folder / FACTS):
            if not needed.is_file():
                raise AssetError(f"{needed} is missing; prepare the task first")
        extra = folder / f"{split}.{EXAMPLES}.parquet"
        manifest.verify(folder, [FACTS, path.name, *([extra.name] if extra.is_file() else [])], name=folder.name)
        try:
            table = pq.read_table(path)
            examples = pd.read_parquet(extra) if extra.is_file() else None
        except (pa.ArrowInvalid, OSError) as error:
            raise AssetError(f"{path} is not readable as parquet: {error}") from None
        columns = {name: _numpy(table.column(name)) for name in table.column_names}
        return cls(columns, read_json(folder / FACTS), folder, examples)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = int(self.indices[index])
        return {name: _at(values, position) for name, values in self._columns.items()}

    @property
    def sizes(self) -> list[int]:
        """Rows of each task: there is one."""
        return [len(self)]

    @property
    def lengths(self) -> np.ndarray:
        """Length of each row in tokens, `(rows,)`."""
        return self.values("length")

    def values(self, name: str) -> np.ndarray:
        """Return a column that holds one number per row."""
        return self._columns[name][self.indices]

    def subset(self, indices: np.ndarray | list[int]) -> PreparedSplit:
        """Return the rows at these positions (`example_id` stays as it was)."""
        return PreparedSplit(self._columns, self.facts, self.folder, self.examples, self.indices[np.asarray(indices)])

    def sample(self, count: int, seed: int) -> PreparedSplit:
        """Return `count` rows drawn by the seed, in the split's order; all rows when there are no more."""
        if count >= len(self):
            return self
        drawn = np.random.default_rng([seed, 0x5A3]).permutation(len(self))[:count]
        return self.subset(np.sort(drawn))

    def sample_per_class(self, count: int, seed: int) -> PreparedSplit:
        """Return `count` rows of each class drawn by the seed, in the split's order; all rows of a class that has no more."""
        labels = self.values("label")
        order = np.random.default_rng([seed, 0x5A4]).permutation(len(self))
        drawn = [order[labels[order] == label][:count] for label in np.unique(labels)]
        return self.subset(np.sort(np.concatenate(drawn)))


def _numpy(chunked: pa.ChunkedArray) -> Any:
    """Turn a column into an array; a list column into (flat values, offsets)."""
    array = chunked.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], type=chunked.type)
    if pa.types.is_list(array.type) and not pa.types.is_string(array.type.value_type):
        return array.flatten().to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    if pa.types.is_list(array.type) or pa.types.is_string(array.type):
        return np.array([*array.to_pylist(), None], dtype=object)[:-1]
    return array.to_numpy(zero_copy_only=False)


def _size(values: Any) -> int:
    return len(values[1]) - 1 if isinstance(values, tuple) else len(values)


def _at(values: Any, position: int) -> Any:
    if isinstance(values, tuple):
        flat, offsets = values
        return flat[offsets[position] : offsets[position + 1]]
    value = values[position]
    return value.item() if isinstance(value, np.generic) else value
