"""The training loop's pieces: checkpoints are sealed, signals come back as they were stored, divergence is an error."""

from __future__ import annotations

import pytest
import torch

from replica.config.schema import Train
from replica.errors import AssetError, TrainingError
from replica.training import checkpoints, signals
from replica.training.loop import total_steps


def _checkpoint(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights" * step)
    if complete:
        checkpoints.seal(path)
    return path


def test_newest_complete_checkpoint_is_taken_and_half_written_ones_removed(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    _checkpoint(tmp_path, 9)
    whole = _checkpoint(tmp_path, 10)
    half = _checkpoint(tmp_path, 20, complete=False)
    assert checkpoints.latest(tmp_path) == whole
    assert not half.exists()


def test_corrupt_checkpoint_is_a_clear_error(tmp_path):
    path = _checkpoint(tmp_path, 10)
    (path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(TrainingError, match=r"model.safetensors: corrupt resume checkpoint.*remove"):
        checkpoints.latest(tmp_path)


def test_steps_of_epochs_count_the_last_smaller_batch():
    assert total_steps(Train(epochs=3, batch_size=32), 100) == 12  # ceil(100 / 32) = 4 batches an epoch
    assert total_steps(Train(steps=7), 100) == 7


def _signals(batch_ids, lengths, width):
    """Attention-like signals whose values name example, head and position, so that misplacement shows."""
    value = torch.zeros(len(batch_ids), 2, width, width)
    for row, (example, length) in enumerate(zip(batch_ids, lengths, strict=True)):
        for head in range(2):
            value[row, head, :length, :length] = example + head / 4 + torch.arange(length)[:, None] / 64
    mask = torch.zeros(len(batch_ids), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return {"example_id": torch.tensor(batch_ids), "attention_mask": mask, "input_ids": mask}, {"attention": value}


def test_stored_signals_come_back_padded_to_another_batch(tmp_path):
    path = tmp_path / "signals.safetensors"
    axes = {"attention": ("heads", "length", "length")}
    signals.store(path, axes, [_signals([4, 2], [3, 5], 8), _signals([7], [2], 8)])
    stored = signals.StoredSignals(path)
    batch, expected = _signals([7, 2], [2, 5], 16)  # other company, other padding
    torch.testing.assert_close(stored(batch)["attention"], expected["attention"], rtol=0, atol=0)


def test_signals_of_other_data_are_refused(tmp_path):
    path = tmp_path / "signals.safetensors"
    signals.store(path, {"attention": ("heads", "length", "length")}, [_signals([4], [3], 8)])
    with pytest.raises(AssetError, match="no signals for example 5"):
        signals.StoredSignals(path)(_signals([5], [3], 8)[0])
