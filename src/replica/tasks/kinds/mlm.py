"""Masked words, and with `next_sentence` whether the second of two segments follows the first."""

from __future__ import annotations

from replica.errors import ConfigError
from replica.tasks.columns import IGNORED
from replica.tasks.kinds.text import Text


class Mlm(Text):
    """Predicts masked words."""

    name = "mlm"
    pipeline = "fill-mask"
    scored = True
    whole_batches = True

    def head(self, task) -> str:
        """Return `mlm`, or `pretraining` for masked words with next-sentence pairs."""
        return "pretraining" if task.next_sentence else self.name

    def teacher_head(self, task) -> str:
        """Return the task's own head: a teacher of masked words has its published one."""
        return self.head(task)

    def logits_share(self, task) -> float:
        """Return the share of words that are masked."""
        return task.mask_share

    def check_facts(self, task, facts) -> None:
        """Raise ConfigError for a tokenizer without a mask."""
        if facts["tokenizer"]["mask_id"] is None:
            raise ConfigError(f"task '{task.name}': masking needs a tokenizer with a mask token")

    def batch(self, task, facts, rows, seed, epoch):
        """Mask words by seed, epoch and example_id; return tokens, `labels` `(batch, length)` with -100 at words that were not chosen,
        and `next_sentence_label` `(batch,)` of pairs."""
        from replica.tasks.collator import padded, padded_length, token_batch
        from replica.tasks.masked_words import mask_tokens

        masked = [
            mask_tokens(
                row["input_ids"],
                facts["tokenizer"],
                share=task.mask_share,
                seed=seed,
                epoch=epoch,
                example_id=row["example_id"],
            )
            for row in rows
        ]
        batch = token_batch([{**row, "input_ids": ids} for row, (ids, _) in zip(rows, masked, strict=True)], facts)
        batch["labels"] = padded([labels for _, labels in masked], padded_length(rows, facts), IGNORED)
        return batch

    def loss(self, task, model, batch):
        """Return `mlm_loss`."""
        from replica.tasks.masked_words import mlm_loss

        return mlm_loss(model, batch)

    def predict(self, model, task, batch, rows, split):
        """Give `loss` (summed), `masked` and `correct` words, of pairs `next_sentence_label` and `next_sentence`."""
        import torch
        from torch.nn import functional

        from replica.tasks.masked_words import mlm_forward

        output = mlm_forward(model, batch)
        losses = functional.cross_entropy(output.logits.float(), output.labels, reduction="none")
        correct = (output.logits.argmax(-1) == output.labels).float()
        row_numbers = (batch["labels"] != IGNORED).nonzero()[:, 0]
        sums = torch.zeros(len(rows), 3, device=losses.device)
        sums.index_add_(0, row_numbers, torch.stack([losses, torch.ones_like(losses), correct], dim=1))
        records = [
            {"loss": loss, "masked": int(masked), "correct": int(right)} for loss, masked, right in sums.tolist()
        ]
        if output.next_sentence_logits is not None and "next_sentence_label" in batch:
            answers = output.next_sentence_logits.argmax(-1).tolist()
            for row, record, answer in zip(rows, records, answers, strict=True):
                record |= {"next_sentence_label": row["next_sentence_label"], "next_sentence": answer}
        return records
