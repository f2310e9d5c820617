"""Around the training loop: checkpoints are sealed, parents are whole, tried values are chosen, signals come back as they were stored."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from replica import models
from replica.assets import manifest
from replica.config import load_project
from replica.config.schema import Train
from replica.errors import AssetError, TrainingError
from replica.files import read_result, write_json
from replica.methods.base import Context
from replica.methods.stored import save_model
from replica.paths import Layout
from replica.plan import build_plan
from replica.plan.run_job import job_of
from replica.tasks.metrics import METRICS, MetricEntry
from replica.training import checkpoints, signals
from replica.training.evaluate import evaluate_run
from replica.training.loop import _arguments, total_steps
from replica.training.run import _history, parent_folder, retrieved_model
from replica.training.selection import choose_candidate

from .small_project import write_project


def _checkpoint(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights" * step)
    if complete:
        checkpoints.seal(path, "this")
    return path


def test_newest_complete_checkpoint_is_taken_and_half_written_ones_removed(tmp_path):
    assert checkpoints.latest(tmp_path, "this") is None
    _checkpoint(tmp_path, 9)
    whole = _checkpoint(tmp_path, 10)
    half = _checkpoint(tmp_path, 20, complete=False)
    assert checkpoints.latest(tmp_path, "this") == whole
    assert not half.exists()


def test_a_checkpoint_of_something_else_is_none_to_go_on_from(tmp_path, caplog):
    _checkpoint(tmp_path, 9), _checkpoint(tmp_path, 10)
    assert checkpoints.latest(tmp_path, "other") is None
    assert "starting again" in caplog.text and not list(tmp_path.iterdir())


def test_corrupt_checkpoint_is_a_clear_error(tmp_path):
    path = _checkpoint(tmp_path, 10)
    (path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(TrainingError, match=r"model.safetensors: corrupt resume checkpoint.*remove"):
        checkpoints.latest(tmp_path, "this")


def test_unreadable_seal_is_a_clear_error(tmp_path):
    path = _checkpoint(tmp_path, 10)
    (path / checkpoints.SEAL).write_text('{"model.saf', encoding="utf-8")
    with pytest.raises(TrainingError, match=r"complete.json: corrupt, not JSON .*remove .*checkpoint-10"):
        checkpoints.latest(tmp_path, "this")


def _planned(tmp_path):
    project = load_project(write_project(tmp_path))
    plan = build_plan(project, "laptop")
    return project, plan, Layout(tmp_path), plan.named["one"]["laptop"]


def test_parent_with_other_bytes_is_refused(tmp_path):
    project, plan, layout, names = _planned(tmp_path)
    folder = layout.run("laptop", names["teacher"], 0)
    student = job_of(project, plan, names["student"], 2)
    with pytest.raises(TrainingError, match=f"manifest.json: missing; make run {names['teacher']} first"):
        parent_folder(student, "teacher")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    manifest.write(folder, run=names["teacher"], seed=0)
    assert parent_folder(student, "teacher") == folder, "one teacher for all seeds"
    (folder / "model.safetensors").write_bytes(b"weight")  # truncated
    with pytest.raises(AssetError, match=r"model.safetensors: sha256 is .* corrupt"):
        parent_folder(student, "teacher")


def test_pretrained_weights_with_a_flipped_bit_or_of_another_model_are_refused(tmp_path):
    project, plan, layout, names = _planned(tmp_path)
    job, folder = job_of(project, plan, names["student"], 0), layout.model("small")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    manifest.write(folder, asset="model", name="small")
    assert retrieved_model(job, "small") == folder
    (folder / "model.safetensors").write_bytes(b"weightr")  # one bit
    with pytest.raises(AssetError, match=r"model.safetensors: sha256 is .* corrupt"):
        retrieved_model(job, "small")
    manifest.write(folder, asset="model", name="other")
    with pytest.raises(AssetError, match="has name 'other', not 'small'"):
        retrieved_model(job, "small")


def _store_candidate(project, plan, layout, candidate, seed, selection):
    """A tiny model stored as a candidate's, with 6 prepared sentences for its select split."""
    folder = layout.run("laptop", candidate, 0)
    folder.mkdir(parents=True)
    model = models.build(project.model("small"), head="classification", labels=2, seed=seed)
    save_model(model, folder, head="classification", labels=2, structure=[])
    manifest.write(folder, run=candidate, seed=0, selection=selection)
    generator = np.random.default_rng(0)
    rows = {"example_id": range(6), "row": range(6), "length": [5] * 6, "label": [0, 1, 0, 1, 1, 1]}
    rows["input_ids"] = [generator.integers(5, 50, 5).tolist() for _ in range(6)]
    prepared = layout.prepared(plan.runs[candidate].data)
    prepared.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: pa.array(values) for name, values in rows.items()}), prepared / "select.parquet")
    facts = {"kind": "classification", "max_length": 16, "tokenizer": {"pad_id": 0}}
    write_json(prepared / "facts.json", facts)
    manifest.write(prepared, name=prepared.name)
    with torch.no_grad():
        said = model(input_ids=torch.tensor(rows["input_ids"])).logits.argmax(-1)
    return 100.0 * float((said == torch.tensor(rows["label"])).float().mean())


