"""Scores of generated answers and captions against several references: recall of phrases, CIDEr-D, VQA accuracy."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

#: CIDEr-D: the longest n-grams, and the width of the Gaussian penalty on differences in length (Vedantam et al. 2015).
NGRAMS, SIGMA = 4, 6.0


def phrase_recall(said: str, references: list[str]) -> float:
    """Return the share of a reference's phrases (between commas) that were said, each as often as it stands there; the best reference."""
    have = Counter(_phrases(said))
    best = 0.0
    for reference in references:
        wanted = Counter(_phrases(reference))
        best = max(best, sum((wanted & have).values()) / max(1, sum(wanted.values())))
    return best


def vqa_accuracy(said: str, answers: list[str]) -> float:
    """Return VQA's accuracy: min(matches / 3, 1), averaged over every way to leave one of the people's answers out."""
    said = _plain(said)
    matches = [_plain(answer) == said for answer in answers]
    others = [min(1.0, (sum(matches) - match) / 3) for match in matches]
    return float(np.mean(others)) if others else 0.0


def cider(said: list[str], references: list[list[str]]) -> np.ndarray:
    """Return CIDEr-D of each caption, `(captions,)`, times 10 as its code gives it.

    Per n-gram length up to 4, the cosine of tf-idf vectors with the caption's clipped at the reference's, times exp(-(difference in
    length)^2 / (2 * 6^2)); mean over references and lengths. Document frequencies are those of the references given here, an image
    being a document. Words are lower-cased and split at whatever is no letter or digit, where the published code uses the Penn
    Treebank's tokenizer.
    """
    documents = [[_ngrams(reference) for reference in given] for given in references]
    frequency: Counter = Counter()
    for given in documents:
        frequency.update({ngram for counts in given for ngram in counts})
    images = np.log(max(1, len(documents)))

    def vector(counts: Counter) -> list[dict[tuple[str, ...], float]]:
        found: list[dict[tuple[str, ...], float]] = [{} for _ in range(NGRAMS)]
        for ngram, count in counts.items():
            found[len(ngram) - 1][ngram] = count * (images - np.log(max(1.0, frequency[ngram])))
        return found

    scores = []
    for text, given in zip(said, documents, strict=True):
        own = _ngrams(text)
        mine, length = vector(own), sum(count for ngram, count in own.items() if len(ngram) == 1)
        values = []
        for counts in given:
            other = vector(counts)
            difference = length - sum(count for ngram, count in counts.items() if len(ngram) == 1)
            penalty = np.exp(-(difference**2) / (2 * SIGMA**2))
            values.append(penalty * np.mean([_cosine(a, b) for a, b in zip(mine, other, strict=True)]))
        scores.append(10.0 * float(np.mean(values)) if values else 0.0)
    return np.array(scores)


def _cosine(mine: dict[tuple[str, ...], float], other: dict[tuple[str, ...], float]) -> float:
    norms = [np.sqrt(sum(value**2 for value in vector.values())) for vector in (mine, other)]
    above = sum(min(value, other.get(ngram, 0.0)) * other.get(ngram, 0.0) for ngram, value in mine.items())
    return float(above / (norms[0] * norms[1])) if all(norms) else 0.0


def _ngrams(text: str) -> Counter:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return Counter(tuple(words[start : start + n]) for n in range(1, NGRAMS + 1) for start in range(len(words) - n + 1))


def _phrases(text: str) -> list[str]:
    return [phrase for part in text.split(",") if (phrase := " ".join(part.split()))]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
