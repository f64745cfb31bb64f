"""A layer of MACE by the compiled operators, with everything that depends on the parameters alone computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip import ops
from mlip.models.compiled_maps import ChannelMap, in_precision, of_present
from mlip.models.compiled_message import CompiledMessage, Interpolation, Pairs
from mlip.models.compiled_radial import RadialInputs
from mlip.models.mace_layer import Layer, NonLinearInteraction
from mlip.nn.activation import sigmoid, silu
from mlip.nn.irreps import Irreps
from mlip.nn.message import Edges
from mlip.ops.tape import Run, directly


class CompiledLayer:
    """One layer, made from one in float64.

    Features have zeros for channels up to whole blocks of the operators.

    Args:
        layer: the layer in float64.
        elements: features (1, Z, C) before the first layer, which depend on the elements only; None for the others.
        dtype: of the evaluation.
        trained: whether the parameters change at every step: products of them must cost little.
        present: elements (S,) that weights are taken of, in place of all; `elements` are of these, too.
    """

    def __init__(
        self,
        layer: Layer,
        elements: Tensor | None,
        dtype: torch.dtype,
        trained: bool,
        present: Tensor | None = None,
    ) -> None:
        interaction = layer.interaction
        dims, dims_message = _dims(layer.before.irreps), _dims(layer.options.message_irreps)
        up = ChannelMap.of(interaction.up, dims)
        skip = ChannelMap.of(layer.skip, dims if layer.residual else dims_message, present)
        self.gate: CompiledGate | None = None
        norm = 1.0
        if isinstance(interaction, NonLinearInteraction):
            self.gate = CompiledGate(interaction, up, elements, dtype)
        elif interaction.density is None:
            norm = 1 / interaction.avg_num_neighbors
        # The density, which divides the message, is one number per atom: it may come after the map of the message.
        then = None if layer.residual else skip
        self.message = CompiledMessage(interaction.message, up, norm, then, elements, dtype, trained)
        self.density = None if interaction.density is None else in_precision(interaction.density, dtype)
        self.needs_inputs = self.density is not None
        self.channels = layer.after.channels
        self.residual, self.agnostic_product = layer.residual, layer.agnostic_product
        self.skip = skip.to(dtype) if self.residual else None
        self.product = ChannelMap.of(layer.product, _dims(layer.after.irreps)).to(dtype)
        self.program, self.coefficients = _polynomials(layer, dtype, present)
        if elements is not None and self.residual:
            self.element_skip = ops.pad_channels(skip.of_elements(elements), dtype, 2).to(dtype)

    def __call__(
        self, run: Run, x: Tensor | None, pairs: Pairs, place: Interpolation | None, inputs: RadialInputs | None
    ) -> Tensor:
        """Features (D, N, C) before the layer, None before the first, to those after it.

        Args:
            run: calls the operators.
            x: features.
            pairs: the pairs.
            place: radial functions of this layer from a table; None: exact ones.
            inputs: of the exact radial functions; a layer with a table needs them only if `needs_inputs`.
        """
        features = None
        if self.gate is not None:
            assert inputs is not None
            features = run(self.gate.pair_features, inputs.basis()[0], pairs.ends, pairs.elements)
        activations = None
        if place is None:
            assert inputs is not None
            activations = self.message.hidden(inputs, features)
        message = self.message(run, x, pairs, place, activations)
        if self.density is not None:
            assert inputs is not None
            basis, envelope = inputs.basis()
            edges = (basis if features is None else features, envelope, pairs.ends, len(pairs.species))
            density = run(self._density, *edges)
            if self.gate is None:
                message = run(_normalized, message, density)
            else:
                message = run(self.gate, message, density, x, pairs.species)
        return self._update(run, x, message, pairs.species)

    def _density(self, features: Tensor, envelope: Tensor | None, edge_index: Tensor, num_atoms: int) -> Tensor:
        assert self.density is not None
        return self.density(features, Edges(edge_index, features, features, envelope), num_atoms)

    def _update(self, run: Run, x: Tensor | None, message: Tensor, species: Tensor) -> Tensor:
        """Product and skip connection."""
        kinds = torch.zeros_like(species) if self.agnostic_product else species
        products = run(ops.symmetric_contraction, message, kinds, self.coefficients, self.program)
        out = self.product(run, products)
        if self.skip is None:
            return out
        if x is None:
            kept = self.element_skip.index_select(1, species)
        else:
            kept = self.skip(run, x, species)
        return run(torch.add, out, kept)


def _normalized(message: Tensor, density: Tensor) -> Tensor:
    return message / (density + 1)


class CompiledGate:
    """What `NonLinearInteraction` does with its message."""

    def __init__(
        self, interaction: NonLinearInteraction, up: ChannelMap, elements: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.pair = in_precision(interaction.pair, dtype)
        residual = ChannelMap.of(interaction.residual, up.dims_out).after(up)
        self.residual = residual.to(dtype)
        self.n_gates, self.dims = interaction.n_gates, interaction.dims
        self.alpha, self.beta = interaction.alpha.to(dtype), interaction.beta.to(dtype)
        self.mix = ChannelMap.of(interaction.mix, [1, *self.dims]).to(dtype)
        if elements is not None:
            self.element_residual = ops.pad_channels(residual.of_elements(elements), dtype, 2).to(dtype)

    def pair_features(self, basis: Tensor, edge_index: Tensor, species: Tensor) -> Tensor:
        """What enters the radial network, (E, n + 2 C)."""
        return self.pair(Edges(edge_index, basis, basis, None), species)

    def __call__(self, message: Tensor, density: Tensor, x: Tensor | None, species: Tensor) -> Tensor:
        own = self.element_residual.index_select(1, species) if x is None else self.residual(directly, x)
        message = message / (density * self.beta + self.alpha) + own
        scalars, gates, *blocks = message.split([1, self.n_gates, *self.dims])
        gated = [block * gate for block, gate in zip(blocks, sigmoid(gates).unsqueeze(1), strict=True)]
        return self.mix(directly, torch.cat([silu(scalars), *gated]))


def _dims(irreps: Irreps) -> list[int]:
    return [ir.dim for ir in irreps]


def _polynomials(layer: Layer, dtype: torch.dtype, present: Tensor | None) -> tuple[ops.ContractionProgram, Tensor]:
    """The products of a layer as one sparse polynomial, and the coefficients of its terms."""
    contraction = layer.contraction
    of = None if layer.agnostic_product else present
    weights = [of_present(contraction.weights[name], of) for _, name in contraction.terms]
    coefficients = contraction.program.coefficients(weights)
    packed = ops.pack_coefficients(ops.pad_channels(coefficients, dtype, 2).to(dtype))
    return contraction.program, ops.of_parameters(packed)
