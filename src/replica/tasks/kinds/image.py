"""One class for an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from replica.errors import AssetError
from replica.files import has_type, read_json
from replica.tasks.columns import Columns, decoded, inputs, label_index, resized, target
from replica.tasks.kinds.classification import Classification
from replica.tasks.kinds.kind import Encoded


class Image(Classification):
    """Predicts `label` from pixels."""

    name = "image"
    pipeline = "image-classification"
    tokenized = False
    input_counts = (1, 1)

    def encode(self, task, table, tokenizer, max_length, *, train, asset) -> Encoded:
        """Decode images to bytes in (channels, height, width) order; where sizes differ, all get the preprocessing's (or 224)."""
        processor = asset / "preprocessor_config.json"
        facts = image_processing(processor)
        name = task.inputs[0]
        images = [decoded(task, name, value, row) for row, value in enumerate(inputs(task, table)[0])]
        if len({image.shape for image in images}) > 1:
            channels = max(image.shape[0] for image in images)
            images = [resized(image, channels, facts["size"] or 224) for image in images]
        columns: Columns = {
            "pixels": [image.reshape(-1) for image in images],
            "label": [label_index(task, value, row) for row, value in enumerate(target(task, table))],
        }
        shape = dict(zip(("channels", "height", "width"), images[0].shape, strict=True))
        return Encoded(columns, range(table.num_rows), facts={"image": {**facts, **shape}})

    def batch(self, task, facts, rows, seed, epoch):
        """Return `pixel_values` `(batch, channels, height, width)`, scaled by mean and deviation, and `labels` `(batch,)`."""
        import torch

        image = facts["image"]
        shape = (len(rows), image["channels"], image["height"], image["width"])
        values = torch.from_numpy(np.stack([row["pixels"] for row in rows]).reshape(shape)).float() / 255
        size = image["size"]
        if size and (image["height"], image["width"]) != (size, size):
            values = torch.nn.functional.interpolate(
                values, size=(size, size), mode="bilinear", align_corners=False, antialias=True
            )
        mean, std = (torch.tensor(image[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        return {"pixel_values": (values - mean) / std, **self.targets(task, rows, facts)}


def image_processing(path: Path) -> dict[str, Any]:
    """Return size (None: as it is), mean and standard deviation of a preprocessor_config.json; without the file 0.5 each.

    Raises AssetError naming the file where it has no whole size, or no numbers, as many of one kind as of the other.
    """
    config = read_json(path, AssetError) if path.is_file() else {}
    size = config.get("size") if isinstance(config, dict) else config
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if not isinstance(config, dict) or not (size is None or (has_type(size, int) and size > 0)):
        raise AssetError(f"{path}: `size` is {size!r:.60}, not a whole number of pixels")
    means = {key: config.get(name, [0.5]) for key, name in (("mean", "image_mean"), ("std", "image_std"))}
    for key, values in means.items():
        if not isinstance(values, list) or len(values) not in (1, 3) or not all(has_type(v, float) for v in values):
            raise AssetError(f"{path}: `image_{key}` is {values!r:.60}, not one number or three")
    return {"size": size, **means}
