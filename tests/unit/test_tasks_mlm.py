"""Masking depends on seed, epoch and example alone; the head at masked words is the full head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.config.task_schema import Task
from replica.tasks import collate, task_loss
from replica.tasks.masked_words import mask_tokens, mlm_forward, mlm_loss

SPECIAL = [0, 1, 2, 3, 4]
TOKENIZER = {"pad_id": 0, "mask_id": 4, "special_ids": SPECIAL, "vocab_size": 1000}
BERT = {
    "vocab_size": 1000,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def task(next_sentence: bool = False) -> Task:
    return Task(
        name="masked",
        version=1,
        dataset="d",
        kind="mlm",
        inputs=["text"],
        splits={"train": "train", "select": "validation"},
        metrics=[{"name": "mlm_loss", "direction": "lower"}],
        max_length=64,
        next_sentence=next_sentence,
    )


def rows(count: int = 6, pairs: bool = False) -> list[dict]:
    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        ids = np.array([2, *rng.integers(5, 1000, 10 + i), 3])
        row = {"example_id": i, "input_ids": ids}
        if pairs:
            row |= {"token_type_ids": (np.arange(len(ids)) > 6).astype(int), "next_sentence_label": i % 2}
        out.append(row)
    return out


def test_shares_are_fifteen_percent_and_eighty_ten_ten():
    ids = np.array([2, *np.random.default_rng(1).integers(5, 1000, 400), 3])
    chosen = masked = kept = 0
    for example in range(200):
        inputs, labels = mask_tokens(ids, TOKENIZER, share=0.15, seed=0, epoch=0, example_id=example)
        where = labels != -100
        assert where.sum() == 60  # 15 % of 400
        assert not where[0]
        assert not where[-1]
        assert np.array_equal(labels[where], ids[where])
        assert np.array_equal(inputs[~where], ids[~where])
        chosen += 60
        masked += int((inputs[where] == 4).sum())
        kept += int((inputs[where] == ids[where]).sum())
    # 12,000 draws: a share of 0.8 has a standard error of 0.0037, of 0.1 of 0.0027; a random word is the mask or the word 1 in 500
    assert masked / chosen == pytest.approx(0.8, abs=0.015)
    assert kept / chosen == pytest.approx(0.1, abs=0.012)


def test_every_position_is_chosen_alike():
    ids = np.array([2, *range(5, 25), 3])
    counts = sum(
        (mask_tokens(ids, TOKENIZER, share=0.15, seed=0, epoch=e, example_id=0)[1] != -100).astype(int)
        for e in range(4000)
    )
    # 3 of 20 words in each of 4,000 epochs: 600 ± 23 (one standard deviation) each
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1].min() > 500
    assert counts[1:-1].max() < 700


def test_short_and_empty_rows():
    _, labels = mask_tokens(np.array([2, 7, 3]), TOKENIZER, share=0.15, seed=0, epoch=0, example_id=0)
    assert labels.tolist() == [-100, 7, -100]
    inputs, labels = mask_tokens(np.array([2, 3]), TOKENIZER, share=0.15, seed=0, epoch=0, example_id=0)
    assert inputs.tolist() == [2, 3]
    assert (labels == -100).all()


def test_masks_do_not_depend_on_what_came_before_or_stands_beside():
    facts = {"kind": "mlm", "tokenizer": TOKENIZER, "max_length": 64}
    first, second = collate(task(), facts, seed=5), collate(task(), facts, seed=5)
    first.set_epoch(3)
    whole = first(rows())
    second.set_epoch(1)
    second(rows())
    second.set_epoch(3)
    turned = second(rows()[::-1])
    assert torch.equal(whole["input_ids"], turned["input_ids"].flip(0))
    assert torch.equal(whole["labels"], turned["labels"].flip(0))
    alone = second(rows()[2:3])
    length = len(rows()[2]["input_ids"])
    assert torch.equal(alone["labels"][0, :length], whole["labels"][2, :length])
    for other in (collate(task(), facts, seed=6), collate(task(), facts, seed=5)):
        assert not torch.equal(other(rows())["labels"], whole["labels"])


@pytest.mark.parametrize(
    ("architecture", "head"),
    [("bert", "mlm"), ("bert", "pretraining"), ("roberta", "mlm"), ("distilbert", "mlm")],
)
def test_the_head_at_masked_words_equals_the_full_head(architecture, head):
    config = BERT
    if architecture == "distilbert":
        config = {"vocab_size": 1000, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    model = models.build(ModelEntry(title="t", architecture=architecture, config=config), head=head, seed=1)
    pairs = head == "pretraining"
    facts = {"kind": "mlm", "tokenizer": TOKENIZER, "max_length": 64}
    batch = collate(task(pairs), facts, model=model)(rows(pairs=pairs))
    output = mlm_forward(model, batch)
    logits, labels = output.logits, output.labels
    full = model(**{k: v for k, v in batch.items() if k != "example_id"})
    all_logits = full.prediction_logits if pairs else full.logits
    where = batch["labels"] != -100
    assert logits.shape == (int(where.sum()), 1000)
    torch.testing.assert_close(logits, all_logits[where], rtol=1e-5, atol=1e-6)
    assert torch.equal(labels, batch["labels"][where])
    loss = mlm_loss(model, batch)
    torch.testing.assert_close(loss, full.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(task_loss(task(pairs), model, batch), full.loss, rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(full.loss, list(model.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_options_reach_the_body():
    model = models.build(ModelEntry(title="t", architecture="bert", config=BERT), head="mlm", attention="eager")
    batch = collate(task(), {"kind": "mlm", "tokenizer": TOKENIZER, "max_length": 64})(rows())
    output = mlm_forward(model, batch, output_hidden_states=True, output_attentions=True)
    assert len(output.body.hidden_states) == 3
    assert len(output.body.attentions) == 2


def test_a_batch_without_masked_words_has_loss_zero():
    model = models.build(ModelEntry(title="t", architecture="bert", config=BERT), head="mlm")
    batch = collate(task(), {"kind": "mlm", "tokenizer": TOKENIZER, "max_length": 64})(rows())
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = mlm_loss(model, batch)
    loss.backward()
    assert loss.item() == 0
