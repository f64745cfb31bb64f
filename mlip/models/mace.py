"""MACE: higher-order equivariant message passing (Batatia et al., NeurIPS 2022, arXiv:2206.07697)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from e3nn import o3
from torch import Tensor, nn

from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.base import AtomOutputs, EnergyModel
from mlip.nn.constants import Constants
from mlip.nn.cutoff import PolynomialCutoff
from mlip.nn.irreps import ElementLinear, Irreps, IrrepsLinear, parse_irreps, spherical_irreps, wigner_3j
from mlip.nn.product_basis import SymmetricContraction
from mlip.nn.radial import SILU_GAIN, BesselBasis, RadialMLP
from mlip.ops import segment_sum

#: e3nn's spherical harmonics end here.
HIGHEST_DEGREE = 11


class Message(nn.Module):
    """One-particle basis: sum over neighbors j of R(r_ij) (x_j ⊗ Y(r_ij)), eq. 8 of the paper.

    One path per allowed product irrep(x) ⊗ irrep(Y) -> irrep(out); the paths into one output irrep are then mixed by
    a linear map (`mix`). Published weights map one to one: the radial columns are (path, channel) in the order of
    `paths`.
    """

    def __init__(self, irreps_in: Irreps, l_max: int, channels: int, radial_sizes: Sequence[int]) -> None:
        super().__init__()
        harmonics = spherical_irreps(l_max)
        self.irreps_out = harmonics
        self.channels = channels
        paths = [
            (out, i, j)
            for i, left in enumerate(irreps_in)
            for j, right in enumerate(harmonics)
            for out in left * right
            if out in harmonics
        ]
        # Stable by output irrep, as e3nn sorts its path outputs.
        self.paths = sorted(paths, key=lambda path: path[0])
        self.dims_in, self.dims_y = [ir.dim for ir in irreps_in], [ir.dim for ir in harmonics]
        # Per path (dim_Y, dim_out * dim_in).
        self.couplings = Constants(
            [
                (wigner_3j(irreps_in[i].l, harmonics[j].l, out.l) * math.sqrt(out.dim)).permute(1, 2, 0).flatten(1)
                for out, i, j in self.paths
            ]
        )
        self.radial = RadialMLP([*radial_sizes, len(self.paths) * channels])
        fan_in = {ir: channels * sum(out == ir for out, _, _ in self.paths) for ir in harmonics}
        self.mix = nn.ParameterList(nn.Parameter(torch.randn(fan_in[ir], channels)) for ir in harmonics)
        self.norm = [1 / math.sqrt(fan_in[ir]) for ir in harmonics]

    def forward(self, x: Tensor, harmonics: Tensor, radial_basis: Tensor, edge_index: Tensor) -> Tensor:
        """Neighbor features `x` (N, dim_in, C), Y (E, dim_Y) and basis (E, n) to (N, dim_out, C)."""
        center, neighbor = edge_index
        # Split once: the derivative of a split is one concatenation, that of many slices many sums of zeros.
        radial = self.radial(radial_basis).unflatten(1, (len(self.paths), 1, self.channels)).unbind(1)
        x_neighbor = x.index_select(0, neighbor).split(self.dims_in, dim=1)
        y = harmonics.split(self.dims_y, dim=1)
        collected: dict[o3.Irrep, list[Tensor]] = {ir: [] for ir in self.irreps_out}
        for k, (out, i, j) in enumerate(self.paths):
            coupling = y[j] @ self.couplings[k].to(x.dtype)
            weighted = radial[k] * x_neighbor[i]
            if self.dims_in[i] == 1:
                message = coupling.unsqueeze(2) * weighted
            else:
                message = coupling.unflatten(1, (out.dim, self.dims_in[i])) @ weighted
            collected[out].append(segment_sum(message, center, x.shape[0]))
        mixed = [
            torch.cat(collected[ir], dim=2) @ (weight * norm)
            for ir, weight, norm in zip(self.irreps_out, self.mix, self.norm, strict=True)
        ]
        return torch.cat(mixed, dim=1)


class Layer(nn.Module):
    """Interaction and product block: features of layer t to those of layer t + 1.

    Args:
        residual: MACE's `RealAgnosticResidualInteractionBlock` (the element-dependent skip connection adds the old
            features) instead of `RealAgnosticInteractionBlock` (it transforms the message).
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_out: Irreps,
        l_max: int,
        channels: int,
        radial_sizes: Sequence[int],
        correlation: int,
        num_elements: int,
        avg_num_neighbors: float,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual, self.avg_num_neighbors = residual, avg_num_neighbors
        message_irreps = spherical_irreps(l_max)
        self.up = IrrepsLinear(irreps_in, channels, channels)
        self.message = Message(irreps_in, l_max, channels, radial_sizes)
        self.skip = (
            ElementLinear(irreps_in, irreps_out, channels, num_elements)
            if residual
            else ElementLinear(message_irreps, message_irreps, channels, num_elements)
        )
        self.contraction = SymmetricContraction(message_irreps, irreps_out, correlation, channels, num_elements)
        self.product = IrrepsLinear(irreps_out, channels, channels)

    def forward(
        self, x: Tensor, species: Tensor, harmonics: Tensor, radial_basis: Tensor, edge_index: Tensor
    ) -> Tensor:
        message = self.message(self.up(x), harmonics, radial_basis, edge_index) / self.avg_num_neighbors
        if not self.residual:
            return self.product(self.contraction(self.skip(message, species), species))
        return self.product(self.contraction(message, species)) + self.skip(x, species)


