"""The meters against others: real tensors, the profiler, torch's MemTracker, peft, published counts, and a bound on their own memory."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
import torch
from torch import nn

from replica import models
from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.meters import tracker as trackers
from replica.meters.batches import loss_of, make_batch
from replica.meters.memory import measure_memory
from replica.meters.optimizers import optimizer_bytes
from replica.meters.options import MemoryOptions, OptimizerOptions
from replica.meters.parameters import count_parameters
from replica.meters.semantics import rules
from replica.methods import Context, parse
from tests.conftest import ROOT

PROJECT = load_project(ROOT)
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
#: Architecture: its small configuration, head, and the names of its query and value projections.
SMALL = {
    "bert": ({**WIDE, "vocab_size": 50, "max_position_embeddings": 40}, "classification", ["query", "value"]),
    "t5": (
        {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 50},
        "text2text",
        ["q", "v"],
    ),
    "llama": (
        {**WIDE, "vocab_size": 50, "num_key_value_heads": 1, "pad_token_id": 0, "max_position_embeddings": 40},
        "causal",
        ["q_proj", "v_proj"],
    ),
    "vit": ({**WIDE, "image_size": 16, "patch_size": 4, "num_channels": 3}, "image", ["q_proj", "v_proj"]),
}


def small(architecture: str, device: str = "meta", tuning: str = "full") -> nn.Module:
    config, head, targets = SMALL[architecture]
    entry = ModelEntry(title="", architecture=architecture, config=config)
    model = models.build(entry, head=head, labels=3, device=device, attention="eager")
    references = {
        "lora": {"name": "lora", "rank": 2, "targets": targets},
        "adapter": {"name": "adapter", "reduction": 4},
        "bitfit": {"name": "bitfit"},
    }
    if tuning in references:
        found, chosen = parse(references[tuning])
        found.create(chosen).prepare(model, Context(head=head))
    return model


# --- real tensors -------------------------------------------------------------------------------------------------------

WAYS = [
    (architecture, tuning, checkpointing)
    for architecture in SMALL
    for tuning in ("full", "lora", "adapter", "bitfit")
    for checkpointing in (False, True)
    if tuning == "full" or architecture in {"lora": SMALL, "adapter": ("bert", "t5"), "bitfit": ("bert", "vit")}[tuning]
]


@pytest.mark.parametrize(("architecture", "tuning", "checkpointing"), WAYS)
def test_meta_needs_the_bytes_of_real_tensors(architecture, tuning, checkpointing):
    found = {}
    for device in ("meta", "cpu"):
        model = small(architecture, device, tuning)
        found[device] = measure_memory(
            model, MemoryOptions(batch=3, length=16, decoder_length=6, optimizer="sgd", checkpointing=checkpointing)
        )
    assert found["meta"] == found["cpu"]


@pytest.mark.parametrize("architecture", SMALL)
def test_shapes_that_are_remembered_change_no_byte(architecture, monkeypatch):
    options = {"decoder_length": 6, "optimizer": "adamw"}
    found = measure_memory(small(architecture), MemoryOptions(batch=3, length=16, **options))
    monkeypatch.setattr(trackers.ShapeMemory, "run", lambda self, func, args, kwargs: func(*args, **kwargs))
    assert measure_memory(small(architecture), MemoryOptions(batch=3, length=16, **options)) == found


def test_a_remembered_operation_minds_types_views_and_the_processor():
    memory, aten = trackers.ShapeMemory(), torch.ops.aten
    whole = torch.ones(2, 3, dtype=torch.long, device="meta")
    for _ in range(2):
        assert memory.run(aten.add.Tensor, (whole, 1), {}).dtype == torch.long
        assert memory.run(aten.add.Tensor, (whole, 1.0), {}).dtype == torch.float32
        view = memory.run(aten._unsafe_view.default, (whole, [3, 2]), {})
        assert view.untyped_storage()._cdata == whole.untyped_storage()._cdata
        assert memory.run(aten.mul_.Tensor, (whole, 2), {}) is whole
        values, places = memory.run(aten.max.dim, (whole, 1), {})
        assert values.shape == places.shape == (2,)
    real = torch.ones(3)
    for expected in (2.0, 3.0):
        assert memory.run(aten.add_.Tensor, (real, 1), {}).tolist() == 3 * [expected]


# --- the profiler and torch's tracker -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "tuning"), [("llama", "full"), ("vit", "full"), ("bert", "lora")])
def test_peak_agrees_with_the_autograd_profilers_allocator_events(architecture, tuning):
    """Every allocation and release of the CPU's allocator in a second training step, above what was there before it."""
    model = small(architecture, "cpu", tuning).train()
    batch = make_batch(model, 3, 16, 6)
    held = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in (*model.parameters(), *model.buffers())}
    resident = sum(held.values()) + sum(t.untyped_storage().nbytes() for t in batch.values())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False, fused=False)
    counters = 4 * sum(p.requires_grad for p in model.parameters())
    with rules(model):
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        state = sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values()) - counters
        with torch.autograd.profiler.profile(profile_memory=True) as profiler:
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    running = highest = 0
    for event in sorted(profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            running += event.nbytes()
            highest = max(highest, running)
    found = measure_memory(small(architecture, "meta", tuning), MemoryOptions(batch=3, length=16, decoder_length=6))
    assert abs(found["peak"] - (resident + state + highest)) <= 128  # kernels' own scalars


@pytest.mark.parametrize("architecture", SMALL)
def test_peak_and_its_parts_agree_with_torchs_memory_tracker(architecture):
    """All weights are trained: its hooks do not bear a module whose input takes no gradient."""
    from torch.distributed._tools.mem_tracker import MemTracker

    model = small(architecture, "cpu").train()
    batch = make_batch(model, 3, 16, 6)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False, fused=False)
    tracker = MemTracker()
    tracker.track_external(model, optimizer, *batch.values())
    with rules(model), tracker:
        for _ in range(2):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            tracker.reset_mod_stats()
    theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    counters = 4 * sum(p.requires_grad for p in model.parameters())
    found = measure_memory(small(architecture), MemoryOptions(batch=3, length=16, decoder_length=6))
    ours = found["at_peak"]
    assert abs(found["peak"] - (theirs["Total"] - counters)) <= 32
    assert (ours["parameter"], ours["buffer"]) == (theirs["Parameter"], theirs["Buffer"])
    if found["peak_phase"] != "optimizer":
        assert (ours["gradient"], ours["optimizer"]) == (theirs["Gradient"], theirs["Optstate"] - counters)


