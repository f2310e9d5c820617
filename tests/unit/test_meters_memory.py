"""Memory meter: meta against real tensors, the profiler's allocator events and torch's own tracker."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from replica.meters.batches import loss_of, make_batch
from replica.meters.memory import measure_memory
from replica.meters.options import MemoryOptions
from replica.meters.semantics import attention, rules
from replica.meters.tracker import StorageTracker

from .small_models import profiled_peak

TINY = {"num_attention_heads": 2, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 64}


def tiny(kind: str, device: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    with torch.device(device):
        if kind == "bert":
            return transformers.BertForSequenceClassification(
                transformers.BertConfig(**TINY, max_position_embeddings=32)
            )
        if kind == "vit":
            fields = {key: value for key, value in TINY.items() if key != "vocab_size"}
            return transformers.ViTForImageClassification(transformers.ViTConfig(**fields, image_size=16, patch_size=4))
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))


def train_only(model: nn.Module, words: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(words in name.lower())
    return model


@pytest.mark.parametrize("kind", ["bert", "t5", "vit"])
@pytest.mark.parametrize("trained", ["", "bias", "norm"])
@pytest.mark.parametrize(
    "options",
    [{}, {"checkpointing": True}, {"era": "2021"}, {"optimizer": "adafactor"}, {"dropout": False}, {"foreach": True}],
)
def test_meta_measures_the_same_bytes_as_real_tensors(kind, trained, options):
    found = [
        measure_memory(
            train_only(tiny(kind, device), trained),
            MemoryOptions(batch=4, length=16, **{"decoder_length": 6, "optimizer": "sgd", "foreach": False, **options}),
        )
        for device in ("meta", "cpu")
    ]
    steps = _step_counters(options, trained, kind)
    assert found[0]["saved_bytes"] == found[1]["saved_bytes"]
    assert abs(found[0]["peak"] - found[1]["peak"]) <= steps
    assert found[0]["peak_phase"] == found[1]["peak_phase"]


def _step_counters(options: dict, trained: str, kind: str) -> int:
    """torch keeps Adafactor's step counters on the CPU, where a model on the CPU counts them: 4 bytes a trained tensor."""
    if options.get("optimizer") != "adafactor":
        return 0
    return 4 * sum(p.requires_grad for p in train_only(tiny(kind, "meta"), trained).parameters())


def test_fused_attention_saves_what_the_cpu_kernel_saves():
    """Real flash attention on the CPU keeps query, key, value, output and a log-sum a row, as the semantics on meta say."""
    model = tiny("bert", "cpu")
    saved = {}
    batch = make_batch(model, 4, 16)

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter) and tensor.data_ptr() not in outside:
            saved[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    outside = {t.data_ptr() for t in (*model.parameters(), *model.buffers(), *batch.values())}
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # with dropout the CPU takes the math path
    keeping = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with rules(model, dropout=False), attention(model, "sdpa"), keeping:
        loss_of(model, batch).backward()
    expected = sum(size for size, _ in saved.values())
    found = measure_memory(tiny("bert", "meta"), MemoryOptions(batch=4, length=16, attention="fused", dropout=False))[
        "saved_bytes"
    ]
    assert found == expected


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_peak_agrees_with_the_profilers_allocator_events(kind):
    """The profiler sees every allocation of the CPU's allocator; its running sum, above what was there, has the same peak."""
    model = tiny(kind, "cpu").train()
    peak = profiled_peak(model, make_batch(model, 4, 16, 6))
    found = measure_memory(tiny(kind, "meta"), MemoryOptions(batch=4, length=16, decoder_length=6, optimizer=None))
    assert abs(found["peak"] - peak) <= 64  # kernels' own scalars


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_peak_agrees_with_torchs_memory_tracker(kind):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    found = measure_memory(tiny(kind, "meta"), MemoryOptions(batch=4, length=16, decoder_length=6, optimizer="adamw"))
    with FakeTensorMode():
        model = tiny(kind, "cpu").train()
        batch = make_batch(model, 4, 16, 6)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False, fused=False)
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *batch.values())
        with rules(model), tracker:
            for _ in range(2):
                loss_of(model, batch).backward()
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    counters = 4 * len(list(tiny(kind, "meta").parameters()))
    assert abs(found["peak"] - peak) <= counters + 32


def test_two_linears_have_the_peak_that_arithmetic_gives():
    """x (b, n) -> h = Wx -> sum((Vh)^2): alive at the end are parameters, input, and what backward needs."""
    batch, width = 8, 32

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(width, width, bias=False)
            self.second = nn.Linear(width, width, bias=False)

        def forward(self, x):
            return self.second(self.first(x))

    with torch.device("meta"):
        model, x = Two(), torch.empty(batch, width)
    tracker = StorageTracker(torch.device("meta"))
    tracker.add("parameter", model.parameters())
    tracker.add("input", [x])
    with tracker:
        output = model(x)
        square = output * output
        loss = square.sum()
    matrix, rows = 4 * width * width, 4 * batch * width
    assert tracker.live["parameter"] == 2 * matrix
    assert tracker.live["forward"] == 3 * rows + 4  # h, output, square, and the loss
    assert tracker.peak == 2 * matrix + rows + 3 * rows + 4
    del output, square, loss
    assert tracker.live["forward"] == 0


