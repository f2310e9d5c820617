"""The next word of a text, from the words before it."""

from __future__ import annotations

from replica.tasks.columns import IGNORED
from replica.tasks.kinds.kind import Kind, model_inputs
from replica.tasks.kinds.text import Text

#: Rows whose logits over the vocabulary are held at a time.
_ROWS_OF_LOGITS = 8


class Causal(Text):
    """Predicts every word of a block but the first."""

    name = "causal"
    label_column = "input_ids"  # the model compares each word with the output before it
    pipeline = "text-generation"
    scored = True
    loss = Kind.loss

    def predict(self, model, task, batch, rows, split):
        """Give `loss`, summed over a row's words after the first, and `words`, their number."""
        from torch.nn import functional

        records = []
        for start in range(0, len(rows), _ROWS_OF_LOGITS):
            part = {key: value[start : start + _ROWS_OF_LOGITS] for key, value in batch.items()}
            logits, labels = model(**model_inputs(part)).logits[:, :-1].float(), part["labels"][:, 1:]
            losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
            counts = (labels != IGNORED).sum(1)
            pairs = zip(losses.sum(1).tolist(), counts.tolist(), strict=True)
            records += [{"loss": loss, "words": words} for loss, words in pairs]
        return records
