"""docs/meters.md is the page that the meters' options give, and every option on it is described."""

from __future__ import annotations

from pathlib import Path

from replica.meters.registry import DATA_METERS, METERS
from replica.report.meters_page import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_that_of_the_options():
    assert (ROOT / "docs" / "meters.md").read_text(encoding="utf-8") == page(), (
        "docs/meters.md is old: run `make schema`"
    )


def test_every_option_is_described():
    models = {**METERS, **DATA_METERS}
    fields = {f"{name}.{key}": field for name, model in models.items() for key, field in model.model_fields.items()}
    assert not [name for name, field in fields.items() if not field.description]


def test_every_meter_has_its_results_on_the_page():
    text = page()
    for name, model in {**METERS, **DATA_METERS}.items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert all(f"| `{key}` |" in section for key in (*model.results, *model.model_fields)), name
