"""Symmetric contraction: the many-body (ACE) product basis of MACE.

Batatia et al., NeurIPS 2022, eqs. 10-11. For each output irrep and order ν the products of ν components of the input,
x[i1] ... x[iν], are coupled by generalised Clebsch-Gordan coefficients U[m, i1..iν, path] and summed with weights per
path, channel and element. Only distinct monomials (i1 <= ... <= iν) with a non-zero coefficient are formed: 94 instead
of 4096 for l_max = 3 and ν = 3, so that the whole is one matrix product over atoms and channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import permutations

import torch
from e3nn import o3
from torch import Tensor, nn

from mlip.errors import InputError
from mlip.nn.constants import Constants
from mlip.nn.irreps import Irreps, slices, wigner_3j
from mlip.ops import ContractionProgram

#: Elements of one coupling tensor; beyond it the tensors of all paths fill the memory of any machine.
LARGEST_TENSOR = 2**22


Coupling = tuple[o3.Irrep, Tensor]


@lru_cache(maxsize=32)
def _couplings(irreps: Irreps, order: int, natural: bool) -> list[Coupling]:
    """All ways to couple `order` copies of `irreps` from the left: [(irrep, (irrep.dim, dim, ..., dim))], sorted.

    With `natural`, only through irreps of parity (-1)^l. The order of the list is that of MACE's U matrices (e3nn's
    recursion), so that published path weights map one to one.
    """
    if order == 1:
        eye = torch.eye(sum(ir.dim for ir in irreps), dtype=torch.float64)
        return [(ir, eye[s]) for ir, s in zip(irreps, slices(irreps), strict=True)]
    return sorted(_coupled(irreps, order, natural, None), key=lambda item: item[0])


def _coupled(irreps: Irreps, order: int, natural: bool, wanted: o3.Irrep | None) -> Iterator[Coupling]:
    """Couplings of one order more to `wanted`, or to all irreps, not sorted."""
    dim = sum(ir.dim for ir in irreps)
    for left, coefficients in _couplings(irreps, order - 1, natural):
        for right, where in zip(irreps, slices(irreps), strict=True):
            for out in left * right:
                if (natural and out.p != (-1) ** out.l) or wanted not in (None, out):
                    continue
                cg = wigner_3j(out.l, left.l, right.l) * out.dim**0.5
                coupled = torch.einsum("jk,ijl->ikl", coefficients.flatten(1), cg)
                full = torch.zeros(out.dim, *[dim] * order, dtype=torch.float64)
                full[..., where] = coupled.reshape(out.dim, *[dim] * (order - 1), right.dim)
                yield out, full


@lru_cache(maxsize=64)
def polynomial(irreps_in: Irreps, irrep_out: o3.Irrep, order: int) -> tuple[Tensor, Tensor] | None:
    """Monomials (M, order) of input components and coefficients (irrep_out.dim, paths, M); None where all vanish."""
    # MACE restricts the intermediates at order 4, and only there.
    natural = order >= 4
    found = _couplings(irreps_in, 1, natural) if order == 1 else _coupled(irreps_in, order, natural, irrep_out)
    paths = [u for ir, u in found if ir == irrep_out]
    if not paths:
        return None
    dense = torch.stack(paths, dim=1)  # (dim_out, paths, dim_in, ..., dim_in)
    return symmetrised(dense)


def symmetrised(dense: Tensor, zero: float = 1e-12) -> tuple[Tensor, Tensor] | None:
    """Monomials (M, order) and coefficients (dim_out, paths, M) of couplings (dim_out, paths, dim_in, ..., dim_in).

    Coefficients up to `zero` are none.
    """
    order = dense.dim() - 2
    # Summed over permutations, an entry is the monomial's coefficient times the number of permutations that fix it.
    symmetric = torch.zeros_like(dense)
    for p in permutations(range(2, order + 2)):
        symmetric += dense.permute(0, 1, *p)
    indices = torch.combinations(torch.arange(dense.shape[-1]), order, with_replacement=True)
    fixing = [
        sum(all(i[k] == i[q] for k, q in enumerate(p)) for p in permutations(range(order))) for i in indices.tolist()
    ]
    flat = indices @ dense.shape[-1] ** torch.arange(order - 1, -1, -1)
    coefficients = symmetric.flatten(2)[:, :, flat] / torch.tensor(fixing)
    used = (coefficients.abs() > zero).any(dim=0).any(dim=0)
    return (indices[used], coefficients[..., used].contiguous()) if used.any() else None


class SymmetricContraction(nn.Module):
    """Features of atoms (dim_in, N, C) to many-body features (dim_out, N, C) of body order `correlation` + 1.

    An output irrep that no product gives is zero.
    """

    def __init__(
        self, irreps_in: Irreps, irreps_out: Irreps, correlation: int, channels: int, num_elements: int
    ) -> None:
        super().__init__()
        size = sum(ir.dim for ir in irreps_in) ** correlation
        if size > LARGEST_TENSOR:
            raise InputError(
                f"correlation {correlation} of {irreps_in} couples {size:.2g} products of components, more than "
                f"{LARGEST_TENSOR:.2g}; choose a lower correlation or l_max"
            )
        self.terms: list[tuple[int, str]] = []  # output irrep, name of the weights
        self.weights = nn.ParameterDict()  # "irrep_order" -> (Z, paths, C)
        self.dim_in, self.dims_out = sum(ir.dim for ir in irreps_in), [ir.dim for ir in irreps_out]
        monomials, coefficients = [], []
        for k, ir in enumerate(irreps_out):
            for order in range(1, correlation + 1):
                terms = polynomial(irreps_in, ir, order)
                if terms is None:
                    continue
                monomials.append(terms[0])
                coefficients.append(terms[1])
                self.terms.append((k, f"{ir}_{order}"))
                paths = terms[1].shape[1]
                self.weights[f"{ir}_{order}"] = nn.Parameter(torch.randn(num_elements, paths, channels) / paths)
        self.monomials, self.coefficients = Constants(monomials), Constants(coefficients)

    @cached_property
    def program(self) -> ContractionProgram:
        """All products as one sparse polynomial, for the compiled operator."""
        blocks = [
            (sum(self.dims_out[:block]), self.monomials[t], self.coefficients[t])
            for t, (block, _) in enumerate(self.terms)
        ]
        return ContractionProgram(self.dim_in, sum(self.dims_out), blocks)

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        out: list[list[Tensor]] = [[] for _ in self.dims_out]
        for t, (k, name) in enumerate(self.terms):
            monomials, coefficients = self.monomials[t], self.coefficients[t].to(x.dtype)
            dim_out, paths, count = coefficients.shape
            product = x.index_select(0, monomials[:, 0])
            for factor in monomials.T[1:]:
                product = product * x.index_select(0, factor)
            basis = (coefficients.reshape(-1, count) @ product.flatten(1)).view(dim_out, paths, *x.shape[1:])
            term = torch.einsum("mpnc,npc->mnc", basis, self.weights[name][species])
            out[k].append(term)
        blocks = [
            sum(terms[1:], start=terms[0]) if terms else x.new_zeros(dim, *x.shape[1:])
            for dim, terms in zip(self.dims_out, out, strict=True)
        ]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)
