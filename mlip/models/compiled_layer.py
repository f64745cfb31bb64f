"""A layer of MACE by the compiled operators, with everything that depends on the parameters alone computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip import ops
from mlip.models.compiled_maps import ChannelMap, in_precision
from mlip.models.compiled_message import CompiledMessage, Interpolation, Pairs
from mlip.models.mace_layer import Layer, NonLinearInteraction
from mlip.nn.activation import sigmoid, silu
from mlip.nn.irreps import Irreps
from mlip.nn.message import Edges


class CompiledLayer:
    """One layer, made from one in float64.

    Features have zeros for channels up to whole blocks of the operators.

    Args:
        layer: the layer in float64.
        elements: features (1, Z, C) before the first layer, which depend on the elements only; None for the others.
        dtype: of the evaluation.
    """

    def __init__(self, layer: Layer, elements: Tensor | None, dtype: torch.dtype) -> None:
        interaction = layer.interaction
        dims, dims_message = _dims(layer.before.irreps), _dims(layer.options.message_irreps)
        up = ChannelMap.of(interaction.up, dims)
        skip = ChannelMap.of(layer.skip, dims if layer.residual else dims_message)
        self.gate: CompiledGate | None = None
        norm = 1.0
        if isinstance(interaction, NonLinearInteraction):
            self.gate = CompiledGate(interaction, up, elements, dtype)
        elif interaction.density is None:
            norm = 1 / interaction.avg_num_neighbors
        self.message = CompiledMessage(interaction.message, up, norm, elements, dtype)
        self.density = None if interaction.density is None else in_precision(interaction.density, dtype)
        self.needs_edges = self.density is not None
        self.channels = layer.after.channels
        self.residual, self.agnostic_product = layer.residual, layer.agnostic_product
        self.skip = skip.to(dtype)
        self.product = ChannelMap.of(layer.product, _dims(layer.after.irreps)).to(dtype)
        self.program, self.coefficients = _polynomials(layer, dtype)
        if elements is not None and self.residual:
            every = torch.arange(elements.shape[1], device=elements.device)
            self.element_skip = ops.pad_channels(skip(elements, every), dtype, 2).to(dtype)

    def __call__(self, x: Tensor | None, pairs: Pairs, place: Interpolation | None, edges: Edges | None) -> Tensor:
        """Features (D, N, C) before the layer, None before the first, to those after it.

        Args:
            x: features.
            pairs: the pairs.
            place: radial functions of this layer from a table; None: exact ones.
            edges: basis functions; a layer with a table needs them only if `needs_edges`.
        """
        features = None if edges is None else edges.radial
        if self.gate is not None:
            assert edges is not None
            features = self.gate.pair(edges, pairs.species)
        message = self.message(x, pairs, place, features, None if edges is None else edges.envelope)
        if self.density is not None:
            assert features is not None and edges is not None
            density = self.density(features, edges, len(pairs.species))
            if self.gate is None:
                message = message / (density + 1)
            else:
                message = self.gate(x, message, density, pairs.species)
        return self._update(x, message, pairs.species)

    def _update(self, x: Tensor | None, message: Tensor, species: Tensor) -> Tensor:
        """Product and skip connection."""
        if not self.residual:
            message = self.skip(message, species)
        kinds = torch.zeros_like(species) if self.agnostic_product else species
        out = self.product(ops.symmetric_contraction(message, kinds, self.coefficients, self.program))
        if not self.residual:
            return out
        if x is None:
            return out + self.element_skip.index_select(1, species)
        return out + self.skip(x, species)


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
            self.element_residual = ops.pad_channels(residual(elements), dtype, 2).to(dtype)

    def __call__(self, x: Tensor | None, message: Tensor, density: Tensor, species: Tensor) -> Tensor:
        own = self.element_residual.index_select(1, species) if x is None else self.residual(x)
        message = message / (density * self.beta + self.alpha) + own
        scalars, gates, *blocks = message.split([1, self.n_gates, *self.dims])
        gated = [block * gate for block, gate in zip(blocks, sigmoid(gates).split(1), strict=True)]
        return self.mix.of_blocks([silu(scalars), *gated])


def _dims(irreps: Irreps) -> list[int]:
    return [ir.dim for ir in irreps]


def _polynomials(layer: Layer, dtype: torch.dtype) -> tuple[ops.ContractionProgram, Tensor]:
    """The products of a layer as one sparse polynomial, and the coefficients of its terms."""
    contraction = layer.contraction
    coefficients = contraction.program.coefficients([contraction.weights[name] for _, name in contraction.terms])
    return contraction.program, ops.pack_coefficients(ops.pad_channels(coefficients, dtype, 2).to(dtype))
