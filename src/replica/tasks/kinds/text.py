"""Unlabelled text, for methods that bring their own objective."""

from __future__ import annotations

from replica.errors import ConfigError
from replica.tasks.kinds.kind import Encoded, Kind


class Text(Kind):
    """Blocks of text without a target."""

    name = "text"
    pipeline = "feature-extraction"
    scored = False

    def encode(self, task, table, tokenizer, max_length, *, train, asset) -> Encoded:
        """Encode texts in blocks, or in pairs of segments with `next_sentence`."""
        from replica.tasks.segments import encode_blocks, encode_pairs

        return (encode_pairs if task.next_sentence else encode_blocks)(task, table, tokenizer, max_length)

    def loss(self, task, model, batch):
        """Raise ConfigError: the method has to bring a loss."""
        raise ConfigError(f"task '{task.name}' is unlabelled text and has no loss; give the run a method that has one")

    def predict(self, model, task, batch, rows, split):
        """Give each row's `length`."""
        return [{"length": row["length"]} for row in rows]
