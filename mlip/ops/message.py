"""Messages of equivariant networks in one pass over the edges: eq. 8 of the MACE paper (arXiv:2206.07697).

For features x of degree l1 <= ``hidden``, spherical harmonics Y of degree l2 <= ``harmonics`` and messages of degree
l3 <= ``harmonics``, all of natural parity:

    out[l3][m3, i, (p, c)] = sum over edges e of center i, m1:  M[e, (p, m3, m1)] * R[e, p, c] * x[neighbor[e], m1, c]

in one tensor, the blocks of the degrees l3 one after the other (:func:`message_blocks`), with M = Y @
:func:`coupling_matrix`. Paths p = (l1, l2, l3) have the order of :func:`message_paths` everywhere but in the columns of
M. Edges are sorted by center: those of center i are ``offsets[i]:offsets[i + 1]``.

The compiled operators (CPU, float32 and float64, whole multiples of 64 bytes of channels, hidden <= 2, harmonics 1 to
3) never store an (edges x paths x channels) array and have derivatives of any order; all else runs in plain torch.
Their results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import runs_compiled
from mlip.ops.multilinear import register_multilinear
from mlip.ops.segment import segment_sum

if TYPE_CHECKING:
    from mlip.ops.message_general import MessageProgram

MAX_HIDDEN, MAX_HARMONICS = 2, 3  # of the compiled kernels


def message_paths(hidden: int, harmonics: int) -> list[tuple[int, int, int]]:
    """All paths (l1, l2, l3) of natural parity, sorted by (l3, l1, l2): the order of radial columns and of mixing."""
    return [
        (l1, l2, l3)
        for l3 in range(harmonics + 1)
        for l1 in range(hidden + 1)
        for l2 in range(abs(l1 - l3), min(harmonics, l1 + l3) + 1, 2)
    ]


def _columns(hidden: int, harmonics: int) -> dict[tuple[int, int, int], slice]:
    """Columns of the coupling of each path: sorted by (l1, l3, l2), (m3, m1) each, but one where l2 = 0."""
    where, start = {}, 0
    for path in sorted(message_paths(hidden, harmonics), key=lambda p: (p[0], p[2], p[1])):
        size = 1 if path[1] == 0 else (2 * path[0] + 1) * (2 * path[2] + 1)
        where[path] = slice(start, start + size)
        start += size
    return where


def coupling_matrix(hidden: int, harmonics: int, wigner_3j: Callable[[int, int, int], Tensor]) -> Tensor:
    """Constant matrix ((harmonics + 1)^2, K) in float64 that turns spherical harmonics into the coupling M.

    Args:
        hidden: largest degree of the features.
        harmonics: largest degree of the spherical harmonics and of the messages.
        wigner_3j: of degrees (l1, l2, l3) to the symbols (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) in float64, as
            `mlip.nn.irreps.wigner_3j`. The couplings are sqrt(2 l3 + 1) times these.
    """
    where = _columns(hidden, harmonics)
    matrix = torch.zeros((harmonics + 1) ** 2, max(s.stop for s in where.values()), dtype=torch.float64)
    for (l1, l2, l3), columns in where.items():
        coupling = (wigner_3j(l1, l2, l3) * math.sqrt(2 * l3 + 1)).permute(1, 2, 0)  # m2, m3, m1
        if l2 == 0:  # the identity: one number is enough
            coupling = coupling[:, :1, :1]
        matrix[l2**2 : (l2 + 1) ** 2, columns] = coupling.flatten(1)
    return matrix


def message_blocks(
    messages: Tensor, num_atoms: int, channels: int, paths: MessageProgram | tuple[int, int]
) -> list[Tensor]:
    """The blocks (2 l3 + 1, N, paths into it * C) of messages in one dimension, as views.

    Args:
        messages: from a message operator.
        num_atoms: N.
        channels: C.
        paths: the program, or `hidden` and `harmonics`.
    """
    if isinstance(paths, tuple):
        of_paths = [l3 for _, _, l3 in message_paths(*paths)]
        counts = [of_paths.count(l3) for l3 in range(paths[1] + 1)]
        dims = [2 * l3 + 1 for l3 in range(paths[1] + 1)]
    else:
        counts, dims = paths.counts, paths.dims_out
    shapes = [(dim, num_atoms, count * channels) for dim, count in zip(dims, counts, strict=True)]
    parts = messages.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def join_blocks(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks as :func:`message_blocks` gives them, in one dimension."""
    return torch.cat([block.flatten() for block in blocks])


