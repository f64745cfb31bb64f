"""The messages of MACE by the compiled operators: features to send, radial functions, sums over edges, mixing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mlip import ops
from mlip.models.compiled_maps import ChannelMap, CompiledMap
from mlip.models.compiled_radial import Hidden, last_matrix
from mlip.nn.irreps import wigner_3j
from mlip.nn.message import Message
from mlip.ops.tape import Pullback, Run, rule_of

#: Elements in a structure up to which the first layer is factored by element.
FEW_ELEMENTS = 4


class Pairs(NamedTuple):
    """What all layers know of the pairs."""

    ends: Tensor  # (2, E), center and neighbor
    neighbor: Tensor  # (E,)
    offsets: Tensor  # (N + 1,)
    harmonics: Tensor  # (E, dim_Y), of the vectors from center to neighbor
    elements: Tensor  # (N,) indices of the model's elements
    species: Tensor  # (N,) indices of the elements that the layers have weights of
    present: Tensor  # (S,) those that occur
    couplings: Mapping[ops.MessageProgram, Tensor]  # (E, K) each
    shared: Tensor | None  # (E,) the row of activations of each edge; None: it has its own


class Interpolation(NamedTuple):
    """Radial functions from a table: where the distances lie in it."""

    weights: Tensor  # (E, 4)
    knot: Tensor  # (E,)
    table: Tensor


class CompiledMessage:
    """A `Message`, the map `up` of the features before it and, of some layers, a map `then` after it, all in float64.

    Args:
        message: the message.
        up: what is sent.
        norm: factor of the message.
        then: map of the message by the center's element, or None.
        elements: features (1, Z, C) before the first layer, which depend on the elements only; None for the others.
        dtype: of the evaluation.
        trained: whether the parameters change at every step: products of them must cost little.
    """

    def __init__(
        self,
        message: Message,
        up: ChannelMap,
        norm: float,
        then: ChannelMap | None,
        elements: Tensor | None,
        dtype: torch.dtype,
        trained: bool,
    ) -> None:
        outputs = list(dict.fromkeys(out for out, _, _ in message.paths))
        paths = tuple((outputs.index(out), i, j) for out, i, j in message.paths)
        degrees = (tuple(ir.l for ir in irreps) for irreps in (message.irreps_in, message.harmonics, outputs))
        self.program, coupling = _program(*degrees, paths)
        self.degrees = self.program.compile_time()
        self.coupling = None if _is_identity(coupling) else coupling.to(message.mix[0].device, dtype)
        self.hidden = Hidden(message.radial, dtype)
        # Channels of what is sent are filled up, path by path, in the radial functions and in the mixing.
        radial = last_matrix(message.radial).unflatten(1, (len(message.paths), message.channels))
        signed = radial * path_signs(message).to(radial).unsqueeze(1)
        self.radial = ops.of_parameters(ops.pad_channels(signed, dtype, 2).flatten(1).to(dtype).contiguous())
        sources = [None if ir is None else outputs.index(ir) for ir in message.irreps_out]
        weights = [weight * (n * norm) for weight, n in zip(message.mix, message.norm, strict=True)]
        padded = [ops.pad_channels(w.unflatten(0, (-1, message.channels)), dtype, 1).flatten(0, 1) for w in weights]
        channels = [
            sum(out == k for out, _, _ in paths) * self.radial.shape[1] // len(paths) for k in range(len(outputs))
        ]
        mix = ChannelMap(self.program.dims_out, channels, message.dims_out, sources, padded)
        single = len(message.paths) == len(outputs)
        self.then = None
        if then is not None and single and not trained:
            mix = then.after(mix)  # as many numbers as `then` has itself
        elif then is not None:
            self.then = then.to(dtype)
        self.mix, self.up = mix.to(dtype), up.to(dtype)
        self.first: FirstMessage | None = None
        if elements is not None:
            sent = up.of_elements(elements)  # (D, Z, C)
            self.elements = ops.pad_channels(sent.transpose(0, 1), dtype, 2).to(dtype).contiguous()
            # While the parameters are trained, the matrices of all of many elements would cost more than they save.
            if len(message.irreps_in) == 1 and (elements.shape[1] <= FEW_ELEMENTS or not trained):
                self.first = FirstMessage(message, radial, sent[0], weights, then, dtype, trained)

    def bytes_of_radial(self, num_edges: int) -> int:
        """Memory of the radial functions of all edges."""
        return num_edges * self.radial.shape[1] * self.radial.element_size()

    def couple(self, run: Run, harmonics: Tensor) -> Tensor:
        """Couplings (E, K) of spherical harmonics (E, D); both are the same where the features are scalars."""
        used = leading_columns(run, harmonics, sum(self.program.dims_y))
        out: Tensor = used if self.coupling is None else run(ops.matmul, used, self.coupling)
        return out

    def __call__(
        self, run: Run, x: Tensor | None, pairs: Pairs, place: Interpolation | None, activations: Tensor | None
    ) -> Tensor:
        """Messages (D, N, C_out).

        Args:
            run: calls the operators.
            x: features (D, N, C) of the atoms; None: those of their elements.
            pairs: the pairs.
            place: radial functions from a table; None: of the next argument.
            activations: (E, h) of the radial network's last but one layer, or one row for the edges that share it.
        """
        few = self.first is not None and x is None and len(pairs.present) <= FEW_ELEMENTS
        shared = pairs.shared if activations is not None else None
        if activations is not None and shared is not None and (few or self.degrees is None):
            activations, shared = run(torch.index_select, activations, 0, shared), None
        if few and activations is not None:
            assert self.first is not None
            return self.first(run, pairs, activations)
        if x is None:
            sent = ops.of_parameters(self.elements.index_select(0, pairs.species))
        else:
            sent = run(atom_major, self.up(run, x))
        coupling = pairs.couplings[self.program]
        graph = (pairs.neighbor, pairs.offsets)
        if shared is not None and self.degrees is not None:
            radial = run(ops.matmul, activations, self.radial)
            blocks = run(ops.message_rows, sent, coupling, radial, shared, *graph, *self.degrees)
        elif place is None:
            exact = (sent, coupling, activations, self.radial, *graph)
            blocks = (
                run(ops.message_exact, *exact, *self.degrees)
                if self.degrees
                else run(ops.message_exact_general, *exact, self.program)
            )
        else:
            table = (sent, coupling, *place, *graph)
            blocks = (
                run(ops.message_interpolated, *table, *self.degrees)
                if self.degrees
                else run(ops.message_interpolated_general, *table, self.program)
            )
        out = self.mix(run, blocks, pairs.species)
        return out if self.then is None else self.then(run, out, pairs.species)


class FirstMessage:
    """The first message with exact radial functions: sum the edges of each neighbor's element, then mix.

    The features of the neighbors depend on their elements only, so that the last matrix of the radial perceptron,
    these features and the mixing are one matrix per element and degree.

    Args:
        message: the message, with one path to each irrep.
        radial: (h, paths, C), the last radial matrix.
        features: (Z, C), what each element sends.
        mix: matrices of the mixing.
        then: as of `CompiledMessage`.
        dtype: of the evaluation.
        trained: as of `CompiledMessage`.
    """

    def __init__(
        self,
        message: Message,
        radial: Tensor,
        features: Tensor,
        mix: list[Tensor],
        then: ChannelMap | None,
        dtype: torch.dtype,
        trained: bool,
    ) -> None:
        path_to = {out: k for k, (out, _, _) in enumerate(message.paths)}
        self._paths = [None if ir is None else path_to[ir] for ir in message.irreps_out]
        self._message, self._radial, self._features, self._mix = message, radial, features, mix
        self._then, self._dtype, self._trained = then, dtype, trained
        self._maps: dict[tuple[int, ...], tuple[CompiledMap, CompiledMap | None]] = {}

    def __call__(self, run: Run, pairs: Pairs, activations: Tensor) -> Tensor:
        """Messages (D, N, C_out) from activations (E, h)."""
        present, species = pairs.present, pairs.species
        if len(present) > 1:
            own = (species[pairs.neighbor].unsqueeze(1) == present).to(activations.dtype)
            activations = run(_by_element, activations, own)
            species = torch.searchsorted(present, species)
        harmonics = leading_columns(run, pairs.harmonics, sum(self._message.dims_y))
        collected = run(ops.neighbor_outer, harmonics, activations, pairs.offsets)
        mix, then = self._of(present)
        out = mix(run, collected, species)
        return out if then is None else then(run, out, species)

    def _of(self, present: Tensor) -> tuple[CompiledMap, CompiledMap | None]:
        """The maps for structures of these elements (S,)."""
        if self._trained:
            return self._make(present)
        key = tuple(present.tolist())
        made = self._maps.get(key)
        if made is None:
            made = self._make(present)
            self._maps = {**dict(list(self._maps.items())[-15:]), key: made}  # other threads may read it
        return made

    def _make(self, present: Tensor) -> tuple[CompiledMap, CompiledMap | None]:
        message, features = self._message, self._features[present]
        harmonics = [None if k is None else message.paths[k][2] for k in self._paths]
        matrices = [
            (-1.0) ** message.harmonics[message.paths[k][2]].l
            * ops.matmul(self._radial[:, k] * features.unsqueeze(1), weight).flatten(0, 1)
            for k, weight in zip([k for k in self._paths if k is not None], self._mix, strict=True)
        ]
        units = len(present) * len(self._radial)
        mix = ChannelMap(message.dims_y, [units] * len(message.dims_y), message.dims_out, harmonics, matrices)
        if self._then is None:
            return mix.to(self._dtype, pad_rows=False), None
        then = self._then.with_matrices([matrix[present] for matrix in self._then.matrices])
        if self._trained:
            return mix.to(self._dtype, pad_rows=False), then.to(self._dtype)
        return then.after(mix).to(self._dtype, pad_rows=False), None


def leading_columns(run: Run, x: Tensor, count: int) -> Tensor:
    """The first columns of (E, D)."""
    return x if x.shape[1] == count else run(torch.narrow, x, 1, 0, count)


def _by_element(activations: Tensor, own: Tensor) -> Tensor:
    """(E, h) and one-hot (E, S) to (E, S h)."""
    return (own.unsqueeze(2) * activations.unsqueeze(1)).flatten(1)


def atom_major(x: Tensor) -> Tensor:
    """Features (D, N, C) to (N, D, C)."""
    return x.transpose(0, 1).contiguous()


@rule_of(atom_major)
def _atom_major(needed: Sequence[bool], x: Tensor) -> tuple[Tensor, Pullback]:
    return atom_major(x), lambda g: (atom_major(g),)


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
    return program, coupling


def _is_identity(matrix: Tensor) -> bool:
    square = matrix.shape[0] == matrix.shape[1]
    return square and torch.allclose(matrix, torch.eye(len(matrix), dtype=matrix.dtype), rtol=0, atol=1e-14)


def path_signs(message: Message) -> Tensor:
    """Factor of each path: Y is taken of the vector from center to neighbor here, of the opposite one by the model."""
    return torch.tensor([(-1.0) ** message.harmonics[j].l for _, _, j in message.paths], dtype=torch.float64)
