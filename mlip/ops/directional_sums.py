"""Sums over the directions of the edges of a center: triplets of atoms as products of spherical harmonics.

A sum over pairs (e, f) of edges of one center of functions P_l of the cosine between them is, by the addition theorem
P_l(cos) = Σ_m Y_lm(e) Y_lm(f) / (2l + 1), a sum over f (`mlip.ops.neighbor_outer`), followed by this one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlip import _extension
from mlip.ops.message import edge_centers
from mlip.ops.message_general import fits
from mlip.ops.multilinear import register_multilinear


def directional_sums(weights: Tensor, harmonics: Tensor, density: Tensor, offsets: Tensor) -> Tensor:
    """out[e, c] = Σ_l weights[l, e, c] Σ_m harmonics[e, lm] density[lm, center(e), c], of any derivative order.

    Args:
        weights: (L, E, C) for the degrees l < L; compiled for whole multiples of 64 bytes of channels.
        harmonics: (E, L²), l ascending and m within it.
        density: (L², N, C).
        offsets: (N + 1,) int64: the edges of center i are ``offsets[i]:offsets[i + 1]``.

    Returns:
        (E, C).
    """
    if fits(weights, cuda="directional_sums"):
        return torch.ops.mlip.directional_sums(
            weights.contiguous(), harmonics.contiguous(), density.contiguous(), offsets
        )
    center, degrees = edge_centers(offsets), weights.shape[0]
    products = (harmonics.T.unsqueeze(2) * density.index_select(1, center)).split([2 * k + 1 for k in range(degrees)])
    return (weights * torch.stack([product.sum(0) for product in products])).sum(0)


if _extension.compiled:

    @torch.library.register_fake("mlip::directional_sums")
    def _fake(weights: Tensor, harmonics: Tensor, density: Tensor, offsets: Tensor) -> Tensor:
        return weights.new_empty(weights.shape[1:])

    @torch.library.register_fake("mlip::directional_sums_backward")
    def _fake_backward(*args):  # type: ignore[no-untyped-def]
        given, needed = args[1:4], args[5:]
        return tuple(torch.empty_like(a) if need else a.new_empty(0) for a, need in zip(given, needed, strict=True))

    register_multilinear("directional_sums", linear=3, outputs=1, optional=(0, 1, 2))