def pack_table(values: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """Table of radial functions for :func:`message_interpolated`.

    Args:
        values: (knots, paths, C) at the knots.
        slopes: derivatives times the distance of knots, as values.
        dtype: of the table; values and slopes had better be more precise.

    Returns:
        (knots, C / B, paths, 3, B) with B channels in 64 bytes (B = C if that does not divide C): value, slope, and
        the difference to the value at the next knot, which keeps its digits when values and slopes are rounded: the
        derivative of the interpolant is made of differences.
    """
    return join_table(arrange_channels(values, dtype), arrange_channels(slopes, dtype), dtype)


def arrange_channels(functions: Tensor, dtype: torch.dtype) -> Tensor:
    """Functions (..., paths, C) as they lie in a table: (..., C / B, paths, B)."""
    channels, lanes = functions.shape[-1], 64 // dtype.itemsize
    lanes = channels if channels % lanes else lanes
    return functions.unflatten(-1, (channels // lanes, lanes)).movedim(-3, -2)


def join_table(values: Tensor, slopes: Tensor, dtype: torch.dtype, spacing: float = 1.0) -> Tensor:
    """The table of arranged values and slopes (knots, C / B, paths, B), the latter times `spacing`."""
    table: Tensor = _Joined.apply(values, slopes, dtype, spacing)
    return table


class _Joined(torch.autograd.Function):
    """In training a table is as large as all messages: each of its numbers is written once, and read once."""

    @staticmethod
    def forward(values: Tensor, slopes: Tensor, dtype: torch.dtype, spacing: float) -> Tensor:
        table = values.new_empty((*values.shape[:3], 3, values.shape[3]), dtype=dtype)
        table[:, :, :, 0] = values
        torch.mul(slopes, spacing, out=table[:, :, :, 1])
        torch.sub(values[1:], values[:-1], out=table[:-1, :, :, 2])
        table[-1:, :, :, 2] = 0
        return table

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, slopes, _, ctx.spacing = inputs
        ctx.dtypes = values.dtype, slopes.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_value, by_slope = ctx.dtypes
        grad_values = grad[:, :, :, 0].to(by_value, copy=True)
        grad_values[:-1] -= grad[:-1, :, :, 2]
        grad_values[1:] += grad[:-1, :, :, 2]
        return grad_values, grad[:, :, :, 1].to(by_slope) * ctx.spacing, None, None


def message_interpolated(
    x: Tensor,
    coupling: Tensor,
    weights: Tensor,
    knot: Tensor,
    table: Tensor,
    neighbor: Tensor,
    offsets: Tensor,
    hidden: int,
    harmonics: int,
) -> Tensor:
    """Messages with radial functions interpolated from a table (cubic Hermite).

    R[e] = weights[e, 0] v[knot] + weights[e, 1] s[knot] + weights[e, 2] (v[knot + 1] - v[knot]) + weights[e, 3]
    s[knot + 1] with the values v and slopes s given to :func:`pack_table`; weights as of `cubic_weights`.

    Args:
        x: (N, (hidden + 1)^2, C) features of the neighbors.
        coupling: (E, K), spherical harmonics (E, (harmonics + 1)^2) times :func:`coupling_matrix`.
        weights: (E, 4).
        knot: (E,) int64.
        table: from :func:`pack_table`. Its derivative costs nearly as much as all others together: detach it where only
            forces are wanted.
        neighbor: (E,) int64.
        offsets: (N + 1,) int64.
        hidden: largest degree of x.
        harmonics: largest degree of harmonics and messages.

    Returns:
        The messages of all degrees l3, (2 l3 + 1, N, paths into l3 * C) each, in one dimension: see `message_blocks`.
    """
    if fits("message_interpolated", x, hidden, harmonics):
        return torch.ops.mlip.message_interpolated(
            x.contiguous(),
            coupling.contiguous(),
            weights.contiguous(),
            table.contiguous(),
            knot,
            neighbor,
            offsets,
            hidden,
            harmonics,
        )
    radial = interpolated_radial(weights, knot, table)
    return message_reference(x, coupling, radial, neighbor, offsets, hidden, harmonics)


def message_exact(
    x: Tensor,
    coupling: Tensor,
    activations: Tensor,
    matrix: Tensor,
    neighbor: Tensor,
    offsets: Tensor,
    hidden: int,
    harmonics: int,
) -> Tensor:
    """Messages with radial functions R = activations @ matrix, the last layer of a perceptron.

    Args:
        x: (N, (hidden + 1)^2, C) features of the neighbors.
        coupling: (E, K), spherical harmonics (E, (harmonics + 1)^2) times :func:`coupling_matrix`.
        activations: (E, units) of the last but one layer.
        matrix: (units, paths * C). Its derivative costs as much as all others together: detach it where only
            forces are wanted.
        neighbor: (E,) int64.
        offsets: (N + 1,) int64.
        hidden: largest degree of x.
        harmonics: largest degree of harmonics and messages.

    Returns:
        The messages of all degrees l3, (2 l3 + 1, N, paths into l3 * C) each, in one dimension: see `message_blocks`.
    """
    if fits("message_exact", x, hidden, harmonics):
        return torch.ops.mlip.message_exact(
            x.contiguous(),
            coupling.contiguous(),
            activations.contiguous(),
            matrix.contiguous(),
            neighbor,
            offsets,
            hidden,
            harmonics,
        )
    radial = (activations @ matrix).unflatten(1, (-1, x.shape[2]))
    return message_reference(x, coupling, radial, neighbor, offsets, hidden, harmonics)


def message_rows(
    x: Tensor,
    coupling: Tensor,
    radial: Tensor,
    row: Tensor,
    neighbor: Tensor,
    offsets: Tensor,
    hidden: int,
    harmonics: int,
) -> Tensor:
    """Messages with radial functions R[e] = radial[row[e]] that edges share, as both directions of a pair of atoms do.

    The derivative by `radial` takes memory for (edges, paths, C) numbers.

    Args:
        x: (N, (hidden + 1)^2, C) features of the neighbors.
        coupling: (E, K), spherical harmonics (E, (harmonics + 1)^2) times :func:`coupling_matrix`.
        radial: (U, paths * C).
        row: (E,) int64.
        neighbor: (E,) int64.
        offsets: (N + 1,) int64.
        hidden: largest degree of x.
        harmonics: largest degree of harmonics and messages.

    Returns:
        The messages of all degrees l3, (2 l3 + 1, N, paths into l3 * C) each, in one dimension: see `message_blocks`.
    """
    if fits(None, x, hidden, harmonics):
        return torch.ops.mlip.message_rows(
            *(t.contiguous() for t in (x, coupling, radial, row)), neighbor, offsets, hidden, harmonics
        )
    each = radial[row].unflatten(1, (-1, x.shape[2]))
    return message_reference(x, coupling, each, neighbor, offsets, hidden, harmonics)


def neighbor_outer(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    """Sums of outer products over the edges of a center: out[m, i, k] = sum over e of left[e, m] * right[e, k].

    The first layer of MACE with exact radial functions, whose features depend on the element only, is this with
    spherical harmonics and activations, followed by one matrix product.

    Args:
        left: (E, D).
        right: (E, K), of the type of left.
        offsets: (N + 1,) int64.

    Returns:
        (D, N, K).
    """
    if runs_compiled(left, right, cuda="neighbor_outer"):
        return torch.ops.mlip.neighbor_outer(left.contiguous(), right.contiguous(), offsets)
    center = edge_centers(offsets)
    return segment_sum(left[:, :, None] * right[:, None], center, offsets.shape[0] - 1).movedim(1, 0).contiguous()


def interpolated_radial(weights: Tensor, knot: Tensor, table: Tensor) -> Tensor:
    """Radial functions (E, paths, C) from a table of :func:`pack_table`, in plain torch."""
    entries = table.permute(0, 2, 3, 1, 4).flatten(3)  # knots, paths, value or slope or difference, channels
    near = torch.cat([entries[knot], entries[knot + 1, :, 1:2]], dim=2)
    return (weights[:, None, :, None] * near).sum(2)


def edge_centers(offsets: Tensor) -> Tensor:
    """Center of each edge, (E,)."""
    return torch.repeat_interleave(torch.arange(offsets.shape[0] - 1, device=offsets.device), offsets.diff())


def message_reference(
    x: Tensor, coupling: Tensor, radial: Tensor, neighbor: Tensor, offsets: Tensor, hidden: int, harmonics: int
) -> Tensor:
    """Messages in plain torch, for any degrees, with radial functions (E, paths, C); see the other arguments above."""
    center = edge_centers(offsets)
    features = x.index_select(0, neighbor).split([2 * l1 + 1 for l1 in range(hidden + 1)], dim=1)
    where = _columns(hidden, harmonics)
    collected: list[list[Tensor]] = [[] for _ in range(harmonics + 1)]
    for path, r in zip(message_paths(hidden, harmonics), radial.unbind(1), strict=True):
        l1, l2, l3 = path
        m = coupling[:, where[path]]
        product = m[:, :, None] * features[l1] if l2 == 0 else m.unflatten(1, (2 * l3 + 1, 2 * l1 + 1)) @ features[l1]
        collected[l3].append(segment_sum(product * r[:, None], center, x.shape[0]).movedim(1, 0))
    return join_blocks([torch.cat(parts, dim=2) for parts in collected])


def fits(operator: str | None, x: Tensor, hidden: int, harmonics: int) -> bool:
    """Whether the compiled kernels can do this."""
    return runs_compiled(x, cuda=operator) and has_kernel(x, hidden, harmonics)


def has_kernel(x: Tensor, hidden: int, harmonics: int) -> bool:
    """Whether there are kernels for these degrees and channels."""
    return (
        x.shape[2] > 0
        and x.shape[2] * x.element_size() % 64 == 0
        and hidden <= MAX_HIDDEN
        and 1 <= harmonics <= MAX_HARMONICS
        and hidden <= harmonics
    )


def gradients_fake(linear: Sequence[Tensor], first: bool, last: bool = True) -> tuple[Tensor, ...]:
    """What the backward operators give: gradients of the arguments, of the first and of the last one if wanted."""
    wanted = (first, *[True] * (len(linear) - 2), last)
    return tuple(torch.empty_like(a) if want else a.new_empty(0) for a, want in zip(linear, wanted, strict=True))


def _messages_fake(x: Tensor, hidden: int, harmonics: int) -> Tensor:
    return x.new_empty(sum(2 * l3 + 1 for _, _, l3 in message_paths(hidden, harmonics)) * x.shape[0] * x.shape[2])


if _extension.compiled:

    @torch.library.register_fake("mlip::message_interpolated")
    def _interpolated_fake(x, coupling, weights, table, knot, neighbor, offsets, hidden, harmonics):  # type: ignore[no-untyped-def]
        return _messages_fake(x, hidden, harmonics)

    @torch.library.register_fake("mlip::message_interpolated_backward")
    def _interpolated_backward_fake(*args):  # type: ignore[no-untyped-def]
        return gradients_fake(args[1:5], args[-2], args[-1])

    @torch.library.register_fake("mlip::message_exact")
    def _exact_fake(x, coupling, activations, matrix, neighbor, offsets, hidden, harmonics):  # type: ignore[no-untyped-def]
        return _messages_fake(x, hidden, harmonics)

    @torch.library.register_fake("mlip::message_exact_backward")
    def _exact_backward_fake(*args):  # type: ignore[no-untyped-def]
        return gradients_fake(args[1:5], args[-2], args[-1])

    @torch.library.register_fake("mlip::message_rows")
    def _rows_fake(x, coupling, radial, row, neighbor, offsets, hidden, harmonics):  # type: ignore[no-untyped-def]
        return _messages_fake(x, hidden, harmonics)

    @torch.library.register_fake("mlip::message_rows_backward")
    def _rows_backward_fake(*args):  # type: ignore[no-untyped-def]
        return gradients_fake(args[1:4], args[-1])

    @torch.library.register_fake("mlip::neighbor_outer")
    def _outer_fake(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
        return left.new_empty(left.shape[1], offsets.shape[0] - 1, right.shape[1])

    @torch.library.register_fake("mlip::neighbor_outer_backward")
    def _outer_backward_fake(grad: Tensor, left: Tensor, right: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(left), torch.empty_like(right)

    register_multilinear("message_interpolated", linear=4, outputs=1, optional=(0, 3))
    register_multilinear("message_exact", linear=4, outputs=1, optional=(0, 3))
    register_multilinear("message_rows", linear=3, outputs=1, optional=(0,))
    register_multilinear("neighbor_outer", linear=2, outputs=1)
