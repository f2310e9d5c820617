"""Metrics by name, each as per-example statistics and a function of their sums, so that resampling is one product.

Units: metrics whose `unit` is `percent` run from 0 to 100 (correlations from -100 to 100), as papers print them;
`nats` and `ratio` are as they are. An undefined value (a correlation with a constant) is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from replica.errors import ConfigError
from replica.tasks.text_metrics import cider, exact_match, phrase_recall, token_f1, vqa_accuracy

if TYPE_CHECKING:
    import pandas as pd

    from replica.config.task_schema import Task


@dataclass(frozen=True)
class MetricEntry:
    """A metric: `statistics(predictions, task)` gives `(examples, k)`, `value` maps sums `(…, k)` to values `(…)`.

    `of_sample` replaces both for a metric that is no function of sums: it maps predictions and a sample of rows `(…,
    examples)` to values `(…)`. `columns` are those of `predictions` that it reads, with their types. A metric has one key in a run's
    `metrics.json`: its name.
    """

    unit: str
    direction: str
    statistics: Callable[[pd.DataFrame, Task], np.ndarray] | None = None
    value: Callable[[np.ndarray], np.ndarray] | None = None
    of_sample: Callable[[pd.DataFrame, np.ndarray], np.ndarray] | None = None
    columns: dict[str, str] = field(default_factory=dict)

    def compute(self, predictions: pd.DataFrame, task: Task) -> float:
        """Return the metric over all examples."""
        if self.of_sample is not None:
            return float(self.of_sample(predictions, np.arange(len(predictions))))
        return float(self.value(self.statistics(predictions, task).sum(0)))


def ratio(sums: np.ndarray) -> np.ndarray:
    """Divide the first sum by the second; 0 where the second is 0."""
    return _divide(sums[..., 0], sums[..., 1])


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def _per_example(values: np.ndarray) -> np.ndarray:
    """Return statistics whose ratio is the mean over examples."""
    values = np.asarray(values, dtype=float)
    return np.stack([values, np.ones_like(values)], axis=1)


def _percent(value: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: 100.0 * value(sums)


def _classes(predictions: pd.DataFrame, task: Task) -> tuple[np.ndarray, np.ndarray, int]:
    label, predicted = predictions["label"].to_numpy(int), predictions["prediction"].to_numpy(int)
    return label, predicted, max(2, task.class_count, int(label.max()) + 1, int(predicted.max()) + 1)


def _f1_statistics(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """Count (true positive, predicted, gold) per class: of class 1 for two classes, of every class for more."""
    label, predicted, classes = _classes(predictions, task)
    counted = np.array([1]) if classes == 2 else np.arange(classes)
    gold, hits = label[:, None] == counted, predicted[:, None] == counted
    return np.stack([gold & hits, hits, gold], axis=2).reshape(len(label), -1).astype(float)


def _f1_value(sums: np.ndarray) -> np.ndarray:
    """F1 = 2 TP / (predicted + gold), averaged over classes that occur or are predicted."""
    parts = sums.reshape(*sums.shape[:-1], -1, 3)
    size = parts[..., 1] + parts[..., 2]
    return _divide(_divide(2 * parts[..., 0], size).sum(-1), (size > 0).sum(-1))


def _class_hits(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """Count (right, gold) per class."""
    label, predicted, classes = _classes(predictions, task)
    gold = label[:, None] == np.arange(classes)
    return np.stack([gold & (label == predicted)[:, None], gold], axis=2).reshape(len(label), -1).astype(float)


def _class_accuracy_value(sums: np.ndarray) -> np.ndarray:
    """Share of right examples in each class, averaged over classes that occur."""
    parts = sums.reshape(*sums.shape[:-1], -1, 2)
    return _divide(_divide(parts[..., 0], parts[..., 1]).sum(-1), (parts[..., 1] > 0).sum(-1))


def _confusion(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """One-hot (gold, predicted) cells; a prediction that is no label has a column of its own."""
    label, predicted, classes = _classes(predictions, task)
    cells = np.zeros((len(label), (classes + 1) ** 2))
    cells[np.arange(len(label)), label * (classes + 1) + np.where(predicted < 0, classes, predicted)] = 1
    return cells


def _matthews_value(sums: np.ndarray) -> np.ndarray:
    """Matthews correlation of a confusion matrix in Gorodkin's form for any number of classes."""
    size = round(sums.shape[-1] ** 0.5)
    matrix = sums.reshape(*sums.shape[:-1], size, size)
    total, right = matrix.sum((-1, -2)), np.trace(matrix, axis1=-2, axis2=-1)
    gold, predicted = matrix.sum(-1), matrix.sum(-2)
    above = right * total - (gold * predicted).sum(-1)
    below = np.sqrt((total**2 - (predicted**2).sum(-1)) * (total**2 - (gold**2).sum(-1)))
    return _divide(above, below)


