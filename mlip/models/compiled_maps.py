"""Linear maps of channels by the compiled operators, with the factors of their parameters multiplied in."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from mlip import ops
from mlip.nn.irreps import ElementLinear, IrrepsLinear

M = TypeVar("M", bound=nn.Module)


def in_precision(module: M, dtype: torch.dtype) -> M:
    """The module itself where its parameters have this precision, so that they can be trained; else a copy."""
    return module if next(module.parameters()).dtype == dtype else deepcopy(module).to(dtype)


class ChannelMap:
    """Mixes the channels of each irrep by one matrix, or by one of the atom's element; what has none is zero.

    Args:
        dims_in: components of the irreps before.
        dims_out: components of the irreps after.
        sources: for each of these, which of those before it is made of; None: it is zero.
        matrices: (C, C_out) or, by element, (Z, C, C_out), of those that have a source.
    """

    def __init__(
        self,
        dims_in: Sequence[int],
        dims_out: Sequence[int],
        sources: Sequence[int | None],
        matrices: Sequence[Tensor],
    ) -> None:
        self.dims_in, self.dims_out, self.sources, self.matrices = list(dims_in), list(dims_out), sources, matrices
        given = iter(matrices)
        self._parts = [
            (dim, source, None if source is None else next(given))
            for dim, source in zip(dims_out, sources, strict=True)
        ]

    @classmethod
    def of(cls, module: IrrepsLinear | ElementLinear, dims_in: Sequence[int]) -> ChannelMap:
        """The map of a module."""
        starts = [sum(dims_in[:k]) for k in range(len(dims_in))]
        sources = [None if where is None else starts.index(where.start) for _, where in module.blocks]
        return cls(dims_in, [dim for dim, _ in module.blocks], sources, [w * module.norm for w in module.weights])

    def after(self, first: ChannelMap) -> ChannelMap:
        """`first`, then this, as one map."""
        sources, matrices = [], []
        for _, source, matrix in self._parts:
            _, origin, before = (0, None, None) if source is None else first._parts[source]
            sources.append(origin)
            if matrix is not None and before is not None:
                matrices.append(before @ matrix)
        return ChannelMap(first.dims_in, self.dims_out, sources, matrices)

    def to(self, dtype: torch.dtype) -> ChannelMap:
        """In this precision, with zeros for channels up to whole blocks of the operators."""
        matrices = [ops.pad_channels(matrix, dtype, -2, -1).to(dtype).contiguous() for matrix in self.matrices]
        return self.with_matrices(matrices)

    def with_matrices(self, matrices: Sequence[Tensor]) -> ChannelMap:
        """The same map by other matrices."""
        return ChannelMap(self.dims_in, self.dims_out, self.sources, matrices)

    def __call__(self, x: Tensor, species: Tensor | None = None) -> Tensor:
        """Features (D, N, C) and, for matrices of elements, element indices (N,), to (D_out, N, C_out)."""
        return self.of_blocks(x.split(self.dims_in), species)

    def of_blocks(self, blocks: Sequence[Tensor], species: Tensor | None = None) -> Tensor:
        """As `__call__`, of features that are split by irreps."""
        parts = []
        for dim, source, matrix in self._parts:
            if source is None or matrix is None:
                parts.append(blocks[0].new_zeros(dim, blocks[0].shape[1], self.matrices[0].shape[-1]))
            elif matrix.dim() == 2:
                parts.append(ops.matmul(blocks[source], matrix))
            else:
                assert species is not None
                parts.append(ops.element_linear(blocks[source], species, matrix))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
