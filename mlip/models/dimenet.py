"""DimeNet (Gasteiger et al., ICLR 2020, arXiv:2003.03123) and DimeNet++ (Gasteiger et al., 2020, arXiv:2011.14115)."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.models.arrivals import Arrivals, TripletArrivals
from mlip.models.base import AtomOutputs, EnergyModel, Head
from mlip.models.compiled_dimenet import CompiledDimeNet
from mlip.models.dimenet_blocks import (
    Activation,
    BilinearInteraction,
    Embedding,
    HadamardInteraction,
    Output,
    SphericalBasis,
    VectorOutput,
)
from mlip.nn.edge_triplets import edge_triplets
from mlip.nn.spherical_basis import RadialBasis

#: Beyond these the bases would be less exact than the numbers they are made of.
HIGHEST = {"num_spherical": 16, "num_radial": 64}


class DirectionalModel(EnergyModel, ABC):
    """Directional message passing: messages along the edges, updated by those that arrive at their neighbor.

    The authors list faults of their code and paper that their weights were trained with. What becomes of them here:

    ========================================================== ======================= ================================
    published                                                  `faithful=True`         default
    ========================================================== ======================= ================================
    DimeNet's angle is that at i, between j and k              the same                at j, between i and k
    envelope of the spherical basis divided by d/c             the same                not divided
    spherical basis of d_kj, like the radial basis beside it   the same                of d_ji
    bias and activation of the embedding's radial layer        the same                neither
    roots and norms of the Bessel functions in float32         the same                in float64
    angles by atan2: no derivative for collinear atoms         polynomials of cos α    polynomials of cos α
    triplets without k = i (molecules only)                    k = i of the same image k = i of the same image
    at most 32 neighbors, in PyTorch Geometric                 all                     all
    ========================================================== ======================= ================================

    DimeNet++'s code takes the angle π - α, which changes the sign of the odd degrees: a matter of the weights, which
    `mlip.importers.pyg_dimenet` turns.
    """

    isolated_is_E0 = False  # the biases of the outputs' hidden layers
    cutoff_smoothness = 2

    def __init__(
        self, given: Mapping[str, Any], interactions: Sequence[nn.Module], outputs: Sequence[nn.Module], angle: str
    ) -> None:
        super().__init__(**given)
        num_radial, exponent, faithful = given["num_radial"], given["envelope_exponent"], given["faithful"]
        self.radial = RadialBasis(num_radial, exponent)
        self.spherical = SphericalBasis(given["num_spherical"], num_radial, exponent, faithful, angle == "center")
        self.embedding = Embedding(len(self.elements), num_radial, given["hidden_channels"], faithful)
        self.interactions, self.outputs = nn.ModuleList(interactions), nn.ModuleList(outputs)
        count = len(self.outputs) if given["vectors"] else 0
        self.vectors = nn.ModuleList(VectorOutput(num_radial, given["hidden_channels"]) for _ in range(count))

    def forward(self, graph: AtomGraph, head: Head = 0) -> AtomOutputs:
        return self.evaluate(graph, head, self.spherical.radial, self.triplets, silu)

    def compiled(self, radial: str, trained: bool = False) -> CompiledDimeNet | None:
        return CompiledDimeNet(self) if CompiledDimeNet.covers(self) else None

    @property
    def layer_widths(self) -> tuple[int, ...]:
        return tuple(output.width for output in self.outputs)  # type: ignore[misc]

    @property
    def arriving_channels(self) -> int:
        """Channels of the messages that are summed over triplets."""
        return int(self.hyperparameters.get("int_emb_size", self.hyperparameters["hidden_channels"]))

    def triplets(self, graph: AtomGraph, vectors: Tensor, radial: Tensor) -> Arrivals:
        """Sums triplet by triplet, from vectors to the neighbors (E, 3) and `self.spherical.radial` (E, S, R)."""
        triplets = edge_triplets(graph.edge_index, graph.edge_shift, len(graph.numbers))
        return TripletArrivals(self.spherical(radial, vectors, triplets), triplets)

    def evaluate(
        self,
        graph: AtomGraph,
        head: Head,
        radial_of: Callable[[Tensor], Tensor],
        arrivals_of: Callable[[AtomGraph, Tensor, Tensor], Arrivals],
        silu: Activation,
    ) -> AtomOutputs:
        """The network by ways to compute `self.spherical.radial`, sums over triplets (as `triplets`) and silu."""
        species = self.species(graph.numbers)
        graph = graph.within(self.cutoff)  # of a longer list there would be far more triplets
        vectors = graph.edge_vectors().to(self.dtype)
        lengths = vectors.norm(dim=1)
        x = lengths / self.cutoff
        radial = self.radial(x)
        arrivals = arrivals_of(graph, vectors, radial_of(x))

        messages = self.embedding(species[graph.edge_index], radial, silu)
        all_messages = [messages]
        for interaction in self.interactions:
            all_messages.append(interaction(all_messages[-1], radial, arrivals, silu))

        center, n = graph.edge_index[0], len(species)
        outputs = zip(self.outputs, all_messages, strict=True)
        found = [output(m, radial, center, n, head, silu) for output, m in outputs]
        energies, features = zip(*found, strict=True)
        dipole = None
        if len(self.vectors):
            directions = vectors / lengths.unsqueeze(1)
            pairs = zip(self.vectors, all_messages, strict=True)
            dipole = torch.stack([vector(m, radial, directions, center, n, silu) for vector, m in pairs]).sum(dim=0)
        return AtomOutputs(torch.stack(energies).double().sum(dim=0), torch.cat(features, dim=1), dipole)


class DimeNet(DirectionalModel):
    """DimeNet.

    Args:
        elements: atomic numbers.
        cutoff: c in Å.
        hidden_channels: size H of the messages.
        num_blocks: number of interactions.
        num_bilinear: channels of the spherical basis in the bilinear layer.
        num_spherical: number of degrees l of the spherical basis.
        num_radial: number of radial basis functions, and of roots of each spherical Bessel function.
        envelope_exponent: of the published code; the p of the paper's envelope (eq. 8) is one more.
        num_before_skip: residual layers of an interaction before the skip connection.
        num_after_skip: and after it.
        num_output_layers: hidden layers of each output.
        faithful: with the faults of the published code, for weights trained with it (`DirectionalModel`).
        heads: names of the energies to learn at once, such as levels of theory.
        vectors: also a vector at each atom, for dipole moments.
    """

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        hidden_channels: int = 128,
        num_blocks: int = 6,
        num_bilinear: int = 8,
        num_spherical: int = 7,
        num_radial: int = 6,
        envelope_exponent: int = 5,
        num_before_skip: int = 1,
        num_after_skip: int = 2,
        num_output_layers: int = 3,
        faithful: bool = False,
        heads: Sequence[str] = ("default",),
        vectors: bool = False,
    ) -> None:
        given = _plain({name: value for name, value in locals().items() if name not in ("self", "__class__")})
        residuals = num_before_skip, num_after_skip
        interactions = [
            BilinearInteraction(hidden_channels, num_radial, num_spherical, num_bilinear, *residuals)
            for _ in range(num_blocks)
        ]
        outputs = [
            Output(num_radial, hidden_channels, len(heads), num_output_layers, None) for _ in range(num_blocks + 1)
        ]
        super().__init__(given, interactions, outputs, angle="center" if faithful else "middle")


class DimeNetPlusPlus(DirectionalModel):
    """DimeNet++: products instead of the bilinear layer, of fewer dimensions, and wider outputs.

    Args:
        elements, cutoff, hidden_channels, num_blocks, num_spherical, num_radial, envelope_exponent, num_before_skip,
            num_after_skip, num_output_layers, faithful, heads, vectors: as in `DimeNet`.
        int_emb_size: size of the messages in the sum over triplets.
        basis_emb_size: size of the bases between their two linear maps.
        out_emb_channels: width of the outputs' hidden layers.
    """

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        hidden_channels: int = 128,
        num_blocks: int = 4,
        int_emb_size: int = 64,
        basis_emb_size: int = 8,
        out_emb_channels: int = 256,
        num_spherical: int = 7,
        num_radial: int = 6,
        envelope_exponent: int = 5,
        num_before_skip: int = 1,
        num_after_skip: int = 2,
        num_output_layers: int = 3,
        faithful: bool = False,
        heads: Sequence[str] = ("default",),
        vectors: bool = False,
    ) -> None:
        given = _plain({name: value for name, value in locals().items() if name not in ("self", "__class__")})
        embedded, residuals = (basis_emb_size, int_emb_size), (num_before_skip, num_after_skip)
        interactions = [
            HadamardInteraction(hidden_channels, num_radial, num_spherical, embedded, *residuals)
            for _ in range(num_blocks)
        ]
        outputs = [
            Output(num_radial, hidden_channels, len(heads), num_output_layers, out_emb_channels)
            for _ in range(num_blocks + 1)
        ]
        super().__init__(given, interactions, outputs, angle="middle")


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON has them.

    Raises:
        InputError: a size that can't be.
    """
    for name, value in given.items():
        if name not in ("elements", "cutoff", "heads", "faithful") and not isinstance(value, int):
            raise InputError(f"{name} = {value!r}: expected an integer")
        lowest = 0 if name in ("num_before_skip", "num_after_skip") else 1
        highest = HIGHEST.get(name, math.inf)
        if type(value) is int and name != "cutoff" and not lowest <= value <= highest:
            raise InputError(f"{name} = {value}: expected {lowest} to {highest}".replace(" to inf", " or more"))
    return {name: list(value) if isinstance(value, list | tuple) else value for name, value in given.items()}
