"""Private gradients through low-rank carriers (RGP), against a loop over examples and the singular value decomposition."""

from __future__ import annotations

import math

import pytest
import torch

from replica.methods import Context
from replica.methods.privacy.private_gradients.carriers import Carriers, find_carriers
from tests.methods.test_privacy import _method, _model, _rows


def _prepared(**config):
    """Return a model whose matrices have moved since the method saw them, the method and the context of a later step."""
    model, method, context = _model(), _method(**config), Context(batch_size=6, step=3)
    method.prepare(model, context)
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    return model, method, context


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("clip", [0.3, 1e6])
def test_carriers_are_clipped_jointly_and_rebuilt_like_a_loop_does(clip, vectorised):
    model, method, context = _prepared(clip=clip, noise=0.0, rank=3, vectorised=vectorised, chunk=4)
    trained, rows = dict(model.named_parameters()), _rows()
    pairs = method.carriers(trained, context).pairs
    assert set(pairs) == {name for name, p in trained.items() if p.dim() == 2 and min(p.shape) > 3}
    total, norms = {}, []
    for index in range(6):
        model.zero_grad()
        model(**{key: value[index : index + 1] for key, value in rows.items()}).loss.backward()
        whole = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in trained.items()}
        parts = {}
        for name, gradient in whole.items():  # dL = G R^T, dR = L^T G
            if name in pairs:
                left, right = pairs[name]
                parts[name, "left"], parts[name, "right"] = gradient @ right.T, left.T @ gradient
            else:
                parts[name, ""] = gradient
        norms.append(math.sqrt(sum(float(part.double().square().sum()) for part in parts.values())))
        for key, part in parts.items():
            total[key] = total.get(key, 0) + part * min(1.0, clip / norms[-1])
    assert max(norms) > 0.3
    model.zero_grad()
    method.loss(model, {**rows, "example_id": torch.arange(6)}, context)
    method.on_gradients(model, context)
    for name, parameter in trained.items():
        if name in pairs:
            left, right = pairs[name]
            a, b = total[name, "left"] / 6, total[name, "right"] / 6
            wanted = a @ right + left @ b - left @ left.T @ a @ right
        else:
            wanted = total[name, ""] / 6
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-6)


def test_rebuilt_gradient_is_the_nearest_of_its_form():
    seeds = torch.Generator().manual_seed(0)
    gradient = torch.randn(7, 5, generator=seeds, dtype=torch.double)
    left = torch.linalg.qr(torch.randn(7, 2, generator=seeds, dtype=torch.double)).Q
    right = torch.linalg.qr(torch.randn(5, 2, generator=seeds, dtype=torch.double)).Q.T
    carriers = Carriers({"w": (left, right)})
    parts = {"w.left_carrier": gradient @ right.T, "w.right_carrier": left.T @ gradient}
    rebuilt = carriers.rebuild(parts, {"w": torch.nn.Parameter(gradient)})["w"]
    # min over A, B of |G - A R - L B|, as a linear least-squares problem in the entries of A and B.
    columns = [torch.outer(torch.eye(7, dtype=torch.double)[i], right[k]).flatten() for i in range(7) for k in range(2)]
    columns += [
        torch.outer(left[:, k], torch.eye(5, dtype=torch.double)[j]).flatten() for j in range(5) for k in range(2)
    ]
    basis = torch.stack(columns, 1)
    nearest = (basis @ (torch.linalg.pinv(basis) @ gradient.flatten())).view(7, 5)
    torch.testing.assert_close(rebuilt, nearest)


def test_carriers_span_what_training_has_changed():
    seeds = torch.Generator().manual_seed(0)
    start = torch.randn(12, 8, generator=seeds)
    change = torch.randn(12, 2, generator=seeds) @ torch.randn(2, 8, generator=seeds)
    parameter = {"w": torch.nn.Parameter(start + change)}
    left, right = find_carriers(parameter, {"w": start}, 2, 1, seeds).pairs["w"]
    u, _, v = torch.linalg.svd(change)
    torch.testing.assert_close(left @ left.T, u[:, :2] @ u[:, :2].T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(right.T @ right, v[:2].T @ v[:2], rtol=1e-3, atol=1e-4)
    first = find_carriers(parameter, {"w": start + change}, 2, 1, seeds).pairs["w"]  # nothing has changed: drawn
    for a, b in (first, (left, right)):
        torch.testing.assert_close(a.T @ a, torch.eye(2), rtol=0, atol=1e-5)
        torch.testing.assert_close(b @ b.T, torch.eye(2), rtol=0, atol=1e-5)


def test_noise_comes_on_the_carriers_and_not_on_the_matrix():
    model, method, context = _prepared(clip=2.0, noise=0.5, rank=1)
    method.on_gradients(model, context)
    trained = dict(model.named_parameters())
    tensors = method.carriers(trained, context).tensors(trained)
    cost = method.cost(model)
    # A matrix of p x d has p + d noisy numbers at rank 1, any other tensor as many as it has.
    assert cost["trained"] == sum(t.numel() for t in tensors.values())
    assert cost["trained"] == sum(
        sum(p.shape) if p.dim() == 2 and min(p.shape) > 1 else p.numel() for p in trained.values()
    )
    assert cost["noise_std"] == pytest.approx(0.5 * 2.0 / 6, rel=0.1)
    for name, pair in method.carriers(trained, context).pairs.items():
        assert torch.linalg.matrix_rank(trained[name].grad, rtol=1e-4) <= 2 * pair[0].shape[1]


def test_carriers_are_those_of_the_step_whoever_asks():
    model, method, context = _prepared(clip=1.0, noise=0.5, rank=2)
    trained = dict(model.named_parameters())
    found = method.carriers(trained, context)
    assert method.carriers(trained, context) is found
    again, other, _ = _prepared(clip=1.0, noise=0.5, rank=2)
    same = other.carriers(dict(again.named_parameters()), context)
    assert all(torch.equal(a, b) for n in found.pairs for a, b in zip(found.pairs[n], same.pairs[n], strict=True))
    context.step += 1
    assert method.carriers(trained, context) is not found
