"""Every metric loads by path in the library `evaluate`, without a network, and agrees with independent implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from scipy import stats
from sklearn import metrics as sklearn_metrics

from replica.tasks import METRICS

FOLDER = Path(__file__).parents[2] / "metrics" / "replica_metric"
RNG = np.random.default_rng(3)
LABEL = RNG.integers(0, 3, 200)
PREDICTION = np.where(RNG.random(200) < 0.6, LABEL, RNG.integers(0, 3, 200))
NUMBER = RNG.normal(size=200)
NEAR = NUMBER + RNG.normal(size=200)
TEXTS = ["the cat sat on the mat", "a dog barks at the moon"]
REFERENCES = [["the cat is on the mat", "a cat sat on the mat"], ["the dog barks at a moon", "a dog barks at it"]]


@pytest.fixture
def load(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path))
    return lambda name: evaluate.load(str(FOLDER), name, cache_dir=str(tmp_path), experiment_id=name)


def test_every_metric_loads_and_names_its_columns(load):
    for name, entry in METRICS.items():
        metric = load(name)
        assert list(metric.features) == list(entry.columns)
        assert entry.unit in metric.description


def test_classes_agree_with_scikit_learn(load):
    columns = {"label": LABEL, "prediction": PREDICTION}
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(LABEL, PREDICTION),
        "class_accuracy": sklearn_metrics.balanced_accuracy_score(LABEL, PREDICTION),
        "f1": sklearn_metrics.f1_score(LABEL, PREDICTION, average="macro"),
        "matthews": sklearn_metrics.matthews_corrcoef(LABEL, PREDICTION),
    }
    for name, value in expected.items():
        assert load(name).compute(**columns, names=["a", "b", "c"]) == {name: pytest.approx(100 * value)}


def test_numbers_agree_with_scipy(load):
    for name, correlation in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        result = load(name).compute(label=NUMBER, prediction=NEAR, interval=True)
        assert result[name] == pytest.approx(100 * correlation(NUMBER, NEAR)[0])
        assert result["low"] < result[name] < result["high"]


def test_texts_agree_with_sacrebleu(load):
    streams = list(zip(*REFERENCES, strict=True))
    result = load("bleu").compute(prediction=TEXTS, references=REFERENCES)
    assert result["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, streams).score)
    assert load("em").compute(prediction=["The cat."], references=[["cat", "dog"]]) == {"em": 100}


def test_tags_are_compared_as_entities(load):
    result = load("span_f1").compute(
        labels=[[1, 2, 0], [1, 0]], predictions=[[1, 2, 0], [0, 1]], names=["O", "B-A", "I-A"]
    )
    assert result == {"span_f1": pytest.approx(50)}  # 1 of 2 entities is right, of 2 predicted
