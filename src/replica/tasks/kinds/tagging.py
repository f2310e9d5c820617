"""A tag for each word of a text."""

from __future__ import annotations

import numpy as np

from replica.tasks.columns import IGNORED, inputs, label_index, require, target, token_columns
from replica.tasks.kinds.kind import Encoded, Kind, model_inputs


class Tagging(Kind):
    """Predicts a tag at the first piece of each word."""

    name = "tagging"
    label_column = "labels"
    pipeline = "token-classification"
    input_counts = (1, 1)

    def encode(self, task, table, tokenizer, max_length, *, train, asset) -> Encoded:
        """Encode lists of words; a word's first piece has its tag in `labels`, all other pieces -100."""
        words, tagged = inputs(task, table)[0], target(task, table)
        for row, (sentence, tags) in enumerate(zip(words, tagged, strict=True)):
            whole = isinstance(sentence, list) and all(isinstance(word, str) for word in sentence)
            require(whole, task, task.inputs[0], sentence, "a list of words", row)
            fits = isinstance(tags, list) and len(tags) == len(sentence)
            require(fits, task, task.target, tags, f"a list with a tag for each of {len(sentence)} words", row)
        encodings = tokenizer.encode(words, max_length, words=True)
        columns = token_columns(encodings, False)
        columns["labels"] = []
        for row, (encoding, tags) in enumerate(zip(encodings, tagged, strict=True)):
            numbers = [label_index(task, tag, row) for tag in tags]
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