def test_optimizer_state_and_gradients_have_the_size_of_the_parameters():
    model = tiny("bert", "meta")
    size = 4 * sum(p.numel() for p in model.parameters())
    found = measure_memory(model, MemoryOptions(batch=2, length=8, optimizer="adamw"))
    assert found["by_category"]["parameter"] == size
    assert found["by_category"]["gradient"] == size
    assert (
        2 * size <= found["by_category"]["optimizer"] <= 2 * size + 2 * 4 * 64 * 16
    )  # two temporaries of the largest tensor


def test_a_measurement_leaves_the_model_as_it_was():
    model = tiny("bert", "cpu").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_memory(model, MemoryOptions(batch=2, length=8, optimizer=None))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_frozen_weights_have_no_gradients_and_no_state():
    found = measure_memory(train_only(tiny("bert", "meta"), "classifier"), MemoryOptions(batch=4, length=16))
    assert found["by_category"]["gradient"] == 4 * (2 * 16 + 2)
    assert found["saved_bytes"] < measure_memory(tiny("bert", "meta"), MemoryOptions(batch=4, length=16))["saved_bytes"]


def test_largest_batch_is_the_last_that_fits():
    budget = 2e6
    found = measure_memory(tiny("bert", "meta"), MemoryOptions(batch=4, length=16, budget_gb=budget / 1e9))
    largest = found["largest_batch"]
    assert found["at_largest"]["peak"] <= budget
    assert (
        measure_memory(tiny("bert", "meta"), MemoryOptions(batch=largest, length=16))["peak"]
        == found["at_largest"]["peak"]
    )
    assert measure_memory(tiny("bert", "meta"), MemoryOptions(batch=largest + 1, length=16))["peak"] > budget


def test_nothing_fits_in_less_than_the_weights():
    found = measure_memory(tiny("bert", "meta"), MemoryOptions(batch=4, length=16, budget_gb=1e-6))
    assert found["largest_batch"] == 0


def test_padding_materialises_the_mask():
    model = tiny("bert", "meta")
    with_mask = measure_memory(model, MemoryOptions(batch=4, length=16, train=False, padding=True))["peak"]
    assert with_mask > measure_memory(model, MemoryOptions(batch=4, length=16, train=False))["peak"]


def test_half_precision_halves_the_parameters():
    full = measure_memory(tiny("bert", "meta"), MemoryOptions(batch=4, length=16))["by_category"]["parameter"]
    assert (
        measure_memory(tiny("bert", "meta"), MemoryOptions(batch=4, length=16, dtype="bfloat16"))["by_category"][
            "parameter"
        ]
        * 2
        == full
    )


def test_bert_base_saves_the_published_bytes():
    """2.98 GiB for batch 32, length 128 with boolean dropout masks, by arithmetic over what each operation keeps.

    In units of b*l*h floats a layer keeps: the layer's input (1), query, transposed key, value (3), attention output (1), attention
    dense output's norm input (1) and result (1), inner activations before and after GELU (8), output norm input (1) and
    two boolean dropout masks (2/4); each b*a*l*l: probabilities and dropped probabilities as floats, one boolean mask (2.25);
    each norm keeps mean and deviation. The result of the last norm is the next layer's input.
    """
    import transformers

    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig())
    b, l, h, a = 32, 128, 768, 12  # noqa: E741
    layer = 4 * b * l * h * (1 + 3 + 1 + 1 + 1 + 8 + 1 + 0.5) + 4 * b * a * l * l * 2.25 + 2 * 2 * 4 * b * l
    found = measure_memory(model, MemoryOptions(batch=b, length=l))
    assert found["saved_bytes"] == pytest.approx(12 * layer, rel=0.012)  # embeddings and head are the rest
    assert found["saved_bytes"] > 12 * layer
    assert found["saved_bytes"] / 2**30 == pytest.approx(2.98, abs=0.005)


def test_t5_base_under_the_rules_of_2021_needs_what_a_paper_of_that_time_printed():
    """LST (Sung et al. 2022) prints 17.6 GB for full fine-tuning of T5-base, batch 100, length 128; its code divides MiB by 1,000.

    Labels are about 2 pieces long there. 2 % is the tolerance for known code with unknown allocator rounding; today's rules give
    less because nothing but the outputs of softmax is kept and gradients are freed between steps.
    """
    import transformers

    sizes = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "decoder_start_token_id": 0}
    with torch.device("meta"):
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    then = measure_memory(model, MemoryOptions(batch=100, length=128, decoder_length=2, era="2021"))
    now = measure_memory(model, MemoryOptions(batch=100, length=128, decoder_length=2))
    assert then["peak"] / 2**20 / 1000 == pytest.approx(17.6, rel=0.02)
    gradients = 4 * 222_903_552
    probabilities = 4 * 100 * 12 * 12 * (128 * 128 + 2 * 2 + 2 * 128)
    assert then["saved_bytes"] - now["saved_bytes"] == probabilities
    assert then["at_peak"]["gradient"] == gradients


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"era": "1999"}, {"attention": "flash"}])
def test_unknown_rules_are_errors(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        MemoryOptions(batch=2, length=8, **options)
