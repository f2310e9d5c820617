"""Metrics agree with their formulas and with independent implementations; intervals agree with SciPy's bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as oracle

from replica.config.task_schema import Task
from replica.errors import ConfigError
from replica.tasks import bootstrap, score
from replica.tasks.metrics import METRICS, entities


def task(kind: str, names: list[str], labels: list[str] | None = None) -> Task:
    return Task(
        name="t",
        version=1,
        dataset="d",
        kind=kind,
        inputs=["text"],
        labels=labels or [],
        splits={"train": "train", "select": "validation"},
        metrics=[{"name": name, "direction": METRICS[name].direction} for name in names],
    )


RNG = np.random.default_rng(0)
BINARY = pd.DataFrame({"label": RNG.integers(0, 2, 300)})
BINARY["prediction"] = np.where(RNG.random(300) < 0.7, BINARY["label"], 1 - BINARY["label"])
THREE = pd.DataFrame({"label": RNG.integers(0, 3, 300)})
THREE["prediction"] = np.where(RNG.random(300) < 0.6, THREE["label"], RNG.integers(0, 3, 300))
NUMBERS = pd.DataFrame({"label": RNG.integers(0, 26, 200) / 5})
NUMBERS["prediction"] = NUMBERS["label"] * 0.7 + RNG.normal(0, 1, 200) + 40


def test_classification_metrics_agree_with_scikit_learn():
    names = ["accuracy", "f1", "matthews"]
    found = score(task("classification", names, ["a", "b"]), BINARY)
    y, p = BINARY["label"], BINARY["prediction"]
    assert found["accuracy"] == pytest.approx(100 * oracle.accuracy_score(y, p))
    assert found["f1"] == pytest.approx(100 * oracle.f1_score(y, p))
    assert found["matthews"] == pytest.approx(100 * oracle.matthews_corrcoef(y, p))
    found = score(task("classification", names, ["a", "b", "c"]), THREE)
    y, p = THREE["label"], THREE["prediction"]
    assert found["f1"] == pytest.approx(100 * oracle.f1_score(y, p, average="macro"))
    assert found["matthews"] == pytest.approx(100 * oracle.matthews_corrcoef(y, p))


def test_matthews_is_the_formula_of_four_counts():
    table = pd.DataFrame({"label": [1] * 8 + [0] * 12, "prediction": [1] * 6 + [0] * 2 + [1] * 3 + [0] * 9})
    tp, fn, fp, tn = 6, 2, 3, 9
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert score(task("classification", ["matthews"], ["a", "b"]), table)["matthews"] == pytest.approx(100 * expected)


def test_undefined_values_are_zero():
    constant = pd.DataFrame({"label": [0, 1, 1, 0], "prediction": [0, 0, 0, 0]})
    found = score(task("classification", ["f1", "matthews"], ["a", "b"]), constant)
    assert found == {"f1": 0.0, "matthews": 0.0}
    numbers = pd.DataFrame({"label": [0.1, 0.4, 0.3], "prediction": [0.7, 0.7, 0.7]})
    assert score(task("regression", ["pearson", "spearman"]), numbers) == {"pearson": 0.0, "spearman": 0.0}


def test_a_prediction_that_is_no_label_counts_as_wrong():
    table = pd.DataFrame({"label": [1, 0, 1, 0], "prediction": [1, -1, -1, 0]})
    found = score(task("text2text", ["accuracy", "f1"], ["a", "b"]), table)
    assert found["accuracy"] == pytest.approx(50)
    assert found["f1"] == pytest.approx(100 * 2 / 3)  # TP 1, predicted 1, gold 2


def test_correlations_agree_with_scipy():
    found = score(task("regression", ["pearson", "spearman"]), NUMBERS)
    assert found["pearson"] == pytest.approx(100 * stats.pearsonr(NUMBERS["label"], NUMBERS["prediction"])[0])
    assert found["spearman"] == pytest.approx(100 * stats.spearmanr(NUMBERS["label"], NUMBERS["prediction"])[0])


def test_entities_follow_conlleval():
    assert entities(["B-PER", "I-PER", "O", "B-LOC"]) == {("PER", 0, 1), ("LOC", 3, 3)}
    assert entities(["I-PER", "I-LOC", "I-LOC"]) == {("PER", 0, 0), ("LOC", 1, 2)}
    assert entities(["B-PER", "B-PER", "I-PER"]) == {("PER", 0, 0), ("PER", 1, 2)}
    assert entities(["O", "O"]) == set()


def test_span_f1_counts_whole_entities_over_all_sentences():
    labels = ["O", "B-PER", "I-PER", "B-LOC"]
    table = pd.DataFrame({"labels": [[1, 2, 0], [3, 0]], "predictions": [[1, 2, 0], [1, 3]]})
    # gold: PER(0,1), LOC(0,0); found: PER(0,1), PER(0,0), LOC(1,1); right: 1. P = 1/3, R = 1/2, F1 = 2/5
    found = score(task("tagging", ["span_f1", "accuracy"], labels), table)
    assert found["span_f1"] == pytest.approx(40)
    assert found["accuracy"] == pytest.approx(60)  # words: 3 of 3 and 0 of 2
    with pytest.raises(ConfigError, match="span_f1 needs labels"):
        score(task("tagging", ["span_f1"], ["NOUN", "VERB"]), table)


def test_masked_language_metrics_weigh_words_not_examples():
    table = pd.DataFrame({"loss": [6.0, 1.0], "masked": [3, 1], "correct": [1, 1]})
    found = score(task("mlm", ["mlm_loss", "perplexity", "mlm_accuracy"]), table)
    assert found["mlm_loss"] == pytest.approx(7 / 4)
    assert found["perplexity"] == pytest.approx(math.exp(7 / 4))
    assert found["mlm_accuracy"] == pytest.approx(50)


def test_an_unknown_metric_and_empty_predictions_are_errors():
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        bootstrap(task("classification", ["accuracy"], ["a", "b"]), BINARY, "acuracy")
    with pytest.raises(ConfigError, match="no predictions"):
        score(task("classification", ["accuracy"], ["a", "b"]), BINARY.iloc[:0])


SCIPY = {
    "accuracy": (BINARY, lambda y, p: oracle.accuracy_score(y, p)),
    "f1": (BINARY, lambda y, p: oracle.f1_score(y, p)),
    "matthews": (BINARY, lambda y, p: oracle.matthews_corrcoef(y, p)),
    "pearson": (NUMBERS, lambda y, p: stats.pearsonr(y, p)[0]),
    "spearman": (NUMBERS, lambda y, p: stats.spearmanr(y, p)[0]),
}


@pytest.mark.parametrize("name", SCIPY)
def test_intervals_agree_with_scipys_percentile_bootstrap(name):
    table, function = SCIPY[name]
    kind = "classification" if table is BINARY else "regression"
    low, high = bootstrap(task(kind, [name], ["a", "b"]), table, name, 0.9, 2000, seed=1)
    reference = stats.bootstrap(
        (table["label"].to_numpy(), table["prediction"].to_numpy()),
        function,
        paired=True,
        vectorized=False,
        n_resamples=600,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = 100 * (reference.high - reference.low)
    assert low == pytest.approx(100 * reference.low, abs=0.15 * width)
    assert high == pytest.approx(100 * reference.high, abs=0.15 * width)


def test_intervals_are_the_same_for_the_same_seed_and_hold_the_value():
    this = task("classification", ["accuracy"], ["a", "b"])
    first = bootstrap(this, BINARY, "accuracy", seed=3)
    assert first == bootstrap(this, BINARY, "accuracy", seed=3)
    assert first[0] < score(this, BINARY)["accuracy"] < first[1]


def test_class_accuracy_is_the_mean_of_each_class_own_share():
    three = task("image", ["class_accuracy"]).model_copy(update={"classes": 3})
    # class 0: 3 of 4 right, class 1: 1 of 2, class 2: does not occur -> (3/4 + 1/2) / 2
    predictions = pd.DataFrame({"label": [0, 0, 0, 0, 1, 1], "prediction": [0, 0, 0, 1, 1, 2]})
    entry = METRICS["class_accuracy"]
    assert float(entry.value(entry.statistics(predictions, three).sum(0))) == pytest.approx(62.5)