# --- counts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head", "published"),
    [
        ("llama-7b", "causal", 6_738_415_616),  # Touvron et al. 2023, Table 2: 6.7B; the sum over the released tensors
        ("albert-base-v2", "none", 11_683_584),  # Lan et al. 2020, Table 1: 12M
        ("electra-base", "none", 108_891_648),  # Clark et al. 2020, Table 1: 110M
        ("vit-base-16", "none", 86_389_248),  # Dosovitskiy et al. 2021, Table 1: 86M, with the pooler
    ],
)
def test_totals_are_the_published_ones(name, head, published):
    model = models.build(PROJECT.model(name), head=head, device="meta", attention="eager")
    assert count_parameters(model)["total"] == published


PEFT = {
    "lora": lambda peft, targets: peft.LoraConfig(r=4, target_modules=targets),
    "ia3": lambda peft, targets: peft.IA3Config(target_modules=targets, feedforward_modules=[]),
    "lora and all biases": lambda peft, targets: peft.LoraConfig(r=2, target_modules=targets, bias="all"),
}


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("kind", PEFT)
def test_peft_counts_what_we_count(architecture, kind):
    """Both its numbers and the line that it prints."""
    peft = pytest.importorskip("peft")
    made = peft.get_peft_model(small(architecture), PEFT[kind](peft, SMALL[architecture][2]))
    trainable, total = made.get_nb_trainable_parameters()
    counts = count_parameters(made.get_base_model())
    assert (counts["trainable"], counts["total"]) == (trainable, total)
    said = io.StringIO()
    with redirect_stdout(said):
        made.print_trainable_parameters()
    numbers = [float(n.replace(",", "")) for n in re.findall(r"[\d,]+\.?\d*", said.getvalue()) if n != ","]
    assert numbers[:2] == [counts["trainable"], counts["total"]]
    assert numbers[2] == pytest.approx(100 * counts["trainable_share"], abs=5e-5)


