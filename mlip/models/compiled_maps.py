"""Linear maps of channels by the compiled operators, with the factors of their parameters multiplied in."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mlip import ops
from mlip.nn.irreps import ElementLinear, IrrepsLinear
from mlip.ops.tape import Run

M = TypeVar("M", bound=nn.Module)


def in_precision(module: M, dtype: torch.dtype) -> M:
    """The module itself where its parameters have this precision, so that they can be trained; else a copy."""
    return module if next(module.parameters()).dtype == dtype else deepcopy(module).to(dtype)


def of_present(weights: Tensor, present: Tensor | None) -> Tensor:
    """Of weights by element (Z, ...) those of `present` (S,), all if None."""
    return weights if present is None else weights.index_select(0, present)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix, the same to the bit for any number of threads, which torch's product of small matrices is not.

    Args:
        x: (..., K) or, by element, (Z, ..., K).
        matrix: (K, C) or, by element, (Z, K, C).
    """
    if matrix.dim() == 2:
        return ops.matmul(x, matrix)
    rows = x if x.dim() == 3 else [x] * len(matrix)
    return torch.stack([ops.matmul(row, one) for row, one in zip(rows, matrix, strict=True)])


class CompiledMap(NamedTuple):
    """A `ChannelMap` as `ops.irreps_linear` takes it."""

    weight: Tensor  # (1 or Z, numbers of all matrices)
    dims_in: list[int]
    channels_in: list[int]
    sources: list[int]
    dims_out: list[int]

    def __call__(self, run: Run, x: Tensor, species: Tensor | None = None) -> Tensor:
        """Irreps one after the other, (D, N, C), to (D_out, N, C_out); with element indices (N,) if it has any."""
        out: Tensor = run(ops.irreps_linear, x, *self, species if len(self.weight) > 1 else None)
        return out


class ChannelMap:
    """Mixes the channels of each irrep by one matrix, or by one of the atom's element; what has none is zero.

    Args:
        dims_in: components of the irreps before.
        channels_in: channels of each of these.
        dims_out: components of the irreps after.
        sources: for each of these, which of those before it is made of; None: it is zero.
        matrices: (C, C_out) or, by element, (Z, C, C_out), of those that have a source.
    """

    def __init__(
        self,
        dims_in: Sequence[int],
        channels_in: Sequence[int],
        dims_out: Sequence[int],
        sources: Sequence[int | None],
        matrices: Sequence[Tensor],
    ) -> None:
        self.dims_in, self.channels_in = list(dims_in), list(channels_in)
        self.dims_out, self.sources, self.matrices = list(dims_out), list(sources), list(matrices)

    @classmethod
    def of(
        cls, module: IrrepsLinear | ElementLinear, dims_in: Sequence[int], present: Tensor | None = None
    ) -> ChannelMap:
        """The map of a module; of one with a matrix by element, those of `present` (S,) only if given."""
        starts = [sum(dims_in[:k]) for k in range(len(dims_in))]
        sources = [None if where is None else starts.index(where.start) for _, where in module.blocks]
        matrices = [(w if w.dim() == 2 else of_present(w, present)) * module.norm for w in module.weights]
        channels = [matrices[0].shape[-2]] * len(dims_in)
        return cls(dims_in, channels, [dim for dim, _ in module.blocks], sources, matrices)

    def after(self, first: ChannelMap) -> ChannelMap:
        """`first`, then this, as one map."""
        of_first = iter(first.matrices)
        before = [None if source is None else (source, next(of_first)) for source in first.sources]
        mine = iter(self.matrices)
        sources, matrices = [], []
        for source in self.sources:
            matrix = None if source is None else next(mine)
            origin = None if source is None else before[source]
            sources.append(None if origin is None else origin[0])
            if matrix is not None and origin is not None:
                matrices.append(product(origin[1], matrix))
        return ChannelMap(first.dims_in, first.channels_in, self.dims_out, sources, matrices)

    def of_elements(self, features: Tensor) -> Tensor:
        """Features (D, Z, C) of all elements to (D_out, Z, C_out)."""
        blocks, matrices = features.split(self.dims_in), iter(self.matrices)
        zero = features.new_zeros(features.shape[1], self.matrices[0].shape[-1])
        parts = [
            zero.expand(dim, *zero.shape)
            if source is None
            else product(blocks[source].transpose(0, 1), next(matrices)).transpose(0, 1)
            for dim, source in zip(self.dims_out, self.sources, strict=True)
        ]
        return torch.cat(parts)

    def with_matrices(self, matrices: Sequence[Tensor]) -> ChannelMap:
        """The same map by other matrices."""
        return ChannelMap(self.dims_in, self.channels_in, self.dims_out, self.sources, matrices)

    def to(self, dtype: torch.dtype, pad_rows: bool = True) -> CompiledMap:
        """In this precision, with zeros for channels up to whole blocks of the operators; before the map, if asked."""
        axes = (-2, -1) if pad_rows else (-1,)
        matrices = [ops.pad_channels(matrix, dtype, *axes).to(dtype) for matrix in self.matrices]
        flat = [matrix.reshape(-1, matrix.shape[-2] * matrix.shape[-1]) for matrix in matrices]
        lanes = 64 // dtype.itemsize if pad_rows else 1
        channels = [-(-count // lanes) * lanes for count in self.channels_in]
        sources = [-1 if source is None else source for source in self.sources]
        weight = ops.of_parameters(torch.cat(flat, dim=1).contiguous())
        return CompiledMap(weight, self.dims_in, channels, sources, self.dims_out)
