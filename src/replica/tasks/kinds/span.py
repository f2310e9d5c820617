"""Answers in a context: windows over long contexts, and the best span of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from replica.tasks.columns import Columns, column, require, texts, token_columns
from replica.tasks.kinds.kind import Encoded, Kind, model_inputs

if TYPE_CHECKING:
    import pandas as pd

#: Start and end candidates tried per window, and the longest answer in tokens (both as in BERT's SQuAD program).
N_BEST = 20
LONGEST_ANSWER = 30


class Span(Kind):
    """Predicts where the answer to a question begins and ends in a context."""

    name = "span"
    pipeline = "question-answering"
    input_counts = (2, 2)
    quotes = True

    def encode(self, task, table, tokenizer, max_length, *, train, asset) -> Encoded:
        """Encode question and context in windows that overlap by `stride` tokens; `examples` has `row`, `id`, `context`, `answers`.

        `start` and `end` are token positions of the first answer, or 0 (the first token) where a window does not hold it
        whole. `offset_start` and `offset_end` are each token's characters in the context, -1 outside it.
        """
        import pandas as pd

        questions, contexts = (texts(task, table, name) for name in task.inputs)
        name = task.target or "answers"
        answers = column(table, name, f"task '{task.name}', target")
        for row, answer in enumerate(answers):
            require(_is_answer(answer), task, name, answer, "`text` and `answer_start`, lists of one length", row)
        pairs = [(question.strip(), context) for question, context in zip(questions, contexts, strict=True)]
        stride = min(task.stride, max(0, max_length // 4))
        rows, windows = [], []
        for row, encoding in enumerate(tokenizer.encode(pairs, max_length, stride=stride, strategy="only_second")):
            for window in (encoding, *encoding.overflowing):
                rows.append(row)
                windows.append(window)
        names = ("start", "end", "offset_start", "offset_end")
        columns: Columns = token_columns(windows, True) | {name: [] for name in names}
        for row, window in zip(rows, windows, strict=True):
            inside = [sequence == 1 for sequence in window.sequence_ids]
            starts = [o[0] if i else -1 for o, i in zip(window.offsets, inside, strict=True)]
            ends = [o[1] if i else -1 for o, i in zip(window.offsets, inside, strict=True)]
            start, end = _token_span(starts, ends, answers[row])
            for name, value in zip(names, (start, end, starts, ends), strict=True):
                columns[name].append(value)
        named = "id" in table.column_names
        identity = column(table, "id", f"task '{task.name}'") if named else list(range(table.num_rows))
        answer_texts = [list(answer["text"]) for answer in answers]
        examples = pd.DataFrame(
            {
                "row": range(table.num_rows),
                "id": [str(value) for value in identity],
                "context": contexts,
                "answers": answer_texts,
            }
        )
        return Encoded(columns, rows, examples, {"unanswerable": not all(answer_texts)})

    def targets(self, task, rows, facts):
        """Return `start_positions` and `end_positions` `(batch,)`."""
        import torch

        return {f"{name}_positions": torch.tensor([row[name] for row in rows]) for name in ("start", "end")}

    def predict(self, model, task, batch, rows, split):
        """Give `score`, `span` and `null`, the best span of each window (see `best_spans`)."""
        output = model(**model_inputs(batch))
        starts, ends = (logits.float().cpu().numpy() for logits in (output.start_logits, output.end_logits))
        spans = (
            best_spans(start, end, row["offset_start"], row["offset_end"])
            for row, start, end in zip(rows, starts, ends, strict=True)
        )
        return [dict(zip(("score", "span", "null"), span, strict=True)) for span in spans]

    def assemble(self, task, split, predictions):
        """Choose one answer per question."""
        windows = predictions.rename(columns={"row": "question"})
        return answers_from_windows(windows, split.examples, bool(split.facts.get("unanswerable")))


def _is_answer(value: Any) -> bool:
    """Return whether a cell holds the texts of answers and the characters where they begin, as SQuAD's do."""
    if not isinstance(value, dict):
        return False
    texts, starts = value.get("text"), value.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return False
    return all(isinstance(text, str) for text in texts) and all(isinstance(start, int) for start in starts)


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
    import pandas as pd

    spans: dict[int, list[tuple[float, Any, float]]] = {}
    for question, score, span, null in windows[["question", "score", "span", "null"]].itertuples(index=False):
        spans.setdefault(int(question), []).append((score, span, null))
    rows = []
    for example in examples[examples["row"].isin(spans.keys())].itertuples(index=False):
        candidates = spans[example.row]
        score, span, _ = max(candidates, key=lambda c: c[0])
        null = min(c[2] for c in candidates)
        text = "" if span is None else example.context[span[0] : span[1]]
        margin = null - score if np.isfinite(score) else 0.0
        if unanswerable and (span is None or margin > 0):
            text = ""
        rows.append((example.row, example.id, text, list(example.answers), margin))
    return pd.DataFrame(rows, columns=["row", "id", "prediction", "answers", "null_margin"])
