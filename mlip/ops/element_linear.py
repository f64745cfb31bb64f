"""Matrices of the atom's element, applied to channels."""

from __future__ import annotations

from torch import Tensor

from mlip.ops.irreps_linear import irreps_linear, irreps_linear_reference


def element_linear(features: Tensor, species: Tensor, weight: Tensor) -> Tensor:
    """out[d, n] = features[d, n] @ weight[z_n]; any derivative order is right.

    Args:
        features: (D, N, C).
        species: (N,) int64, index of each atom's element.
        weight: (Z, C, C').

    Returns:
        (D, N, C').
    """
    dims, channels = [features.shape[0]], [features.shape[2]]
    return irreps_linear(features, weight.flatten(1), dims, channels, [0], dims, species)


def element_linear_reference(features: Tensor, species: Tensor, weight: Tensor) -> Tensor:
    """:func:`element_linear` in plain torch: a loop over the elements."""
    dims, channels = [features.shape[0]], [features.shape[2]]
    return irreps_linear_reference(features, weight.flatten(1), dims, channels, [0], dims, species)
