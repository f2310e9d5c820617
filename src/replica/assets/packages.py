"""The package source: data sets that an installed, locked package carries."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from replica.assets.rows import Rows
from replica.assets.sources import SourceUnavailable
from replica.errors import AssetError, nearest

#: image: rows of grey values 0 (empty) to 255.
IMAGE_SCHEMA = pa.schema({"image": pa.list_(pa.list_(pa.uint8())), "label": pa.int64()})


def load(loader: str) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Return the splits of a package's data set and the package's version."""
    known = {"sklearn-digits": _digits}
    if loader not in known:
        raise AssetError(f"package source: no loader {loader!r}{nearest(loader, known)}")
    return known[loader]()


def _digits() -> tuple[dict[str, Rows], dict[str, Any]]:
    """Split scikit-learn's 1,797 handwritten 8x8 digits 70/15/15 by a hash of each image's pixels.

    Equal images fall on one side. The package's 17 grey values (0 to 16) are spread over 0 to 255.
    """
    try:
        import sklearn
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SourceUnavailable(f"scikit-learn cannot be imported ({error})") from None
    digits = load_digits()
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for image, label in zip(digits.images.astype(int), digits.target, strict=True):
        share = int.from_bytes(hashlib.sha256(bytes(image.flatten().tolist())).digest()[:8]) / 2**64
        split = "train" if share < 0.70 else "validation" if share < 0.85 else "test"
        grey = [[(value * 255 + 8) // 16 for value in line] for line in image.tolist()]
        splits[split].append({"image": grey, "label": int(label)})
    return {name: Rows.of(rows, IMAGE_SCHEMA) for name, rows in splits.items()}, {"scikit-learn": sklearn.__version__}
