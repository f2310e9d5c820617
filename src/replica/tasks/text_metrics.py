"""Scores of answers and captions against several references: SQuAD's, VQA's, recall of phrases, CIDEr-D."""

from __future__ import annotations

import re
import string
from collections import Counter

import numpy as np

#: CIDEr-D: the longest n-grams, and the width of the Gaussian penalty on differences in length (Vedantam et al. 2015).
NGRAMS, SIGMA = 4, 6.0


def phrase_recall(prediction: str, references: list[str]) -> float:
    """Return the share of a reference's phrases (between commas, counted as often as they occur) in the prediction; the best
    reference counts."""
    predicted = Counter(_phrases(prediction))
    best = 0.0
    for reference in references:
        phrases = Counter(_phrases(reference))
        best = max(best, sum((phrases & predicted).values()) / max(1, sum(phrases.values())))
    return best


def vqa_accuracy(prediction: str, answers: list[str]) -> float:
    """Return VQA's accuracy: min(matches / 3, 1), averaged over every way to leave one of the people's answers out.

    Texts are compared by `normalize_vqa` where the people's answers differ, else as they are but for space around them, as in the
    official evaluation.
    """
    prediction, *answers = (re.sub(r"[\n\t]", " ", text).strip() for text in (prediction, *answers))
    if len(set(answers)) > 1:
        prediction, *answers = map(normalize_vqa, (prediction, *answers))
    matches = [answer == prediction for answer in answers]
    others = [min(1.0, (sum(matches) - match) / 3) for match in matches]
    return float(np.mean(others)) if others else 0.0


_VQA_ARTICLES = {"a", "an", "the"}
_NUMERALS = "zero one two three four five six seven eight nine ten"
_VQA_NUMERALS = {word: str(number) for number, word in enumerate(_NUMERALS.split())} | {"none": "0"}
_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_VQA_THOUSANDS, _VQA_PERIODS = re.compile(r"\d,\d"), re.compile(r"\.(?!\d)")
_CONTRACTIONS = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
    oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll
    they're they've wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
    who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
#: A contraction without one of its apostrophes -> the contraction.
_VQA_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, mark in enumerate(word)
    if mark == "'"
}


def normalize_vqa(text: str) -> str:
    """Return an answer as VQA's evaluation compares it (Antol et al. 2015; its published script has the lists).

    A mark of punctuation goes where the text has it next to a space or has a comma between digits, else becomes a space; periods go but
    before a digit; then words are lowered, numerals to ten become digits, articles go, and contractions get their apostrophe.
    """
    thousands, cleaned = _VQA_THOUSANDS.search(text), text
    for mark in _VQA_PUNCTUATION:
        gone = thousands or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if gone else " ")
    words = [_VQA_NUMERALS.get(word, word) for word in _VQA_PERIODS.sub("", cleaned).lower().split()]
    return " ".join(_VQA_CONTRACTIONS.get(word, word) for word in words if word not in _VQA_ARTICLES)


def cider(predictions: list[str], references: list[list[str]]) -> np.ndarray:
    """Return CIDEr-D of each caption, `(captions,)`, times 10 as its code gives it.

    Per n-gram length up to 4, the cosine of tf-idf vectors with the caption's clipped at the reference's, times exp(-(difference in
    length)^2 / (2 * 6^2)); mean over references and lengths. Document frequencies are those of `references`, an image
    being a document. Words are lower-cased and split at all but letters and digits, where the published code uses the Penn
    Treebank's tokenizer.
    """
    documents = [[_ngrams(reference) for reference in texts] for texts in references]
    frequency: Counter = Counter()
    for document in documents:
        frequency.update({ngram for counts in document for ngram in counts})
    images = np.log(max(1, len(documents)))

    def vectors(counts: Counter) -> list[dict[tuple[str, ...], float]]:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(NGRAMS)]
        for ngram, count in counts.items():
            weights[len(ngram) - 1][ngram] = count * (images - np.log(max(1.0, frequency[ngram])))
        return weights

    def length(counts: Counter) -> int:
        return sum(count for ngram, count in counts.items() if len(ngram) == 1)

    scores = []
    for text, document in zip(predictions, documents, strict=True):
        caption = _ngrams(text)
        values = []
        for counts in document:
            penalty = np.exp(-((length(caption) - length(counts)) ** 2) / (2 * SIGMA**2))
            pairs = zip(vectors(caption), vectors(counts), strict=True)
            values.append(penalty * np.mean([_cosine(a, b) for a, b in pairs]))
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


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower a text and take out punctuation, articles and extra space (Rajpurkar et al. 2016, section 6)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: list[str], unanswerable: bool = True) -> float:
    """Return 1 when the normalised prediction is one of the answers; without answers, when it is empty.

    `unanswerable`: the data set has questions without an answer, so that SQuAD 2.0's rules hold, where answers that normalise to nothing
    count only if there is no other; else SQuAD 1.1's, where they count as they are.
    """
    text = normalize_answer(prediction)
    return float(any(text == normalize_answer(answer) for answer in _gold(answers, unanswerable)))


def token_f1(prediction: str, answers: list[str], unanswerable: bool = True) -> float:
    """Return the best F1 of the prediction's words over the answers.

    With an empty side it is 0, but 1 if both are empty and the data set has questions without an answer (`unanswerable`, see
    `exact_match`).
    """
    words = normalize_answer(prediction).split()
    best = 0.0
    for answer in _gold(answers, unanswerable):
        gold = normalize_answer(answer).split()
        if not words or not gold:
            value = float(unanswerable and words == gold)
        else:
            common = sum((Counter(words) & Counter(gold)).values())
            value = 2 * common / (len(words) + len(gold))
        best = max(best, value)
    return best


def _gold(answers: list[str], unanswerable: bool) -> list[str]:
    """Return the answers, by SQuAD 2.0's rule those that are not empty after normalisation, or the empty answer alone."""
    if not unanswerable:
        return answers
    return [answer for answer in answers if normalize_answer(answer)] or [""]
