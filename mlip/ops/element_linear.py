"""Matrices of the atom's element, applied to channels."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.ops.matmul import matmul


def element_linear(features: Tensor, species: Tensor, weight: Tensor) -> Tensor:
    """out[d, n] = features[d, n] @ weight[z_n], by one matrix product for each element that is there.

    Rows are gathered by element, multiplied and put back. Right to any derivative order.

    Args:
        features: (D, N, C).
        species: (N,) int64, index of each atom's element.
        weight: (Z, C, C').

    Returns:
        (D, N, C').
    """
    if weight.shape[0] == 1 or species.shape[0] == 0:
        return matmul(features, weight[0])
    order = species.argsort(stable=True)
    elements, counts = torch.unique_consecutive(species[order], return_counts=True)
    if len(elements) == 1:
        return matmul(features, weight[elements[0]])
    rows = features.index_select(1, order).split(counts.tolist(), dim=1)
    # Gradients of views of the weights would each be as large as all weights; a copy is the smaller evil.
    matrices = weight[elements].unbind() if weight.requires_grad else [weight[e] for e in elements.tolist()]
    parts = [matmul(x, w) for x, w in zip(rows, matrices, strict=True)]
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return torch.cat(parts, dim=1).index_select(1, back)


def element_linear_reference(features: Tensor, species: Tensor, weight: Tensor) -> Tensor:
    """:func:`element_linear` as `mlip.nn.irreps` has it: a loop over the elements, adding to the output."""
    out = features.new_zeros(*features.shape[:2], weight.shape[2])
    for element in species.unique().tolist():
        rows = (species == element).nonzero().squeeze(1)
        out = out.index_add(1, rows, features[:, rows] @ weight[element])
    return out
