"""The low-rank plus sparse update of a weight matrix, and the positions of its sparse entries (Chen et al. 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.peft.layers import fill

#: Name under which a linear layer owns its update.
UPDATE = "update"

#: Rows of the residual's R factor that each round adds, rounds of alternation in it, and magnitudes taken for zero.
_ROWS, _ALTERNATIONS, _THRESHOLD = 5, 2, 0.01


class SparseLowRankUpdate(nn.Module):
    """scale (B A + S2): A (r, inputs), B (outputs, r), S2 with trained `values` (N) at fixed flat `positions` (N).

    Only the values at the support are stored, not a masked dense S2.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, entries: int, scale: float):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        self.values = nn.Parameter(torch.zeros(entries))
        self.register_buffer("positions", torch.zeros(entries, dtype=torch.int64))
        self.scale = scale

    def reset(self, seeds: torch.Generator) -> None:
        """Draw A from normal(0, 0.02); B and the sparse values stay zero, so that the update starts at zero."""
        fill(self.a, std=0.02, seeds=seeds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to the change of the output, (..., outputs)."""
        change = (x @ self.a.t()) @ self.b.t()
        if self.values.numel():
            rows, columns = self.positions // self.a.shape[1], self.positions % self.a.shape[1]
            change = change.index_add(-1, rows, (x[..., columns] * self.values).to(change.dtype))
        return self.scale * change

    def matrix(self) -> torch.Tensor:
        """Return the update of the weight, (outputs, inputs)."""
        low_rank = self.b @ self.a
        return self.scale * low_rank.flatten().index_add(0, self.positions, self.values).view(low_rank.shape)

    @torch.no_grad()
    def cut_outputs(self, remaining: torch.Tensor) -> None:
        """Leave only these rows; entries in other rows become zeros at the first position, so that N stays the same."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        if not self.positions.is_meta:
            place = torch.full((outputs,), -1, dtype=torch.int64)
            place[remaining] = torch.arange(len(remaining))
            rows = place[self.positions // inputs]
            self.values.masked_fill_(rows < 0, 0.0)
            self.positions.copy_(torch.where(rows < 0, 0, rows * inputs + self.positions % inputs))
        self.b = nn.Parameter(self.b[remaining], self.b.requires_grad)


def apply_update(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    """Add the update of a linear layer to its output: a forward hook."""
    return output + getattr(module, UPDATE)(inputs[0])


@torch.no_grad()
def sparse_support(weight: torch.Tensor, entries: int, rounds: int, seeds: torch.Generator) -> torch.Tensor:
    """Return the flat positions of the `entries` largest values that a greedy low-rank + sparse decomposition leaves in S.

    W ~ U V + S: V starts as a random row; in each round S = 0, then twice U = the orthonormal basis of (W - S) V^T,
    V = U^T (W - S), S = W - U V without magnitudes below 0.01; then the first rows of R of QR(W - U V - S) join V. It stops
    before U would be a basis of the whole space, which would leave no residual.
    """
    weight = weight.detach().float().cpu()
    v = torch.randn(1, weight.shape[1], generator=seeds)
    residual = weight
    for _ in range(rounds):
        sparse = torch.zeros_like(weight)
        for _ in range(_ALTERNATIONS):
            u = torch.linalg.qr((weight - sparse) @ v.t())[0]
            v = u.t() @ (weight - sparse)
            residual = weight - u @ v
            sparse = torch.where(residual.abs() < _THRESHOLD, 0.0, residual)
        if v.shape[0] + _ROWS >= min(weight.shape):
            break
        v = torch.cat([v, torch.linalg.qr(residual - sparse)[1][:_ROWS]])
    return residual.abs().flatten().topk(entries).indices.sort().values


def random_support(weight: torch.Tensor, entries: int, seeds: torch.Generator) -> torch.Tensor:
    """Return `entries` different flat positions of a matrix, drawn by the generator."""
    return torch.randperm(weight.numel(), generator=seeds)[:entries].sort().values