class Readout(nn.Module):
    """Atomic energy from the scalars: linear, or one hidden layer of `hidden` units with normalised silu."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        sizes = [channels, 1] if hidden is None else [channels, hidden, 1]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(a, b)) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def forward(self, scalars: Tensor) -> Tensor:
        """(N, C) to (N,)."""
        first, *rest = self.weights
        x = scalars @ (first / math.sqrt(first.shape[0]))
        for weight in rest:
            x = SILU_GAIN * nn.functional.silu(x) @ (weight / math.sqrt(weight.shape[0]))
        return x.squeeze(1)


class MACE(EnergyModel):
    """MACE. `ScaleShiftMACE` of the reference implementation is this network in a `Potential` with scale and shift.

    Args:
        elements: atomic numbers.
        cutoff: r_max in Å.
        hidden_irreps: features between layers, one number of channels for all irreps.
        l_max: highest degree of the spherical harmonics (`max_ell`).
        correlation: highest order ν of the symmetric contraction; the body order of one layer is ν + 1.
        num_interactions: number of layers; the last one keeps scalars only.
        num_bessel: number of radial basis functions.
        num_polynomial_cutoff: p of the polynomial envelope.
        radial_mlp: hidden sizes of the radial perceptron.
        avg_num_neighbors: messages are divided by this; the mean number of neighbors in the training set.
        mlp_irreps: hidden layer of the last readout, scalars such as "16x0e"; a single layer's readout is linear.
        residual_first: a residual first layer, as `ScaleShiftMACE` has it; without it an atom alone has zero energy.
    """

    cutoff_smoothness = PolynomialCutoff.smoothness

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        hidden_irreps: str = "128x0e",
        l_max: int = 3,
        correlation: int = 3,
        num_interactions: int = 2,
        num_bessel: int = 8,
        num_polynomial_cutoff: int = 5,
        radial_mlp: Sequence[int] = (64, 64, 64),
        avg_num_neighbors: float = 1.0,
        mlp_irreps: str = "16x0e",
        residual_first: bool = False,
    ) -> None:
        super().__init__(
            elements,
            cutoff,
            hidden_irreps=hidden_irreps,
            l_max=l_max,
            correlation=correlation,
            num_interactions=num_interactions,
            num_bessel=num_bessel,
            num_polynomial_cutoff=num_polynomial_cutoff,
            radial_mlp=list(radial_mlp),
            avg_num_neighbors=avg_num_neighbors,
            mlp_irreps=mlp_irreps,
            residual_first=residual_first,
        )
        for name, value, least in [
            ("l_max", l_max, 0),
            ("correlation", correlation, 1),
            ("num_interactions", num_interactions, 1),
            ("num_bessel", num_bessel, 1),
            ("num_polynomial_cutoff", num_polynomial_cutoff, 1),
        ]:
            if value < least:
                raise InputError(f"{name} = {value}: expected at least {least}")
        if l_max > HIGHEST_DEGREE:
            raise InputError(f"l_max = {l_max}: spherical harmonics go up to {HIGHEST_DEGREE}")
        if not 0 < avg_num_neighbors < math.inf:
            raise InputError(f"avg_num_neighbors = {avg_num_neighbors}: expected a positive number")
        channels, hidden = parse_irreps(hidden_irreps)
        readout_width, readout_irreps = parse_irreps(mlp_irreps)
        scalar = (o3.Irrep("0e"),)
        if readout_irreps != scalar:
            raise InputError(f"mlp_irreps {mlp_irreps!r}: expected scalars only, such as '16x0e'")
        self.isolated_is_E0 = not residual_first
        self.l_max = l_max
        self.embedding = nn.Parameter(torch.randn(len(self.elements), channels))
        self.bessel = BesselBasis(cutoff, num_bessel)
        self.envelope = PolynomialCutoff(cutoff, num_polynomial_cutoff)
        self.layers, self.readouts = nn.ModuleList(), nn.ModuleList()
        irreps = scalar
        for t in range(num_interactions):
            last = t == num_interactions - 1
            irreps_out = scalar if last else hidden
            self.layers.append(
                Layer(
                    irreps,
                    irreps_out,
                    l_max,
                    channels,
                    [num_bessel, *radial_mlp],
                    correlation,
                    len(self.elements),
                    avg_num_neighbors,
                    residual=residual_first or t > 0,
                )
            )
            self.readouts.append(Readout(channels, readout_width if last and t > 0 else None))
            irreps = irreps_out

    def forward(self, graph: AtomGraph) -> AtomOutputs:
        species = self.species(graph.numbers)
        # Y is taken of the vector from neighbor to center, as published weights expect it.
        vectors = -graph.edge_vectors().to(self.dtype)
        length = vectors.norm(dim=1)
        harmonics = o3.spherical_harmonics(
            list(range(self.l_max + 1)), vectors, normalize=True, normalization="component"
        )
        radial_basis = self.bessel(length) * self.envelope(length).unsqueeze(1)
        x = (self.embedding[species] / math.sqrt(len(self.elements))).unsqueeze(1)
        energy = length.new_zeros(species.shape[0], dtype=torch.float64)
        features = []
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            x = layer(x, species, harmonics, radial_basis, graph.edge_index)
            scalars = x[:, 0]
            energy = energy + readout(scalars)
            features.append(scalars)
        return AtomOutputs(energy=energy, features=torch.cat(features, dim=1))
