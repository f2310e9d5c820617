"""One class for a text or a pair of texts."""

from __future__ import annotations

from replica.tasks.columns import label_index, target, texts, token_columns
from replica.tasks.kinds.kind import Encoded, Kind, model_inputs


class Classification(Kind):
    """Predicts `label` from one text or two."""

    name = "classification"
    pipeline = "text-classification"
    input_counts = (1, 2)

    def encode(self, task, table, tokenizer, max_length, *, train, asset) -> Encoded:
        """Encode one text or a pair per row, with its class or number (`label`)."""
        columns_of_text = [texts(task, table, name) for name in task.inputs]
        pair = len(columns_of_text) == 2
        rows = list(zip(*columns_of_text, strict=True)) if pair else columns_of_text[0]
        columns = token_columns(tokenizer.encode(rows, max_length), pair)
        columns["label"] = [self.label(task, value, row) for row, value in enumerate(target(task, table))]
        return Encoded(columns, range(table.num_rows))

    def label(self, task, value, row) -> int | float:
        """Return the target of a row; RowError for one that the task does not have."""
        return label_index(task, value, row)

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