def _moments(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    x, y = (predictions[name].to_numpy(float) for name in ("label", "prediction"))
    x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def _pearson_value(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    tiny = 1e-12
    constant = (spread_x <= tiny * n * xx) | (spread_y <= tiny * n * yy)
    below = np.sqrt(np.clip(spread_x, 0, None) * np.clip(spread_y, 0, None))
    return np.where(constant, 0.0, _divide(n * xy - x * y, below))


def _spearman(predictions: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Pearson correlation of ranks (ties get their mean rank), ranked anew in every sample."""
    from scipy.stats import rankdata

    ranks = [rankdata(predictions[name].to_numpy(float)[rows], axis=-1) for name in ("label", "prediction")]
    x, y = (r - r.mean(-1, keepdims=True) for r in ranks)
    return 100.0 * _divide((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Return (type, first, last) of the entities of a BIO sequence, by conlleval's lenient rules.

    An entity begins at B-x, and at an I-x that does not continue an entity of type x.
    """
    spans, start, kind = set(), 0, None
    for i, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind is not None and not (mark == "I" and name == kind):
            spans.add((kind, start, i - 1))
            kind = None
        if mark in ("B", "I") and kind is None:
            start, kind = i, name
    return spans


def _entity_counts(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    if not all(name == "O" or name[:2] in ("B-", "I-") for name in task.labels) or not task.labels:
        raise ConfigError(f"task '{task.name}': span_f1 needs labels O, B-… and I-…, not {task.labels}")
    counts = []
    for pair in zip(predictions["labels"], predictions["predictions"], strict=True):
        gold, predicted = (entities([task.labels[int(tag)] for tag in tags]) for tags in pair)
        counts.append((len(gold & predicted), len(predicted), len(gold)))
    return np.array(counts, dtype=float).reshape(-1, 3)


def _accuracy_statistics(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """Count right and all: examples, or for tagging words."""
    if "labels" in predictions and "predictions" in predictions:
        pairs = zip(predictions["labels"], predictions["predictions"], strict=True)
        return np.array([(np.sum(np.asarray(a) == np.asarray(b)), len(a)) for a, b in pairs], dtype=float).reshape(
            -1, 2
        )
    return _per_example(predictions["label"] == predictions["prediction"])


def _answers(measure: Callable[..., float], part: bool | None = None, squad: bool = False):
    """Return statistics of an answer measure over all questions, or those with (True) or without (False) an answer.

    With `squad` the measure is told whether any question has no answer: SQuAD 2.0's rules or 1.1's.
    """

    def statistics(predictions: pd.DataFrame, task: Task) -> np.ndarray:
        column = "answers" if "answers" in predictions else "references"
        answers = [list(a) for a in predictions[column]]
        rules = {"unanswerable": not all(answers)} if squad else {}
        values = np.array([measure(p, a, **rules) for p, a in zip(predictions["prediction"], answers, strict=True)])
        counted = np.array([part is None or bool(a) == part for a in answers], dtype=float)
        return np.stack([values * counted, counted], axis=1)

    return statistics


def _cider(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    return _per_example(cider(list(predictions["prediction"]), [list(texts) for texts in predictions["references"]]))


def _bleu(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """Count as sacrebleu does (words of its tokenizer 13a, with their case): words of the prediction, words of the closest reference,
    and of n-grams of 1 to 4 words those that a reference has and all."""
    from sacrebleu.metrics import BLEU

    streams = list(zip_longest(*map(list, predictions["references"])))
    texts = [str(text) for text in predictions["prediction"]]
    return np.array(BLEU(force=True)._extract_corpus_statistics(texts, streams), dtype=float)


def _bleu_value(sums: np.ndarray) -> np.ndarray:
    """BLEU = min(1, exp(1 - r / c)) (p_1 p_2 p_3 p_4)^(1/4) of a corpus of c words (Papineni et al. 2002), r of the references.

    As sacrebleu has it by default, the k-th n of which no n-gram is right counts as 1 / 2^k right ones.
    """
    from sacrebleu.metrics import BLEU

    counts = np.rint(sums).astype(int).reshape(-1, 10).tolist()
    values = [BLEU.compute_bleu(row[2:6], row[6:], row[0], row[1], "exp").score for row in counts]
    return np.array(values).reshape(sums.shape[:-1])


def _columns(above: str, below: str) -> Callable[[pd.DataFrame, Task], np.ndarray]:
    return lambda predictions, task: predictions[[above, below]].to_numpy(float)


def _next_sentence(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    return _per_example(predictions["next_sentence_label"] == predictions["next_sentence"])


def _mean(statistics: Callable[[pd.DataFrame, Task], np.ndarray], columns: dict[str, str]) -> MetricEntry:
    return MetricEntry("percent", "higher", statistics, _percent(ratio), columns=columns)


def _score(statistics, value, columns: dict[str, str]) -> MetricEntry:
    return MetricEntry("percent", "higher", statistics, _percent(value), columns=columns)


def _loss(unit: str, words: str, value: Callable[[np.ndarray], np.ndarray]) -> MetricEntry:
    return MetricEntry(unit, "lower", _columns("loss", words), value, columns={"loss": "float64", words: "int64"})


def _exp_ratio(sums: np.ndarray) -> np.ndarray:
    return np.exp(ratio(sums))


_CLASSES = {"label": "int64", "prediction": "int64"}
_NUMBERS = {"label": "float64", "prediction": "float64"}
_TAGS = {"labels": "list of int64", "predictions": "list of int64"}
_TEXTS = {"prediction": "string", "references": "list of string"}
_MASKED = {"correct": "int64", "masked": "int64"}
_PAIRS = {"next_sentence_label": "int64", "next_sentence": "int64"}

METRICS: dict[str, MetricEntry] = {
    "accuracy": _mean(_accuracy_statistics, _CLASSES),
    "class_accuracy": _score(_class_hits, _class_accuracy_value, _CLASSES),
    "f1": _score(_f1_statistics, _f1_value, _CLASSES),
    "matthews": _score(_confusion, _matthews_value, _CLASSES),
    "pearson": _score(_moments, _pearson_value, _NUMBERS),
    "spearman": MetricEntry("percent", "higher", of_sample=_spearman, columns=_NUMBERS),
    "span_f1": _score(_entity_counts, _f1_value, _TAGS),
    "em": _mean(_answers(exact_match, squad=True), _TEXTS),
    "squad_f1": _mean(_answers(token_f1, squad=True), _TEXTS),
    "em_has_answer": _mean(_answers(exact_match, True, squad=True), _TEXTS),
    "squad_f1_has_answer": _mean(_answers(token_f1, True, squad=True), _TEXTS),
    "em_no_answer": _mean(_answers(exact_match, False, squad=True), _TEXTS),
    "vqa_accuracy": _mean(_answers(vqa_accuracy), _TEXTS),
    "phrase_recall": _mean(_answers(phrase_recall), _TEXTS),
    "cider": _mean(_cider, _TEXTS),
    "bleu": MetricEntry("percent", "higher", _bleu, _bleu_value, columns=_TEXTS),
    "mlm_accuracy": _mean(_columns("correct", "masked"), _MASKED),
    "next_sentence_accuracy": _mean(_next_sentence, _PAIRS),
    "mlm_loss": _loss("nats", "masked", ratio),
    "lm_loss": _loss("nats", "words", ratio),
    "lm_perplexity": _loss("ratio", "words", _exp_ratio),
    "perplexity": _loss("ratio", "masked", _exp_ratio),
}
