"""Equivariant messages: what MACE calls the one-particle basis, and how it is normalised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn

from mlip.nn.constants import Constants
from mlip.nn.irreps import Irreps, wigner_3j
from mlip.nn.radial import NormalizedMLP, RadialMLP
from mlip.ops import segment_sum


class Edges(NamedTuple):
    """What messages know of the pairs of atoms."""

    pairs: Tensor  # (2, E) center, neighbor
    harmonics: Tensor  # (E, dim_Y)
    radial: Tensor  # (E, n) basis functions
    envelope: Tensor | None  # (E, 1), where the basis functions do not contain it


class Message(nn.Module):
    """One-particle basis: sum over neighbors j of R(r_ij) (x_j ⊗ Y(r_ij)), eq. 8 of the MACE paper.

    One path per allowed product irrep(x) ⊗ irrep(Y) -> irrep(out); the paths into one output irrep are then mixed by
    a linear map (`mix`). Published weights map one to one: the radial columns are (path, channel) in the order of
    `paths`.

    Args:
        irreps_in: of the neighbors' features x.
        channels_in: of x.
        irreps_out: of the message; an irrep that is listed twice is mixed twice.
        channels_out: of the message.
        harmonics: irreps of the spherical harmonics Y.
        radial_sizes: of the perceptron that gives the weights of paths and channels, without its last, linear layer.
        normalized: that perceptron is a `NormalizedMLP` instead of a `RadialMLP`.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        channels_in: int,
        irreps_out: Irreps,
        channels_out: int,
        harmonics: Irreps,
        radial_sizes: Sequence[int],
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels_in
        paths = [
            (out, i, j)
            for i, left in enumerate(irreps_in)
            for j, right in enumerate(harmonics)
            for out in left * right
            if out in irreps_out
        ]
        # Stable by output irrep, as e3nn sorts its path outputs.
        self.paths = sorted(paths, key=lambda path: path[0])
        self.irreps_in, self.harmonics = irreps_in, harmonics
        self.dims_in, self.dims_y = [ir.dim for ir in irreps_in], [ir.dim for ir in harmonics]
        # Per path (dim_Y, dim_out * dim_in).
        self.couplings = Constants(
            [
                (wigner_3j(irreps_in[i].l, harmonics[j].l, out.l) * math.sqrt(out.dim)).permute(1, 2, 0).flatten(1)
                for out, i, j in self.paths
            ]
        )
        sizes = [*radial_sizes, len(self.paths) * channels_in]
        self.radial: RadialMLP | NormalizedMLP = NormalizedMLP(sizes) if normalized else RadialMLP(sizes)
        fan_in = {ir: channels_in * sum(out == ir for out, _, _ in self.paths) for ir in irreps_out}
        self.irreps_out = [ir if fan_in[ir] else None for ir in irreps_out]
        self.dims_out, self.channels_out = [ir.dim for ir in irreps_out], channels_out
        self.mix = nn.ParameterList(
            nn.Parameter(torch.randn(fan_in[ir], channels_out)) for ir in irreps_out if fan_in[ir]
        )
        self.norm = [1 / math.sqrt(fan_in[ir]) for ir in irreps_out if fan_in[ir]]

    def named_paths(self) -> list[tuple[o3.Irrep, o3.Irrep, o3.Irrep]]:
        """The paths as irreps of neighbor, harmonics and message."""
        return [(self.irreps_in[i], self.harmonics[j], out) for out, i, j in self.paths]

    def forward(self, x: Tensor, edge_features: Tensor, edges: Edges) -> Tensor:
        """Features `x` (dim_in, N, C) and the radial network's input (E, n) to (dim_out, N, C_out)."""
        center, neighbor = edges.pairs
        weights = self.radial(edge_features)
        if edges.envelope is not None:
            weights = weights * edges.envelope
        # Split once: the derivative of a split is one concatenation, that of many slices many sums of zeros.
        radial = weights.unflatten(1, (len(self.paths), 1, self.channels)).unbind(1)
        x_neighbor = x.transpose(0, 1).index_select(0, neighbor).split(self.dims_in, dim=1)
        y = edges.harmonics[:, : sum(self.dims_y)].split(self.dims_y, dim=1)
        collected: dict[o3.Irrep, list[Tensor]] = {}
        for k, (out, i, j) in enumerate(self.paths):
            coupling = y[j] @ self.couplings[k].to(x.dtype)
            weighted = radial[k] * x_neighbor[i]
            if self.dims_in[i] == 1:
                message = coupling.unsqueeze(2) * weighted
            else:
                message = coupling.unflatten(1, (out.dim, self.dims_in[i])) @ weighted
            collected.setdefault(out, []).append(segment_sum(message, center, x.shape[1]))
        sums = {ir: torch.cat(parts, dim=2) for ir, parts in collected.items()}
        mix = iter([weight * norm for weight, norm in zip(self.mix, self.norm, strict=True)])
        mixed = [
            x.new_zeros(x.shape[1], dim, self.channels_out) if ir is None else sums[ir] @ next(mix)
            for ir, dim in zip(self.irreps_out, self.dims_out, strict=True)
        ]
        return torch.cat(mixed, dim=1).transpose(0, 1)


class Density(nn.Module):
    """Number of neighbors as the network sees it: sum over j of tanh(f(edge)²), for the norm of messages.

    MACE's density blocks divide by 1 + density instead of a constant number of neighbors.
    """

    def __init__(self, sizes: Sequence[int], normalized: bool = False) -> None:
        super().__init__()
        self.radial: RadialMLP | NormalizedMLP = NormalizedMLP([*sizes, 1]) if normalized else RadialMLP([*sizes, 1])

    def forward(self, edge_features: Tensor, edges: Edges, num_atoms: int) -> Tensor:
        """Densities (N, 1) from the radial network's input (E, n)."""
        density = torch.tanh(self.radial(edge_features) ** 2)
        if edges.envelope is not None:
            density = density * edges.envelope
        return segment_sum(density, edges.pairs[0], num_atoms)


class PairEmbedding(nn.Module):
    """Basis functions of an edge beside embeddings of the two elements."""

    def __init__(self, channels: int, num_elements: int) -> None:
        super().__init__()
        self.neighbor = nn.Parameter(torch.empty(num_elements, channels).uniform_(-1e-3, 1e-3))
        self.center = nn.Parameter(torch.empty(num_elements, channels).uniform_(-1e-3, 1e-3))
        self.norm = 1 / math.sqrt(num_elements)

    def forward(self, edges: Edges, species: Tensor) -> Tensor:
        """Edges and element indices (N,) to (E, n + 2 C)."""
        center, neighbor = species[edges.pairs]
        pair = [self.neighbor[neighbor] * self.norm, self.center[center] * self.norm]
        return torch.cat([edges.radial, *pair], dim=1)
