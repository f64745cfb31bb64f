"""Sparse polynomials of feature components, written down for the compiled kernel and for plain torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from mlip.ops.matmul import matmul

Monomial = tuple[int, ...]  # factors, ascending
#: First output component; monomials (M, order), coefficients (dim_out, paths, M), as of `product_basis.polynomial`.
Block = tuple[int, Tensor, Tensor]

#: Limits of the compiled kernel (mlip/csrc/kernels/contraction.hpp).
LARGEST_WIDTH, LARGEST_ORDER = 64, 16


class ContractionProgram:
    """The polynomials of all output components of one layer: T terms, each an output component and a monomial.

    Attributes:
        dim_in: Components of the features.
        dim_out: Output components.
        n_terms: T, over all outputs; the order of terms is the program's own.
        trees: Of each output component, its monomials as a tree (mlip/csrc/kernels/contraction.hpp).
        table: int32 tensor of all that, what the compiled operator reads.
        outputs: Output component of each term.
        monomials: Factors of each term.
        order: Most factors of a monomial.
        by_order: For each order that occurs: numbers of its terms (t,), their factors (t, order), outputs (t,).
        compiles: Whether it is within the limits of the compiled operator.
    """

    def __init__(self, dim_in: int, dim_out: int, blocks: Sequence[Block], zero: float = 1e-12) -> None:
        """Blocks may be of any orders and share outputs; coefficients up to `zero` are none."""
        self.dim_in, self.dim_out = dim_in, dim_out
        self._blocks = [_nonzero(block, zero) for block in blocks]
        polynomials: list[set[Monomial]] = [set() for _ in range(dim_out)]
        for entries, _ in self._blocks:
            for output, monomial in entries:
                polynomials[output].add(monomial)
        self.trees: list[list[int]] = []
        self.outputs: list[int] = []
        self.monomials: list[Monomial] = []
        for output, monomials in enumerate(polynomials):
            nodes, order = _best_tree(monomials)
            self.trees.append(nodes)
            self.monomials += order
            self.outputs += [output] * len(order)
        self.n_terms = len(self.outputs)
        table = [dim_in, dim_out, self.n_terms, *chain.from_iterable(self.trees)]
        self.table = torch.tensor(table, dtype=torch.int32)
        number = {key: t for t, key in enumerate(zip(self.outputs, self.monomials, strict=True))}
        self.order = max((len(m) for m in self.monomials), default=0)
        self.compiles = 0 < dim_in <= LARGEST_WIDTH and self.order <= LARGEST_ORDER
        orders = sorted({len(m) for m in self.monomials})
        self.by_order = [self._terms_of(order) for order in orders]
        self._terms = [torch.tensor([number[key] for key in entries]) for entries, _ in self._blocks]

    def _terms_of(self, order: int) -> tuple[Tensor, Tensor, Tensor]:
        terms = [t for t, m in enumerate(self.monomials) if len(m) == order]
        factors, outputs = [self.monomials[t] for t in terms], [self.outputs[t] for t in terms]
        return torch.tensor(terms), torch.tensor(factors), torch.tensor(outputs)

    def coefficients(self, weights: Sequence[Tensor]) -> Tensor:
        """Coefficient of each term (Z, T, C) from the weights (Z, paths, C) of each block; differentiable."""
        n_elements, _, channels = weights[0].shape
        out = weights[0].new_zeros(n_elements, self.n_terms, channels)
        for weight, (_, matrix), terms in zip(weights, self._blocks, self._terms, strict=True):
            where = terms.to(weight.device)
            out = out.index_add(1, where, matmul(weight.mT, matrix.T.to(weight)).mT)
        return out


def _nonzero(block: Block, zero: float) -> tuple[list[tuple[int, Monomial]], Tensor]:
    """Output and monomial of the terms of a block, and their coefficients (terms, paths)."""
    first, monomials, coefficients = block
    entries = (coefficients.abs() > zero).any(dim=1).nonzero()
    factors = monomials.tolist()
    keys = [(first + d, tuple(sorted(factors[m]))) for d, m in entries.tolist()]
    return keys, coefficients[entries[:, 0], :, entries[:, 1]].double()


Remaining = tuple[Monomial, Monomial]  # factors still to come, and the whole monomial


def _best_tree(monomials: Iterable[Monomial]) -> tuple[list[int], list[Monomial]]:
    """Tree of one output with the fewest operations found, depth first, and the order in which its terms come."""
    terms: list[Remaining] = sorted((m, m) for m in monomials)
    return min((_node(terms, greedy) for greedy in (True, False)), key=lambda tree: len(tree[0]))


def _node(terms: list[Remaining], greedy: bool) -> tuple[list[int], list[Monomial]]:
    """A node and all below it; a factor that most terms have, or the first one, is taken out of all that have it."""
    own = [whole for remaining, whole in terms if not remaining]
    terms = [term for term in terms if term[0]]
    leaves: list[tuple[int, Monomial]] = []
    inner: list[tuple[int, list[int], list[Monomial]]] = []
    while terms:
        count = Counter(k for remaining, _ in terms for k in set(remaining))
        k = min(count, key=lambda k: (-count[k], k)) if greedy else min(count)
        below = [(_without(remaining, k), whole) for remaining, whole in terms if k in remaining]
        terms = [term for term in terms if k not in term[0]]
        if len(below) == 1 and not below[0][0]:
            leaves.append((k, below[0][1]))
        else:
            inner.append((k, *_node(below, greedy)))
    nodes = [len(own), len(leaves), len(inner), *(k for k, _ in leaves)]
    order = own + [whole for _, whole in leaves]
    for k, below_nodes, below_order in inner:
        nodes += [k, *below_nodes]
        order += below_order
    return nodes, order


def _without(remaining: Monomial, k: int) -> Monomial:
    place = remaining.index(k)
    return remaining[:place] + remaining[place + 1 :]
