"""A batch computed in parts, by one process or several, has the gradient of the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from replica.config.schema import Train
from replica.errors import TrainingError
from replica.methods.base import Context, Method
from replica.models import build
from replica.tasks import LengthBucketSampler
from replica.tasks.masked_words import mlm_loss
from replica.training import out_of_memory
from replica.training.loop import Loop
from replica.training.micro_batches import EMPTY, PartSampler, counted, most_parts, weights, whole

from .small_models import entry

LENGTHS = np.random.default_rng(0).integers(3, 12, 21)


@pytest.mark.parametrize("processes, parts", [(1, 1), (2, 1), (1, 3), (3, 2), (4, 4)])
def test_parts_of_all_processes_are_the_sampler_s_batches(processes, parts):
    sampler = LengthBucketSampler(LENGTHS, 8, 5)
    own = [list(PartSampler(sampler, parts, rank, processes)) for rank in range(processes)]
    assert {len(found) for found in own} == {len(sampler) * parts}
    for place, batch in enumerate(sampler.batches()):
        mine = [found[place * parts : (place + 1) * parts] for found in own]
        assert sorted(row for found in mine for part in found for row in part) == sorted(batch)
        sizes = [len(part) for found in mine for part in found]
        assert max(sizes) - min(sizes) <= 1 + (processes > 1)


def test_whole_micro_batches_and_the_most_parts_of_one():
    assert whole(32, 2, 1) == whole(32, 2, 16) == 16
    assert most_parts(32, 2, 4) == 4 and most_parts(32, 2, 3) == 6 and most_parts(1, 1, 1) == 1
    with pytest.raises(TrainingError, match="micro-batches of 8, too few for 16 processes"):
        whole(32, 4, 16)


def test_what_counts_in_a_batch():
    sentences = {"example_id": torch.arange(3), "labels": torch.zeros(3, dtype=torch.long)}
    tokens = {"example_id": torch.arange(2), "labels": torch.tensor([[1, -100, 2], [-100, -100, 3]])}
    assert (counted(sentences), counted(tokens)) == (3, 3)
    assert counted({"example_id": torch.arange(2), "start_positions": torch.zeros(2)}) == 2
    assert weights([3, 1, 0, 4], torch.tensor([4.0, 4.0]), 2, 1) == [1.5, 0.5, 0.0, 2.0]
    assert weights([4, EMPTY], torch.tensor([4.0]), 2, 1) == [2.0, 0.0]
    assert weights([0, EMPTY], torch.tensor([0.0]), 2, 1) == [1.0, 0.0]


class _Split:
    """Sentences of the lengths above, with a label each or masked words."""

    lengths = LENGTHS

    def __init__(self, kind):
        self.kind = kind
        generator = torch.Generator().manual_seed(3)
        self.ids = [torch.randint(5, 50, (int(length),), generator=generator) for length in LENGTHS]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, row):
        return row, self.ids[row]

    def set_epoch(self, epoch):
        """Follow the sampler; nothing here depends on the epoch."""

    def __call__(self, rows):
        width = max(len(ids) for _, ids in rows)
        ids = torch.stack([torch.nn.functional.pad(ids, (0, width - len(ids))) for _, ids in rows])
        mask = (ids > 0).long()
        chosen = (ids % 3 == 0) & (mask > 0)
        labels = torch.where(chosen, ids, -100) if self.kind == "mlm" else torch.tensor([row % 2 for row, _ in rows])
        places = torch.tensor([row for row, _ in rows])
        return {"example_id": places, "input_ids": ids, "attention_mask": mask, "labels": labels}


def _train(folder, kind, parts=1, objective=None, accumulate=1, methods=(), seen=None, **options):
    """Five steps over two epochs with batches of 8, 8 and 5; dropout is off, so that parts see the same model."""
    model = build(entry(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), head=kind, labels=2, seed=1)
    split = _Split(kind)

    def loss(model, batch, context):
        if kind == "mlm":
            return mlm_loss(model, batch)
        return model(**{key: value for key, value in batch.items() if key != "example_id"}).loss

    loop = Loop(
        model,
        Train(
            steps=5,
            batch_size=8,
            accumulate=accumulate,
            learning_rate=1e-2,
            precision="fp32",
            checkpoint_every=2,
            **options,
        ),
        split=split,
        collate=split,
        context=Context(seed=4, total_steps=5),
        methods=[(frozenset(), method) for method in methods],
        objective=objective or loss,
        state_folder=folder,
        parts=parts,
    )
    if seen is not None:
        loop.create_optimizer().register_step_pre_hook(lambda *_: seen.append(_norm(model)))
    outcome = loop.fit()
    return outcome, dict(model.named_parameters())


def _norm(model):
    return torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()


class _Doubled(Method):
    """Leaves gradients to the output layer alone, twice as large."""

    def on_gradients(self, model, context):
        for name, parameter in model.named_parameters():
            parameter.grad.mul_(2.0 if name.startswith("classifier") else 0.0)


class _Passive(Method):
    """Has hooks and does nothing in them."""


def test_gradients_are_clipped_after_methods_have_acted_on_them(tmp_path):
    """The optimizer's gradients have the norm of the bound, whatever a method took away or added; without a bound they are the method's."""
    clipped, free = [], []
    _train(tmp_path / "clipped", "classification", methods=[_Doubled(None)], seen=clipped, max_grad_norm=1e-3)
    assert clipped == pytest.approx([1e-3] * 5, rel=2e-3)  # the library divides by the norm plus 1e-6
    _train(tmp_path / "free", "classification", methods=[_Doubled(None)], seen=free, max_grad_norm=0)
    assert len(free) == 5 and min(free) > 1e-2


def test_a_method_that_leaves_gradients_alone_changes_no_bit(tmp_path):
    _, expected = _train(tmp_path / "plain", "classification", max_grad_norm=0.1)
    _, found = _train(tmp_path / "passive", "classification", methods=[_Passive(None)], max_grad_norm=0.1)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("kind", ["classification", "mlm"])
@pytest.mark.parametrize("parts, accumulate", [(2, 1), (3, 1), (2, 2)])
def test_training_in_parts_ends_with_the_same_weights(tmp_path, kind, parts, accumulate):
    expected, first = _train(tmp_path / "whole", kind, accumulate=accumulate)
    found, second = _train(tmp_path / "parts", kind, parts=parts, accumulate=accumulate)
    for one, other in zip(expected.history, found.history, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_run_that_is_out_of_memory_comes_back_smaller_and_ends_as_if_it_never_was(tmp_path):
    """The objective refuses more than 3 sentences at once from step 3 on, as a GPU of that size would."""
    _, expected = _train(tmp_path / "whole", "classification")
    largest, steps = [], []

    def tight(model, batch, context):
        largest.append(len(batch["labels"]))
        steps.append(context.step)
        if context.step >= 3 and len(batch["labels"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of out_of_memory. Tried to allocate 2.00 GiB")
        return model(**{key: value for key, value in batch.items() if key != "example_id"}).loss

    folder = tmp_path / "state"
    tried = []
    for attempt in range(1, 5):
        parts = out_of_memory.parts(folder, attempt, most_parts(8, 1, 1))
        tried.append(parts)
        try:
            with out_of_memory.watched(folder, parts, 8, attempt):
                outcome, found = _train(folder, "classification", parts, tight)
            break
        except TrainingError as error:
            assert error.status == 86
    assert tried == [1, 2, 4] and outcome.finished
    assert steps.count(0) == 1, "it went on from its checkpoint"
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5, msg=name)


class _NoBatch(Method):
    """A method whose sampler gives no batch."""

    def sampler(self, rows, batch_size, seed, followers):
        """Draw from no rows."""
        return LengthBucketSampler([], batch_size, seed)


def test_training_without_a_batch_is_an_error_and_no_interruption(tmp_path):
    with pytest.raises(TrainingError, match="ended at step 0 of 5: an epoch over its 21 rows gave no batch"):
        _train(tmp_path, "classification", methods=[_NoBatch({})])
