"""Sets cut into parts for training, validation and test, so that no part knows what another asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlip.convert import atoms_to_graph
from mlip.data.labels import LabelledStructure
from mlip.errors import InputError

Method = Literal["random", "composition", "trajectory", "farthest"]
PARTS = ("train", "valid", "test")
#: Reach (Å), centers and width of the radial histograms of `descriptors`.
REACH, CENTERS = 6.0, 24


def cut(
    structures: Sequence[LabelledStructure], fractions: Sequence[float], method: Method, seed: int, gap: int
) -> list[list[int]]:
    """Indices of the structures by part, in their order; isolated atoms go to the first.

    random: any structure to any part.
    composition: all structures of one composition (the ratio of its elements) to one part.
    trajectory: each file is cut into contiguous blocks, with `gap` frames left out where two meet; files of fewer than
    4 gap + 20 frames go to one part as a whole.
    farthest: the first part takes, one by one, the structure farthest from all it has (Gonzalez 1985), by
    `descriptors`; the others share the rest at random.

    Raises:
        InputError: fractions that are none, or a part that would be empty.
    """
    if not 2 <= len(fractions) <= 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"--fractions {' '.join(map(str, fractions))}: expected two or three above zero that sum to 1")
    rng = np.random.default_rng(seed)
    isolated = [k for k, s in enumerate(structures) if s.is_isolated_atom]
    rest = [k for k, s in enumerate(structures) if not s.is_isolated_atom]
    chosen: dict[Method, Callable[[], list[list[int]]]] = {
        "random": lambda: _shares(rng.permutation(rest).tolist(), fractions),
        "composition": lambda: _groups(rest, [_composition(structures[k]) for k in rest], fractions, rng),
        "trajectory": lambda: _blocks(rest, [structures[k].file for k in rest], fractions, gap, rng),
        "farthest": lambda: _farthest([structures[k] for k in rest], rest, fractions, rng),
    }
    parts = chosen[method]()
    empty = [name for name, part in zip(PARTS, parts, strict=False) if not part]
    if empty:
        raise InputError(
            f"--method {method} of {len(rest)} structures leaves nothing for {' and '.join(empty)}; there are too few "
            "structures, compositions or files for these fractions"
        )
    return [sorted(part + (isolated if k == 0 else [])) for k, part in enumerate(parts)]


def _sizes(n: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers with sum n."""
    ends = [round(n * sum(fractions[: k + 1])) for k in range(len(fractions))]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _shares(order: list[int], fractions: Sequence[float]) -> list[list[int]]:
    ends = np.cumsum(_sizes(len(order), fractions)).tolist()
    return [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _composition(s: LabelledStructure) -> tuple[tuple[int, int], ...]:
    elements, counts = np.unique(s.atoms.numbers, return_counts=True)
    return tuple(zip(elements.tolist(), (counts // np.gcd.reduce(counts)).tolist(), strict=True))


def _groups(
    indices: list[int], names: Sequence[object], fractions: Sequence[float], rng: np.random.Generator
) -> list[list[int]]:
    """Whole groups, the largest first, each to the part that lacks most; of equal size in random order."""
    groups: dict[object, list[int]] = {}
    for k, name in zip(indices, names, strict=True):
        groups.setdefault(name, []).append(k)
    members = list(groups.values())
    order = sorted(rng.permutation(len(members)).tolist(), key=lambda g: -len(members[g]))
    wanted = np.array(fractions) * len(indices)
    parts: list[list[int]] = [[] for _ in fractions]
    for place, g in enumerate(order):
        empty = [p for p, part in enumerate(parts) if not part]
        must = len(order) - place <= len(empty)  # the last groups fill what has none
        lacks = [(wanted[p] - len(part)) if not must or p in empty else -np.inf for p, part in enumerate(parts)]
        parts[int(np.argmax(lacks))] += members[g]
    return parts


def _blocks(
    indices: list[int], files: Sequence[str], fractions: Sequence[float], gap: int, rng: np.random.Generator
) -> list[list[int]]:
    if gap < 0:
        raise InputError(f"--gap {gap}: expected zero or more frames")
    by_file: dict[str, list[int]] = {}
    for k, file in zip(indices, files, strict=True):
        by_file.setdefault(file, []).append(k)
    parts: list[list[int]] = [[] for _ in fractions]
    short = {file: members for file, members in by_file.items() if len(members) < 4 * gap + 20}
    for file, members in by_file.items():
        if file not in short:
            n = len(members) - gap * (len(fractions) - 1)
            start = 0
            for part, size in zip(parts, _sizes(n, fractions), strict=True):
                part += members[start : start + size]
                start += size + gap
    whole = [k for members in short.values() for k in members]
    names = [file for file, members in short.items() for _ in members]
    for part, more in zip(parts, _groups(whole, names, fractions, rng), strict=True):
        part += more
    return parts


def _farthest(
    structures: Sequence[LabelledStructure], indices: list[int], fractions: Sequence[float], rng: np.random.Generator
) -> list[list[int]]:
    n = _sizes(len(indices), fractions)[0]
    points = descriptors(structures)
    first = int(np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1)))
    taken = [first]
    distances = np.linalg.norm(points - points[first], axis=1)
    while len(taken) < n:
        distances[taken[-1]] = -1.0
        taken.append(int(np.argmax(distances)))
        distances = np.minimum(distances, np.linalg.norm(points - points[taken[-1]], axis=1))
        distances[taken] = -1.0
    left = rng.permutation(sorted(set(range(len(indices))) - set(taken))).tolist()
    shares = _shares(left, [f / sum(fractions[1:]) for f in fractions[1:]])
    return [[indices[k] for k in part] for part in (taken, *shares)]


def descriptors(structures: Sequence[LabelledStructure]) -> NDArray[np.float64]:
    """Points (structures, D) that are close for similar structures.

    For each pair of elements, the mean over atoms of a smooth histogram of distances up to 6 Å (24 Gaussians, with a
    cosine cutoff), and the share of each element.
    """
    elements = sorted({int(z) for s in structures for z in s.atoms.numbers})
    place = np.zeros(119, dtype=int)
    place[elements] = range(len(elements))
    kinds = len(elements) * (len(elements) + 1) // 2
    centers = np.linspace(0.5, REACH, CENTERS)
    rows = np.zeros((len(structures), kinds * CENTERS + len(elements)))
    for row, s in zip(rows, structures, strict=True):
        graph = atoms_to_graph(s.atoms, REACH)
        kind = place[graph.numbers.numpy()[graph.edge_index.numpy()]]
        low, high = kind.min(axis=0), kind.max(axis=0)
        pair = high * (high + 1) // 2 + low
        r = graph.edge_vectors().norm(dim=1).numpy()[:, None]
        smooth = np.exp(-np.square((r - centers) / (REACH / CENTERS)) / 2) * (1 + np.cos(np.pi * r / REACH)) / 2
        histogram = np.zeros((kinds, CENTERS))
        np.add.at(histogram, pair, smooth)
        row[: kinds * CENTERS] = histogram.ravel() / len(s.atoms)
        row[kinds * CENTERS :] = np.bincount(place[s.atoms.numbers], minlength=len(elements)) / len(s.atoms)
    return rows


def shortest_distance(structure: LabelledStructure) -> float:
    """Shortest distance in units of the sum of both covalent radii; infinite for atoms alone."""
    radii = covalent_radii[structure.atoms.numbers]
    graph = atoms_to_graph(structure.atoms, 2 * float(radii.max()))
    center, neighbor = graph.edge_index.numpy()
    relative = graph.edge_vectors().norm(dim=1).numpy() / (radii[center] + radii[neighbor])
    return float(relative.min()) if len(relative) else float("inf")
