"""The messages of MACE by the compiled operators: features to send, radial functions, sums over edges, mixing."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mlip import ops
from mlip.models.compiled_maps import ChannelMap, in_precision
from mlip.nn.activation import SILU_GAIN
from mlip.nn.irreps import wigner_3j
from mlip.nn.message import Message
from mlip.nn.radial import NormalizedMLP, RadialMLP

#: Elements in a structure up to which the first layer is factored by element.
FEW_ELEMENTS = 4


class Pairs(NamedTuple):
    """What all layers know of the pairs."""

    neighbor: Tensor  # (E,)
    offsets: Tensor  # (N + 1,)
    harmonics: Tensor  # (E, dim_Y), of the vectors from center to neighbor
    species: Tensor  # (N,)
    present: Tensor  # (S,) the element indices that occur


class Interpolation(NamedTuple):
    """Radial functions from a table: where the distances lie in it."""

    weights: Tensor  # (E, 4)
    knot: Tensor  # (E,)
    table: Tensor


class CompiledMessage:
    """A `Message` and the map `up` of the features before it, both in float64.

    Args:
        message: the message.
        up: what is sent.
        norm: factor of the message.
        elements: features (1, Z, C) before the first layer, which depend on the elements only; None for the others.
        dtype: of the evaluation.
    """

    def __init__(
        self, message: Message, up: ChannelMap, norm: float, elements: Tensor | None, dtype: torch.dtype
    ) -> None:
        outputs = list(dict.fromkeys(out for out, _, _ in message.paths))
        paths = tuple((outputs.index(out), i, j) for out, i, j in message.paths)
        degrees = (tuple(ir.l for ir in irreps) for irreps in (message.irreps_in, message.harmonics, outputs))
        self.program, coupling = _program(*degrees, paths)
        self.degrees = self.program.compile_time()
        self.coupling = coupling.to(message.mix[0].device, dtype)
        self.hidden = Hidden(message.radial, dtype)
        # Channels of what is sent are filled up, path by path, in the radial functions and in the mixing.
        radial = last_matrix(message.radial).unflatten(1, (len(message.paths), message.channels))
        self.radial = ops.pad_channels(radial, dtype, 2).flatten(1).to(dtype)
        sources = [None if ir is None else outputs.index(ir) for ir in message.irreps_out]
        mix = [weight * (n * norm) for weight, n in zip(message.mix, message.norm, strict=True)]
        padded = [ops.pad_channels(w.unflatten(0, (-1, message.channels)), dtype, 1).flatten(0, 1) for w in mix]
        self.mix = ChannelMap(self.program.dims_out, message.dims_out, sources, padded).to(dtype)
        self.up = up.to(dtype)
        self.factors: ChannelMap | None = None
        if elements is not None:
            sent = up(elements)  # (D, Z, C)
            self.elements = ops.pad_channels(sent.transpose(0, 1), dtype, 2).to(dtype).contiguous()
            # While the parameters are trained, the matrices of all of many elements would cost more than they save.
            few = elements.shape[1] <= FEW_ELEMENTS or not elements.requires_grad
            if len(message.irreps_in) == 1 and few:
                factors = self._factors(message, radial, sent[0], mix)
                matrices = [ops.pad_channels(matrix, dtype, 2).to(dtype) for matrix in factors.matrices]
                self.factors = factors.with_matrices(matrices)

    def _factors(self, message: Message, radial: Tensor, features: Tensor, mix: list[Tensor]) -> ChannelMap:
        """Of a first message, with one path to each irrep, what comes after sums of harmonics times activations.

        Matrices (Z, h, C_out): the sum over c of radial[h, (path, c)] features[z, c] mix[c, C_out].
        """
        sources = self.mix.sources
        matrices = [
            (-1.0) ** message.harmonics[message.paths[k][2]].l
            * torch.einsum("hc,zc,cd->zhd", radial[:, k], features, weight)
            for k, weight in zip([k for k in sources if k is not None], mix, strict=True)
        ]
        of_harmonics = [None if k is None else message.paths[k][2] for k in sources]
        return ChannelMap(message.dims_y, message.dims_out, of_harmonics, matrices)

    def __call__(
        self,
        x: Tensor | None,
        pairs: Pairs,
        place: Interpolation | None,
        features: Tensor | None,
        envelope: Tensor | None,
    ) -> Tensor:
        """Messages (D, N, C_out).

        Args:
            x: features (D, N, C) of the atoms; None: those of their elements.
            pairs: the pairs.
            place: radial functions from a table; None: of the next arguments.
            features: input (E, n) of the radial network.
            envelope: (E, 1), if `features` do not contain it.
        """
        if place is None:
            assert features is not None
            activations = self.hidden(features, envelope)
            if x is None and self.factors is not None and len(pairs.present) <= FEW_ELEMENTS:
                return self._factored(pairs, activations)
        sent = self.elements[pairs.species] if x is None else self.up(x).transpose(0, 1).contiguous()
        coupling = ops.matmul(pairs.harmonics[:, : len(self.coupling)], self.coupling)
        graph = (pairs.neighbor, pairs.offsets)
        if place is None:
            exact = (sent, coupling, activations, self.radial, *graph)
            messages = (
                ops.message_exact(*exact, *self.degrees)
                if self.degrees
                else ops.message_exact_general(*exact, self.program)
            )
        else:
            table = (sent, coupling, *place, *graph)
            messages = (
                ops.message_interpolated(*table, *self.degrees)
                if self.degrees
                else ops.message_interpolated_general(*table, self.program)
            )
        blocks = ops.message_blocks(messages, len(sent), sent.shape[2], self.program)
        return self.mix.of_blocks(blocks)

    def _factored(self, pairs: Pairs, activations: Tensor) -> Tensor:
        """The first message with exact radial functions: sum the edges of each neighbor's element, then mix.

        The features of the neighbors depend on their elements only, so that the last matrix of the radial perceptron,
        these features and the mixing are one matrix per element and degree.
        """
        assert self.factors is not None
        present = pairs.present
        if len(present) > 1:
            own = (pairs.species[pairs.neighbor].unsqueeze(1) == present).to(activations.dtype)
            activations = (own.unsqueeze(2) * activations.unsqueeze(1)).flatten(1)
        collected = ops.neighbor_outer(pairs.harmonics[:, : len(self.coupling)], activations, pairs.offsets)
        matrices = [matrix[present].flatten(0, 1) for matrix in self.factors.matrices]
        return self.factors.with_matrices(matrices)(collected)


@lru_cache(maxsize=64)
def _program(
    of_features: tuple[int, ...],
    of_harmonics: tuple[int, ...],
    of_messages: tuple[int, ...],
    paths: tuple[tuple[int, int, int], ...],
) -> tuple[ops.MessageProgram, Tensor]:
    """The paths for the operators, and what turns harmonics into couplings, in float64."""
    program = ops.MessageProgram(of_features, of_harmonics, of_messages, paths)
    at_compile_time = program.compile_time()
    if at_compile_time:
        coupling = ops.coupling_matrix(*at_compile_time, wigner_3j)
    else:
        coupling = program.coupling_matrix(wigner_3j)
    # Y is taken of the vector from center to neighbor here, of the opposite one by the model.
    signs = [(-1.0) ** degree for degree in of_harmonics for _ in range(2 * degree + 1)]
    return program, torch.tensor(signs, dtype=torch.float64).unsqueeze(1) * coupling


class Hidden:
    """The radial network without its last layer."""

    def __init__(self, network: RadialMLP | NormalizedMLP, dtype: torch.dtype) -> None:
        self.network, self.weights = None, []
        if isinstance(network, NormalizedMLP):
            self.network = in_precision(network, dtype)
        else:
            scaled = [w / math.sqrt(len(w)) for w in network.weights]
            gains = [1.0] + [SILU_GAIN] * (len(scaled) - 1)
            self.weights = [(w * gain).to(dtype) for w, gain in zip(scaled, gains, strict=True)][:-1]

    def __call__(self, x: Tensor, envelope: Tensor | None) -> Tensor:
        """Activations (E, h) of the input (E, n), times the envelope (E, 1)."""
        if self.network is not None:
            x = self.network.hidden(x)
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)  # the last layer has a bias
        for weight in self.weights:
            x = torch.nn.functional.silu(ops.matmul(x, weight))  # its gain is in the next matrix
        return x if envelope is None else x * envelope


def last_matrix(network: RadialMLP | NormalizedMLP) -> Tensor:
    """Matrix (h, n) of the last layer of a radial network, for the activations of `Hidden`."""
    if isinstance(network, NormalizedMLP):
        return torch.cat([network.last.weight.T, network.last.bias.unsqueeze(0)])
    weights = list(network.weights)
    gain = SILU_GAIN if len(weights) > 1 else 1.0
    return weights[-1] * (gain / math.sqrt(len(weights[-1])))
