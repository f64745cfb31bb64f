"""DimeNet without triplets, by densities of messages. In exact arithmetic the numbers are those of plain torch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor

from mlip import ops
from mlip.graph import AtomGraph
from mlip.models.arrivals import Arrivals, DensityArrivals, edges_back
from mlip.models.base import AtomOutputs, Head
from mlip.nn.chebyshev import ChebyshevSeries
from mlip.nn.spherical_basis import SphericalRadialBasis
from mlip.ops.dispatch import full_precision
from mlip.ops.message_general import fits
from mlip.ops.spherical_harmonics import COMPILED_DEGREE

if TYPE_CHECKING:
    from mlip.models.dimenet import DirectionalModel

#: Neighbors per atom up to which sums over triplets cost less than the components of densities.
FEW_NEIGHBORS = 8


class CompiledDimeNet:
    """The network with its present parameters.

    Args:
        model: the network; derivatives by its parameters go to it.
    """

    def __init__(self, model: DirectionalModel) -> None:
        self.model = model

    @staticmethod
    def covers(model: DirectionalModel) -> bool:
        """Whether its sums over triplets are those of `DensityArrivals`, with whole blocks of channels."""
        weight = next(model.parameters())
        spherical = model.spherical
        product = not (spherical.angle_at_center or spherical.faithful)
        few_degrees = spherical.num_spherical - 1 <= COMPILED_DEGREE
        arriving = weight.new_empty(1, 0, model.arriving_channels)
        return product and few_degrees and fits(arriving, cuda="directional_sums")

    def __call__(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        with full_precision(graph.positions):
            return self.model.evaluate(graph, head, self._radial, self._arrivals, ops.silu)

    def _radial(self, x: Tensor) -> Tensor:
        basis = self.model.spherical.radial
        series = _series(basis.num_spherical, basis.num_radial, basis.p - 1)
        return series(x).unflatten(1, (-1, basis.num_radial)) if series else basis(x)

    def _arrivals(self, graph: AtomGraph, vectors: Tensor, radial: Tensor) -> Arrivals:
        num_atoms, center = len(graph.numbers), graph.edge_index[0]
        few = len(center) < FEW_NEIGHBORS * num_atoms
        back = None if few else edges_back(graph.edge_index, graph.edge_shift, num_atoms)
        if back is None:  # few triplets, or edges without their counterpart
            return self.model.triplets(graph, vectors, radial)
        harmonics, _ = ops.spherical_harmonics(vectors, self.model.spherical.num_spherical - 1)
        return DensityArrivals(radial.transpose(0, 1), harmonics, ops.row_offsets(center.contiguous(), num_atoms), back)


@lru_cache(maxsize=16)
def _series(num_spherical: int, num_radial: int, envelope_exponent: int) -> ChebyshevSeries | None:
    """The spherical basis as a series, many times faster than Bessel functions of many orders."""
    basis = SphericalRadialBasis(num_spherical, num_radial, envelope_exponent)
    try:
        return ChebyshevSeries(lambda x: basis(x).flatten(1))
    except ValueError:  # such as envelopes of a very high power
        return None
