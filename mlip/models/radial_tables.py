"""Radial functions of MACE's messages interpolated from tables, for fast evaluation.

All functions of a layer depend on the distance alone, or on the distance and the two elements. They are tabulated at
equally spaced knots from 0 to the cutoff with their derivatives, and interpolated by cubic Hermite polynomials: the
energy is continuously differentiable, and forces are the exact derivative of the interpolated energy.

In training the tables are made anew from the parameters at each step and have derivatives by them: the network is
evaluated at the knots instead of the pairs, of which there are many more in a large batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mlip import ops
from mlip.models.compiled_message import path_signs
from mlip.nn.radial import RadialEmbedding, RadialMLP
from mlip.ops.tape import Run, cast_to

if TYPE_CHECKING:
    from mlip.models.mace import MACE
    from mlip.models.mace_layer import Layer

#: Candidates for the number of knots, and the error that decides: the largest deviation of a derivative between the
#: knots, beyond 1 Å, relative to the largest derivative there. With MACE-MP-0 (4097 knots in float64) forces on
#: crystals are right to 2e-7 eV/Å, on H2 and water to 5e-7; in float32 (1025 knots) to 1e-6 and 1e-5, as exact as the
#: arithmetic.
KNOTS = (257, 513, 1025, 2049, 4097, 8193)
DERIVATIVE_TOLERANCE = {torch.float64: 4e-7, torch.float32: 2.5e-5}
RELEVANT = 1.0
#: Bytes of the tables of one layer beyond which the exact functions are used: many elements with a distance transform.
LARGEST_TABLE = 2**28
#: Bytes of the tables kept for sets of elements met before.
LARGEST_KEPT = 2**29
#: Knots in training: forces of MACE-MP-0 are right to 1e-5 eV/Å, a thousandth of what training can reach.
TRAINING_KNOTS = 1025
#: Pairs for each knot from which on tables cost less than exact functions in training.
WORTHWHILE = 12
#: Stands for distance zero, where sin(x)/x and powers can't be evaluated.
NEAR_ZERO = 1e-6


class Place(NamedTuple):
    """Where distances lie in the tables."""

    weights: Tensor  # (E, 4), of value and slope at the knots before and after
    knot: Tensor  # (E,)
    tables: list[Tensor]  # one per layer


class RadialTables:
    """Tables of all layers of a model.

    Args:
        model: in float64; of any precision if trained.
        layers: its layers.
        dtype: of the tables.
        trained: with derivatives by the parameters, and made anew each time.
    """

    def __init__(self, model: MACE, layers: list[Layer], dtype: torch.dtype, trained: bool = False) -> None:
        self.model, self.layers, self.dtype, self.trained = model, layers, dtype, trained
        self.by_pair = model.radial.transform is not None
        self.knots = TRAINING_KNOTS if trained else self._enough_knots()
        self.spacing = model.cutoff / (self.knots - 1)
        self._made: dict[tuple[int, ...], list[Tensor]] = {}

    def worthwhile(self, count: int, present: Tensor) -> bool:
        """Whether tables for the elements `present` (S,) cost less in training than the functions of `count` pairs."""
        return count > WORTHWHILE * self.knots * (len(present) ** 2 if self.by_pair else 1)

    def place(self, run: Run, length: Tensor, pairs: Tensor, present: Tensor) -> Place | None:
        """Place of distances (E,) between elements (2, E), of `present` (S,) in the structure; None if too large."""
        elements = tuple(present.tolist()) if self.by_pair else (0,)
        tables = self._tables(elements)
        if tables is None:
            return None
        weights, knot = run(ops.cubic_weights, length, self.spacing, self.knots)
        if self.by_pair:
            order = torch.searchsorted(present, pairs)
            knot = knot + self.knots * (order[0] * len(elements) + order[1])
        return Place(run(cast_to, weights, self.dtype), knot, tables)

    def _tables(self, elements: tuple[int, ...]) -> list[Tensor] | None:
        tables = self._made.get(elements)
        if tables is None:
            columns = max(len(layer.interaction.message.paths) * layer.sent.channels for layer in self.layers)
            bytes_each = 3 * self.knots * len(elements) ** 2 * columns * self.dtype.itemsize
            if bytes_each > LARGEST_TABLE:
                return None
            bases = [self._basis_at_knots((i, j), self.knots) for i in elements for j in elements]
            tables = [self._table(layer, bases) for layer in self.layers]
            if not self.trained:
                self._keep(elements, tables)
        return tables

    def _keep(self, elements: tuple[int, ...], tables: list[Tensor]) -> None:
        """Keep the tables made last, as many as fit into `LARGEST_KEPT`; other threads may read them."""
        made = self._made | {elements: tables}
        size = {key: sum(t.numel() * t.element_size() for t in kept) for key, kept in made.items()}
        while len(made) > 1 and sum(size[key] for key in made) > LARGEST_KEPT:
            made.pop(next(iter(made)))
        self._made = made

    def _table(self, layer: Layer, bases: list[Basis]) -> Tensor:
        """All pairs of elements one after the other, each `knots` rows."""
        parts = [self._functions(layer, basis) for basis in bases]
        values, slopes = parts[0] if len(parts) == 1 else (torch.cat(t) for t in zip(*parts, strict=True))
        return ops.of_parameters(ops.join_table(values, slopes, self.dtype, self.spacing))

    def _arranged(self, layer: Layer) -> Tensor:
        """The last matrix of the radial network with its columns (h, C / B, paths, B) as in a table."""
        message = layer.interaction.message
        assert isinstance(message.radial, RadialMLP)
        matrix = message.radial.last(torch.float64).unflatten(1, (len(message.paths), layer.sent.channels))
        matrix = ops.pad_channels(matrix * path_signs(message).to(matrix.device).unsqueeze(1), self.dtype, 2)
        return ops.arrange_channels(matrix, self.dtype)

    def _basis_at_knots(self, pair: tuple[int, int], knots: int) -> Basis:
        r = torch.linspace(0, self.model.cutoff, knots, dtype=torch.float64, device=self.model.embedding.device)
        r[0] = NEAR_ZERO
        basis = basis_at(self.model.radial, pair, r)
        for values, slopes in [(basis.values, basis.slopes), *([basis.envelope] if basis.envelope else [])]:
            values[0] -= NEAR_ZERO * slopes[0]
        return basis

    def _functions(self, layer: Layer, basis: Basis) -> tuple[Tensor, Tensor]:
        """Radial functions (n, C / B, paths, B) and their derivatives at n distances, in float64."""
        network, last = layer.interaction.message.radial, self._arranged(layer)
        assert isinstance(network, RadialMLP)
        values, slopes = network.dual(basis.values, basis.slopes, last.flatten(1))
        if basis.envelope is not None:
            envelope, slope = basis.envelope
            values, slopes = values * envelope, slopes * envelope + values * slope
        return values.unflatten(1, last.shape[1:]), slopes.unflatten(1, last.shape[1:])

    def _enough_knots(self) -> int:
        """The least candidate whose interpolated derivatives are right between the knots, for all layers."""
        pair = (0, len(self.model.elements) - 1)
        return max(self._enough_for(layer, pair) for layer in self.layers)

    def _enough_for(self, layer: Layer, pair: tuple[int, int]) -> int:
        for knots in KNOTS:
            h = self.model.cutoff / (knots - 1)
            values, slopes = self._functions(layer, self._basis_at_knots(pair, knots))
            # Errors of a Hermite polynomial's derivative are largest near a fifth of the interval.
            t = 0.2113248654
            r = h * (torch.arange(knots - 1, dtype=torch.float64, device=values.device) + t)
            exact = self._functions(layer, basis_at(self.model.radial, pair, r))[1]
            left, right = slice(None, -1), slice(1, None)
            interpolated = (6 * t * t - 6 * t) / h * (values[left] - values[right])
            interpolated += (3 * t * t - 4 * t + 1) * slopes[left] + (3 * t * t - 2 * t) * slopes[right]
            counts = r > RELEVANT
            error = (interpolated - exact)[counts].abs().max() / exact[counts].abs().max()
            if error <= DERIVATIVE_TOLERANCE[self.dtype]:
                return knots
        return KNOTS[-1]


class Basis(NamedTuple):
    """Basis functions and their derivatives (n, N) at n distances; the envelope and its derivative, if it is apart."""

    values: Tensor
    slopes: Tensor
    envelope: tuple[Tensor, Tensor] | None  # (n, 1)


def basis_at(radial: RadialEmbedding, pair: tuple[int, int], r: Tensor) -> Basis:
    """At distances (n,) between two elements, in float64; nothing in it is trained."""
    species = torch.tensor(pair, device=r.device).unsqueeze(1).expand(2, len(r))
    with torch.enable_grad():
        r = r.detach().requires_grad_(True)
        found = [t for t in radial(r, species) if t is not None]
        pairs = [(t.detach(), _derivative(t, r)) for t in found]
    return Basis(*pairs[0], pairs[1] if len(pairs) > 1 else None)


def _derivative(functions: Tensor, r: Tensor) -> Tensor:
    """Derivatives (n, N) of functions (n, N) of r (n,): those of a sum with weights, by the weights."""
    weights = torch.zeros_like(functions, requires_grad=True)
    (slope,) = torch.autograd.grad(functions, r, weights, create_graph=True)
    return torch.autograd.grad(slope, weights, torch.ones_like(r))[0]
