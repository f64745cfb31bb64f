"""Linear maps of irreps: the channels of each mixed by a matrix, or by one of the atom's element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.dispatch import raw, runs_compiled
from mlip.ops.multilinear import marked, register_multilinear, still_needed


def irreps_linear(
    x: Tensor,
    weight: Tensor,
    dims_in: Sequence[int],
    channels_in: Sequence[int],
    sources: Sequence[int],
    dims_out: Sequence[int],
    species: Tensor | None = None,
) -> Tensor:
    """Each irrep of the output is an irrep of the input times a matrix, or zero; any derivative order is right.

    Args:
        x: blocks (dims_in[k], N, channels_in[k]), one after the other in the memory of a tensor of any shape: features
            (D, N, C), or a 1-D tensor.
        weight: (Z, M), Z elements; the matrices (C, C_out) of all outputs with a source, one after the other.
        dims_in: components of the irreps of the input.
        channels_in: their channels.
        sources: which of these each irrep of the output is made of; -1: it is zero.
        dims_out: components of the irreps of the output, those of the sources.
        species: (N,) int64, whose matrices each atom has; may be left out if Z = 1.

    Returns:
        (sum of dims_out, N, C_out).
    """
    tensors = (x, weight) if species is None else (x, weight, species)
    if not runs_compiled(*tensors) or x.dtype != weight.dtype:
        return irreps_linear_reference(x, weight, dims_in, channels_in, sources, dims_out, species)
    species = None if species is None else species.contiguous()
    lists = list(dims_in), list(channels_in), list(sources), list(dims_out)
    differentiable = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    operator = _IrrepsLinear.apply if differentiable else raw("irreps_linear")
    return operator(x.contiguous(), weight.contiguous(), *lists, species)


def irreps_linear_reference(
    x: Tensor,
    weight: Tensor,
    dims_in: Sequence[int],
    channels_in: Sequence[int],
    sources: Sequence[int],
    dims_out: Sequence[int],
    species: Tensor | None = None,
) -> Tensor:
    """:func:`irreps_linear` in plain torch."""
    n_atoms, channels_out = _sizes(x, weight, dims_in, channels_in, sources)
    sizes = [dim * n_atoms * channels for dim, channels in zip(dims_in, channels_in, strict=True)]
    blocks = x.reshape(-1).split(sizes)
    parts, first = [], 0
    for source, dim in zip(sources, dims_out, strict=True):
        if source < 0:
            parts.append(x.new_zeros(dim, n_atoms, channels_out))
            continue
        channels = channels_in[source]
        matrices = weight[:, first : first + channels * channels_out].reshape(-1, channels, channels_out)
        first += channels * channels_out
        block = blocks[source].view(dim, n_atoms, channels)
        if species is None:
            (matrix,) = matrices
            parts.append(block @ matrix)
            continue
        out = x.new_zeros(dim, n_atoms, channels_out)
        for element in species.unique().tolist() or [0]:  # without atoms it has derivatives too
            rows = (species == element).nonzero().squeeze(1)
            out = out.index_add(1, rows, block[:, rows] @ matrices[element])
        parts.append(out)
    return torch.cat(parts)


def _sizes(
    x: Tensor, weight: Tensor, dims_in: Sequence[int], channels_in: Sequence[int], sources: Sequence[int]
) -> tuple[int, int]:
    """Atoms, and channels of the output."""
    per_atom = sum(dim * channels for dim, channels in zip(dims_in, channels_in, strict=True))
    return x.numel() // per_atom, weight.shape[1] // sum(channels_in[source] for source in sources if source >= 0)


class _IrrepsLinear(torch.autograd.Function):
    """The operator with its registered derivatives, at a third of the overhead of calling it directly."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *others: Any) -> Tensor:
        *ctx.lists, species = others
        ctx.of_parameters = marked((x, weight))
        ctx.save_for_backward(x, weight, *(() if species is None else (species,)))
        return raw("irreps_linear")(x, weight, *others)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *species = ctx.saved_tensors
        needs = still_needed(ctx.needs_input_grad[:2], ctx.of_parameters)
        constants = [*ctx.lists, species[0] if species else None]
        found = torch.ops.mlip.irreps_linear_backward(grad.contiguous(), x, weight, *constants, *needs)
        return *(each if need else None for each, need in zip(found, needs, strict=True)), *[None] * 5


if _extension.compiled:

    @torch.library.register_fake("mlip::irreps_linear")
    def _fake(
        x: Tensor,
        weight: Tensor,
        dims_in: Sequence[int],
        channels_in: Sequence[int],
        sources: Sequence[int],
        dims_out: Sequence[int],
        species: Tensor | None = None,
    ) -> Tensor:
        return x.new_empty(sum(dims_out), *_sizes(x, weight, dims_in, channels_in, sources))

    @torch.library.register_fake("mlip::irreps_linear_backward")
    def _backward_fake(
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        dims_in: Sequence[int],
        channels_in: Sequence[int],
        sources: Sequence[int],
        dims_out: Sequence[int],
        species: Tensor | None,
        need_x: bool,
        need_weight: bool,
    ) -> tuple[Tensor, Tensor]:
        return (
            torch.empty_like(x) if need_x else x.new_empty(0),
            torch.empty_like(weight) if need_weight else x.new_empty(0),
        )

    register_multilinear("irreps_linear", linear=2, outputs=1, optional=(0, 1))
