"""Low-rank gradient carriers: what private gradients of whole matrices are computed through (RGP; Yu et al. 2021b)."""

from __future__ import annotations

import torch
from torch import nn

#: Ends of the names of a matrix' two carriers among the tensors that are differentiated.
LEFT, RIGHT = ".left_carrier", ".right_carrier"


class Carriers:
    """Orthonormal L (p, r) and R (r, d) for each trained matrix W (p, d): W = L R + (W - L R), the bracket held fixed.

    What is differentiated is L and R, and whatever else is trained as it is. From their gradients comes that of W along what they span,
    (dL) R + L (dR) - L L^T (dL) R ("Large Scale Private Learning via Low-rank Reparametrization", ICML 2021, Theorem 3.1): for
    dL = G R^T and dR = L^T G it is the matrix nearest to G of the form A R + L B.
    """

    def __init__(self, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]):
        self.pairs = pairs

    def tensors(self, trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Return what is differentiated by name: L and R for a matrix that has them, else the parameter."""
        found: dict[str, torch.Tensor] = {}
        for name, parameter in trained.items():
            if name in self.pairs:
                found[name + LEFT], found[name + RIGHT] = self.pairs[name]
            else:
                found[name] = parameter
        return found

    def weights(self, tensors: dict[str, torch.Tensor], trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Return the parameters that the model computes with: their values now, as functions of what is differentiated."""
        found = {}
        for name, parameter in trained.items():
            if name in self.pairs:
                left, right = self.pairs[name]
                product = tensors[name + LEFT] @ tensors[name + RIGHT] - left @ right
                found[name] = parameter.detach() + product.to(parameter.dtype)
            else:
                found[name] = tensors[name]
        return found

    def rebuild(self, gradients: dict[str, torch.Tensor], trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Return the gradients of the parameters from those of what is differentiated."""
        found = {}
        for name in trained:
            if name in self.pairs:
                left, right = self.pairs[name]
                by_left, by_right = gradients[name + LEFT] @ right, left @ gradients[name + RIGHT]
                found[name] = by_left + by_right - left @ (left.t() @ by_left)
            else:
                found[name] = gradients[name]
        return found


def reparametrised(parameter: torch.Tensor, rank: int) -> bool:
    """Say whether a trained tensor is given carriers: a matrix of more than `rank` rows and columns."""
    return parameter.dim() == 2 and min(parameter.shape) > rank


def gradient_shapes(parameter: torch.Tensor, rank: int | None) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that stand for a parameter in an example's gradient."""
    if rank is None or not reparametrised(parameter, rank):
        return [tuple(parameter.shape)]
    return [(parameter.shape[0], rank), (rank, parameter.shape[1])]


@torch.no_grad()
def find_carriers(
    trained: dict[str, nn.Parameter],
    start: dict[str, torch.Tensor],
    rank: int,
    iterations: int,
    seeds: torch.Generator,
) -> Carriers:
    """Return carriers by the power method on what training has changed so far, W - W_0 (Algorithm 1); drawn where that is zero.

    What has changed comes from private gradients, so that the carriers cost no privacy.
    """
    pairs = {}
    for name, parameter in trained.items():
        if not reparametrised(parameter, rank):
            continue
        rows, columns = parameter.shape
        right = _drawn((rank, columns), seeds, parameter)
        left = _drawn((rows, rank), seeds, parameter)
        change = (parameter - start[name].to(parameter.device)).float()
        if bool(change.any()):
            for _ in range(iterations):
                left = torch.linalg.qr(change @ right.t()).Q
                right = left.t() @ change
        pairs[name] = (torch.linalg.qr(left).Q, torch.linalg.qr(right.t()).Q.t())
    return Carriers(pairs)


def _drawn(shape: tuple[int, int], seeds: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    return torch.empty(shape).normal_(generator=seeds).to(like.device)
