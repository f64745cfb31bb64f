"""Equivariant features with one number of channels for all irreps: tensors (dim, rows, channels).

`dim` runs over the components of the irreps in order, as in e3nn; a feature of irreps `32x0e + 32x1o` is (4, N, 32):
each irrep is one contiguous block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from e3nn import o3
from torch import Tensor, nn

from mlip.errors import InputError

Irreps = tuple[o3.Irrep, ...]

#: Triples whose Wigner 3j symbol in e3nn 0.6 has the opposite sign of e3nn 0.4, with which published MACE weights were
#: trained (all permutations of a triple alike; all of l <= 11, where both end, were compared).
_FLIPPED = {
    *((1, n, n) for n in range(2, 12)),
    *((3, n, n + 2) for n in range(4, 10)),
    *((4, n, n + 1) for n in range(4, 11)),
    *((5, n, n) for n in range(5, 12)),
    *((5, n, n + 4) for n in range(6, 8)),
    *((6, n, n + 3) for n in range(6, 9)),
    *((7, n, n + 2) for n in range(7, 10)),
    *((8, n, n + 1) for n in range(8, 11)),
    *((9, n, n) for n in range(9, 12)),
}


def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Wigner 3j symbols (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) of real harmonics in float64, with the signs of e3nn 0.4."""
    sign = -1 if tuple(sorted((l1, l2, l3))) in _FLIPPED else 1
    return sign * o3.wigner_3j(l1, l2, l3, dtype=torch.float64)


def parse_irreps(spec: str) -> tuple[int, Irreps]:
    """Channels and irreps of, for example, "128x0e + 128x1o".

    Raises:
        InputError: not irreps in e3nn's notation, different multiplicities, an irrep twice, or no 0e.
    """
    try:
        irreps = o3.Irreps(spec)
    except ValueError as error:
        raise InputError(f"{spec!r} are no irreps; expected e3nn's notation, such as '128x0e + 128x1o'") from error
    multiplicities = {mul for mul, _ in irreps}
    names = [ir for _, ir in irreps]
    if len(multiplicities) != 1 or 0 in multiplicities or len(set(names)) != len(names) or o3.Irrep("0e") not in names:
        raise InputError(
            f"irreps {spec!r}: expected 0e and other irreps once each, all with the same number of channels, such as "
            "'128x0e + 128x1o'"
        )
    return multiplicities.pop(), tuple(sorted(names))


def spherical_irreps(l_max: int, so3: bool = False) -> Irreps:
    """Irreps of the spherical harmonics up to l_max: parity (-1)^l; even all of them where only rotations count."""
    return tuple(o3.Irrep(degree, 1 if so3 else (-1) ** degree) for degree in range(l_max + 1))


def slices(irreps: Sequence[o3.Irrep]) -> list[slice]:
    """Where each irrep's components lie along `dim`."""
    stops = torch.tensor([ir.dim for ir in irreps]).cumsum(0).tolist()
    return [slice(stop - ir.dim, stop) for ir, stop in zip(irreps, stops, strict=True)]


class IrrepsLinear(nn.Module):
    """Mixes the channels of each irrep: (dim_in, N, fan_in) to (dim_out, N, fan_out), one matrix per irrep, no bias.

    An output irrep the input lacks is zero; one that is listed twice has a matrix each.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, fan_in: int, fan_out: int) -> None:
        super().__init__()
        where = dict(zip(irreps_in, slices(irreps_in), strict=True))
        self.blocks = [(ir.dim, where.get(ir)) for ir in irreps_out]
        self.fan_out, self.norm = fan_out, 1 / math.sqrt(fan_in)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(fan_in, fan_out)) for _, s in self.blocks if s is not None
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = iter(self.weights)
        mixed = [
            x.new_zeros(dim, x.shape[1], self.fan_out) if s is None else x[s] @ (next(weights) * self.norm)
            for dim, s in self.blocks
        ]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


class ElementLinear(nn.Module):
    """As `IrrepsLinear` with matrices of the atom's element (Z, fan_in, fan_out): MACE's `skip_tp`."""

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, fan_in: int, fan_out: int, num_elements: int) -> None:
        super().__init__()
        where = dict(zip(irreps_in, slices(irreps_in), strict=True))
        self.blocks = [(ir.dim, where.get(ir)) for ir in irreps_out]
        self.fan_out, self.norm = fan_out, 1 / math.sqrt(fan_in * num_elements)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(num_elements, fan_in, fan_out)) for _, s in self.blocks if s is not None
        )

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        """Features `x` (dim_in, N, fan_in) and element indices `species` (N,) to (dim_out, N, fan_out)."""
        weights, out = iter(self.weights), []
        for dim, where in self.blocks:
            if where is None:
                out.append(x.new_zeros(dim, x.shape[1], self.fan_out))
            else:
                out.append(by_element(x[where], species, next(weights) * self.norm))
        return out[0] if len(out) == 1 else torch.cat(out)


def by_element(x: Tensor, species: Tensor, weight: Tensor) -> Tensor:
    """Features (dim, N, C) times the matrices (Z, C, C_out) of the atoms' elements."""
    if weight.shape[0] == 1:
        return x @ weight[0]
    out = x.new_zeros(*x.shape[:2], weight.shape[2])
    for element in species.unique().tolist():
        rows = (species == element).nonzero().squeeze(1)
        out = out.index_add(1, rows, x[:, rows] @ weight[element])
    return out
