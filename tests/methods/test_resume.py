"""Every method's training, stopped and resumed in the middle and again after its last step, ends with the bytes of an undisturbed one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import set_seed

from replica import tasks
from replica.config.schema import Train
from replica.config.task_schema import Task
from replica.tasks import PreparedSplit
from replica.training.loop import Loop
from replica.training.run import _history

from . import test_table
from .table import ROWS, Row

STEPS, MIDDLE, EXAMPLES, SIDE = 9, 5, 14, 8  # four steps an epoch: the middle is inside the second
LOGGED = 3  # steps a line of the history: the middle is inside one
KINDS = {"pretraining": "mlm"}
#: The first row of each method, and private gradients through carriers, which follow what training has changed.
FIRST = list({row.method: row for row in reversed(ROWS)}.values())[::-1]
FIRST += [row for row in ROWS if row.method == "private-gradients" and "rank" in row.config]


def _split(row: Row) -> tuple[PreparedSplit, Task]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 11, EXAMPLES)
    ids = (generator.integers(5, 64, lengths.sum()), np.concatenate([[0], lengths.cumsum()]))
    columns = {"example_id": np.arange(EXAMPLES), "row": np.arange(EXAMPLES), "length": lengths, "input_ids": ids}
    kind = KINDS.get(row.head, row.head)
    facts = {"kind": kind, "max_length": 16}
    if kind == "image":
        pixels = generator.integers(0, 256, EXAMPLES * SIDE**2), np.arange(EXAMPLES + 1) * SIDE**2
        columns = {"example_id": np.arange(EXAMPLES), "row": np.arange(EXAMPLES), "pixels": pixels}
        columns |= {"length": np.ones(EXAMPLES, dtype=int), "label": np.arange(EXAMPLES) % 2}
        shape = {"channels": 1, "height": SIDE, "width": SIDE}
        facts["image"] = {**shape, "size": SIDE, "mean": [0.5], "std": [0.5]}
    if kind == "classification":
        columns["label"] = np.arange(EXAMPLES) % 2
    if kind == "text2text":
        columns["labels"] = ids
    if row.head == "pretraining":
        columns["next_sentence_label"] = np.arange(EXAMPLES) % 2
    tokenizer = {"pad_id": 0, "mask_id": 3, "special_ids": [0, 1, 2, 3], "vocab_size": 64}
    split = PreparedSplit(columns, {**facts, "tokenizer": tokenizer})
    task = {
        "name": "x",
        "version": 1,
        "dataset": "x",
        "kind": kind,
        "inputs": ["text"],
        "metrics": [{"name": "accuracy"}],
    }
    splits = {"train": "train", "select": "validation"}
    return split, Task(**task, splits=splits, next_sentence=row.head == "pretraining")


def _loop(row: Row, folder) -> tuple[Loop, object]:
    split, task = _split(row)
    set_seed(0)
    entry, method = test_table._make(row)
    model, context = test_table._model(row), test_table._context(row)
    context.total_steps = STEPS
    collate = tasks.collate(task, split.facts, seed=0, model=model)
    context.rows, context.batch_size = EXAMPLES, 4
    context.rows_at = lambda places: collate([split[place] for place in places])
    context.unseen = lambda count: context.rows_at(range(min(count, EXAMPLES)))
    context.beside = lambda step, count: context.rows_at([(step + place) % EXAMPLES for place in range(count)])
    method.prepare(model, context)
    # a constant rate: after a linear one has come to zero, a step too many would leave most weights as they are
    train = Train(
        steps=STEPS,
        batch_size=4,
        learning_rate=row.learning_rate,
        schedule="constant",
        precision="fp32",
        checkpoint_every=100,
    )
    loop = Loop(
        model,
        train,
        split=split,
        collate=collate,
        context=context,
        methods=[(entry.changes, method)],
        objective=lambda model, batch, context: tasks.task_loss(task, model, batch),
        state_folder=folder,
    )
    loop.args.logging_steps = LOGGED
    return loop, method


def _fit(row: Row, folder, stop: int | None = None):
    """Train to the end, or until `stop` steps are done; returns the outcome and the finalized model's tensors."""
    loop, method = _loop(row, folder)
    after_step = loop.hooks.on_step_end

    def on_step_end(args, state, control, **kwargs):
        loop.interruption.requested = state.global_step == stop
        after_step(args, state, control, **kwargs)

    loop.hooks.on_step_end = on_step_end
    outcome = loop.fit()
    return outcome, {name: value.clone() for name, value in method.finalize(loop.model).eval().state_dict().items()}


@pytest.mark.parametrize("row", FIRST, ids=[row.method for row in FIRST])
def test_resumed_training_ends_with_the_same_bytes(row, tmp_path):
    whole, expected = _fit(row, tmp_path / "whole")
    interrupted, _ = _fit(row, tmp_path / "state", stop=MIDDLE)
    assert (interrupted.finished, interrupted.step) == (False, MIDDLE)
    _fit(row, tmp_path / "state")  # goes on, does its last step, and is killed before its result is stored
    again, found = _fit(row, tmp_path / "state")
    assert (again.finished, again.step) == (True, STEPS)
    assert len(whole.history) == STEPS // LOGGED
    assert _history(again.history) == _history(whole.history)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
