"""A layer of MACE by the compiled operators, with everything that depends on the parameters alone computed once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mlip import ops
from mlip.models.mace_layer import Features, Interaction, Layer
from mlip.nn.activation import SILU_GAIN
from mlip.nn.irreps import ElementLinear, wigner_3j
from mlip.nn.message import Density, Edges
from mlip.nn.radial import RadialMLP

#: Elements in a structure up to which the first layer is factored by element.
FEW_ELEMENTS = 4


class Pairs(NamedTuple):
    """What all layers know of the pairs."""

    neighbor: Tensor  # (E,)
    offsets: Tensor  # (N + 1,)
    harmonics: Tensor  # (E, dim_Y), of the vectors from center to neighbor
    species: Tensor  # (N,)
    present: Tensor  # (S,) the element indices that occur


class Activations(NamedTuple):
    """Exact radial functions: the last hidden layer of the perceptron."""

    values: Tensor  # (E, h)


class Interpolation(NamedTuple):
    """Radial functions from a table: where the distances lie in it."""

    weights: Tensor  # (E, 4)
    knot: Tensor  # (E,)
    table: Tensor


def degree_of(features: Features) -> int:
    """Highest degree of the irreps."""
    return max(ir.l for ir in features.irreps)


class CompiledLayer:
    """One layer, made from one in float64.

    Args:
        layer: the layer in float64.
        elements: features (1, Z, C) before the first layer, which depend on the elements only; None for the others.
        dtype: of the evaluation.
    """

    def __init__(self, layer: Layer, elements: Tensor | None, dtype: torch.dtype) -> None:
        interaction, skip = layer.interaction, layer.skip
        assert isinstance(interaction, Interaction) and isinstance(skip, ElementLinear)
        message = interaction.message
        assert isinstance(message.radial, RadialMLP)
        self.degree, self.top = degree_of(layer.sent), max(ir.l for ir in layer.options.harmonics)
        # Y is taken of the vector from center to neighbor here, of the opposite one by the model.
        signs = [(-1.0) ** degree for degree in range(self.top + 1) for _ in range(2 * degree + 1)]
        coupling = ops.coupling_matrix(self.degree, self.top, wigner_3j)
        self.coupling = (torch.tensor(signs, dtype=torch.float64).unsqueeze(1) * coupling).to(dtype)
        self.density: Density | None = interaction.density
        norm = 1.0 if self.density else 1 / interaction.avg_num_neighbors
        mix = [weight * (n * norm) for weight, n in zip(message.mix, message.norm, strict=True)]
        gains = [1.0] + [SILU_GAIN] * (len(message.radial.weights) - 1)
        perceptron = [w * (gain / math.sqrt(len(w))) for w, gain in zip(message.radial.weights, gains, strict=True)]
        up = [weight * interaction.up.norm for weight in interaction.up.weights]
        self.mix, self.up = _cast(mix, dtype), _cast(up, dtype)
        *self.perceptron, self.radial = _cast(perceptron, dtype)
        self.residual, self.agnostic_product = layer.residual, layer.agnostic_product
        self.skip = _cast([weight * skip.norm for weight in skip.weights], dtype)
        self.product = _cast([weight * layer.product.norm for weight in layer.product.weights], dtype)
        self.program, self.coefficients = _polynomials(layer, dtype)
        if self.density is not None:
            self.density = self.density.to(dtype)
        if elements is not None:
            sent = mixed(elements, up)  # (1, Z, C)
            self.elements = sent.transpose(0, 1).to(dtype).contiguous()
            self.factors = _factors(perceptron[-1], sent[0], mix, dtype)
            self.element_skip = skip(elements, torch.arange(elements.shape[1])).to(dtype)

    def activations(self, basis: Tensor, envelope: Tensor | None) -> Activations:
        """From the basis functions (E, n), and the envelope (E, 1) if they do not hold it."""
        for weight in self.perceptron:
            basis = torch.nn.functional.silu(ops.matmul(basis, weight))  # its gain is in the next matrix
        return Activations(basis if envelope is None else basis * envelope)

    def __call__(
        self, x: Tensor | None, pairs: Pairs, radial: Activations | Interpolation, edges: Edges | None
    ) -> Tensor:
        """Features (D, N, C) before the layer, None before the first, to those after it.

        Args:
            x: features.
            pairs: the pairs.
            radial: radial functions of this layer.
            edges: basis functions; only a layer that is normed by its density needs them.
        """
        message = self._message(x, pairs, radial)
        if self.density is not None:
            assert edges is not None
            message = message / (self.density(edges.radial, edges, len(pairs.species)) + 1)
        return self._update(x, message, pairs.species)

    def _message(self, x: Tensor | None, pairs: Pairs, radial: Activations | Interpolation) -> Tensor:
        if x is None and isinstance(radial, Activations) and len(pairs.present) <= FEW_ELEMENTS:
            return self._factored_message(pairs, radial.values)
        sent = self.elements[pairs.species] if x is None else mixed(x, self.up).transpose(0, 1).contiguous()
        coupling = ops.matmul(pairs.harmonics[:, : (self.top + 1) ** 2], self.coupling)
        graph = (pairs.neighbor, pairs.offsets, self.degree, self.top)
        if isinstance(radial, Activations):
            blocks = ops.message_exact(sent, coupling, radial.values, self.radial, *graph)
        else:
            weights, knot, table = radial
            blocks = ops.message_interpolated(sent, coupling, weights, knot, table, *graph)
        return torch.cat([ops.matmul(block, weight) for block, weight in zip(blocks, self.mix, strict=True)])

    def _factored_message(self, pairs: Pairs, activations: Tensor) -> Tensor:
        """The first message with exact radial functions: sum the edges of each neighbor's element, then mix.

        The features of the neighbors depend on their elements only, so that the last matrix of the radial perceptron,
        these features and the mixing are one matrix per element and degree.
        """
        present = pairs.present
        if len(present) > 1:
            own = (pairs.species[pairs.neighbor].unsqueeze(1) == present).to(activations.dtype)
            activations = (own.unsqueeze(2) * activations.unsqueeze(1)).flatten(1)
        collected = ops.neighbor_outer(pairs.harmonics[:, : (self.top + 1) ** 2], activations, pairs.offsets)
        return mixed(collected, [factor[present].flatten(0, 1) for factor in self.factors])

    def _update(self, x: Tensor | None, message: Tensor, species: Tensor) -> Tensor:
        """Product and skip connection."""
        if not self.residual:
            message = _mixed_by_element(message, species, self.skip)
        kinds = torch.zeros_like(species) if self.agnostic_product else species
        out = mixed(ops.symmetric_contraction(message, kinds, self.coefficients, self.program), self.product)
        if not self.residual:
            return out
        if x is None:
            return out + self.element_skip.index_select(1, species)
        skipped = _mixed_by_element(x, species, self.skip)
        added = out[: len(skipped)] + skipped
        return added if len(skipped) == len(out) else torch.cat([added, out[len(skipped) :]])


def _cast(weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [weight.to(dtype).contiguous() for weight in weights]


def mixed(x: Tensor, weights: list[Tensor]) -> Tensor:
    """Features (D, N, C), irreps ascending from 0e, times one matrix (C, C_out) per irrep; irreps without one fall."""
    blocks = x.split([2 * degree + 1 for degree in range(len(weights))] + [len(x) - len(weights) ** 2])
    parts = [ops.matmul(block, weight) for block, weight in zip(blocks, weights, strict=False)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _mixed_by_element(x: Tensor, species: Tensor, weights: list[Tensor]) -> Tensor:
    """As `mixed`, with matrices (Z, C, C_out) of the atoms' elements."""
    blocks = x.split([2 * degree + 1 for degree in range(len(weights))] + [len(x) - len(weights) ** 2])
    parts = [ops.element_linear(block, species, weight) for block, weight in zip(blocks, weights, strict=False)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _factors(radial: Tensor, features: Tensor, mix: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Per degree l of a first message (Z, h, C_out): sum over c of radial[h, (l, c)] features[z, c] mix_l[c, C_out]."""
    columns = radial.unflatten(1, (len(mix), -1))  # (h, l, C)
    return [
        ((-1.0) ** degree * torch.einsum("hc,zc,cd->zhd", columns[:, degree], features, weight)).to(dtype)
        for degree, weight in enumerate(mix)
    ]


def _polynomials(layer: Layer, dtype: torch.dtype) -> tuple[ops.ContractionProgram, Tensor]:
    """The products of a layer as one sparse polynomial, and the coefficients of its terms."""
    contraction = layer.contraction
    blocks = [
        (sum(contraction.dims_out[:block]), contraction.monomials[t], contraction.coefficients[t])
        for t, (block, _) in enumerate(contraction.terms)
    ]
    dim_in = sum(ir.dim for ir in layer.options.message_irreps)
    program = ops.ContractionProgram(dim_in, sum(contraction.dims_out), blocks)
    coefficients = program.coefficients([contraction.weights[name] for _, name in contraction.terms])
    return program, ops.pack_coefficients(coefficients.to(dtype))
