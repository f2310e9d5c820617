"""Low-rank gradient carriers, through which private gradients of matrices are computed (RGP; Yu et al. 2021b)."""

from __future__ import annotations

import torch
from torch import nn

#: Ends of the names of a matrix' two carriers among the tensors that are differentiated.
LEFT, RIGHT = ".left_carrier", ".right_carrier"


class Carriers:
    """Orthonormal L (p, r) and R (r, d) for each trained matrix W (p, d): W = L R + (W - L R), the bracket held fixed.

    The loss is differentiated by L and R, and by every other trained tensor as it is. Their gradients give that of W in their span,
    (dL) R + L (dR) - L L^T (dL) R ("Large Scale Private Learning via Low-rank Reparametrization", ICML 2021, Theorem 3.1): for
    dL = G R^T and dR = L^T G it is the matrix nearest to G of the form A R + L B.
    """

    def __init__(self, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]):
        self.pairs = pairs

    def tensors(self, trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Return the tensors to differentiate by, by name: L and R for a matrix that has them, else the parameter."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in trained.items():
            if name in self.pairs:
                tensors[name + LEFT], tensors[name + RIGHT] = self.pairs[name]
            else:
                tensors[name] = parameter
        return tensors

    def weights(self, tensors: dict[str, torch.Tensor], trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Return the parameters that the model computes with: their values now, as functions of `tensors`."""
        weights = {}
        for name, parameter in trained.items():
            if name in self.pairs:
                left, right = self.pairs[name]
                product = tensors[name + LEFT] @ tensors[name + RIGHT] - left @ right
                weights[name] = parameter.detach() + product.to(parameter.dtype)
            else:
                weights[name] = tensors[name]
        return weights

    def rebuild(self, gradients: dict[str, torch.Tensor], trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Return the gradients of the parameters from those of `tensors`."""
        rebuilt = {}
        for name in trained:
            if name in self.pairs:
                left, right = self.pairs[name]
                by_left, by_right = gradients[name + LEFT] @ right, left @ gradients[name + RIGHT]
                rebuilt[name] = by_left + by_right - left @ (left.t() @ by_left)
            else:
                rebuilt[name] = gradients[name]
        return rebuilt


def reparametrised(parameter: torch.Tensor, rank: int) -> bool:
    """Return whether a trained tensor gets carriers: a matrix of more than `rank` rows and columns."""
    return parameter.dim() == 2 and min(parameter.shape) > rank


def gradient_shapes(parameter: torch.Tensor, rank: int | None) -> list[tuple[int, ...]]:
    """Return the shapes of a parameter's tensors in an example's gradient."""
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
    """Return carriers by the power method on the change by training so far, W - W_0 (Algorithm 1); drawn where that is zero.

    The change comes from private gradients, so that the carriers cost no privacy.
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
