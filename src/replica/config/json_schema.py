"""JSON Schemas of the configuration files, generated from the pydantic models: `python -m replica.config.json_schema FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from replica.config import asset_schema, hub_lock, paper_folder, settings, task_schema
from replica.files import write_text

FILES = {
    "paper": paper_folder.PaperFile,
    "task": task_schema.Task,
    "scale": settings.Scale,
    "settings": settings.Settings,
    "dataset": asset_schema.DatasetEntry,
    "model": asset_schema.ModelEntry,
    "hub.lock": hub_lock.HubLock,
}


def schemas() -> dict[str, str]:
    """Return the text of every schema file by name."""
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=1, sort_keys=True) + "\n"
        for name, model in FILES.items()
    }


if __name__ == "__main__":
    for file, text in schemas().items():
        write_text(Path(sys.argv[1]) / file, text)
