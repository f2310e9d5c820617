"""Throughput of this project's training loop against the plain `transformers.Trainer` recipe, in one run on one machine.

Both fine-tune the pretrained 6x384 encoder on the review sentences: same data, model, seed, batch of 32, rate and steps. The plain recipe
is the one of tutorials: every sentence padded to 128 tokens, random batches, float32, Trainer's own defaults. Ours: batches of like
length, bfloat16 autocast where the processor multiplies it natively. Steps per second are measured after a warm-up; accuracy is on the
select split, and their difference carries the 95 % interval of a paired bootstrap over its sentences. Writes
benchmarks/training_throughput.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

from replica.config import load_project
from replica.files import write_json
from replica.jobs.programs import main
from replica.paths import Layout

MODEL, TASK, LENGTH, BATCH, RATE, SEED = "all-minilm-l6", "rotten-sentiment", 128, 32, 1e-4, 0


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch

    torch.set_num_threads(arguments.threads)
    project, layout = load_project("."), Layout(".")
    prepared = _data(project, layout)
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "threads": arguments.threads,
        "steps": arguments.steps,
        "torch": torch.__version__,
    }
    right = {}
    for name, train in (("plain", _plain), ("ours", _ours)):
        result[name], model = train(project, layout, prepared, arguments.steps)
        right[name] = _right(project, model, prepared)
        result[name]["accuracy"] = 100 * float(right[name].mean())
    result["accuracy_difference"] = _difference(right["ours"], right["plain"])
    result["ratio"] = result["ours"]["steps_per_second"] / result["plain"]["steps_per_second"]
    write_json("benchmarks/training_throughput.json", result)
    for name in ("plain", "ours"):
        item = result[name]
        print(
            f"{name:6s} {item['steps_per_second']:.2f} steps/s  accuracy {item['accuracy']:.1f}  ({item['precision']})"
        )
    gap = result["accuracy_difference"]
    print(
        f"ratio  {result['ratio']:.1f}; accuracy ours - plain {gap['value']:+.1f} [{gap['low']:.1f}, {gap['high']:.1f}]"
    )


def _data(project, layout) -> Path:
    """Retrieve and tokenize what both need, unless it is there."""
    from replica import tasks
    from replica.assets import retrieve_dataset, retrieve_model

    dataset, model = layout.dataset(project.task(TASK).dataset), layout.model(MODEL)
    if not (dataset / "manifest.json").exists():
        retrieve_dataset(project, project.task(TASK).dataset, dataset)
    if not (model / "manifest.json").exists():
        retrieve_model(project, MODEL, model)
    folder = layout.prepared("benchmark-training-throughput")
    if not (folder / "manifest.json").exists():
        tasks.prepare(project.task(TASK), dataset, model, folder, LENGTH)
    return folder


def _model(project, layout):
    from replica import models

    return models.from_asset(project.model(MODEL), layout.model(MODEL), head="classification", labels=2, seed=SEED)


def _right(project, model, prepared):
    """Which sentences of the select split the model gets right, in their order: booleans."""
    from replica import tasks

    task = project.task(TASK)
    predictions, _ = tasks.evaluate(model.eval(), task, tasks.PreparedSplit.read(prepared, "select"), 64)
    return (predictions["label"] == predictions["prediction"]).to_numpy()


def _difference(ours, plain, resamples: int = 10_000) -> dict:
    """Accuracy of ours less that of the plain recipe, in points, with the 95 % interval over resampled sentences."""
    import numpy as np

    gap = 100 * (ours.astype(float) - plain.astype(float))
    drawn = gap[np.random.default_rng(SEED).integers(0, len(gap), (resamples, len(gap)))].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": float(gap.mean()), "low": float(low), "high": float(high), "sentences": len(gap)}


class _Clock:
    """Times the steps after the first `warm`, as a Trainer callback's hook."""

    def __init__(self, warm: int):
        self.warm, self.start, self.steps = warm, 0.0, 0

    def tick(self) -> None:
        self.steps += 1
        if self.steps == self.warm:
            self.start = time.perf_counter()
        self.end = time.perf_counter()

    @property
    def rate(self) -> float:
        return (self.steps - self.warm) / (self.end - self.start)


def _plain(project, layout, prepared, steps):
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    from replica import tasks

    set_seed(SEED)
    split = tasks.PreparedSplit.read(prepared, "train")

    def collate(rows):
        ids = torch.zeros(len(rows), LENGTH, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            count = len(row["input_ids"])
            ids[place, :count] = torch.tensor(row["input_ids"].tolist())
            mask[place, :count] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["label"] for row in rows])}

    clock = _Clock(min(5, steps // 4))

    class Tick(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.tick()

    model = _model(project, layout)
    arguments = TrainingArguments(
        output_dir="state/benchmark",
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        seed=SEED,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    Trainer(model=model, args=arguments, train_dataset=split, data_collator=collate, callbacks=[Tick()]).train()
    return {"steps_per_second": clock.rate, "precision": "fp32"}, model


def _ours(project, layout, prepared, steps):
    import tempfile

    from transformers import TrainerCallback, set_seed

    from replica import tasks
    from replica.config.schema import Train
    from replica.methods import Context
    from replica.training.loop import Loop

    set_seed(SEED)
    task = project.task(TASK)
    split = tasks.PreparedSplit.read(prepared, "train")
    model = _model(project, layout)
    clock = _Clock(min(5, steps // 4))

    class Tick(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(
            model,
            Train(steps=steps, batch_size=BATCH, learning_rate=RATE),
            split=split,
            collate=tasks.collate(task, split.facts, seed=SEED, model=model),
            context=Context(seed=SEED, total_steps=steps),
            methods=[],
            objective=lambda m, batch, context: tasks.task_loss(task, m, batch),
            state_folder=Path(folder),
        )
        loop.add_callback(Tick())
        outcome = loop.fit()
    return {"steps_per_second": clock.rate, "precision": outcome.precision}, model


if __name__ == "__main__":
    main(program)
