"""One class for an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from replica.files import read_json
from replica.tasks.columns import Columns, column, image_pixels, label_index, resized, target
from replica.tasks.kinds.classification import Classification
from replica.tasks.kinds.kind import Encoded


class Image(Classification):
    """Predicts `label` from pixels."""

    name = "image"
    pipeline = "image-classification"
    tokenized = False

    def encode(self, task, table, tokenizer, max_length, *, train, asset) -> Encoded:
        """Decode images to bytes in (channels, height, width) order; where sizes differ, all get the preprocessing's (or 224)."""
        processor = asset / "preprocessor_config.json"
        facts = image_processing(read_json(processor) if processor.is_file() else {})
        images = [image_pixels(value) for value in column(table, task.inputs[0], f"task '{task.name}', inputs")]
        if len({image.shape for image in images}) > 1:
            channels = max(image.shape[0] for image in images)
            images = [resized(image, channels, facts["size"] or 224) for image in images]
        columns: Columns = {
            "pixels": [image.reshape(-1) for image in images],
            "label": [label_index(task, value) for value in target(task, table)],
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


def image_processing(config: dict[str, Any]) -> dict[str, Any]:
    """Return size (None: as it is), mean and standard deviation of a preprocessor_config.json; else 0.5 each."""
    size = config.get("size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return {"size": size, "mean": config.get("image_mean", [0.5]), "std": config.get("image_std", [0.5])}
