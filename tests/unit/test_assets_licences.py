"""Licences: what may not be passed on is never pushed to a public remote; licences change no run."""

from pathlib import Path

import pytest
import yaml

from replica.assets.licences import RANDOM, check_redistribution, hub_identifier, licence_of, may_pass_on
from replica.config import load_project
from replica.config.asset_schema import DatasetEntry, ModelEntry
from replica.errors import ConfigError, ReplicaError
from replica.plan import build_plan
from replica.plan.outputs import asset_fingerprint

from .small_project import write_project

ROOT = Path(__file__).resolve().parents[2]
PROJECT = load_project(ROOT)
SOURCES = {"hub": {"repo": "owner/name"}}


@pytest.mark.parametrize("name", ["rotten-tomatoes", "squad-tr", "bookcorpus", "glue-cola"])
def test_what_may_not_be_passed_on_is_not_pushed_to_a_public_remote(name):
    with pytest.raises(ReplicaError) as error:
        check_redistribution(PROJECT, ["digits", name], "everybody", True)
    message = str(error.value)
    assert message.startswith("remote 'everybody' is marked public")
    assert f"data set '{name}'" in message
    assert f"licence: {PROJECT.datasets[name].licence}" in message
    assert "push it to a remote that is not public, or leave it out" in message
    assert "digits" not in message
    assert "\n" not in message
    check_redistribution(PROJECT, ["digits", name], "lab", False)


def test_every_refused_name_is_said_and_free_ones_pass():
    check_redistribution(PROJECT, ["digits", "smoke-pair", "squad"], "everybody", True, models=["bert-base-uncased"])
    with pytest.raises(ReplicaError, match=r"'xnli' .*'glue-qqp' .*model 'clip-vit-b-32' may be passed on: unknown"):
        check_redistribution(PROJECT, ["xnli", "glue-qqp"], "everybody", True, models=["clip-vit-b-32"])
    with pytest.raises(ConfigError, match="unknown data set 'digit'; did you mean 'digits'"):
        check_redistribution(PROJECT, ["digit"], "lab", False)


def test_unknown_counts_as_forbidden_and_random_weights_as_free():
    entry = {"title": "t", "licence": "l", "sources": SOURCES, "splits": {}}
    assert [may_pass_on(DatasetEntry(**entry, redistribute=value)) for value in (True, False, "unknown")] == [
        True,
        False,
        False,
    ]
    weights = {"title": "t", "architecture": "bert", "config": {}}
    assert not may_pass_on(ModelEntry(**weights, sources=SOURCES))
    assert may_pass_on(ModelEntry(**weights))
    assert licence_of(ModelEntry(**weights)) == RANDOM
    assert licence_of(ModelEntry(**weights, sources=SOURCES)) == "unknown"


def test_identifiers_of_the_hub():
    names = {"CC BY-SA 4.0": "cc-by-sa-4.0", "Apache-2.0": "apache-2.0", "MIT": "mit", "BSD 2-Clause": "bsd-2-clause"}
    names |= {"unknown": "unknown", "research use": "other", "CC BY-SA 3.0 and GFDL": "other"}
    assert {licence: hub_identifier(licence) for licence in names} == names


def test_every_registered_asset_says_its_licence_and_terms():
    entries = {**PROJECT.datasets, **{n: e for n, e in PROJECT.models.items() if e.sources is not None}}
    assert not [name for name, entry in entries.items() if not entry.licence or not entry.terms]
    # a licence that forbids selling or changing, or that nobody stated, never counts as free
    free = {name: e.licence for name, e in entries.items() if may_pass_on(e)}
    assert not [n for n, text in free.items() if any(w in text.lower() for w in ("-nc", "-nd", "research", "unknown"))]


@pytest.mark.parametrize("registry", ["datasets", "models"])
def test_licence_and_terms_change_no_fingerprint(registry):
    other = {"licence": "another", "terms": "others", "redistribute": "unknown", "title": "other"}
    for entry in getattr(PROJECT, registry).values():
        assert asset_fingerprint(entry.model_copy(update=other)) == asset_fingerprint(entry)


def test_licence_and_terms_change_no_run(tmp_path):
    root = write_project(tmp_path)
    before = set(build_plan(load_project(root), "laptop").runs)
    for name in ("datasets", "models"):
        path = root / "config" / f"{name}.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for entry in values[name].values():
            entry |= {"licence": "another", "terms": "others", "redistribute": "unknown"}
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert set(build_plan(load_project(root), "laptop").runs) == before
