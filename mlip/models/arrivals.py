"""What arrives at each message of DimeNet along all its triplets: sums over triplets in plain torch, or none at all.

Of the message m_ji from center i to neighbor j, with an angular basis a of degrees l and radial parts n,

    arriving_ji[c] = Σ_(k≠i) (W a_SBF(d_ji, α_kji))[c] m_kj[c],    a_ln = R_ln(d_ji) Y_l0(α_kji).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from mlip import ops
from mlip.nn.edge_triplets import EdgeTriplets
from mlip.ops import segment_sum


class Arrivals(ABC):
    """Sums over the triplets of one graph."""

    @abstractmethod
    def __call__(self, linear: nn.Module, m: Tensor) -> Tensor:
        """Σ (W a) ∘ m (E, C) of messages (E, C), with a W = `linear` of one or two layers to C numbers."""

    @abstractmethod
    def outer(self, linear: nn.Linear, m: Tensor) -> Tensor:
        """Σ (W a) ⊗ m (E, B C) of messages (E, C), with W = `linear` to B numbers."""


class TripletArrivals(Arrivals):
    """Triplet by triplet.

    Args:
        basis: (T, S R), degrees and radial parts.
        triplets: T of them.
    """

    def __init__(self, basis: Tensor, triplets: EdgeTriplets) -> None:
        self.basis, self.triplets = basis, triplets

    def __call__(self, linear: nn.Module, m: Tensor) -> Tensor:
        first, second = self.triplets
        return segment_sum(m[second] * linear(self.basis), first, len(m))

    def outer(self, linear: nn.Linear, m: Tensor) -> Tensor:
        # Channel by channel it needs an eighth of the memory, and a third of the time.
        first, second = self.triplets
        arriving, basis = m[second], linear(self.basis)
        sums = [segment_sum(channel.unsqueeze(1) * arriving, first, len(m)) for channel in basis.unbind(1)]
        return torch.cat(sums, dim=1)


class DensityArrivals(Arrivals):
    """By densities of the messages at their centers, expanded in spherical harmonics, as in the addition theorem

        Σ_k Y_l0(α_kji) m_kj = Σ_m Y_lm(r_ji) Σ_k Y_lm(r_jk) m_kj / √(4π(2l+1)),    Σ_m Y_lm² = 2l+1:

    work and memory grow with the number of edges and not with that of triplets. The message back to i is among the
    neighbors of j, and is subtracted.

    Args:
        radial: R_ln(d) (S, E, R).
        harmonics: Y_lm (E, S²) of the directions of the edges, in the order and with the norms of
            `ops.spherical_harmonics`.
        offsets: (N + 1,) where the edges of each center begin.
        back: (E,) the edge from j to i, of each from i to j.
    """

    def __init__(self, radial: Tensor, harmonics: Tensor, offsets: Tensor, back: Tensor) -> None:
        degrees = 2 * torch.arange(len(radial), dtype=radial.dtype, device=radial.device) + 1
        self._radial = radial * (1 / (4 * math.pi * degrees).sqrt()).view(-1, 1, 1)
        self._straight_back = (self._radial * degrees.view(-1, 1, 1)).transpose(0, 1).flatten(1)
        self._harmonics, self._offsets, self._back = harmonics, offsets, back

    def __call__(self, linear: nn.Module, m: Tensor) -> Tensor:
        matrix = _matrix(linear).T  # S R, C
        by_degree = matrix.unflatten(0, (len(self._radial), -1))
        arriving = self._sums(torch.bmm(self._radial, by_degree), m, self._density(m))
        return _Exchanged.apply(arriving - m * (self._straight_back @ matrix), self._back)

    def outer(self, linear: nn.Linear, m: Tensor) -> Tensor:
        matrix = linear.weight.T
        weights = torch.bmm(self._radial, matrix.unflatten(0, (len(self._radial), -1)))
        straight_back, density = self._straight_back @ matrix, self._density(m)
        parts = []
        for weight, straight in zip(weights.unbind(2), straight_back.unbind(1), strict=True):
            same = weight.unsqueeze(2).expand(-1, -1, m.shape[1])
            parts.append(self._sums(same, m, density) - m * straight.unsqueeze(1))
        return _Exchanged.apply(torch.cat(parts, dim=1), self._back)

    def _density(self, m: Tensor) -> Tensor:
        return ops.neighbor_outer(self._harmonics, m, self._offsets)

    def _sums(self, weights: Tensor, m: Tensor, density: Tensor) -> Tensor:
        return ops.directional_sums(weights, self._harmonics, density, self._offsets)


def _matrix(linear: nn.Module) -> Tensor:
    """(out, in) of one linear layer, or of several as one."""
    if isinstance(linear, nn.Linear):
        return linear.weight
    matrices = [layer.weight for layer in linear.children() if isinstance(layer, nn.Linear)]
    return reduce(lambda product, matrix: matrix @ product, matrices)


class _Exchanged(torch.autograd.Function):
    """x[back] for a permutation that is its own inverse, and so its own derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, back: Tensor) -> Tensor:
        return x.index_select(0, back)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (back,) = ctx.saved_tensors
        return _Exchanged.apply(gradient, back), None


def edges_back(edge_index: Tensor, edge_shift: Tensor, num_atoms: int) -> Tensor | None:
    """(E,) of each edge from i to j the one from j to i; None where an edge has none.

    None, too, where the numbers of pairs do not fit 64 bits.
    """
    pairs = ops.undirected(edge_index, edge_shift, num_atoms)
    if pairs is None:
        return None
    first, place = pairs
    every = torch.arange(len(place), device=place.device)
    # The numbers of the two edges of a pair add up to this; of an edge that is alone, to one that is no edge's.
    both = torch.zeros(len(first), dtype=torch.int64, device=place.device).index_add_(0, place, every)
    if 2 * len(first) != len(place) or bool((torch.bincount(place, minlength=len(first)) != 2).any()):
        return None
    back = both[place] - every
    reverse = torch.equal(edge_index[:, back], edge_index.flip(0)) and torch.equal(edge_shift[back], -edge_shift)
    return back if reverse else None  # an edge that is listed twice, without the one back
