"""Rules of the operators for the tape: the compiled operators called as they are, without autograd around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.contraction_program import ContractionProgram
from mlip.ops.dispatch import raw
from mlip.ops.edges import edge_vectors
from mlip.ops.interpolation import cubic_weights
from mlip.ops.irreps_linear import irreps_linear
from mlip.ops.matmul import matmul
from mlip.ops.message import has_kernel, message_exact, message_interpolated, neighbor_outer
from mlip.ops.message_general import fits as fits_general
from mlip.ops.message_general import message_exact_general, message_interpolated_general
from mlip.ops.spherical_harmonics import COMPILED_DEGREE, spherical_harmonics
from mlip.ops.symmetric_contraction import symmetric_contraction
from mlip.ops.tape import Pullback, by_autograd, rule_of

Flags = Sequence[bool]


def suits(x: Tensor) -> bool:
    """Whether there are kernels for the device and precision of a tensor."""
    return _extension.compiled and x.is_cpu and x.dtype in (torch.float64, torch.float32)


@rule_of(edge_vectors)
def _edge_vectors(
    needed: Flags, positions: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor
) -> tuple[Tensor, Pullback]:
    if not suits(positions):
        return by_autograd(edge_vectors, needed, positions, cell, edge_index, edge_shift, batch)
    edges = (edge_index.contiguous(), edge_shift.contiguous(), batch.contiguous())
    vectors = raw("edge_vectors")(positions.contiguous(), cell.contiguous(), *edges)
    return vectors, lambda g: raw("edge_vectors_backward")(g.contiguous(), *edges, len(cell))


@rule_of(spherical_harmonics)
def _spherical_harmonics(needed: Flags, vectors: Tensor, l_max: int) -> tuple[tuple[Tensor, Tensor], Pullback]:
    if l_max > COMPILED_DEGREE or not suits(vectors):
        return by_autograd(spherical_harmonics, needed, vectors, l_max)
    vectors = vectors.contiguous()
    harmonics, length = raw("spherical_harmonics")(vectors, l_max)

    def pullback(of_harmonics: Tensor | None, of_length: Tensor | None) -> Sequence[Tensor]:
        count = len(vectors)
        of_harmonics = vectors.new_zeros(count, (l_max + 1) ** 2) if of_harmonics is None else of_harmonics.contiguous()
        of_length = vectors.new_zeros(count) if of_length is None else of_length.contiguous()
        return (raw("spherical_harmonics_backward")(of_harmonics, of_length, vectors, l_max),)

    return (harmonics, length), pullback


@rule_of(cubic_weights)
def _cubic_weights(needed: Flags, r: Tensor, spacing: float, knots: int) -> tuple[tuple[Tensor, Tensor], Pullback]:
    if not suits(r):
        return by_autograd(cubic_weights, needed, r, spacing, knots)
    r = r.contiguous()
    out = raw("cubic_weights")(r, spacing, knots, 0)
    return out, lambda g, _: (raw("cubic_weights_backward")(g.contiguous(), r, spacing, knots, 1),)


@rule_of(symmetric_contraction)
def _symmetric_contraction(
    needed: Flags, features: Tensor, species: Tensor, coefficients: Tensor, program: ContractionProgram
) -> tuple[Tensor, Pullback]:
    compiled = suits(features) and program.compiles and coefficients.dim() == 4
    if needed[2] or not compiled or coefficients.shape[3] * features.element_size() != 64:
        return by_autograd(symmetric_contraction, needed, features, species, coefficients, program)
    arguments = (features.contiguous(), species.contiguous(), coefficients.contiguous(), program.table)
    out = raw("symmetric_contraction")(*arguments, program.dim_out)
    return out, lambda g: (raw("symmetric_contraction_backward")(g.contiguous(), *arguments),)


@rule_of(matmul)
def _matmul(needed: Flags, x: Tensor, matrix: Tensor) -> tuple[Tensor, Pullback]:
    if not suits(x) or x.dtype != matrix.dtype:
        return by_autograd(matmul, needed, x, matrix)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    out, pullback = _multilinear("matmul", 2, (0, 1), needed, rows, matrix.contiguous())

    def shaped(g: Tensor) -> Sequence[Tensor | None]:
        of_x, of_matrix = pullback(g.reshape(out.shape))
        return None if of_x is None else of_x.view(x.shape), of_matrix

    return out.view(*x.shape[:-1], out.shape[1]), shaped


@rule_of(irreps_linear)
def _irreps_linear(needed: Flags, *arguments: Any) -> tuple[Tensor, Pullback]:
    if not suits(arguments[0]) or arguments[0].dtype != arguments[1].dtype:
        return by_autograd(irreps_linear, needed, *arguments)
    if needed[1]:
        return _multilinear("irreps_linear", 2, (0, 1), needed, *arguments)
    x, weight, *lists, species = arguments
    constants = [*lists, None if species is None else species.contiguous()]
    x, weight = x.contiguous(), weight.contiguous()
    out, shape = raw("irreps_linear")(x, weight, *constants), x.shape

    def pullback(g: Tensor) -> Sequence[Tensor]:
        # Of x only the shape is needed: its memory, often the largest there is, is free by now.
        like = g.new_empty(shape)
        return (raw("irreps_linear_backward")(g.contiguous(), like, weight, *constants, True, False)[0],)

    return out, pullback


@rule_of(message_exact)
def _message_exact(needed: Flags, *arguments: Any) -> tuple[Tensor, Pullback]:
    if not suits(arguments[0]) or not has_kernel(arguments[0], *arguments[-2:]):
        return by_autograd(message_exact, needed, *arguments)
    return _multilinear("message_exact", 4, (0, 3), needed, *arguments)


@rule_of(message_interpolated)
def _message_interpolated(needed: Flags, *arguments: Any) -> tuple[Tensor, Pullback]:
    if not suits(arguments[0]) or not has_kernel(arguments[0], *arguments[-2:]):
        return by_autograd(message_interpolated, needed, *arguments)
    return _interpolated("message_interpolated", needed, *arguments)


@rule_of(message_exact_general)
def _message_exact_general(needed: Flags, *arguments: Any) -> tuple[Tensor, Pullback]:
    if not suits(arguments[0]) or not fits_general(arguments[0]):
        return by_autograd(message_exact_general, needed, *arguments)
    *tensors, program = arguments
    return _multilinear("message_exact_general", 4, (0, 3), needed, *tensors, program.table, program.rows)


@rule_of(message_interpolated_general)
def _message_interpolated_general(needed: Flags, *arguments: Any) -> tuple[Tensor, Pullback]:
    if not suits(arguments[0]) or not fits_general(arguments[0]):
        return by_autograd(message_interpolated_general, needed, *arguments)
    *tensors, program = arguments
    return _interpolated("message_interpolated_general", needed, *tensors, program.table, program.rows)


@rule_of(neighbor_outer)
def _neighbor_outer(needed: Flags, left: Tensor, right: Tensor, offsets: Tensor) -> tuple[Tensor, Pullback]:
    if not suits(left):
        return by_autograd(neighbor_outer, needed, left, right, offsets)
    return _multilinear("neighbor_outer", 2, (), needed, left, right, offsets)


def _interpolated(name: str, needed: Flags, *arguments: Any) -> tuple[Tensor, Pullback]:
    """The kernels take what they are linear in first, so the table before the knots."""
    x, coupling, weights, knot, table, *others = arguments
    flags = [*needed[:3], needed[4]]
    out, pullback = _multilinear(name, 4, (0, 3), flags, x, coupling, weights, table, knot, *others)

    def ordered(g: Tensor) -> Sequence[Tensor | None]:
        *of_edges, of_table = pullback(g)
        return *of_edges, None, of_table

    return out, ordered


def _multilinear(
    name: str, linear: int, optional: Sequence[int], needed: Flags, *arguments: Any
) -> tuple[Tensor, Pullback]:
    """Of an operator of `register_multilinear` with one output, called raw."""
    whole = [a.contiguous() if isinstance(a, Tensor) else a for a in arguments]
    backward, flags = raw(f"{name}_backward"), [needed[k] for k in optional]

    def pullback(g: Tensor) -> Sequence[Tensor | None]:
        found = backward(g.contiguous(), *whole, *flags)
        return [term if need else None for term, need in zip(found, needed, strict=False)]

    return raw(name)(*whole), pullback
