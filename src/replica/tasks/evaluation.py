"""Evaluation: a model's predictions on a prepared split, and its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from transformers import NoRepeatNGramLogitsProcessor

from replica.config.heads import GENERATED
from replica.methods.base import NOT_MODEL_INPUTS
from replica.tasks.batches import collate, padded
from replica.tasks.encode import IGNORED
from replica.tasks.mlm import mlm_forward
from replica.tasks.scoring import score
from replica.tasks.span import answers_from_windows, best_spans
from replica.tasks.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from torch import nn

    from replica.config.task_schema import Task
    from replica.tasks.prepared import PreparedSplit

#: Entries of a batch that say what is right; they are not given to a model that predicts.
ANSWERS = ("labels", "start_positions", "end_positions", "next_sentence_label")

#: Rows whose logits over the vocabulary are held at a time.
_ROWS_OF_LOGITS = 8


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, split: PreparedSplit, batch_size: int = 64
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Predict a split with a model, in eval mode and on its device, and score the predictions.

    The table has one row per example in the split's order (per question for span), with `row` of the data set and, by
    kind: `label`, `prediction` (and `logits`); `labels`, `predictions` (tagging, per word); `id`, `prediction`,
    `answers` (span); `loss` (summed), `masked`, `correct` and the next-sentence columns (mlm); `loss` (summed), `words`
    (causal: those predicted, all but the first); `generated`, `prediction`, `references` (text2text, completion). Masked words are
    those of seed 0 and epoch 0, so that every model is asked the same.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    collator = collate(task, split.facts, model=model)
    keep = collate(task, split.facts)
    order = np.argsort(-split.lengths, kind="stable")
    predict = _PREDICTORS[task.kind]
    records: list[dict[str, Any]] = []
    try:
        for start in range(0, len(order), batch_size):
            rows = [split[int(i)] for i in order[start : start + batch_size]]
            batch = collator(rows) if task.kind != "mlm" else {**keep(rows), **collator(rows)}
            batch = {key: value.to(device) for key, value in batch.items()}
            for row, values in zip(rows, predict(model, task, batch, rows, split), strict=True):
                records.append({"example_id": row["example_id"], "row": row["row"], **values})
    finally:
        model.train(was_training)
    predictions = pd.DataFrame(records).sort_values("example_id", kind="stable").reset_index(drop=True)
    if task.kind == "span":
        windows = predictions.rename(columns={"row": "question"})
        predictions = answers_from_windows(windows, split.examples, bool(split.facts.get("unanswerable")))
    elif task.kind in GENERATED:
        predictions = _read_texts(task, split, predictions)
    return predictions, score(task, predictions)


def _run(model: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
    return model(**{key: value for key, value in batch.items() if key not in (*NOT_MODEL_INPUTS, *ANSWERS)})


def _classes(model, task, batch, rows, split) -> list[dict[str, Any]]:
    logits = _run(model, batch).logits.float().cpu().numpy()
    return [
        {"label": row["label"], "prediction": int(values.argmax()), "logits": values.tolist()}
        for row, values in zip(rows, logits, strict=True)
    ]


def _numbers(model, task, batch, rows, split) -> list[dict[str, Any]]:
    values = _run(model, batch).logits.float().cpu().numpy()[:, 0]
    return [{"label": row["label"], "prediction": float(value)} for row, value in zip(rows, values, strict=True)]


def _tags(model, task, batch, rows, split) -> list[dict[str, Any]]:
    said = _run(model, batch).logits.argmax(-1).cpu().numpy()
    out = []
    for row, tags in zip(rows, said, strict=True):
        words = np.flatnonzero(row["labels"] != IGNORED)
        out.append({"labels": row["labels"][words].tolist(), "predictions": tags[words].tolist()})
    return out


def _spans(model, task, batch, rows, split) -> list[dict[str, Any]]:
    output = _run(model, batch)
    starts, ends = (logits.float().cpu().numpy() for logits in (output.start_logits, output.end_logits))
    out = []
    for row, start, end in zip(rows, starts, ends, strict=True):
        best, span, null = best_spans(start, end, row["offset_start"], row["offset_end"])
        out.append({"score": best, "span": span, "null": null})
    return out


def _masked(model, task, batch, rows, split) -> list[dict[str, Any]]:
    output = mlm_forward(model, batch)
    losses = functional.cross_entropy(output.logits.float(), output.labels, reduction="none")
    right = (output.logits.argmax(-1) == output.labels).float()
    where = (batch["labels"] != IGNORED).nonzero()[:, 0]
    sums = torch.zeros(len(rows), 3, device=losses.device)
    sums.index_add_(0, where, torch.stack([losses, torch.ones_like(losses), right], dim=1))
    out = [{"loss": loss, "masked": int(masked), "correct": int(correct)} for loss, masked, correct in sums.tolist()]
    if output.next_sentence_logits is not None and "next_sentence_label" in batch:
        said = output.next_sentence_logits.argmax(-1).tolist()
        for row, values, answer in zip(rows, out, said, strict=True):
            values |= {"next_sentence_label": row["next_sentence_label"], "next_sentence": answer}
    return out


def _next_words(model, task, batch, rows, split) -> list[dict[str, Any]]:
    """Sum the loss of each row's words after the first; a few rows at a time, as their logits are large."""
    out = []
    for start in range(0, len(rows), _ROWS_OF_LOGITS):
        part = {key: value[start : start + _ROWS_OF_LOGITS] for key, value in batch.items()}
        logits, labels = _run(model, part).logits[:, :-1].float(), part["labels"][:, 1:]
        losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        counts = (labels != IGNORED).sum(1)
        out += [
            {"loss": loss, "words": words} for loss, words in zip(losses.sum(1).tolist(), counts.tolist(), strict=True)
        ]
    return out