def test_our_lora_trains_what_pefts_own_model_trains():
    """8 x (768 + 768) for query and value of 12 layers: 294,912 on BERT-base (Hu et al. 2022 print 0.3M for RoBERTa-base)."""
    peft = pytest.importorskip("peft")
    found, config = parse({"name": "lora", "rank": 8})
    ours, theirs = (
        models.build(PROJECT.model("bert-base-uncased"), head="none", device="meta", attention="eager") for _ in "ab"
    )
    found.create(config).prepare(ours, Context(head="none"))
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=8, target_modules=["query", "value"]))
    assert count_parameters(ours)["trainable"] == theirs.get_nb_trainable_parameters()[0] == 294_912


# --- 8-bit state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "block", "expected"),
    [
        (4095, 2048, 2 * 4 * 4095),  # below 4,096 values: two fp32 moments
        (4096, 2048, 2 * (4096 + 4 * 2)),
        (4097, 2048, 2 * (4097 + 4 * 3)),  # a block that is begun has its scale
        (4096, 256, 2 * (4096 + 4 * 16)),
        (1_000_000, 256, 2 * (1_000_000 + 4 * 3907)),
    ],
)
def test_eight_bit_state_follows_the_documented_layout(values, block, expected):
    """bitsandbytes: state1 and state2 hold a byte a value, absmax1 and absmax2 one fp32 a block; small tensors stay in 32 bits."""
    assert (
        optimizer_bytes(nn.Linear(values, 1, bias=False), OptimizerOptions(rule="adamw8bit", block=block))["bytes"]
        == expected
    )


@pytest.mark.gpu
def test_eight_bit_state_is_that_of_bitsandbytes():
    """Needs bitsandbytes, which the locked environments leave out, and a GPU."""
    library = pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes is not installed: its real state is not looked at"
    )
    model = nn.Sequential(nn.Linear(300, 100), nn.Linear(64, 64)).cuda()
    optimizer = library.optim.AdamW8bit(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    states = list(optimizer.state.values())
    kept = ("state1", "state2", "absmax1", "absmax2")
    size = sum(s[key].numel() * s[key].element_size() for s in states for key in kept if key in s)
    blocks = next(s for s in states if "absmax1" in s)
    block = 2 ** round(torch.log2(torch.tensor(blocks["state1"].numel() / blocks["absmax1"].numel())).item())
    assert optimizer_bytes(model, OptimizerOptions(rule="adamw8bit", block=block))["bytes"] == size


# --- its own memory -----------------------------------------------------------------------------------------------------

BOUNDED = """
import json, resource, sys
limit = 4 * 2**30
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # an allocation beyond it fails
from replica import models
from replica.config import load_project
from replica.meters.memory import measure_memory
from replica.meters.options import MemoryOptions
project, peaks = load_project(sys.argv[1]), {}
for name, head in (("bert-large-uncased", "classification"), ("t5-3b", "text2text"), ("llama-7b", "causal")):
    model = models.build(project.model(name), head=head, device="meta", attention="eager")
    peaks[name] = measure_memory(model, MemoryOptions(batch=1, decoder_length=32))["peak"]
print(json.dumps({"peaks": peaks, "rss": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def test_models_of_billions_are_measured_in_less_than_4_gb():
    """Weights, gradients and Adam's moments alone are 16 bytes a parameter: 108 GB of LLaMA-7B."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BOUNDED, str(ROOT)], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rss"] < 4e9
    published = {"bert-large-uncased": 335_141_888, "t5-3b": 2_851_598_336, "llama-7b": 6_738_415_616}
    for name, parameters in published.items():
        assert 16 * parameters < found["peaks"][name] < 20 * parameters
