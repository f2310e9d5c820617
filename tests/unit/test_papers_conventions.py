"""Conventions of counting that papers' files follow, against arithmetic: what a claim's expression gives on the models it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from replica.claims.cells import cells
from replica.claims.evidence import flat
from replica.claims.expressions import evaluate, names
from replica.config import load_project
from replica.measure.structural import measure
from replica.meters.registry import meters_of

PROJECT = load_project(
    Path(__file__).parents[2], papers=["ernie_tiny", "compression_survey", "fact", "imp_regurgitating"]
)


def ours(paper_id, claim_id, *keys):
    """Evaluate a cell's expression, measuring what it names and nothing else."""
    paper = PROJECT.paper(paper_id)
    claim = next(claim for claim in paper.claims if claim.id == claim_id)
    text = next(cell.ours for cell in cells(claim) if cell.keys == keys)
    known = {}
    for measurement, meter in {tuple(name.split(".")[:2]) for name in names(text)}:
        entry = paper.measurements[measurement]
        found = measure(PROJECT, entry, {meter: meters_of(entry)[meter]})
        known.update(flat({measurement: found}))
    return evaluate(text, known)


def bert(layers, hidden, inner, pooler=False):
    embeddings = (30522 + 512 + 2) * hidden + 2 * hidden
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    return embeddings + layers * layer + pooler * (hidden * hidden + hidden)


#: TinyBERT's students carry one matrix with a bias from their width to the teacher's 768.
TINY_4, TINY_6 = bert(4, 312, 1200) + (312 + 1) * 768, bert(6, 768, 3072) + (768 + 1) * 768


@pytest.mark.parametrize(
    ("row", "survey", "count", "printed"),
    [
        ("BERT-base", "BERT-base 12x768", bert(12, 768, 3072), 109),
        ("TinyBERT4", "4x312", TINY_4, 14.5),
        ("DistilBERT4 / BERT4-PKD", "4x768", bert(4, 768, 3072), 52.2),
        ("DistilBERT6 / TinyBERT6", "6x768", TINY_6, 67.0),
    ],
)
def test_tinyberts_table_counts_without_poolers_and_its_students_with_their_matrix(row, survey, count, printed):
    assert ours("ernie_tiny", "ernie-tiny-cost-of-shape", row, "M parameters") == pytest.approx(count / 1e6)
    assert ours("compression_survey", "survey-distillation-costs", survey, "M parameters") == pytest.approx(count / 1e6)
    assert round(count / 1e6, 0 if printed == 109 else 1) == printed


def test_the_ratio_of_ernie_tiny_is_that_of_the_same_counts():
    ratio = ours("ernie_tiny", "ernie-tiny-params")
    assert ratio == pytest.approx(bert(12, 768, 3072) / TINY_4)
    assert round(ratio, 1) == 7.5
    # With poolers and without the matrix, the table's 14.5 million would be 14.35 and the ratio 7.6.
    assert bert(4, 312, 1200, pooler=True) == 14350248
    assert round(bert(12, 768, 3072, pooler=True) / bert(4, 312, 1200, pooler=True), 1) == 7.6


#: The ranks of the released configurations, by group of tasks (JieShibo/PETL-ViT:FacT/configs).
TENSOR_TRAIN = {
    "natural": [16, 8, 8, 16, 8, 16, 8],
    "specialized": [8] * 4,
    "structured": [16, 4, 16, 16, 16, 16, 16, 8],
}
TUCKER = {
    "natural": [32, 32, 16, 32, 16, 32, 16],
    "specialized": [32, 32, 32, 16],
    "structured": [32, 16, 32, 32, 32, 32, 32, 16],
}


@pytest.mark.parametrize(
    ("row", "ranks", "count", "printed"),
    [
        ("FacT-TT", TENSOR_TRAIN, lambda r: 2 * 768 * r + 144 * r * r, 0.037),
        ("FacT-TK", TUCKER, lambda r: 2 * 768 * r + 144 * r + r**3, 0.069),
    ],
)
def test_facts_parameters_are_the_mean_of_the_means_of_three_groups(row, ranks, count, printed):
    means = [sum(map(count, group)) / len(group) for group in ranks.values()]
    expected = sum(means) / 3
    assert ours("fact", "fact-params-quoted", row) == pytest.approx(expected)
    assert round(expected / 1e6, 3) == printed


def test_resnet_20s_274_thousand_are_its_parameters_and_the_running_statistics_of_its_norms():
    assert ours("imp_regurgitating", "maene-params", "ResNet-20") == 272474 + 2 * 7 * (16 + 32 + 64) == 274042
