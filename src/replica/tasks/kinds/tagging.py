"""A tag for each word of a text."""

from __future__ import annotations

import numpy as np

from replica.tasks.columns import IGNORED, column, label_index, target, token_columns
from replica.tasks.kinds.kind import Encoded, Kind, model_inputs


class Tagging(Kind):
    """Predicts a tag at the first piece of each word."""

    name = "tagging"
    label_column = "labels"
    pipeline = "token-classification"

    def encode(self, task, table, tokenizer, max_length, *, train, asset) -> Encoded:
        """Encode lists of words; a word's first piece has its tag in `labels`, all other pieces -100."""
        words = column(table, task.inputs[0], f"task '{task.name}', inputs")
        encodings = tokenizer.encode(words, max_length, words=True)
        columns = token_columns(encodings, False)
        columns["labels"] = []
        for encoding, tags in zip(encodings, target(task, table), strict=True):
            numbers = [label_index(task, tag) for tag in tags]
            labels, previous = [], None
            for word in encoding.word_ids:
                labels.append(IGNORED if word is None or word == previous else numbers[word])
                previous = word
            columns["labels"].append(labels)
        return Encoded(columns, range(table.num_rows))

    def predict(self, model, task, batch, rows, split):
        """Give `labels` and `predictions`, a list with one tag per word."""
        predictions = model(**model_inputs(batch)).logits.argmax(-1).cpu().numpy()
        records = []
        for row, tags in zip(rows, predictions, strict=True):
            words = np.flatnonzero(row["labels"] != IGNORED)
            records.append({"labels": row["labels"][words].tolist(), "predictions": tags[words].tolist()})
        return records
