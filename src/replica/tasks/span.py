"""Reading tasks: windows over long contexts, answers from logits, and SQuAD's exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from replica.tasks.encode import Columns
from replica.tasks.splits import column

if TYPE_CHECKING:
    from replica.config.task_schema import Task
    from replica.tasks.tokenizer import TextTokenizer

#: Start and end candidates tried per window, and the longest answer in tokens (both as in BERT's SQuAD program).
N_BEST = 20
LONGEST_ANSWER = 30


def encode_spans(
    task: Task, table: pa.Table, tokenizer: TextTokenizer, max_length: int
) -> tuple[Columns, list[int], pd.DataFrame]:
    """Encode question and context in windows that overlap by `stride` tokens.

    Returns the windows' columns, the table's row of each window, and the questions: `row`, `id`, `context`, `answers`.
    `start` and `end` are token positions of the first answer, or 0 (the first token) where a window does not hold it
    whole. `offset_start` and `offset_end` are each token's characters in the context, -1 outside it.
    """
    questions, contexts = (column(table, name, f"task '{task.name}', inputs") for name in task.inputs)
    targets = column(table, task.target or "answers", f"task '{task.name}', target")
    pairs = [(question.strip(), context) for question, context in zip(questions, contexts, strict=True)]
    stride = min(task.stride, max(0, max_length // 4))
    encodings = tokenizer.encode(pairs, max_length, stride=stride, strategy="only_second")
    rows, windows = [], []
    for row, encoding in enumerate(encodings):
        for window in (encoding, *encoding.overflowing):
            rows.append(row)
            windows.append(window)
    columns: Columns = {"input_ids": [window.ids for window in windows]}
    kinds = [window.type_ids for window in windows]
    if any(any(kind) for kind in kinds):
        columns["token_type_ids"] = kinds
    names = ("start", "end", "offset_start", "offset_end")
    columns |= {name: [] for name in names}
    for row, window in zip(rows, windows, strict=True):
        inside = [sequence == 1 for sequence in window.sequence_ids]
        starts = [o[0] if i else -1 for o, i in zip(window.offsets, inside, strict=True)]
        ends = [o[1] if i else -1 for o, i in zip(window.offsets, inside, strict=True)]
        start, end = _token_span(starts, ends, targets[row])
        for name, value in zip(names, (start, end, starts, ends), strict=True):
            columns[name].append(value)
    identity = table.column("id").to_pylist() if "id" in table.column_names else list(range(table.num_rows))
    examples = pd.DataFrame(
        {
            "row": range(table.num_rows),
            "id": [str(value) for value in identity],
            "context": contexts,
            "answers": [list(target["text"]) for target in targets],
        }
    )
    return columns, rows, examples


def _token_span(starts: list[int], ends: list[int], target: dict[str, Any]) -> tuple[int, int]:
    """Return first and last token of the first answer, or (0, 0) when the window does not hold it whole."""
    if not len(target["text"]):
        return 0, 0
    begin = int(target["answer_start"][0])
    finish = begin + len(target["text"][0])
    inside = [i for i, s in enumerate(starts) if s >= 0 and ends[i] > s]
    if not inside or starts[inside[0]] > begin or ends[inside[-1]] < finish:
        return 0, 0
    first = max(i for i in inside if starts[i] <= begin)
    last = min(i for i in inside if ends[i] >= finish)
    return first, last


def best_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, offset_start: np.ndarray, offset_end: np.ndarray
) -> tuple[float, tuple[int, int] | None, float]:
    """Return (best score, its characters or None, score of no answer) of one window.

    A span's score is the sum of its start and end logits; it must lie in the context, not end before it starts, and
    have at most `LONGEST_ANSWER` tokens. No answer is the span of the first token alone.
    """
    size = len(offset_start)
    start_logits, end_logits = start_logits[:size], end_logits[:size]
    null = float(start_logits[0] + end_logits[0])
    inside = offset_start >= 0
    firsts = _best(start_logits, inside)
    lasts = _best(end_logits, inside)
    scores = start_logits[firsts][:, None] + end_logits[lasts][None, :]
    length = lasts[None, :] - firsts[:, None] + 1
    scores = np.where((length >= 1) & (length <= LONGEST_ANSWER), scores, -np.inf)
    if not scores.size or not np.isfinite(scores.max()):
        return -np.inf, None, null
    i, j = np.unravel_index(int(scores.argmax()), scores.shape)
    return float(scores[i, j]), (int(offset_start[firsts[i]]), int(offset_end[lasts[j]])), null


def _best(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    candidates = np.flatnonzero(allowed)
    order = np.argsort(-logits[candidates], kind="stable")[:N_BEST]
    return candidates[order]


def answers_from_windows(windows: pd.DataFrame, examples: pd.DataFrame, unanswerable: bool) -> pd.DataFrame:
    """Choose one answer per question from its windows' best spans.

    `windows` has `question`, `score`, `span`, `null`. With `unanswerable` (SQuAD 2.0) the answer is empty when no
    answer, at its lowest score over the windows, beats the best span. Returns `row`, `id`, `prediction`, `answers`,
    `null_margin`.
    """
    found: dict[int, list[tuple[float, Any, float]]] = {}
    for question, score, span, null in windows[["question", "score", "span", "null"]].itertuples(index=False):
        found.setdefault(int(question), []).append((score, span, null))
    rows = []
    for example in examples[examples["row"].isin(found.keys())].itertuples(index=False):
        candidates = found[example.row]
        score, span, _ = max(candidates, key=lambda c: c[0])
        null = min(c[2] for c in candidates)
        text = "" if span is None else example.context[span[0] : span[1]]
        margin = null - score if np.isfinite(score) else 0.0
        if unanswerable and (span is None or margin > 0):
            text = ""
        rows.append((example.row, example.id, text, list(example.answers), margin))
    return pd.DataFrame(rows, columns=["row", "id", "prediction", "answers", "null_margin"])


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower a text and take out punctuation, articles and extra space (Rajpurkar et al. 2016, section 6)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: list[str]) -> float:
    """Return 1 when the normalised prediction is one of the answers; without answers, when it is empty."""
    said = normalize_answer(prediction)
    return float(any(said == normalize_answer(answer) for answer in _gold(answers)))


def token_f1(prediction: str, answers: list[str]) -> float:
    """Return the best F1 of the prediction's words over the answers; with an empty side 1 if both are empty, else 0."""
    said = normalize_answer(prediction).split()
    best = 0.0
    for answer in _gold(answers):
        gold = normalize_answer(answer).split()
        if not said or not gold:
            value = float(said == gold)
        else:
            common = sum((Counter(said) & Counter(gold)).values())
            value = 2 * common / (len(said) + len(gold))
        best = max(best, value)
    return best


def _gold(answers: list[str]) -> list[str]:
    """Return the answers that are not empty after normalisation, or the empty answer alone (SQuAD 2.0's rule)."""
    return [answer for answer in answers if normalize_answer(answer)] or [""]
