"""The layers of MACE: interaction and product block, in the kinds its authors have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn

from mlip.nn.activation import sigmoid, silu
from mlip.nn.irreps import ElementLinear, Irreps, IrrepsLinear
from mlip.nn.message import Density, Edges, Message, PairEmbedding
from mlip.nn.product_basis import SymmetricContraction

#: Kinds of interaction -> the class of the reference implementation.
INTERACTIONS = {
    "agnostic": "RealAgnosticInteractionBlock",
    "residual": "RealAgnosticResidualInteractionBlock",
    "density": "RealAgnosticDensityInteractionBlock",
    "density_residual": "RealAgnosticDensityResidualInteractionBlock",
    "residual_nonlinear": "RealAgnosticResidualNonLinearInteractionBlock",
}
SCALAR = o3.Irrep("0e")


@dataclass(frozen=True)
class Features:
    """Irreps and the number of channels of each."""

    irreps: Irreps
    channels: int

    @property
    def scalars(self) -> int:
        """Where the invariants are among the components."""
        return sum(ir.dim for ir in self.irreps[: self.irreps.index(SCALAR)])


@dataclass(frozen=True)
class LayerOptions:
    """What a layer is besides the shapes of its features.

    Attributes:
        interaction: a key of `INTERACTIONS`.
        harmonics: irreps of the spherical harmonics.
        message_irreps: of the message that enters the product.
        radial_sizes: of the radial perceptron, from the number of basis functions to its last hidden layer.
        correlation: order of the product.
        num_elements: number of elements.
        avg_num_neighbors: norm of the message.
        agnostic_product: one set of product weights for all elements.
    """

    interaction: str
    harmonics: Irreps
    message_irreps: Irreps
    radial_sizes: Sequence[int]
    correlation: int
    num_elements: int
    avg_num_neighbors: float
    agnostic_product: bool = False


class Interaction(nn.Module):
    """Message of the neighbors, normalised by a constant number of neighbors or by the learned density."""

    def __init__(self, before: Features, edge: Features, after: Features, options: LayerOptions) -> None:
        super().__init__()
        self.avg_num_neighbors = options.avg_num_neighbors
        self.up = IrrepsLinear(before.irreps, edge.irreps, before.channels, edge.channels)
        self.message = Message(
            *(
                edge.irreps,
                edge.channels,
                options.message_irreps,
                after.channels,
                options.harmonics,
                options.radial_sizes,
            )
        )
        self.density = Density(options.radial_sizes[:1]) if "density" in options.interaction else None

    def forward(self, x: Tensor, species: Tensor, edges: Edges) -> Tensor:
        """Features (dim, N, C) and element indices (N,) to the message (dim_message, N, C_after)."""
        message = self.message(self.up(x), edges.radial, edges)
        if self.density is None:
            return message / self.avg_num_neighbors
        return message / (self.density(edges.radial, edges, x.shape[1]) + 1)


class NonLinearInteraction(nn.Module):
    """Message whose radial network sees both elements, with a residual, then gated.

    MACE's `RealAgnosticResidualNonLinearInteractionBlock`.
    """

    def __init__(self, before: Features, edge: Features, after: Features, options: LayerOptions) -> None:
        super().__init__()
        irreps = options.message_irreps
        gates = (SCALAR,) * (len(irreps) - 1)
        gated = (*irreps[:1], *gates, *irreps[1:])
        self.n_gates, self.dims = len(gates), [ir.dim for ir in irreps[1:]]
        self.up = IrrepsLinear(before.irreps, edge.irreps, before.channels, edge.channels)
        self.pair = PairEmbedding(before.channels, options.num_elements)
        num_basis, *hidden = options.radial_sizes
        width = num_basis + 2 * before.channels
        shapes = (edge.irreps, edge.channels, gated, after.channels, options.harmonics)
        self.message = Message(*shapes, [width, *hidden], normalized=True)
        self.residual = IrrepsLinear(edge.irreps, gated, edge.channels, after.channels)
        self.density = Density([width, 64], normalized=True)
        self.alpha, self.beta = nn.Parameter(torch.tensor(20.0)), nn.Parameter(torch.tensor(0.0))
        self.mix = IrrepsLinear(irreps, irreps, after.channels, after.channels)

    def forward(self, x: Tensor, species: Tensor, edges: Edges) -> Tensor:
        """Features (dim, N, C) and element indices (N,) to the message (dim_message, N, C_after)."""
        x = self.up(x)
        edge_features = self.pair(edges, species)
        norm = self.density(edge_features, edges, x.shape[1]) * self.beta + self.alpha
        message = self.message(x, edge_features, edges) / norm + self.residual(x)
        scalars, gates, rest = message.split([1, self.n_gates, message.shape[0] - 1 - self.n_gates])
        blocks = rest.split(self.dims)
        gated = [block * gate for block, gate in zip(blocks, sigmoid(gates).unsqueeze(1), strict=True)]
        return self.mix(torch.cat([silu(scalars), *gated]))


class Layer(nn.Module):
    """Interaction, product and skip connection: features of layer t to those of layer t + 1.

    The skip connection adds the old features through a map that depends on the element (`residual` kinds) or not
    (`residual_nonlinear`); without it (`agnostic`, `density`) the map transforms the message, and an atom without
    neighbors keeps no features.
    """

    def __init__(self, before: Features, edge: Features, after: Features, options: LayerOptions) -> None:
        super().__init__()
        self.before, self.sent, self.after, self.options = before, edge, after, options
        self.nonlinear = options.interaction == "residual_nonlinear"
        self.residual = "residual" in options.interaction
        kind = NonLinearInteraction if self.nonlinear else Interaction
        self.interaction: Interaction | NonLinearInteraction = kind(before, edge, after, options)
        n, irreps, z = after.channels, options.message_irreps, options.num_elements
        self.skip: IrrepsLinear | ElementLinear
        if self.nonlinear:
            self.skip = IrrepsLinear(before.irreps, after.irreps, before.channels, n)
        elif self.residual:
            self.skip = ElementLinear(before.irreps, after.irreps, before.channels, n, z)
        else:
            self.skip = ElementLinear(irreps, irreps, n, n, z)
        self.agnostic_product = options.agnostic_product
        self.contraction = SymmetricContraction(
            irreps, after.irreps, options.correlation, n, 1 if options.agnostic_product else z
        )
        self.product = IrrepsLinear(after.irreps, after.irreps, n, n)

    def forward(self, x: Tensor, species: Tensor, edges: Edges) -> Tensor:
        """Features (dim, N, C) and element indices (N,) to (dim_after, N, C_after)."""
        message = self.interaction(x, species, edges)
        if not self.residual:
            message = self.skip(message, species)
        product = self.contraction(message, torch.zeros_like(species) if self.agnostic_product else species)
        out = self.product(product)
        if self.residual:
            out = out + (self.skip(x) if self.nonlinear else self.skip(x, species))
        return out
