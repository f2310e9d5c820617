"""Batches of like length: every row once, little padding, the same order for the same seed and epoch, also after a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from replica.config.task_schema import Task
from replica.errors import ConfigError
from replica.tasks import LengthBucketSampler, PreparedSplit, collate

LENGTHS = np.clip(np.random.default_rng(0).lognormal(3, 0.6, 1003), 4, 128).astype(int)


def padding(batches: list[list[int]]) -> float:
    """Share of padding among all tokens of the batches."""
    padded = sum(len(b) * LENGTHS[b].max() for b in batches)
    return 1 - LENGTHS.sum() / padded


def test_every_row_stands_in_exactly_one_batch():
    sampler = LengthBucketSampler(LENGTHS, 32, seed=1)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(1003))
    assert len(batches) == len(sampler) == 32  # 31 whole and one of 11
    assert sorted(map(len, batches)) == [11] + [32] * 31


def test_padding_is_far_below_that_of_random_batches():
    order = np.random.default_rng(1).permutation(1003)
    random = padding([order[i : i + 32].tolist() for i in range(0, 1003, 32)])
    assert padding(list(LengthBucketSampler(LENGTHS, 32, seed=1))) < random / 4


def test_the_order_depends_on_seed_and_epoch_alone():
    first, second = LengthBucketSampler(LENGTHS, 32, seed=1), LengthBucketSampler(LENGTHS, 32, seed=1)
    zero = list(first)
    first.set_epoch(4)
    list(first)
    second.set_epoch(4)
    assert list(first) == list(second)
    assert list(first) != zero
    assert list(LengthBucketSampler(LENGTHS, 32, seed=2)) != zero
    # batches are not in order of length
    longest = [LENGTHS[b].max() for b in zero]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_skipped_batches_leave_the_same_rest_under_accelerate():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 1003

        def __getitem__(self, i):
            return i

    seen = []

    class Follower:
        def set_epoch(self, epoch):
            seen.append(epoch)

    def loader():
        sampler = LengthBucketSampler(LENGTHS, 32, seed=1, followers=[Follower()])
        return prepare_data_loader(DataLoader(Rows(), batch_sampler=sampler, collate_fn=list), put_on_device=False)

    whole, resumed = loader(), loader()
    whole.set_epoch(2)
    resumed.set_epoch(2)
    assert list(skip_first_batches(resumed, 10)) == list(whole)[10:]
    assert set(seen) == {2}


def task(kind: str, **fields) -> Task:
    return Task(
        name="t", version=1, dataset="d", kind=kind, inputs=["text"], splits={"train": "train", "select": "validation"},
        metrics=[{"name": "accuracy"}], **fields,
    )  # fmt: skip


FACTS = {"tokenizer": {"pad_id": 1, "mask_id": None}, "max_length": 20}


def test_rows_are_padded_to_a_multiple_of_eight_but_not_beyond_the_tasks_length():
    collate_rows = collate(task("classification"), {**FACTS, "kind": "classification"})
    rows = [{"example_id": i, "label": i % 2, "input_ids": np.arange(5, 5 + n)} for i, n in enumerate((3, 9))]
    batch = collate_rows(rows)
    assert batch["input_ids"].shape == (2, 16)
    assert batch["input_ids"][0].tolist() == [5, 6, 7] + [1] * 13
    assert batch["attention_mask"].sum(1).tolist() == [3, 9]
    assert batch["labels"].tolist() == [0, 1]
    rows[1]["input_ids"] = np.arange(5, 23)
    assert collate_rows(rows)["input_ids"].shape == (2, 20)


def test_entries_that_a_model_does_not_take_are_left_out():
    class Plain(torch.nn.Module):
        def forward(self, input_ids, attention_mask, labels=None):
            pass

    rows = [{"example_id": 0, "label": 1, "input_ids": np.arange(5, 8), "token_type_ids": np.array([0, 1, 1])}]
    facts = {**FACTS, "kind": "classification"}
    assert "token_type_ids" in collate(task("classification"), facts)(rows)
    batch = collate(task("classification"), facts, model=Plain())(rows)
    assert set(batch) == {"example_id", "input_ids", "attention_mask", "labels"}


def test_images_are_scaled_to_mean_and_deviation():
    image = {"channels": 1, "height": 2, "width": 2, "size": None, "mean": [0.5], "std": [0.25]}
    rows = [{"example_id": 0, "label": 2, "pixels": np.array([0, 255, 51, 102], dtype=np.uint8)}]
    batch = collate(task("image"), {"kind": "image", "image": image})(rows)
    assert batch["pixel_values"].shape == (1, 1, 2, 2)
    expected = [(0 - 0.5) / 0.25, (1 - 0.5) / 0.25, (0.2 - 0.5) / 0.25, (0.4 - 0.5) / 0.25]
    assert batch["pixel_values"].flatten().tolist() == pytest.approx(expected)
    larger = collate(task("image"), {"kind": "image", "image": {**image, "size": 4}})(rows)
    assert larger["pixel_values"].shape == (1, 1, 4, 4)


def test_the_kind_that_was_prepared_must_be_the_tasks():
    with pytest.raises(ConfigError, match="its prepared data are tagging"):
        collate(task("classification"), {**FACTS, "kind": "tagging"})
    with pytest.raises(ConfigError, match="mask token"):
        collate(task("mlm"), {**FACTS, "kind": "mlm"})


def test_a_sample_of_a_split_is_drawn_by_its_seed_and_keeps_example_ids(tmp_path):
    columns = {
        "example_id": np.arange(50),
        "label": np.arange(50) % 2,
        "length": np.full(50, 2),
        "input_ids": (np.arange(100), np.arange(0, 101, 2)),
    }
    split = PreparedSplit(columns, {**FACTS, "kind": "classification"})
    part = split.sample(10, seed=1)
    assert len(part) == 10
    ids = part.values("example_id").tolist()
    assert ids == sorted(set(ids))
    assert ids == split.sample(10, seed=1).values("example_id").tolist()
    assert ids != split.sample(10, seed=2).values("example_id").tolist()
    assert part[3]["input_ids"].tolist() == [2 * ids[3], 2 * ids[3] + 1]
    assert len(split.sample(80, seed=1)) == 50
    batch = collate(task("classification"), part.facts)([part[0], part[9]])
    assert batch["example_id"].tolist() == [ids[0], ids[9]]
