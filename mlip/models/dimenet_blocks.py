"""Parts of DimeNet and DimeNet++: embedding, directional interactions, output.

Gasteiger et al., ICLR 2020 (arXiv:2003.03123), section 5 and figure 4; Gasteiger et al., 2020 (arXiv:2011.14115).
Messages m_ji are features (E, H) of the edges with center i and neighbor j. Each part takes the activation σ, silu, as
an argument: in plain torch, or the compiled one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mlip.models.arrivals import Arrivals
from mlip.nn.edge_triplets import EdgeTriplets
from mlip.nn.spherical_basis import SphericalRadialBasis, legendre
from mlip.ops import segment_sum

Activation = Callable[[Tensor], Tensor]


def dense(fan_in: int, fan_out: int, bias: bool = True) -> nn.Linear:
    """A linear layer of orthogonal weights with variance 2/(fan_in + fan_out), as published; biases zero."""
    layer = nn.Linear(fan_in, fan_out, bias=bias)
    nn.init.orthogonal_(layer.weight)
    with torch.no_grad():
        if layer.weight.numel() > 1:
            layer.weight.mul_(torch.sqrt(2 / ((fan_in + fan_out) * layer.weight.var())))
        if bias:
            layer.bias.zero_()
    return layer


class SphericalBasis(nn.Module):
    """a_SBF(d, α) of triplets i-j-k: spherical Bessel functions of a distance times Y_l0 of an angle (eq. 6).

    The angle is the one at j, between i and k, and the distance d_ji; that of d_kj is in the radial basis that the
    messages m_kj are multiplied by. The published code has d_kj here too, and DimeNet's has the angle at i between j
    and k; `faithful` brings both back.

    Args:
        num_spherical, num_radial, envelope_exponent, faithful: as in `SphericalRadialBasis`.
        angle_at_center: the angle at i, between j and k.
    """

    def __init__(
        self, num_spherical: int, num_radial: int, envelope_exponent: int, faithful: bool, angle_at_center: bool
    ) -> None:
        super().__init__()
        self.radial = SphericalRadialBasis(num_spherical, num_radial, envelope_exponent, faithful)
        self.num_spherical, self.faithful, self.angle_at_center = num_spherical, faithful, angle_at_center

    def forward(self, radial: Tensor, vectors: Tensor, triplets: EdgeTriplets) -> Tensor:
        """Values (T, S R) from values of `self.radial` (E, S, R) and vectors to neighbors (E, 3)."""
        to_j, onward = vectors[triplets.first], vectors[triplets.second]
        cosine = _cosine(to_j, to_j + onward) if self.angle_at_center else -_cosine(to_j, onward)
        of_edge = radial[triplets.second if self.faithful else triplets.first]
        return (of_edge * legendre(self.num_spherical, cosine).unsqueeze(2)).flatten(1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


class Embedding(nn.Module):
    """First messages from the elements of both atoms and the radial basis: σ(W [h_i | h_j | W' e_RBF] + b).

    Args:
        num_elements, num_radial: sizes of what comes in.
        channels: H.
        faithful: as published, σ(W' e_RBF + b') in the place of W' e_RBF.
    """

    def __init__(self, num_elements: int, num_radial: int, channels: int, faithful: bool) -> None:
        super().__init__()
        self.elements = nn.Parameter(torch.empty(num_elements, channels).uniform_(-math.sqrt(3), math.sqrt(3)))
        self.radial = dense(num_radial, channels, bias=faithful)
        self.combine = dense(3 * channels, channels)
        self.faithful = faithful

    def forward(self, species: Tensor, radial: Tensor, silu: Activation) -> Tensor:
        """Element indices (2, E) of centers and neighbors and radial basis (E, R) to messages (E, H)."""
        distance = self.radial(radial)
        if self.faithful:
            distance = silu(distance)
        # The derivative of an index adds in any order, by several threads.
        center, neighbor = (self.elements.index_select(0, of_end) for of_end in species)
        return silu(self.combine(torch.cat([center, neighbor, distance], dim=1)))


class Residual(nn.Module):
    """x + σ(W₂ σ(W₁ x + b₁) + b₂)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = dense(channels, channels), dense(channels, channels)

    def forward(self, x: Tensor, silu: Activation) -> Tensor:
        return x + silu(self.second(silu(self.first(x))))


class Interaction(nn.Module, ABC):
    """Update of the messages m_ji by the messages m_kj to their neighbor: the part that both networks share."""

    def __init__(self, channels: int, num_before_skip: int, num_after_skip: int) -> None:
        super().__init__()
        self.own, self.incoming = dense(channels, channels), dense(channels, channels)
        self.before_skip = nn.ModuleList(Residual(channels) for _ in range(num_before_skip))
        self.skip = dense(channels, channels)
        self.after_skip = nn.ModuleList(Residual(channels) for _ in range(num_after_skip))

    @abstractmethod
    def gather(self, m: Tensor, radial: Tensor, arrivals: Arrivals, silu: Activation) -> Tensor:
        """What arrives at each edge (E, H) from transformed messages (E, H) of the others, along all triplets."""

    def forward(self, m: Tensor, radial: Tensor, arrivals: Arrivals, silu: Activation) -> Tensor:
        """Messages (E, H), radial basis (E, R) and sums over triplets to messages (E, H)."""
        h = silu(self.own(m)) + self.gather(silu(self.incoming(m)), radial, arrivals, silu)
        for layer in self.before_skip:
            h = layer(h, silu)
        h = m + silu(self.skip(h))
        for layer in self.after_skip:
            h = layer(h, silu)
        return h


class BilinearInteraction(Interaction):
    """DimeNet's: Σ_k a_SBF W (m_kj ∘ e_RBF) with a bilinear layer W of `num_bilinear` channels of the angular basis."""

    def __init__(
        self, channels: int, num_radial: int, num_spherical: int, num_bilinear: int, num_before: int, num_after: int
    ) -> None:
        super().__init__(channels, num_before, num_after)
        self.radial = dense(num_radial, channels, bias=False)
        self.spherical = dense(num_spherical * num_radial, num_bilinear, bias=False)
        self.bilinear = nn.Parameter(torch.randn(channels, num_bilinear, channels) * (2 / channels))

    def gather(self, m: Tensor, radial: Tensor, arrivals: Arrivals, silu: Activation) -> Tensor:
        # The sum over k comes before the matrix, which is then applied per edge and not per triplet.
        return arrivals.outer(self.spherical, m * self.radial(radial)) @ self.bilinear.flatten(1).T


class HadamardInteraction(Interaction):
    """DimeNet++'s: Σ_k a_SBF ∘ m_kj, element by element, in a space of fewer dimensions."""

    def __init__(
        self,
        channels: int,
        num_radial: int,
        num_spherical: int,
        embedded: tuple[int, int],
        num_before: int,
        num_after: int,
    ) -> None:
        super().__init__(channels, num_before, num_after)
        basis, inner = embedded
        self.radial = _two_linear(num_radial, basis, channels)
        self.spherical = _two_linear(num_spherical * num_radial, basis, inner)
        self.down, self.up = dense(channels, inner, bias=False), dense(inner, channels, bias=False)

    def gather(self, m: Tensor, radial: Tensor, arrivals: Arrivals, silu: Activation) -> Tensor:
        return silu(self.up(arrivals(self.spherical, silu(self.down(m * self.radial(radial))))))


def _two_linear(fan_in: int, between: int, fan_out: int) -> nn.Sequential:
    return nn.Sequential(dense(fan_in, between, bias=False), dense(between, fan_out, bias=False))


class VectorOutput(nn.Module):
    """From the messages to a vector at each atom: Σ_j s_ij r_ij/|r_ij|, of scalars s_ij = (W e_RBF) · σ(W' m_ij + b).

    It turns with the structure, and each s_ij vanishes at the cutoff as smoothly as the radial basis.

    Args:
        num_radial, channels: sizes of radial basis and messages.
    """

    def __init__(self, num_radial: int, channels: int) -> None:
        super().__init__()
        self.radial = dense(num_radial, channels, bias=False)
        self.hidden = dense(channels, channels)

    def forward(
        self, m: Tensor, radial: Tensor, directions: Tensor, center: Tensor, num_atoms: int, silu: Activation
    ) -> Tensor:
        """Messages (E, H), radial basis (E, R), unit vectors to neighbors (E, 3) and centers (E,) to vectors (N, 3)."""
        strength = (self.radial(radial) * silu(self.hidden(m))).sum(dim=1, keepdim=True) / math.sqrt(m.shape[1])
        return segment_sum(strength * directions, center, num_atoms)


class Output(nn.Module):
    """From the messages to the atoms: a sum over the neighbors weighted by the radial basis, then a perceptron.

    Args:
        num_radial, channels: sizes of radial basis and messages.
        num_heads: energies per atom, zero until something is learned.
        num_layers: hidden layers.
        width: of the hidden layers, after a linear map (DimeNet++); None: that of the messages.
    """

    def __init__(self, num_radial: int, channels: int, num_heads: int, num_layers: int, width: int | None) -> None:
        super().__init__()
        self.radial = dense(num_radial, channels, bias=False)
        self.up = nn.Identity() if width is None else dense(channels, width, bias=False)
        self.width = width = width or channels
        self.hidden = nn.ModuleList(dense(width, width) for _ in range(num_layers))
        self.last = nn.Linear(width, num_heads, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(
        self, m: Tensor, radial: Tensor, center: Tensor, num_atoms: int, head: int | Tensor, silu: Activation
    ) -> tuple[Tensor, Tensor]:
        """Messages (E, H), radial basis (E, R) and centers (E,) to energies (N,) of a head and features (N, width)."""
        h = self.up(segment_sum(m * self.radial(radial), center, num_atoms))
        for layer in self.hidden:
            h = silu(layer(h))
        if isinstance(head, Tensor):  # one of each atom
            return (h * self.last.weight[head]).sum(dim=1), h
        return h @ self.last.weight[head], h
