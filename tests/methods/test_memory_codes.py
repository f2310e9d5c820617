"""8-bit codes: the maps by counting, nearest values by brute force, and against bitsandbytes' maps, codes and scales."""

from __future__ import annotations

import math

import pytest
import torch

from replica.methods.memory.codes import (
    CODES,
    MAPS,
    code_for,
    dequantize,
    dynamic_map,
    linear_map,
    quantile_map,
    quantize,
    search_table,
)
from replica.methods.memory.optimizer_state_error.method import adam_errors


def seeds(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# --- maps ---------------------------------------------------------------------------------------------------------------


def test_dynamic_maps_hold_what_the_paper_counts():
    """254 midpoints, 0 and 1; the signed map has 127 negative values and no -1; the finest decade ends at 1e-7 to 1e-6."""
    signed, unsigned = dynamic_map(True), dynamic_map(False)
    for code in (signed, unsigned):
        assert len(code) == 256 and len(set(code.tolist())) == 256
        assert torch.equal(code, code.sort().values) and code[-1] == 1 and (code == 0).sum() == 1
    assert (signed < 0).sum() == 127 and (unsigned < 0).sum() == 0
    assert float(signed[0]) == pytest.approx(-(1 + 1 - 0.9 / 64) / 2)
    # by hand: the top decade of the unsigned map is cut into 128 parts, the lowest into 2
    top = [0.1 + 0.9 * (2 * k + 1) / 256 for k in range(128)]
    assert unsigned[-129:-1].tolist() == pytest.approx(top)
    assert unsigned[1:3].tolist() == pytest.approx([0.325e-6, 0.775e-6])


@pytest.mark.parametrize("signed", [True, False])
def test_maps_are_those_of_the_library(signed):
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.testing.assert_close(
        dynamic_map(signed), functional.create_dynamic_map(signed=signed).cpu(), rtol=1e-6, atol=0
    )
    theirs = functional.create_linear_map(signed=signed, total_bits=8).cpu()
    torch.testing.assert_close(linear_map(signed), theirs.sort().values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("signed", [True, False])
def test_every_code_holds_zero_and_the_largest(name, signed):
    values = torch.randn(5000, generator=seeds())
    values = values if signed else values.square()
    code = code_for(name, values, signed, 512)
    assert len(code) == 256 and (code == 0).any() and torch.equal(code, code.sort().values)
    back = dequantize(*quantize(values, code, None), code, None)
    assert float(back.abs().max()) == pytest.approx(float(values.abs().max()), rel=0.01)


def test_quantile_code_uses_all_values_equally():
    scaled = torch.rand(256 * 200, generator=seeds()) ** 3
    codes, _ = quantize(scaled, quantile_map(scaled))
    counts = torch.bincount(codes.flatten().long(), minlength=256)[2:-2].float()
    assert float(counts.min()) > 0.5 * 200 and float(counts.max()) < 2 * 200


@pytest.mark.parametrize("name", list(MAPS))
@pytest.mark.parametrize("signed", [True, False])
def test_a_search_table_finds_the_same_codes(name, signed):
    code = MAPS[name](signed)
    table = search_table(code)
    bounds = (code[1:] + code[:-1]) / 2
    around = torch.cat([torch.nextafter(bounds, bounds + side) for side in (-1.0, 1.0)] + [bounds, code, -code])
    drawn = torch.randn(20_000, generator=seeds()).clamp(-1, 1) * 10 ** (-9 * torch.rand(20_000, generator=seeds(1)))
    values = torch.cat([torch.tensor([1.0, -0.0]), around.clamp(-1, 1), drawn])
    values = values if signed else values.abs()
    for keep_sign in (True, False):
        plain, _ = quantize(values, code, keep_sign=keep_sign)
        found, _ = quantize(values, code, keep_sign=keep_sign, table=table)
        assert torch.equal(plain, found)
    assert search_table(torch.cat([torch.linspace(0.5, 0.50001, 255), torch.ones(1)])) is None


# --- quantization -------------------------------------------------------------------------------------------------------


def test_blocks_have_their_own_scale_and_zeros_stay():
    values = torch.cat(
        [torch.randn(300, generator=seeds()) * 1e-6, torch.zeros(300), torch.randn(150, generator=seeds(1))]
    )
    code = dynamic_map(True)
    codes, absmax = quantize(values.view(3, 250), code, 300)
    assert codes.shape == (3, 250) and codes.dtype == torch.uint8
    assert absmax.tolist() == pytest.approx([float(values[:300].abs().max()), 0.0, float(values[600:].abs().max())])
    back = dequantize(codes, absmax, code, 300).flatten()
    assert (back[300:600] == 0).all()
    for part in (slice(0, 300), slice(600, 750)):  # brute force: no code lies nearer
        scaled = values[part] / values[part].abs().max()
        best = (scaled[:, None] - code).abs().min(1).values
        torch.testing.assert_close((back[part] / values[part].abs().max() - scaled).abs(), best, rtol=1e-5, atol=1e-7)


def test_a_wrong_sign_moves_one_step():
    code = dynamic_map(True)
    values = torch.tensor([1.0, -1e-9, 1e-9, 0.0])
    plain, _ = quantize(values, code)
    kept, _ = quantize(values, code, keep_sign=True)
    assert code[plain.long()].tolist()[1:] == [0.0, 0.0, 0.0]
    assert code[kept.long()].tolist()[1] < 0 and code[kept.long()].tolist()[2:] == [0.0, 0.0]
    assert int(plain[1]) - int(kept[1]) == 1


@pytest.mark.parametrize("signed", [True, False])
def test_codes_and_scales_are_the_librarys(signed):
    """Up to values halfway between two steps of the library's table, whose side float32 decides."""
    functional = pytest.importorskip("bitsandbytes.functional")
    values = torch.randn(64, 300, generator=seeds()) * torch.rand(64, 300, generator=seeds(1)) ** 4
    values = values if signed else values.square()
    code = dynamic_map(signed)
    theirs, state = functional.quantize_blockwise(values, code=code.clone(), blocksize=256)
    ours, absmax = quantize(values, code, 256, lookup=True)
    torch.testing.assert_close(absmax, state.absmax, rtol=0, atol=0)
    assert float((ours != theirs).float().mean()) < 1e-3
    exact, _ = quantize(values, code, 256)
    scales = absmax.repeat_interleave(256)[: values.numel()].view(64, 300)
    coarse = (values / scales).abs() > 0.01  # there the table's step of 3e-5 is below the code's own
    assert float((exact != theirs)[coarse].float().mean()) < 0.02
    torch.testing.assert_close(
        dequantize(theirs, state.absmax, code, 256),
        functional.dequantize_blockwise(theirs, state),
        rtol=1e-6,
        atol=1e-9,
    )


def test_on_processors_the_librarys_zero_is_not_zero():
    """What keeps the library from being the reference here; where this fails, the library has changed and the note can go."""
    functional = pytest.importorskip("bitsandbytes.functional")
    for signed, smallest in ((True, 2.125e-5), (False, 1.5625e-5)):
        code = dynamic_map(signed)
        theirs, _ = functional.quantize_blockwise(torch.tensor([1.0, 0.0]), code=code.clone(), blocksize=256)
        assert float(code[theirs.long()][1]) == pytest.approx(smallest)
        assert float(code[quantize(torch.tensor([1.0, 0.0]), code, 256)[0].long()][1]) == 0.0


def test_errors_fall_from_linear_to_dynamic_to_blocks():
    """The paper's ladder: of the second moment, whose values spread over many decades, linear codes keep least."""
    first = torch.randn(64, 512, generator=seeds()) * torch.logspace(-5, 0, 512)
    second = first.square() * torch.rand(64, 512, generator=seeds(1)) + 1e-12
    found = {(c, b): adam_errors(first, second, c, b) for c in CODES for b in (None, 2048, 256)}
    assert found["linear", None]["update"] > 10 * found["dynamic", None]["update"]
    assert found["dynamic", None]["update"] > found["dynamic", 2048]["update"] * 0.99
    assert found["dynamic", 2048]["first"] < found["linear", None]["first"] * 2
    assert all(math.isfinite(v) for errors in found.values() for v in errors.values())
    by_hand = MAPS["dynamic"](True)
    kept = dequantize(*quantize(first, by_hand, 256), by_hand, 256)
    assert found["dynamic", 256]["first"] == pytest.approx(float((kept - first).abs().mean()))
