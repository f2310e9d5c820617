"""What jobs ask for: closed forms of memory against the meter, GPUs and nodes, growth with attempts, the widest point."""

from __future__ import annotations

import copy

import pytest
import yaml

from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.plan import build_plan
from replica.plan.memory_estimate import ERROR, MARGIN, saved_activations, shape_of, training_bytes
from replica.plan.planned_jobs import planned_jobs
from replica.plan.resources import (
    evaluation_resources,
    grown_memory,
    grown_runtime,
    row_length,
    training_resources,
    widest_point,
)

from .small_project import paper, write_project


def _gpu_project(folder, gpus: int, *, train: dict | None = None, per_node: int = 8):
    """A project whose paper scale trains `plain` on GPUs."""
    one = paper()
    one["runs"]["paper"] = copy.deepcopy(one["runs"]["laptop"])
    one["runs"]["paper"]["plain"].update(gpus=gpus, train=train or {"steps": 10})
    one["claims"][0].update(ours="runs.plain.words.accuracy", not_run=None)
    folder = write_project(folder, one)
    path = folder / "config" / "scales" / "paper.yaml"
    known = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.exists()
        else {"name": "paper", "sections": ["paper"], "seeds": 1}
    )
    path.write_text(
        yaml.safe_dump({**known, "gpus_per_node": per_node, "threads": 4, "mem_mb": 1000}), encoding="utf-8"
    )
    return folder


def _asked(folder, gpus: int, **options):
    project = load_project(_gpu_project(folder, gpus, **options))
    plan = build_plan(project, "paper")
    return project, plan, plan.named["one"]["paper"]["plain"]


@pytest.mark.parametrize(
    "model, head, batch, length",
    [
        ("bert-base-uncased", "classification", 32, 128),
        ("bert-base-uncased", "span", 12, 384),
        ("bert-large-uncased", "classification", 16, 128),
        ("distilbert-base-uncased", "span", 12, 384),
        ("minilm-6x384", "classification", 32, 128),
        ("t5-base", "text2text", 20, 128),
        ("t5-small", "text2text", 16, 64),
        ("clip-t5-base", "text2text", 20, 40),
        ("clip-bart-base", "text2text", 20, 40),
        ("vit-base-16", "image", 8, 0),
    ],
)
def test_closed_form_agrees_with_the_memory_meter(root, model, head, batch, length):
    from replica.meters.memory import measure_memory
    from replica.meters.options import MemoryOptions
    from replica.models import build

    entry = load_project(root).model(model)
    if "images" in entry.config:  # the meter's batch has one a row
        entry = entry.model_copy(update={"config": {**entry.config, "images": 1}})
    built = build(entry, head=head, labels=2, device="meta", attention="eager")
    measured = measure_memory(built, MemoryOptions(batch=batch, length=length or 8, decoder_length=length or None))
    ours = training_bytes(shape_of(entry), batch, length)
    assert ours == pytest.approx(measured["peak"], rel=ERROR)


