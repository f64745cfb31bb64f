"""Symmetry functions of the atoms of one element, in plain torch; together where they see the same neighbors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mlip.nn.constants import Constants
from mlip.nn.symmetry_functions import KINDS, NARROW, RADIAL, CutoffFunction, SymmetryFunction, bump
from mlip.nn.triplets import Triplets, pairs_of_neighbors
from mlip.ops.segment import segment_sum

#: Of the functions of a group.
PARAMETERS = ("cutoff", "eta", "shift", "lam", "zeta", "lowest", "left", "right")
#: Numbers of functions of triplets that are made at once.
AT_ONCE = 2**22
#: Up to this far from 1 and -1 θ is the arc cosine, which has no derivative there.
NEAR_COLLINEAR = 1e-14


class CenterEdges(NamedTuple):
    """The edges of the atoms of one element, sorted by center."""

    vectors: Tensor  # (E, 3) from center to neighbor
    length: Tensor  # (E,)
    numbers: Tensor  # (E,) atomic numbers of the neighbors
    row: Tensor  # (E,) which of the atoms is the center, ascending
    n_atoms: int


class _Group(nn.Module):
    """Functions of one kind, of the same neighbors and core function; a parameter is an array or one number."""

    def __init__(self, functions: Sequence[SymmetryFunction]) -> None:
        super().__init__()
        first = functions[0]
        self.kind, self.neighbors, self.core = KINDS[first.kind], first.neighbors, first.core
        self.cutoff = max(f.cutoff for f in functions)
        rows = [(f.cutoff, f.eta, f.shift, f.lam, f.zeta, f.lowest, *f.angles) for f in functions]
        columns = torch.tensor(rows, dtype=torch.float64).T
        self.count = len(functions)
        alike = [bool((c == c[0]).all()) for c in columns]
        self.arrays = Constants(
            [c[:1] if same and not all(alike) else c for c, same in zip(columns, alike, strict=True)]
        )

    def of(self, name: str, like: Tensor) -> Tensor:
        """A parameter (K,) or (1,)."""
        return self.arrays[PARAMETERS.index(name)].to(like.dtype)

    def window(self, length: Tensor, f: CutoffFunction) -> Tensor:
        """Cutoff function or bump C (P, K) of distances (P,)."""
        r = length.unsqueeze(1)
        cutoff = self.of("cutoff", r)
        if self.kind.compact:
            return bump(r, self.of("lowest", r), cutoff, self.core)
        return f(r, cutoff)

    def gaussian(self, *lengths: Tensor) -> Tensor:
        """(P, K), the exponential of all distances (P,)."""
        shift, eta = self.of("shift", lengths[0]), self.of("eta", lengths[0])
        first, *others = [(r.unsqueeze(1) - shift) ** 2 for r in lengths]
        return torch.exp(-eta * sum(others, start=first))

    def of_angle(self, cosine: Tensor) -> Tensor:
        """(P, K), the factor of the angle."""
        c = cosine.unsqueeze(1)
        if self.kind.compact:
            limit = 1 - _margin(c)
            within = c.clamp(-limit, limit)
            # Where θ has no derivative, that of a smooth function of it has a limit: it is taken from nearby.
            beyond = (c - within) - (c - within).detach()
            theta = torch.rad2deg(torch.acos(within) - beyond / math.sqrt(1 - limit * limit))
            return bump(theta, self.of("left", c), self.of("right", c), self.core.removesuffix("a"))
        base, zeta = 1 + self.of("lam", c) * c, self.of("zeta", c)
        positive = (base > 0) | (zeta == 1)  # other powers of zero have no derivatives
        value = 2 ** (1 - zeta) * torch.where(positive, base, torch.ones_like(base)) ** zeta
        return torch.where(positive, value, torch.zeros_like(value))

    def radial(self, edges: CenterEdges, f: CutoffFunction) -> Tensor:
        """(N, K)."""
        seen = edges.length < self.cutoff
        if not self.kind.weighted:
            seen = seen & (edges.numbers == self.neighbors[0])
        picked = seen.nonzero().squeeze(1)
        length = edges.length[picked]
        values = self.window(length, f)
        if not self.kind.compact:
            values = values * self.gaussian(length)
        if self.kind.weighted:
            values = values * edges.numbers[picked].to(values.dtype).unsqueeze(1)
        return segment_sum(values, edges.row[picked], edges.n_atoms)

    def angular(self, edges: CenterEdges, triplets: Triplets, f: CutoffFunction) -> Tensor:
        """(N, K)."""
        first, second = triplets
        seen = (edges.length[first] < self.cutoff) & (edges.length[second] < self.cutoff)
        if not self.kind.weighted:
            low, high = self.neighbors
            one, other = edges.numbers[first], edges.numbers[second]
            seen = seen & (((one == low) & (other == high)) | ((one == high) & (other == low)))
        picked = seen.nonzero().squeeze(1)
        count = max(1, AT_ONCE // self.count)
        parts = picked.split(count)
        if len(parts) == 1 or not edges.vectors.requires_grad:
            sums = [self._angular(edges, first[part], second[part], f) for part in parts]
        else:  # what derivatives need is made again, or it would fill the memory
            sums = [
                checkpoint(self._angular, edges, first[part], second[part], f, use_reentrant=False) for part in parts
            ]
        return sum(sums[1:], start=sums[0])

    def _angular(self, edges: CenterEdges, first: Tensor, second: Tensor, f: CutoffFunction) -> Tensor:
        lengths = [edges.length[first], edges.length[second]]
        cosine = (edges.vectors[first] * edges.vectors[second]).sum(dim=1) / (lengths[0] * lengths[1])
        if self.kind.shape == NARROW:
            lengths.append((edges.vectors[second] - edges.vectors[first]).norm(dim=1))
        values = self.of_angle(cosine)
        if not self.kind.compact:
            values = values * self.gaussian(*lengths)
        for length in lengths:
            values = values * self.window(length, f)
        if self.kind.weighted:
            values = values * (edges.numbers[first] * edges.numbers[second]).to(values.dtype).unsqueeze(1)
        return segment_sum(values, edges.row[first], edges.n_atoms)


class ElementFunctions(nn.Module):
    """All symmetry functions of one element: (N, K) in their order.

    Args:
        functions: with this element at the center.
        cutoff_function: of those that are no bumps.
    """

    def __init__(self, functions: Sequence[SymmetryFunction], cutoff_function: CutoffFunction) -> None:
        super().__init__()
        self.cutoff_function = cutoff_function
        alike: dict[tuple[object, ...], list[int]] = {}
        for k, function in enumerate(functions):
            core = function.core if KINDS[function.kind].compact else ""
            alike.setdefault((function.kind, function.neighbors, core), []).append(k)
        self.groups = nn.ModuleList(_Group([functions[k] for k in places]) for places in alike.values())
        order = torch.tensor([k for places in alike.values() for k in places], dtype=torch.int64)
        self.place = Constants([order.argsort()])
        self.reach = max((f.cutoff for f in functions if KINDS[f.kind].shape != RADIAL), default=0.0)

    def forward(self, edges: CenterEdges) -> Tensor:
        close = (edges.length < self.reach).nonzero().squeeze(1)
        near = edges._replace(
            vectors=edges.vectors[close],
            length=edges.length[close],
            numbers=edges.numbers[close],
            row=edges.row[close],
        )
        triplets = pairs_of_neighbors(near.row, edges.n_atoms)
        found = [edges.length.new_zeros(edges.n_atoms, 0)]
        for group in self.groups:
            assert isinstance(group, _Group)
            radial = group.kind.shape == RADIAL
            found.append(
                group.radial(edges, self.cutoff_function)
                if radial
                else group.angular(near, triplets, self.cutoff_function)
            )
        return torch.cat(found, dim=1)[:, self.place[0]]


def _margin(cosine: Tensor) -> float:
    return max(NEAR_COLLINEAR, 2 * torch.finfo(cosine.dtype).eps)