def _texts(model, task, batch, rows, split) -> list[dict[str, Any]]:
    """Generate as the task says, for as long as the longest target of its splits."""
    given = {key: value for key, value in batch.items() if key not in (*NOT_MODEL_INPUTS, *ANSWERS)}
    generated = model.generate(**given, **_generation(task, split, 0))
    return _answered(rows, generated.cpu().tolist())


def _completions(model, task, batch, rows, split) -> list[dict[str, Any]]:
    """Let a decoder go on after the inputs, which end where all do: they are filled up on the left."""
    inputs = [row["input_ids"][: int((row["labels"] == IGNORED).sum())] for row in rows]
    length, facts = max(map(len, inputs)), split.facts["tokenizer"]
    device = batch["input_ids"].device
    there = padded([np.ones(len(ids), np.int64) for ids in inputs], length, 0).flip(1).to(device)
    ids = padded([ids[::-1] for ids in inputs], length, facts["pad_id"]).flip(1).to(device)
    ends = {"eos_token_id": facts["eos_id"], "pad_token_id": facts["eos_id"]}
    generated = model.generate(input_ids=ids, attention_mask=there, **ends, **_generation(task, split, length))
    said = generated[:, length:].cpu().tolist()
    return _answered(rows, [ids[: ids.index(facts["eos_id"])] if facts["eos_id"] in ids else ids for ids in said])


class _NoRepeat(NoRepeatNGramLogitsProcessor):
    """Lets no run of `size` pieces come twice in a text; the `start` pieces before it, a decoder's input, may be said again."""

    def __init__(self, size: int, start: int):
        super().__init__(size)
        self.start = start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (rows, vocabulary) in which what would repeat a run is impossible."""
        return super().__call__(input_ids[:, self.start :], scores)


def _generation(task: Task, split: PreparedSplit, start: int) -> dict[str, Any]:
    """Return what `generate` is told; the texts begin after `start` pieces."""
    asked = task.generation
    told = {"max_new_tokens": split.facts["target_length"] + 1, "do_sample": False, "num_beams": asked.beams}
    if asked.beams > 1:
        told |= {"length_penalty": asked.length_penalty, "early_stopping": True}
    return {**told, "logits_processor": [_NoRepeat(asked.no_repeat, start)]} if asked.no_repeat else told


def _answered(rows: list[dict[str, Any]], generated: list[list[int]]) -> list[dict[str, Any]]:
    return [
        {"ids": ids, "label": row["label"], "value": row["value"], "references": list(row["references"])}
        for row, ids in zip(rows, generated, strict=True)
    ]


def _unscored(model, task, batch, rows, split) -> list[dict[str, Any]]:
    return [{"length": row["length"]} for row in rows]


def _read_texts(task: Task, split: PreparedSplit, predictions: pd.DataFrame) -> pd.DataFrame:
    """Turn generated ids into text, and text back into labels (-1: none of them) or numbers (-1: none, as T5 does)."""
    predictions["generated"] = TextTokenizer.read(split.folder).decode(predictions.pop("ids").tolist())
    values = predictions.pop("value")
    if task.labels:
        words = {task.label_words.get(name, name): index for index, name in enumerate(task.labels)}
        predictions["prediction"] = [words.get(text, -1) for text in predictions["generated"]]
    elif values.notna().all():
        predictions["label"] = values
        predictions["prediction"] = [_number(text) for text in predictions["generated"]]
    else:
        predictions["prediction"] = predictions["generated"]
    return predictions


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if np.isfinite(value) else -1.0


_PREDICTORS = {
    "classification": _classes,
    "image": _classes,
    "regression": _numbers,
    "tagging": _tags,
    "span": _spans,
    "mlm": _masked,
    "causal": _next_words,
    "text2text": _texts,
    "completion": _completions,
    "text": _unscored,
}
