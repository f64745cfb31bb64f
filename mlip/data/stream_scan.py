"""What is to be known of a training set on disk before it trains: one pass over the files, in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mlip.data.labels import PROPERTIES, LabelKeys, LabelledStructure
from mlip.data.reference_energies import ReferenceEnergies, averaged
from mlip.data.stacked_rows import StackedRows
from mlip.data.statistics import Statistics
from mlip.data.stream_checks import Looked, largest_forces, look_at
from mlip.data.streams import STORED_KEYS, Stream
from mlip.data.summary import OUTLYING, Count, outlier_remark, places, zero_remark
from mlip.data.symmetry import forces_vanish
from mlip.data.weights import DEFAULT_GROUP

#: Structures that are looked at together.
AT_ONCE = 2048
#: Structures and atoms of a sample at most.
SAMPLE, SAMPLE_ATOMS = 10_000, 250_000
#: Structures with exactly zero labels that are looked at again, and with the largest forces that are named.
ZEROS_KEPT, LARGEST_KEPT = 1000, 6
#: Largest forces are counted by their logarithm to base 2: so many bins for one, from minus so much on.
PER_OCTAVE, LOWEST = 64, 50

_ELEMENTS = 119  # columns by atomic number


@dataclass
class Zeros:
    """Labels of one property that are zero in every bit."""

    n: int = 0
    possible: int = 0  # structures that could have another value
    members: list[int] = field(default_factory=list)  # the first of them


class Scan:
    """What a set on disk holds. Isolated atoms are apart: they do not train.

    Attributes:
        isolated: isolated atoms, one of each element and energy.
        isolated_members: places of all of them, ascending.
        groups: structures, atoms and labels of what trains, by `config_type`.
        present: number of structures by `config_type`, isolated atoms included.
        elements: of what trains, ascending.
        heaviest: places of the largest structures that train, largest first.
        keys: names of the labels that are there.
        ignored_stresses: number of structures with a stress that are not periodic in three dimensions.
    """

    def __init__(self, stream: Stream, keep: int) -> None:
        self.stream, self.keep = stream, keep
        self.isolated: list[LabelledStructure] = []
        self.isolated_members = np.empty(0, dtype=np.int64)
        self.present: Counter[str] = Counter()
        self.ignored_stresses = 0
        self.heaviest = np.empty(0, dtype=np.int64)
        self.zeros = {name: Zeros() for name in PROPERTIES}
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._found = dict.fromkeys(PROPERTIES, 0)  # labels, also of isolated atoms
        self._weighty: set[str] = set()
        self._holds, self._holds_with_energy = np.zeros(_ELEMENTS, dtype=bool), np.zeros(_ELEMENTS, dtype=bool)
        self._sizes = np.empty(0, dtype=np.int64)  # of the heaviest
        self._squares, self._components = 0.0, 0
        self._totals = StackedRows(_ELEMENTS + 1)  # atoms by element, energy
        self._per_atom = StackedRows(_ELEMENTS + 2)  # one, shares of elements, energy per atom
        self._histogram = np.zeros(2 * LOWEST * PER_OCTAVE, dtype=np.int64)
        self._largest: list[tuple[float, int]] = []

    def add(self, looked: Looked) -> None:
        """The next piece."""
        trains = ~looked.is_isolated
        self._count(looked, trains)
        self._set_apart(looked)
        self._keep_heaviest(looked, trains)
        self._add_zeros(looked, trains)
        self._add_forces(looked, trains & (looked.weights["forces"] > 0))
        self._add_energies(looked, trains)

    # -- results -----------------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """Structures that train."""
        return sum(count.structures for count in self.groups)

    @property
    def n_atoms(self) -> int:
        """Their atoms."""
        return sum(count.atoms for count in self.groups)

    @property
    def groups(self) -> list[Count]:
        return [_as_count(name, counts) for name, counts in sorted(self._counts.items())]

    @property
    def elements(self) -> list[int]:
        return np.flatnonzero(self._holds).tolist()

    @property
    def keys(self) -> LabelKeys:
        return LabelKeys(**{name: getattr(STORED_KEYS, name) if n else None for name, n in self._found.items()})

    @property
    def labelled(self) -> frozenset[str]:
        """Labels that are there with a weight."""
        return frozenset(self._weighty)

    def average(self) -> ReferenceEnergies:
        """E0s by least squares over all energies, as `reference_energies` with "average"."""
        elements = self.elements

        def solve() -> tuple[dict[int, float], int]:
            solution, rank = self._totals.least_squares(elements, _ELEMENTS)
            return dict(zip(elements, solution.tolist(), strict=True)), rank

        return averaged(elements, self._totals.n, np.flatnonzero(self._holds_with_energy).tolist(), solve)

    def sample(self) -> list[int]:
        """Places of structures that train, drawn at random but always the same; of a small set all of them."""
        size = min(self.n, SAMPLE, max(1, SAMPLE_ATOMS * self.n // self.n_atoms))
        rng = np.random.default_rng(self.n)  # members of a committee have the same sample, whatever their seeds
        numbers = np.arange(self.n) if size == self.n else np.sort(rng.choice(self.n, size, replace=False))
        before = self.isolated_members - np.arange(len(self.isolated_members))  # structures that train before each
        return (numbers + np.searchsorted(before, numbers, side="right")).tolist()

    def statistics(self, sampled: Statistics, E0s: Mapping[int, float]) -> Statistics:
        """Of the whole set; neighbors are those of a sample."""
        mean, deviation = 0.0, float("nan")
        if self._per_atom.n:
            combination = np.zeros(_ELEMENTS + 2)
            combination[[1 + z for z in E0s]] = [-energy for energy in E0s.values()]
            combination[-1] = 1.0
            mean, deviation = self._per_atom.mean_and_deviation(combination)
        return replace(
            sampled,
            interaction_mean=mean,
            interaction_std=deviation,
            forces_rms=(self._squares / self._components) ** 0.5 if self._components else float("nan"),
            n_structures=self.n,
            n_atoms=self.n_atoms,
            n_edges=round(sampled.n_edges * self.n_atoms / sampled.n_atoms),
        )

    def remarks(self, name: str) -> list[str]:
        """As `mlip.data.summary.remarks`: labels that are exactly zero, outlying forces."""
        lines = []
        for label, zeros in self.zeros.items():
            members = zeros.members
            if label == "forces":
                structures = self.stream.labelled(members)
                members = [k for k, s in zip(members, structures, strict=True) if not forces_vanish(s.atoms)]
            if members:
                n = zeros.n - (len(zeros.members) - len(members))
                lines.append(zero_remark(name, label, n, places([self.stream.place(k) for k in members])))
        if self._largest:
            middle = np.searchsorted(self._histogram.cumsum(), (self._histogram.sum() - 1) // 2, side="right")
            usual = max(2.0 ** ((middle + 0.5) / PER_OCTAVE - LOWEST), 1.0)
            wild = [k for largest, k in self._largest if largest > OUTLYING * usual]
            n = max(len(wild), int(self._histogram[_bins(np.array([OUTLYING * usual]))[0] + 1 :].sum()))
            if wild:
                found = places([self.stream.place(k) for k in wild])
                lines.append(outlier_remark(name, n, self._largest[0][0], found))
        return lines

    # -- sums --------------------------------------------------------------------------------------------------------

    def _count(self, looked: Looked, trains: NDArray[np.bool_]) -> None:
        block, n_groups = looked.piece.block, len(looked.groups)
        columns = [trains, trains * block.sizes, *(trains & looked.has[name] for name in PROPERTIES)]
        sums = [np.bincount(looked.group, column, n_groups).astype(np.int64) for column in columns]
        everything = np.bincount(looked.group, minlength=n_groups)
        for k, name in enumerate(looked.groups):
            if everything[k]:
                self.present[name or DEFAULT_GROUP] += int(everything[k])
            if sums[0][k]:
                counts = np.array([column[k] for column in sums])
                self._counts[name or DEFAULT_GROUP] = self._counts.get(name or DEFAULT_GROUP, 0) + counts
        self.ignored_stresses += looked.ignored_stresses
        self._found["stress"] += looked.ignored_stresses
        for name in PROPERTIES:
            self._found[name] += int(looked.has[name].sum())
            if (trains & (looked.weights[name] > 0)).any():
                self._weighty.add(name)

    def _set_apart(self, looked: Looked) -> None:
        members = np.flatnonzero(looked.is_isolated)
        if not len(members):
            return
        block, first = looked.piece.block, looked.piece.first
        known = {(int(s.atoms.numbers[0]), s.energy) for s in self.isolated}
        for k in members.tolist():
            energy = None if np.isnan(block.energies[k]) else float(block.energies[k])
            if (kind := (int(block.numbers[block.ends[k]]), energy)) not in known:
                known.add(kind)
                self.isolated += self.stream.labelled([first + k])
        self.isolated_members = np.concatenate([self.isolated_members, first + members])

    def _keep_heaviest(self, looked: Looked, trains: NDArray[np.bool_]) -> None:
        members = np.flatnonzero(trains)
        sizes = np.concatenate([self._sizes, looked.piece.block.sizes[members]])
        order = np.argsort(-sizes, kind="stable")[: self.keep]
        self._sizes = sizes[order]
        self.heaviest = np.concatenate([self.heaviest, looked.piece.first + members])[order]

    def _add_zeros(self, looked: Looked, trains: NDArray[np.bool_]) -> None:
        block = looked.piece.block
        of_label = {
            "energy": block.energies == 0,
            "forces": largest_forces(looked.piece) == 0,
            "stress": ~block.stresses.any(axis=(1, 2)),
        }
        for name, zeros in self.zeros.items():
            could = trains & (looked.weights[name] > 0) & (block.sizes >= (2 if name == "forces" else 1))
            found = np.flatnonzero(could & of_label[name])
            zeros.n, zeros.possible = zeros.n + len(found), zeros.possible + int(could.sum())
            room = ZEROS_KEPT - len(zeros.members)
            zeros.members += (looked.piece.first + found[:room]).tolist()

    def _add_forces(self, looked: Looked, counted: NDArray[np.bool_]) -> None:
        block = looked.piece.block
        forces = block.forces[np.repeat(counted, block.sizes)]
        self._squares += float(np.square(forces).sum())
        self._components += forces.size
        largest = np.where(counted, largest_forces(looked.piece), 0.0)
        members = np.flatnonzero(largest)
        self._histogram += np.bincount(_bins(largest[members]), minlength=len(self._histogram))
        top = members[np.argsort(-largest[members], kind="stable")[:LARGEST_KEPT]]
        found = [*self._largest, *((float(largest[k]), looked.piece.first + int(k)) for k in top)]
        self._largest = sorted(found, key=lambda pair: -pair[0])[:LARGEST_KEPT]

    def _add_energies(self, looked: Looked, trains: NDArray[np.bool_]) -> None:
        block = looked.piece.block
        owner = np.repeat(np.arange(len(block)), block.sizes)
        cells = np.bincount(owner * _ELEMENTS + block.numbers, minlength=len(block) * _ELEMENTS)
        atoms = cells.reshape(len(block), _ELEMENTS).astype(float)
        self._holds |= atoms[trains].any(axis=0)
        known = trains & looked.has["energy"] & (looked.weights["energy"] > 0)
        self._holds_with_energy |= atoms[known].any(axis=0)
        rows = np.column_stack([atoms, block.energies])[known]
        self._totals.add(rows)
        shares = rows / block.sizes[known, None]
        self._per_atom.add(np.column_stack([np.ones(len(shares)), shares]))


def _as_count(name: str, counts: NDArray[np.int64]) -> Count:
    structures, atoms, *labels = counts.tolist()
    return Count(name, structures, atoms, dict(zip(PROPERTIES, labels, strict=True)))


def _bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bins of the histogram of numbers above zero."""
    last = 2 * LOWEST * PER_OCTAVE - 1
    return np.clip(np.floor((np.log2(values) + LOWEST) * PER_OCTAVE), 0, last).astype(np.int64)


def scan(stream: Stream, keep: int, progress: Callable[[int, int], object] = lambda done, total: None) -> Scan:
    """Look at all structures once.

    Args:
        stream: the structures.
        keep: so many of the largest structures are remembered.
        progress: called with the number of structures that are done and that of all.

    Raises:
        DataError, InputError: a structure or label that can't be used, named by file and index.
    """
    found = Scan(stream, keep)
    for piece in stream.pieces(AT_ONCE):
        found.add(look_at(piece, stream.weights))
        progress(piece.first + len(piece.block), len(stream))
    return found
