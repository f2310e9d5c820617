"""Seals: what a job wrote is known again, whatever its layout; anything else is refused."""

from __future__ import annotations

import json

import pytest

from replica import seals
from replica.errors import ResultError

CONTENT = {"run": "a", "scores": {"accuracy": 57.37, "f1": None, "names": ["é", "b"]}, "count": 10**17}


def test_a_sealed_file_is_read_whatever_its_layout_and_order_of_keys(tmp_path):
    path = tmp_path / "metrics.json"
    seals.write_sealed(path, CONTENT, inputs={"manifest.json": "ab"}, code={"sha256": "cd"})
    stored = seals.read_sealed(path, ["run"])
    assert {key: value for key, value in stored.items() if key != "seal"} == CONTENT
    assert stored["seal"]["inputs"] == {"manifest.json": "ab"} and stored["seal"]["code"] == {"sha256": "cd"}
    turned = dict(reversed(json.loads(path.read_text(encoding="utf-8")).items()))
    path.write_text(json.dumps(turned, ensure_ascii=True), encoding="utf-8")
    assert seals.read_sealed(path) == stored


def test_every_flipped_bit_of_a_sealed_file_is_an_error_or_changes_no_value(tmp_path):
    path = tmp_path / "metrics.json"
    seals.write_sealed(path, CONTENT, inputs={"manifest.json": "ab"})
    whole, stored = path.read_bytes(), seals.read_sealed(path)
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            try:
                assert seals.read_sealed(path, ["run"]) == stored, (place, bit)
            except ResultError as error:
                assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONTENT, "has no seal"),
        ({**CONTENT, "seal": {}}, "has no seal"),
        ({**CONTENT, "seal": {"sha256": 5}}, "has no seal"),
        ({**CONTENT, "seal": {"sha256": "00"}}, "edited or corrupt"),
        ({**seals.sealed(CONTENT), "more": 1}, "edited or corrupt"),
        (
            {**seals.sealed(CONTENT, inputs={"a": "b"}), "seal": seals.sealed(CONTENT)["seal"] | {"inputs": {}}},
            "edited or corrupt",
        ),
        ([1], "has no seal"),
    ],
)
def test_what_no_job_wrote_is_refused_with_the_remedy(content, said):
    with pytest.raises(ResultError, match=f"file.json: .*{said}.*; make it again"):
        seals.check(content, "file.json", "make it again")


def test_sealing_again_replaces_the_seal():
    once = seals.sealed(CONTENT, inputs={"a": "b"})
    assert seals.sealed(once, inputs={"a": "b"}) == once
    assert seals.check(seals.sealed({**once, "run": "c"}), "here")["run"] == "c"


def test_the_code_that_computes_numbers_is_told_from_the_rest(monkeypatch):
    hashes = {}
    for other in ("loop.py", "site.css", "scorecard.py"):
        monkeypatch.setattr(seals, "sha256_file", lambda path, other=other: "changed" if path.name == other else "same")
        seals.code_hash.cache_clear()
        hashes[other] = (seals.code_hash(), seals.code_hash(whole=True))
    seals.code_hash.cache_clear()
    assert hashes["scorecard.py"][0] == hashes["site.css"][0] != hashes["loop.py"][0]
    assert len({whole for _, whole in hashes.values()}) == 3
    assert set(seals.code_facts()) == {"commit", "sha256"}
