"""8-bit optimizers: the reference against the paper's update in float64 and bitsandbytes; the stable embedding; errors of states."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from replica.errors import ConfigError
from replica.meters.optimizers import optimizer_bytes
from replica.meters.options import OptimizerOptions
from replica.methods import Context, parse
from replica.methods.memory.codes import CODES, MAPS
from replica.methods.memory.eight_bit_optimizer.method import BlockwiseOptimizer
from replica.methods.memory.optimizer_state_error.method import ERRORS, adam_errors
from replica.methods.memory.stable_embedding_layer import StableEmbedding
from tests.methods.peft_models import batch, tiny

RATE = 1e-2


def seeds(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# --- updates ------------------------------------------------------------------------------------------------------------


def by_the_paper(start: torch.Tensor, gradients: list[torch.Tensor], block: int, decay: float) -> torch.Tensor:
    """Adam with states that go through nearest codes after every step, written out in double precision."""
    codes = [MAPS["dynamic"](signed).double() for signed in (True, False)]

    def store(values, code):
        parts = []
        for part in values.split(block):
            top = part.abs().max()
            parts.append(code[(part[:, None] / top - code).abs().argmin(1)] * top if top else part)
        return torch.cat(parts)

    p, m, v = start.double().clone(), torch.zeros(len(start)).double(), torch.zeros(len(start)).double()
    for t, gradient in enumerate(gradients, 1):
        g = gradient.double()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        root = (1 - 0.999**t) ** 0.5
        p = p - RATE * root / (1 - 0.9**t) * m / (v.sqrt() + root * 1e-8)
        p = p * (1 - RATE * decay)
        m, v = store(m, codes[0]), store(v, codes[1])
    return p


@pytest.mark.parametrize("block", [256, 2048])
def test_reference_follows_the_papers_update(block):
    start = torch.randn(5000, generator=seeds())
    gradients = [torch.randn(5000, generator=seeds(t)) * 0.1 for t in range(1, 6)]
    parameter = nn.Parameter(start.clone())
    optimizer = BlockwiseOptimizer([parameter], lr=RATE, weight_decay=0.1, block=block, keep_sign=False)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    wanted = by_the_paper(start, gradients, block, 0.1).float()
    apart = (parameter.detach() - wanted).abs()
    assert float((apart < 1e-6).float().mean()) > 0.995  # float32 rounds a few values to the neighbouring code
    assert float(apart.max()) < RATE


def test_the_step_uses_fresh_moments():
    """One step from zero is that of 32-bit AdamW to the bit of float32, whatever the code: nothing quantized is in it yet."""
    start = torch.randn(5000, generator=seeds())
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    first = BlockwiseOptimizer([ours], lr=RATE, code="linear", block=None)
    second = torch.optim.AdamW([theirs], lr=RATE, weight_decay=0.0)
    ours.grad = theirs.grad = torch.randn(5000, generator=seeds(1))
    first.step()
    second.step()
    torch.testing.assert_close(ours.data, theirs.data, rtol=1e-5, atol=1e-7)


def test_small_tensors_move_as_torchs():
    for update, other in (("adamw", torch.optim.AdamW), ("momentum", torch.optim.SGD)):
        start = torch.randn(4095, generator=seeds())
        ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        first = BlockwiseOptimizer([ours], lr=RATE, weight_decay=0.0, update=update)
        second = other([theirs], lr=RATE, **({"momentum": 0.9} if update == "momentum" else {"weight_decay": 0.0}))
        for step in range(4):
            ours.grad = theirs.grad = torch.randn(4095, generator=seeds(step))
            first.step()
            second.step()
        torch.testing.assert_close(ours.data, theirs.data, rtol=1e-5, atol=1e-6)
        assert first.state[ours]["state1"].dtype == torch.float32


def test_gradients_that_are_not_finite_count_as_zero():
    parameter = nn.Parameter(torch.zeros(5000))
    optimizer = BlockwiseOptimizer([parameter], lr=RATE)
    parameter.grad = torch.ones(5000)
    parameter.grad[:2] = torch.tensor([float("nan"), float("inf")])
    optimizer.step()
    assert (parameter[:2] == 0).all() and torch.isfinite(parameter).all() and (parameter[2:] < 0).all()


def test_stored_state_goes_on_to_equal_bytes():
    gradients = [torch.randn(5000, generator=seeds(t)) for t in range(4)]

    def made(code: str) -> tuple[nn.Parameter, BlockwiseOptimizer]:
        parameter = nn.Parameter(torch.zeros(5000, dtype=torch.bfloat16))
        return parameter, BlockwiseOptimizer([parameter], lr=RATE, code=code)

    for code in ("dynamic", "quantile"):
        parameter, optimizer = made(code)
        for gradient in gradients[:2]:
            parameter.grad = gradient.bfloat16()
            optimizer.step()
        other, resumed = made(code)
        other.data.copy_(parameter.data)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert resumed.state[other]["state1"].dtype == torch.uint8
        assert resumed.state[other]["state1_absmax"].dtype == torch.float32
        for gradient in gradients[2:]:
            for p, o in ((parameter, optimizer), (other, resumed)):
                p.grad = gradient.bfloat16()
                o.step()
        assert torch.equal(parameter, other)


# --- bitsandbytes -------------------------------------------------------------------------------------------------------


def method(**config):
    entry, parsed = parse({"name": "eight-bit-optimizer", **config})
    return entry.create(parsed)


class Wide(nn.Module):
    """A matrix above 4,096 values, a small one, a bias, and a stable embedding above 4,096 values."""

    def __init__(self):
        super().__init__()
        self.wide, self.small = nn.Linear(100, 60), nn.Linear(10, 10)
        self.words = StableEmbedding(nn.Embedding(200, 40))


def wide() -> Wide:
    model = Wide()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=seeds(number)))
    return model


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=seeds(100 * step + number)) * 0.1
        optimizer.step()


@pytest.mark.parametrize("update", ["adamw", "momentum"])
def test_reference_is_the_librarys_state_and_update(update):
    pytest.importorskip("bitsandbytes")
    ours, theirs = wide(), wide()
    context = Context(learning_rate=RATE, weight_decay=0.0)
    reference = method(engine="reference", update=update, keep_sign=False).optimizer(ours, context)
    reference.store.lookup = True
    library = method(update=update).optimizer(theirs, context)
    trained(ours, reference, 1)
    trained(theirs, library, 1)
    first, second = reference.state[ours.wide.weight], library.state[theirs.wide.weight]
    for number in ("1", "2") if update == "adamw" else ("1",):
        a, b = first[f"state{number}"].int(), second[f"state{number}"].int().view(60, 100)
        assert first[f"state{number}"].dtype == second[f"state{number}"].dtype == torch.uint8
        assert int((a - b).abs().max()) <= 1 and float((a != b).float().mean()) < 5e-3
        torch.testing.assert_close(first[f"state{number}_absmax"], second[f"absmax{number}"], rtol=1e-5, atol=0)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs.get_parameter(name), rtol=1e-5, atol=1e-6)
    trained(ours, reference, 8)
    trained(theirs, library, 8)
    for name, parameter in ours.named_parameters():
        apart = (parameter - theirs.get_parameter(name)).abs().detach()
        assert float((apart < 1e-4).float().mean()) > 0.99, name
        assert float(apart.max()) < 0.05, name


def test_library_keeps_32_bits_where_it_should():
    pytest.importorskip("bitsandbytes")
    model = wide()
    optimizer = method().optimizer(model, Context(learning_rate=RATE, weight_decay=0.1))
    trained(model, optimizer, 1)
    kinds = {name: optimizer.state[p]["state1"].dtype for name, p in model.named_parameters()}
    assert kinds.pop("wide.weight") == torch.uint8
    assert set(kinds.values()) == {torch.float32} and "words.weight" in kinds
    others = wide()  # no override outlives its optimizer
    with torch.no_grad():
        plain = nn.Embedding.from_pretrained(others.words.weight.clone(), freeze=False)
    optimizer = method().optimizer(nn.ModuleDict({"wide": others.wide, "words": plain}), Context(learning_rate=RATE))
    plain.weight.grad = torch.ones_like(plain.weight)
    optimizer.step()
    assert optimizer.state[plain.weight]["state1"].dtype == torch.uint8


def test_library_goes_on_from_stored_state_to_equal_bytes(tmp_path):
    pytest.importorskip("bitsandbytes")
    context = Context(learning_rate=RATE, weight_decay=0.01)
    model = wide()
    optimizer = method().optimizer(model, context)
    trained(model, optimizer, 3)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    other = wide()
    other.load_state_dict(model.state_dict())
    resumed = method().optimizer(other, context)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    trained(model, optimizer, 2)
    trained(other, resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("engine", ["reference", "bitsandbytes"])
def test_state_has_the_bytes_that_the_meter_counts(engine):
    if engine == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
    model = nn.Sequential(nn.Linear(100, 60), nn.Linear(10, 10))
    optimizer = method(engine=engine).optimizer(model, Context(learning_rate=RATE))
    trained(model, optimizer, 1)
    names = ("state1", "state2", "absmax1", "absmax2", "state1_absmax", "state2_absmax")
    size = sum(s[n].nbytes for s in optimizer.state.values() for n in names if n in s)
    assert size == optimizer_bytes(model, OptimizerOptions(rule="adamw8bit", block=256))["bytes"]
    assert size == 2 * 6000 + 8 * math.ceil(6000 / 256) + 8 * (60 + 100 + 10)


@pytest.mark.parametrize("config", [{"block": 2048}, {"code": "linear"}, {"block": None}])
def test_what_the_library_has_not_is_said(config):
    with pytest.raises(ConfigError, match="use `engine: reference`"):
        method(**config)
    method(engine="reference", **config)


# --- stable embedding, errors of a run's own states ---------------------------------------------------------------------


def test_stable_embedding_is_drawn_by_xavier_and_normalised():
    model, plain = tiny("bert"), tiny("bert")
    entry, config = parse("stable-embedding")
    entry.create(config).prepare(model, Context())
    words = model.get_input_embeddings().requires_grad_(False)
    bound = math.sqrt(6 / (60 + 32))
    assert float(words.weight.abs().max()) <= bound and float(words.weight.std()) == pytest.approx(
        bound / 3**0.5, rel=0.1
    )
    ids = batch("bert")["input_ids"]
    out = words(ids)
    torch.testing.assert_close(out.mean(-1), torch.zeros(ids.shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(-1, unbiased=False), torch.ones(ids.shape), atol=1e-2, rtol=0)
    assert (words.weight[0] == 0).all(), "the padding word"
    names = set(dict(model.named_parameters())) - set(dict(plain.named_parameters()))
    assert names == {f"bert.embeddings.word_embeddings.norm.{end}" for end in ("weight", "bias")}


def test_stable_embedding_stays_tied():
    model = tiny("t5")
    entry, config = parse({"name": "stable-embedding", "draw": False})
    before = model.get_input_embeddings().weight
    entry.create(config).prepare(model, Context())
    assert model.get_input_embeddings().weight is before is model.lm_head.weight
    assert isinstance(model.encoder.embed_tokens, StableEmbedding)
    with pytest.raises(ConfigError, match="has one already"):
        entry.create(config).prepare(model, Context())


def test_errors_of_the_runs_own_states():
    model = nn.Sequential(nn.Linear(100, 60), nn.Linear(10, 10))
    entry, config = parse({"name": "optimizer-state-error", "blocks": [256]})
    probe = entry.create(config)
    context = Context(total_steps=3)
    probe.prepare(model, context)
    context.optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for step in range(3):
        trained(model, context.optimizer, 1)
        context.step = step + 1
        probe.on_step_end(model, context)
        assert bool(getattr(model, ERRORS).values.isnan().all()) == (step < 2)
    found = probe.reported(model, context)
    state = context.optimizer.state[model[0].weight]
    wanted = adam_errors(state["exp_avg"], state["exp_avg_sq"], "dynamic", 256)
    assert found["dynamic.256.update"] == pytest.approx(wanted["update"], rel=1e-5)
    assert found["linear.tensor.update"] > found["dynamic.256.update"] and len(found) == len(CODES) * 2 * 3
    probe.finalize(model)
    assert not hasattr(model, ERRORS)


def test_errors_of_drawn_states_by_code_and_block():
    """Blocks keep an outlier to themselves; the dynamic code beats the linear one where values span decades (the paper's Section 2)."""
    entry, config = parse({"name": "optimizer-state-error", "blocks": [256, 4096]})
    found = entry.create(config).cost(None, values=2**14)
    assert found.keys() == {"plain", "outliers"} and set(found["plain"]) == {*CODES, "magnitude"}
    assert set(found["outliers"]["linear"]) == {"256", "4096", "tensor"}
    plain, outliers = found["plain"], found["outliers"]
    # a step of the linear code is largest / 127: outliers a hundred times as large coarsen 4 of 64 blocks, or the whole tensor
    assert outliers["linear"]["256"]["first"] < 0.2 * outliers["linear"]["tensor"]["first"]
    assert outliers["dynamic"]["256"]["first"] < outliers["dynamic"]["tensor"]["first"]
    assert outliers["dynamic"]["tensor"]["first"] < 0.2 * outliers["linear"]["tensor"]["first"]
    assert plain["dynamic"]["tensor"]["update"] < plain["linear"]["tensor"]["update"]
    gradient = torch.randn(2**14, generator=torch.Generator().manual_seed(0))
    assert plain["dynamic"]["256"] == pytest.approx(adam_errors(0.1 * gradient, 0.001 * gradient**2, "dynamic", 256))
    assert plain["magnitude"]["first"] == pytest.approx(
        0.1 * (2 / 3.141592653589793) ** 0.5, rel=0.02
    )  # mean of a half normal
