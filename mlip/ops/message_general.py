"""Messages of any irreps: as :mod:`mlip.ops.message`, with paths that are data instead of compile-time constants.

Features, harmonics and messages may be of any degrees and parities up to l = 11; paths are listed in a
:class:`MessageProgram`. The compiled operators (CPU, float32 and float64, whole multiples of 64 bytes of channels)
never store an (edges x paths x channels) array and have derivatives of any order; all else runs in plain torch. Their
results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import runs_compiled
from mlip.ops.message import (
    MAX_HARMONICS,
    MAX_HIDDEN,
    edge_centers,
    gradients_fake,
    interpolated_radial,
    join_blocks,
    message_paths,
)
from mlip.ops.multilinear import register_multilinear
from mlip.ops.segment import segment_sum


class MessagePath(NamedTuple):
    """One product of features and harmonics: `block` is the message it goes to; degrees of features and harmonics."""

    block: int
    features: int
    harmonics: int


class MessageProgram:
    """Paths of messages, for the compiled operators and for plain torch.

    Args:
        degrees_in: of the irreps of x.
        degrees_y: of the spherical harmonics.
        degrees_out: of the messages.
        paths: (message, irrep of x, harmonic), indices into these lists; sorted by the message, each of which has one
            at least.

    Attributes:
        dims_out: components of each message.
        counts: paths into each message.
        rows: numbers of all messages for each atom and channel.
        columns: where each path's columns of the coupling are: (m3, m1), but one where the harmonic is Y_00.
        table: (paths, 5) int64, what the compiled operators read.
    """

    def __init__(
        self,
        degrees_in: Sequence[int],
        degrees_y: Sequence[int],
        degrees_out: Sequence[int],
        paths: Sequence[tuple[int, int, int]],
    ) -> None:
        self.paths = [MessagePath(*path) for path in paths]
        self.degrees_in, self.degrees_y, self.degrees_out = list(degrees_in), list(degrees_y), list(degrees_out)
        self.dims_in, self.dims_y, self.dims_out = (
            [2 * degree + 1 for degree in degrees] for degrees in (degrees_in, degrees_y, degrees_out)
        )
        self.counts = [sum(path.block == block for path in self.paths) for block in range(len(self.dims_out))]
        self.columns: list[slice] = []
        entries, stop = [], 0
        for block, i, j in self.paths:
            n1, n3, identity = self.dims_in[i], self.dims_out[block], self.degrees_y[j] == 0
            start, stop = stop, stop + (1 if identity else n1 * n3)
            self.columns.append(slice(start, stop))
            entries.append([sum(self.dims_in[:i]), n1, n3, block, int(identity)])
        self.rows = sum(self.dims_out[path.block] for path in self.paths)
        self.table = torch.tensor(entries)

    def compile_time(self) -> tuple[int, int] | None:
        """`hidden` and `harmonics` of `mlip.ops.message` if its kernels have these very paths."""
        hidden, harmonics = len(self.degrees_in) - 1, len(self.degrees_y) - 1
        named = [(self.degrees_in[i], self.degrees_y[j], self.degrees_out[block]) for block, i, j in self.paths]
        covered = hidden <= MAX_HIDDEN and 1 <= harmonics <= MAX_HARMONICS and hidden <= harmonics
        ascending = self.degrees_in == list(range(hidden + 1)) and self.degrees_y == list(range(harmonics + 1))
        return (hidden, harmonics) if covered and ascending and named == message_paths(hidden, harmonics) else None

    def coupling_matrix(self, wigner_3j: Callable[[int, int, int], Tensor]) -> Tensor:
        """Constant matrix (components of harmonics, K) in float64; see `mlip.ops.message.coupling_matrix`."""
        matrix = torch.zeros(sum(self.dims_y), self.columns[-1].stop, dtype=torch.float64)
        for (block, i, j), columns in zip(self.paths, self.columns, strict=True):
            l1, l2, l3 = self.degrees_in[i], self.degrees_y[j], self.degrees_out[block]
            coupling = (wigner_3j(l1, l2, l3) * math.sqrt(2 * l3 + 1)).permute(1, 2, 0)  # m2, m3, m1
            if l2 == 0:  # the identity: one number is enough
                coupling = coupling[:, :1, :1]
            first = sum(self.dims_y[:j])
            matrix[first : first + 2 * l2 + 1, columns] = coupling.flatten(1)
        return matrix


def message_interpolated_general(
    x: Tensor,
    coupling: Tensor,
    weights: Tensor,
    knot: Tensor,
    table: Tensor,
    neighbor: Tensor,
    offsets: Tensor,
    program: MessageProgram,
) -> Tensor:
    """Messages with radial functions interpolated from a table: `mlip.ops.message.message_interpolated` for any paths.

    Args:
        x: (N, D, C) features of the neighbors.
        coupling: (E, K), spherical harmonics times the program's coupling matrix.
        weights: (E, 4) of the cubic Hermite polynomials.
        knot: (E,) int64.
        table: from `pack_table`, in the order of the paths. Its derivative costs nearly as much as
            all others together: detach it where only forces are wanted.
        neighbor: (E,) int64.
        offsets: (N + 1,) int64.
        program: the paths.

    Returns:
        The messages of the program, (2 l3 + 1, N, paths into it * C) each, in one dimension: see `message_blocks`.
    """
    if fits(x):
        tensors = (x.contiguous(), coupling.contiguous(), weights.contiguous(), table.contiguous(), knot)
        return torch.ops.mlip.message_interpolated_general(*tensors, neighbor, offsets, program.table, program.rows)
    radial = interpolated_radial(weights, knot, table)
    return message_general_reference(x, coupling, radial, neighbor, offsets, program)


def message_exact_general(
    x: Tensor,
    coupling: Tensor,
    activations: Tensor,
    matrix: Tensor,
    neighbor: Tensor,
    offsets: Tensor,
    program: MessageProgram,
) -> Tensor:
    """Messages with radial functions activations @ matrix: `mlip.ops.message.message_exact` for any paths.

    Args:
        x: (N, D, C) features of the neighbors.
        coupling: (E, K), spherical harmonics times the program's coupling matrix.
        activations: (E, units).
        matrix: (units, paths * C).
        neighbor: (E,) int64.
        offsets: (N + 1,) int64.
        program: the paths.

    Returns:
        The messages of the program, (2 l3 + 1, N, paths into it * C) each, in one dimension: see `message_blocks`.
    """
    if fits(x):
        tensors = (x.contiguous(), coupling.contiguous(), activations.contiguous(), matrix.contiguous())
        return torch.ops.mlip.message_exact_general(*tensors, neighbor, offsets, program.table, program.rows)
    radial = (activations @ matrix).unflatten(1, (-1, x.shape[2]))
    return message_general_reference(x, coupling, radial, neighbor, offsets, program)


def message_general_reference(
    x: Tensor, coupling: Tensor, radial: Tensor, neighbor: Tensor, offsets: Tensor, program: MessageProgram
) -> Tensor:
    """Messages in plain torch, with radial functions (E, paths, C)."""
    center = edge_centers(offsets)
    features = x.index_select(0, neighbor).split(program.dims_in, dim=1)
    collected: list[list[Tensor]] = [[] for _ in program.dims_out]
    for (block, i, j), columns, r in zip(program.paths, program.columns, radial.unbind(1), strict=True):
        m = coupling[:, columns]
        if program.degrees_y[j] == 0:
            product = m[:, :, None] * features[i]
        else:
            product = m.unflatten(1, (program.dims_out[block], program.dims_in[i])) @ features[i]
        collected[block].append(segment_sum(product * r[:, None], center, x.shape[0]).movedim(1, 0))
    return join_blocks([torch.cat(parts, dim=2) for parts in collected])


def fits(x: Tensor, cuda: str | None = None) -> bool:
    """Whether the compiled kernels take arrays (..., ..., C) like this one: whole blocks of channels.

    Args:
        x: the array.
        cuda: name of the operator, if it takes arrays on a CUDA device too.
    """
    return runs_compiled(x, cuda=cuda) and x.shape[2] > 0 and x.shape[2] * x.element_size() % 64 == 0


if _extension.compiled:

    def _fake(*args):  # type: ignore[no-untyped-def]
        x, rows = args[0], args[-1]
        return x.new_empty(rows * x.shape[0] * x.shape[2])

    torch.library.register_fake("mlip::message_interpolated_general", _fake)
    torch.library.register_fake("mlip::message_exact_general", _fake)

    @torch.library.register_fake("mlip::message_interpolated_general_backward")
    def _interpolated_backward_fake(*args):  # type: ignore[no-untyped-def]
        return gradients_fake(args[1:5], args[-2], args[-1])

    @torch.library.register_fake("mlip::message_exact_general_backward")
    def _exact_backward_fake(*args):  # type: ignore[no-untyped-def]
        return gradients_fake(args[1:5], args[-2], args[-1])

    register_multilinear("message_interpolated_general", linear=4, outputs=1, optional=(0, 3))
    register_multilinear("message_exact_general", linear=4, outputs=1, optional=(0, 3))