def test_best_of_the_tried_values_on_the_select_split_is_taken(tmp_path):
    project, plan, layout, names = _planned(tmp_path)
    run = plan.runs[names["student"]]
    first, second = run.candidates
    for candidate, score in ((first, 60.0), (second, 70.0)):
        _store_candidate(project, plan, layout, candidate, 0, {"accuracy": score})
    found = choose_candidate(job_of(project, plan, run.id, 0))
    assert (found["winner"], found["chosen"]) == (second, {"learning_rate": 3e-3})
    assert found["scores"] == {"learning_rate=0.001": 60.0, "learning_rate=0.003": 70.0}


def test_run_that_was_trained_before_anybody_tried_its_value_is_scored_late(tmp_path):
    project, plan, layout, names = _planned(tmp_path)
    run = plan.runs[names["student"]]
    expected = [
        _store_candidate(project, plan, layout, candidate, seed, selection)
        for candidate, seed, selection in zip(run.candidates, (1, 2), (None, {"f1": 1.0}), strict=True)
    ]
    found = choose_candidate(job_of(project, plan, run.id, 0))
    assert list(found["scores"].values()) == pytest.approx(expected)
    assert found["winner"] == run.candidates[expected.index(max(expected))]


def test_a_value_whose_score_is_not_finite_is_not_chosen(tmp_path):
    project, plan, layout, names = _planned(tmp_path)
    run = plan.runs[names["student"]]
    for candidate, score in zip(run.candidates, (None, 50.0), strict=True):
        _store_candidate(project, plan, layout, candidate, 0, {"accuracy": score})
    found = choose_candidate(job_of(project, plan, run.id, 0))
    assert found["winner"] == run.candidates[1]
    assert list(found["scores"].values()) == [None, 50.0]
    for candidate in run.candidates:
        manifest.write(layout.run("laptop", candidate, 0), run=candidate, seed=0, selection={"accuracy": None})
    with pytest.raises(TrainingError, match=rf"{run.id}: accuracy of task 'words' is NaN .*learning_rate=0.001"):
        choose_candidate(job_of(project, plan, run.id, 0))


def test_a_metric_that_is_not_finite_is_stored_as_missing_with_the_reason(tmp_path, monkeypatch):
    project, plan, layout, names = _planned(tmp_path)
    run = plan.runs[names["plain"]]
    _store_candidate(project, plan, layout, run.id, 0, None)
    prepared = layout.prepared(run.evaluate["words"])
    prepared.mkdir(exist_ok=True)
    source = layout.prepared(run.data)
    for name, target in (("select.parquet", "report.parquet"), ("facts.json", "facts.json")):
        (prepared / target).write_bytes((source / name).read_bytes())
    manifest.write(prepared, name=prepared.name)
    wrong = MetricEntry("percent", "higher", lambda p, task: np.full((len(p), 1), np.nan), lambda sums: sums[..., 0])
    monkeypatch.setitem(METRICS, "accuracy", wrong)
    evaluate_run(job_of(project, plan, run.id, 0))
    stored = read_result(layout.run("laptop", run.id, 0) / "metrics.json")["tasks"]["words"]["accuracy"]
    assert (stored["value"], stored["low"], stored["high"], stored["n"]) == (None, None, None, 6)
    assert stored["reason"] == f"{run.id} seed 0: accuracy on words came out as nan"


def test_history_holds_no_bare_nan():
    [line] = _history([{"step": 1, "loss": 0.5, "grad_norm": math.inf}]).splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "loss": 0.5, "grad_norm": None}


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


def test_a_cosine_schedule_falls_to_its_floor(tmp_path):
    """Of 10 steps with 2 of warm-up the last sees floor + (1 - floor) (1 + cos(pi 7 / 8)) / 2; after it the floor is left."""
    from torch.optim import SGD
    from transformers import get_scheduler

    for floor in (0.0, 0.1):
        train = Train(steps=10, schedule="cosine", rate_floor=floor)
        arguments = _arguments(train, Context(total_steps=10, warmup_steps=2), tmp_path, "fp32", 4, 1, 1)
        optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = get_scheduler(
            arguments.lr_scheduler_type, optimizer, 2, 10, scheduler_specific_kwargs=arguments.lr_scheduler_kwargs
        )
        factors = [schedule.lr_lambdas[0](step) for step in range(11)]
        expected = [0, 0.5, *(floor + (1 - floor) * (1 + math.cos(math.pi * at / 8)) / 2 for at in range(9))]
        assert factors == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="needs `schedule: cosine`, not linear"):
        Train(steps=10, rate_floor=0.1)
