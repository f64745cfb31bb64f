"""Which symmetry functions a potential has: the most informative ones of many, by the training set itself.

Greedy selection of columns (Farahat, Ghodsi and Kamel, ICDM 2011), a relative of the CUR decomposition of Imbalzano et
al., J. Chem. Phys. 148, 241730 (2018): each step takes the function by which all others, as far as those taken before
leave them open, are best explained linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mlip.data.batches import LabelledBatch, collate_samples
from mlip.graph import AtomGraph
from mlip.models.hdnnp import HDNNP
from mlip.nn.symmetry_functions import SymmetryFunction
from mlip.training.candidates import candidates

#: Atoms of all elements together that the choice looks at.
SAMPLED_ATOMS = 2000
#: Atoms whose functions are evaluated at once.
ATOMS_AT_ONCE = 200
#: A function varies if its standard deviation is above this; all are sums of terms up to 1.
VARIES = 1e-4
#: Part of a function's variance that others have to leave open for it to be worth having.
NEW = 1e-6

#: Called with (done, total).
Progress = Callable[[int, int], object]


def choose_functions(
    elements: Sequence[int],
    cutoff: float,
    count: int,
    cutoff_function: str,
    samples: Sequence[LabelledBatch],
    seed: int,
    progress: Progress | None = None,
) -> list[SymmetryFunction]:
    """At most `count` symmetry functions for each element, those of an element in the order of the candidates.

    The same for the same samples and seed.

    Args:
        elements: atomic numbers.
        cutoff: in Å.
        count: functions of an element.
        cutoff_function: a key of `CUTOFFS`.
        samples: one structure each, with neighbor lists up to the cutoff.
        seed: of the atoms that are looked at.
        progress: called with atoms done and in all.
    """
    pool = candidates(elements, cutoff)
    with torch.random.fork_rng(devices=[]):  # the networks are not used, but drawn
        model = HDNNP(elements, cutoff, pool, hidden=(), activations=("identity",), cutoff_function=cutoff_function)
    values = sampled_values(model, samples, seed, progress)
    found = []
    for z, own in zip(model.elements, values, strict=True):
        of_element = [function for function in pool if function.center == z]
        # an element whose atoms are all alike has nothing to choose by: the first of each neighbor, which is the widest
        widest = [next(k for k, f in enumerate(of_element) if f.neighbors == (neighbor,)) for neighbor in elements]
        chosen = most_informative(own, count) or widest[:count]
        found += [of_element[k] for k in sorted(chosen)]
    return found


def most_informative(values: NDArray[np.float64], count: int) -> list[int]:
    """The columns by which all columns are best explained, best first; those that do not vary are left out.

    Args:
        values: (n, M), of M functions at n atoms.
        count: of columns, at most; fewer if the others are combinations of them.
    """
    if not len(values):
        return []
    deviation = values.std(axis=0)
    varying = np.flatnonzero(deviation > VARIES)
    scaled = (values[:, varying] - values[:, varying].mean(axis=0)) / deviation[varying]
    open_ = scaled.T @ scaled / len(values)  # covariance of what is not explained yet
    chosen: list[int] = []
    while len(chosen) < min(count, len(varying)):
        left = open_.diagonal().copy()
        explained = np.square(open_).sum(axis=0) / np.where(left > NEW, left, np.inf)
        best = int(explained.argmax())
        if left[best] <= NEW:
            break
        chosen.append(int(varying[best]))
        open_ -= np.outer(open_[:, best], open_[best] / left[best])
    return chosen


def sampled_values(
    model: HDNNP, samples: Sequence[LabelledBatch], seed: int, progress: Progress | None = None
) -> list[NDArray[np.float64]]:
    """The symmetry functions (n, K) of each element at some of its atoms, drawn by the seed."""
    numbers = [sample.graph.numbers.numpy() for sample in samples]
    first = np.cumsum([0, *map(len, numbers)])
    drawn = np.zeros(first[-1], dtype=bool)
    rng = np.random.default_rng(seed)
    for z in model.elements:
        atoms = np.flatnonzero(np.concatenate(numbers) == z)
        share = -(-SAMPLED_ATOMS // len(model.elements))
        drawn[rng.permutation(atoms)[:share]] = True
    found: list[list[NDArray[np.float64]]] = [[] for _ in model.elements]
    done, total = 0, int(drawn.sum())
    having = [k for k in range(len(samples)) if drawn[first[k] : first[k + 1]].any()]
    for group in filled([int(drawn[first[k] : first[k + 1]].sum()) for k in having], ATOMS_AT_ONCE):
        part = [having[k] for k in group]
        graph = collate_samples([samples[k] for k in part]).graph
        wanted = torch.from_numpy(np.concatenate([drawn[first[k] : first[k + 1]] for k in part]))
        for own, (members, values) in zip(found, _values_of(model, graph, wanted), strict=True):
            own.append(values[wanted[members]].numpy())
        done += int(wanted.sum())
        if progress is not None:
            progress(done, total)
    return [np.concatenate(own) for own in found]


def _values_of(model: HDNNP, graph: AtomGraph, wanted: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As `model.symmetry_functions`; atoms that are not wanted have no neighbors, which saves their time."""
    kept = wanted[graph.edge_index[0]]
    with torch.no_grad():
        return model.symmetry_functions(
            graph._replace(edge_index=graph.edge_index[:, kept], edge_shift=graph.edge_shift[kept])
        )


def filled(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of the things of these sizes in groups of at most `most` together, in order; a larger one is alone."""
    groups: list[list[int]] = []
    used = most
    for k, size in enumerate(sizes):
        if used + size > most:
            groups.append([])
            used = 0
        groups[-1].append(k)
        used += size
    return groups