def test_a_masked_word_head_is_computed_at_the_masked_words_only():
    entry = ModelEntry(
        title="m", architecture="bert", config={"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 1000}
    )
    shape = shape_of(entry)
    head = saved_activations(shape, 2, 10, masked_share=0.15) - saved_activations(shape, 2, 10)
    assert head == pytest.approx(
        0.15 * 20 * 4 * (3 * 1000 + 4 * 8)
    )  # rows x share x fp32 x (three of logits, four of hidden)


def test_saved_activations_of_an_encoder_layer_are_those_of_its_operations():
    """A token of a layer: x, q, k, v, context, two norm inputs, the feed-forward's input, twice the inner size; masks."""
    config = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    shape = shape_of(ModelEntry(title="m", architecture="bert", config={**config, "vocab_size": 10}))
    tokens, pairs = 3 * 5, 2 * 3 * 5 * 5
    layer = tokens * (8 * 4 + 2 * 16) * 4 + 2 * tokens * 4 + pairs * (4 + 4 + 1)
    embeddings = tokens * 4 * (2 * 4 + 1)
    assert saved_activations(shape, 3, 5) == layer + embeddings


def test_gpu_runs_ask_for_cores_and_memory_by_gpu_and_name_their_nodes(tmp_path):
    one = training_resources(*_asked(tmp_path / "a", 1))
    eight = training_resources(*_asked(tmp_path / "b", 8))
    split = training_resources(*_asked(tmp_path / "c", 8, per_node=4))
    assert (one.gpu, one.nodes, one.threads) == (1, 1, 4)
    assert (eight.gpu, eight.nodes, eight.threads) == (8, 1, 32)
    assert (split.gpu, split.nodes, split.threads) == (8, 2, 16), "cores and memory are those of a node"
    assert one.mem_mb < split.mem_mb < eight.mem_mb
    assert one.runtime >= 60 and one.gpu_mem_mb > 1000


def test_memory_of_a_gpu_falls_with_gpus_and_micro_batches(tmp_path):
    train = {"steps": 10, "batch_size": 512, "max_length": 16}
    one = training_resources(*_asked(tmp_path / "a", 1, train=train)).gpu_mem_mb
    two = training_resources(*_asked(tmp_path / "b", 2, train=train)).gpu_mem_mb
    halved = training_resources(*_asked(tmp_path / "c", 1, train={**train, "accumulate": 2})).gpu_mem_mb
    assert halved <= two < one


def test_memory_holds_the_margin_over_the_closed_form(tmp_path):
    project, plan, run = _asked(tmp_path, 1, train={"steps": 10, "batch_size": 64})
    peak = training_bytes(shape_of(project.model("small")), 64, project.task("words").max_length)
    assert training_resources(project, plan, run).gpu_mem_mb * 1e6 == pytest.approx(MARGIN * peak + 1e9, rel=1e-3)


def test_scoring_asks_for_one_gpu_whatever_training_asked_for(tmp_path):
    project, plan, run = _asked(tmp_path, 8)
    assert evaluation_resources(project, plan, run).gpu == 1
    assert evaluation_resources(project, plan, run).threads == 4


def test_requests_grow_with_attempts_and_time_only_to_the_limit():
    assert [grown_memory(4000, attempt) for attempt in (1, 2, 3)] == [4000, 6000, 8000]
    assert [grown_runtime(60, attempt, 150) for attempt in (1, 2, 3)] == [60, 120, 150]
    assert grown_runtime(300, 2, 150) == 300, "never less than the first request"


def test_widest_point_counts_what_may_run_together(tmp_path):
    project = load_project(write_project(tmp_path))
    plan = build_plan(project, "laptop")
    # teacher (one seed) beside plain (three seeds); then two candidates; then the student's three seeds
    assert widest_point(project, plan) == {"jobs": 4, "gpus": 0}


def test_a_completions_row_holds_input_target_and_two_ends(root):
    project = load_project(root)
    assert row_length(project.task("dart")) == 2 * 256 + 2
    assert row_length(project.task("dart"), 64) == 130
    assert row_length(project.task("c4-causal"), 64) == 64


def test_every_job_of_the_paper_scale_has_gpu_memory_and_time(root):
    project = load_project(root, quick=False)
    plan = build_plan(project, "paper")
    rules = set()
    for job in planned_jobs(project, plan):
        rules.add(job.rule)
        resources = job.resources
        assert resources.mem_mb >= 1000 and resources.runtime >= 10 and resources.threads >= 1, job.name
        assert resources.gpu >= (job.rule in ("train", "compress", "adapt", "evaluate")), job.name
    assert {"train", "compress", "adapt", "evaluate", "prepare", "measure_structure"} <= rules


def test_the_logits_of_a_next_word_model_count_at_every_token(root):
    project = load_project(root, papers=["galore"], quick=False)
    plan = build_plan(project, "laptop")
    run = plan.named["galore"]["laptop"]["lm-full"]
    cost = training_resources(project, plan, run)
    blocks = 4 * (4 * 128 * 128 + 2 * 128 * 344)  # the estimate's own count of a layer: two feed-forward matrices
    logits = 30522 * 128
    assert cost.flops == 6 * (blocks + logits) * 0.5 * 64 * 300 * 16
