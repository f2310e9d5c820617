"""One class for a text or a pair of texts."""

from __future__ import annotations

from replica.errors import ConfigError
from replica.tasks.columns import inputs, label_index, target, token_columns
from replica.tasks.kinds.kind import Encoded, Kind, model_inputs


class Classification(Kind):
    """Predicts `label` from one text or two."""

    name = "classification"
    pipeline = "text-classification"

    def encode(self, task, table, tokenizer, max_length, *, train, asset) -> Encoded:
        """Encode one text or a pair per row, with its class or number (`label`)."""
        texts = inputs(task, table)
        if len(texts) > 2:
            raise ConfigError(f"task '{task.name}': kind {task.kind} takes one text or a pair, not {len(texts)} inputs")
        pair = len(texts) == 2
        rows = list(zip(*texts, strict=True)) if pair else texts[0]
        columns = token_columns(tokenizer.encode(rows, max_length), pair)
        columns["label"] = [self.label(task, value) for value in target(task, table)]
        return Encoded(columns, range(table.num_rows))

    def label(self, task, value) -> int | float:
        """Return the target of a row."""
        return label_index(task, value)

    def targets(self, task, rows, facts):
        """Return `labels` `(batch,)`."""
        import torch

        return {"labels": torch.tensor([row["label"] for row in rows])}

    def predict(self, model, task, batch, rows, split):
        """Give `label`, `prediction` and `logits`."""
        logits = model(**model_inputs(batch)).logits.float().cpu().numpy()
        return [
            {"label": row["label"], "prediction": int(values.argmax()), "logits": values.tolist()}
            for row, values in zip(rows, logits, strict=True)
        ]
