"""The readings on a CUDA device: their parts, which need none, and one reading where there is a device."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from replica.config import load_project
from replica.measure import reference
from replica.meters.memory import measure_memory
from replica.meters.options import MemoryOptions
from replica.meters.semantics import autocasting
from replica.meters.tracker import SavedBytes, StorageTracker
from replica.models import build
from tests.conftest import ROOT

PROJECT = load_project(ROOT)
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
ROW = reference.Row("small", "bert-base-uncased", batch=2, length=16)


def small_bert(device: str = "meta") -> nn.Module:
    return build(
        PROJECT.model("bert-base-uncased"), head="classification", device=device, attention="eager", changes=SMALL
    )


def test_every_storage_is_rounded_up():
    model = small_bert()
    found = measure_memory(model, MemoryOptions(batch=2, length=16, rounding=512))["by_category"]
    assert found["parameter"] == sum(-(-4 * p.numel() // 512) * 512 for p in model.parameters())
    assert found["parameter"] > measure_memory(model, MemoryOptions(batch=2, length=16))["by_category"]["parameter"]


def test_mixed_precision_computes_each_operation_in_cudas_type():
    """CUDA's lists: products in 16 bits; softmax, normalisation and cross-entropy in fp32; the rest in the wider type."""
    functional, low, high = nn.functional, torch.bfloat16, torch.float32
    x, weight = torch.ones(4, 8, device="meta"), nn.Parameter(torch.ones(8, 8, device="meta"))
    with autocasting(low):
        product = functional.linear(x, weight)
        types = {
            "linear": product.dtype,
            "matmul": torch.matmul(x, weight).dtype,
            "gelu": functional.gelu(product).dtype,
            "add": (product + x).dtype,
            "softmax": functional.softmax(product, dim=-1).dtype,
            "layer_norm": functional.layer_norm(product, (8,), torch.ones(8, device="meta")).dtype,
            "cross_entropy": functional.cross_entropy(product, torch.ones(4, dtype=torch.long, device="meta")).dtype,
        }
    expected = {"linear": low, "matmul": low, "gelu": low, "add": high}
    assert types == {**expected, "softmax": high, "layer_norm": high, "cross_entropy": high}
    assert functional.linear(x, weight).dtype == high


@pytest.mark.parametrize("frozen", [False, True])
def test_mixed_precision_keeps_the_bytes_that_autocast_keeps(frozen):
    """torch's own autocast on real CPU tensors, where its rules for products are CUDA's."""
    found = {}
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8))
            x = torch.zeros(16, 24)
        model[2].requires_grad_(not frozen)
        tracker = StorageTracker(torch.device(device))
        tracker.add("parameter", model.parameters())
        tracker.add("input", [x])
        saved = SavedBytes(tracker)
        casting = torch.autocast("cpu", torch.bfloat16) if device == "cpu" else autocasting(torch.bfloat16)
        with tracker:
            with saved.counting(), casting:
                loss = (model(x) + model(x)).float().sum()  # the second call takes the weights that are cast already
            tracker.phase = "backward"
            loss.backward()
        found[device] = (saved.total, tracker.peak, tracker.largest["forward"])
    assert found["meta"] == found["cpu"]


def test_mixed_precision_and_checkpointing_are_refused():
    with pytest.raises(ValidationError, match="autocast is not emulated where checkpointing recomputes"):
        MemoryOptions(autocast="bfloat16", checkpointing=True)
    with pytest.raises(ValidationError, match="autocast"):
        MemoryOptions(autocast="float8")


def test_adamw_in_one_kernel_needs_its_moments_and_no_temporaries():
    row = replace(ROW, kernel="fused")
    fused = reference.predict(PROJECT, row, **SMALL)["by_category"]["optimizer"]
    rounded = sum(-(-4 * p.numel() // 512) * 512 for p in small_bert().parameters())
    assert fused == 2 * rounded
    assert reference.predict(PROJECT, ROW, **SMALL)["by_category"]["optimizer"] > fused


@pytest.mark.parametrize(
    ("row", "steps"),
    [
        (ROW, None),
        (replace(ROW, autocast="bfloat16", attention="fused"), None),
        (replace(ROW, checkpointing=True, optimizer="sgd"), None),
        (replace(ROW, methods=({"name": "lora", "rank": 2},)), None),
        (replace(ROW, optimizer="galore", rank=4), None),
    ],
    ids=["full", "autocast", "checkpointing", "lora", "galore"],
)
def test_a_row_is_predicted_and_trained(row, steps):
    marks = []
    loss = reference.run(PROJECT, row, "cpu", marks.append, **SMALL)
    assert marks == ["model"] + 2 * ["forward", "backward", "step"]
    assert loss == pytest.approx(0.69, abs=0.2)
    assert reference.predict(PROJECT, row, **SMALL)["peak"] > 0


def test_a_row_that_cannot_run_says_why():
    with pytest.raises(reference.NotHere, match="unknown method 'no-such-method'"):
        reference.predict(PROJECT, replace(ROW, methods=({"name": "no-such-method"},)), **SMALL)
    if "bitsandbytes" not in sys.modules:
        with pytest.raises(reference.NotHere, match="bitsandbytes cannot be imported"):
            reference.run(PROJECT, replace(ROW, optimizer="adamw8bit"), "cpu", **SMALL)


def test_the_rows_name_their_attention_kernel():
    rows = {row.name: row for row in reference.ROWS}
    assert len(rows) == len(reference.ROWS)
    assert rows["bert-base full fp32 sdpa"].attention_kernel == "memory-efficient"
    assert rows["bert-base full bf16 autocast sdpa"].attention_kernel == "flash"
    assert rows["bert-base full fp32 eager"].attention_kernel == "eager"


def test_the_page_shows_sizes_ratios_and_reasons():
    done = {
        **reference.fields(ROW),
        "predicted": {"peak": 3 * 2**20, "at_peak": {"parameter": 2 * 2**20, "input": 8}},
        "actual": {"peak": 4 * 2**20, "workspace": 2**20, "tensors": 3 * 2**20},
        "ratio": 0.75,
        "ratio_tensors": 1.0,
    }
    told = {**reference.fields(replace(ROW, name="other", decoder_length=4)), "skipped": "no such library"}
    versions = dict.fromkeys(("torch", "cuda", "transformers", "python"), "1")
    page = reference.as_markdown({"device": "Some GPU", **versions, "rows": [done, told]})
    assert "| small | 2 x 16 | eager | adamw (single) | 3.0 | parameter 2.0 | 4.0 | 1.0 | 0.7500 | 1.0000 |" in page
    assert "| other | 2 x 16 + 4 | eager | adamw (single) | skipped: no such library |" in page
    assert reference.folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_program_writes_nothing(tmp_path):
    command = [sys.executable, "scripts/memory_reference.py", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0
    assert done.stdout == "no NVIDIA GPU on this machine: no measurement was made\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_a_reading_is_near_its_prediction():
    reference.warm_up()
    found = reference.hold(PROJECT, replace(ROW, batch=32, length=128))
    assert found["ratio_tensors"] == pytest.approx(1, abs=0.04)
