"""Pairs of nearby frames of one system, and the work that forces and stresses do from one to the other.

Along the straight path from frame a to frame b, in fractional coordinates s and cell h (rows are lattice vectors),

    dE = -sum_i F_i · (ds_i h) + V σ : sym(h⁻¹ dh),

so that E_b - E_a is the mean of the right sides at both ends, but for the third derivatives of the energy. No model is
needed: the labels of a set prove, or contradict, each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.data.labels import LabelledStructure
from mlip.neighbors.reference import complete_cell
from mlip.units import full_3x3_to_voigt_6

Array = NDArray[np.float64]

#: A strain counts as a displacement over this length (Å), about a distance between neighbors.
STRAIN_LENGTH = 2.5
#: Frames further apart than this (Å, root mean square over the atoms, and largest) have no simple path between them.
FAR, FAR_ATOM = 0.6, 1.5
#: Frames of one system that are compared with each other, and pairs that are kept, at most.
COMPARED, KEPT = 250, 4000
#: Numbers in one table of distances, at most.
TABLE = 6e6


@dataclass(frozen=True)
class Pairs:
    """P pairs of frames a, b."""

    first: NDArray[np.int64]  # (P,) index of a
    second: NDArray[np.int64]
    n_atoms: Array  # (P,)
    energy: Array  # (P,) E_b - E_a, as the labels have it; NaN where one has none
    force_work: Array  # (P,) -sum F·Δx, mean of both ends; NaN without forces
    strain_work: Array  # (P, 6) V σ_k ε_k, Voigt order, shear with both halves, mean of both ends; NaN without stress
    strain: Array  # (P, 6) V ε_k, likewise: what a stress is multiplied by
    size: Array  # (P,) largest displacement and strain times `STRAIN_LENGTH`, Å
    bend: Array  # (P,) |difference of the forces' work at both ends| / 2
    stress: Array  # (P, 2, 6) as labelled at a and b
    strain_ends: Array  # (P, 2, 6) V ε_k at a and b: strain_work = mean over ends of stress x strain_ends
    volume: Array  # (P, 2)

    def take(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Some of them."""
        return Pairs(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def __len__(self) -> int:
        return int(self.first.shape[0])

    @property
    def strained(self) -> NDArray[np.bool_]:
        """Whether the cells differ."""
        return np.abs(self.strain_ends).max(axis=(1, 2)) > 1e-6 * self.volume.max(axis=1)


def nearby_pairs(structures: Sequence[LabelledStructure]) -> Pairs:
    """Pairs of frames with the same atoms in the same order, each frame with the two that are closest to it."""
    systems: dict[tuple[bytes, bytes], list[int]] = {}
    for k, s in enumerate(structures):
        if s.energy is not None and len(s.atoms) > 1:
            systems.setdefault((s.atoms.numbers.tobytes(), s.atoms.pbc.tobytes()), []).append(k)
    rows = []
    for members in systems.values():
        if len(members) > 1:
            rows += list(_pairs_of_system([structures[k] for k in members], members))
        if len(rows) >= KEPT:
            break
    columns: list[Any] = [np.array(column) for column in zip(*rows, strict=True)] or _no_columns()
    return Pairs(*columns)


def _no_columns() -> list[Array]:
    """Of no pairs."""
    shapes = {"strain_work": (6,), "strain": (6,), "stress": (2, 6), "strain_ends": (2, 6), "volume": (2,)}
    return [np.zeros((0, *shapes.get(f.name, ()))) for f in fields(Pairs)]


class _System:
    """Frames of one system as arrays."""

    def __init__(self, frames: Sequence[LabelledStructure]) -> None:
        self.pbc = frames[0].atoms.pbc
        self.is_free = not self.pbc.any()
        cells = [np.eye(3) if self.is_free else complete_cell(s.atoms.cell.array, self.pbc) for s in frames]
        self.cells = np.array(cells)
        self.inverse = np.linalg.inv(self.cells)
        self.fractional = np.array([s.atoms.positions @ i for s, i in zip(frames, self.inverse, strict=True)])

    def steps(self, a: int, others: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Fractional steps (n, N, 3) from frame a to others, changes of the cell (n, 3, 3), rotations (n, 3, 3)."""
        rotations = np.broadcast_to(np.eye(3), (len(others), 3, 3))
        if self.is_free:
            here = self.fractional[a] - self.fractional[a].mean(axis=0)
            there = self.fractional[others]
            there = there - there.mean(axis=1, keepdims=True)
            rotations = _rotations_onto(here, there)
            return there @ rotations - here, np.zeros((len(others), 3, 3)), rotations
        steps = self.fractional[others] - self.fractional[a]
        steps[..., self.pbc] -= np.round(steps[..., self.pbc])
        steps -= steps.mean(axis=1, keepdims=True)  # a translation changes no energy
        return steps, self.cells[others] - self.cells[a], rotations


def _rotations_onto(here: Array, there: Array) -> Array:
    """Rotations R (n, 3, 3), so that there @ R is closest to here (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(np.einsum("nki,kj->nij", there, here))
    sign = np.sign(np.linalg.det(u @ vt))
    u[:, :, 2] *= sign[:, None]
    rotations: Array = u @ vt
    return rotations


def _pairs_of_system(frames: Sequence[LabelledStructure], members: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    n, n_atoms = len(frames), len(frames[0].atoms)
    system = _System(frames)
    most = int(max(2, min(COMPARED, (TABLE / n_atoms) ** 0.5)))
    some = np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
    wanted = {(k, k + 1) for k in range(0, n - 1, 1 + n // KEPT)} if n > most else set()
    for a in some:
        others = some[some != a]
        steps, change, _ = system.steps(int(a), others)
        strain = np.linalg.norm(system.inverse[a] @ change, axis=(1, 2))
        squares = np.square(steps @ system.cells[a]).sum(axis=2).mean(axis=1) + np.square(STRAIN_LENGTH * strain)
        order = np.argsort(squares)
        closest = [int(k) for k in order if squares[k] > 1e-12][:2]
        unstrained = [int(k) for k in order if squares[k] > 1e-12 and strain[k] < 1e-6][:1]
        strained = [int(k) for k in order if strain[k] > 1e-4][:2]
        for k in {*closest, *unstrained, *strained}:
            if squares[k] < FAR**2:
                wanted.add((min(int(a), int(others[k])), max(int(a), int(others[k]))))
    for a, b in sorted(wanted):
        row = _pair(system, frames, int(a), int(b))
        if row is not None:
            yield (members[a], members[b], *row)


def _pair(system: _System, frames: Sequence[LabelledStructure], a: int, b: int) -> tuple[Any, ...] | None:
    """The numbers of a pair after its indices; None if the frames are the same or far apart."""
    steps, change, rotations = (x[0] for x in system.steps(a, np.array([b])))
    ends = [frames[a], frames[b]]
    moves = [steps @ system.cells[a], steps @ system.cells[b]]
    forces = [frames[a].forces, None if (f := frames[b].forces) is None else f @ rotations]
    works = [np.nan if f is None else -float((f * m).sum()) for f, m in zip(forces, moves, strict=True)]
    volumes = np.array([abs(np.linalg.det(system.cells[k])) for k in (a, b)])
    gradients = [system.inverse[k] @ change for k in (a, b)]
    strains = np.array([full_3x3_to_voigt_6(g) * [1, 1, 1, 2, 2, 2] for g in gradients])
    largest = float(np.linalg.norm(moves[0], axis=1).max())
    size = largest + STRAIN_LENGTH * float(np.abs(gradients[0]).max())
    if size < 1e-6 or largest > FAR_ATOM or np.abs(gradients[0]).max() > 0.3:
        return None
    stresses = np.array([np.full(6, np.nan) if s.stress is None else full_3x3_to_voigt_6(s.stress) for s in ends])
    strain_ends = strains * volumes[:, None]
    energies = [np.nan if s.energy is None else s.energy for s in ends]
    return (
        float(len(ends[0].atoms)),
        energies[1] - energies[0],
        (works[0] + works[1]) / 2,
        (stresses * strain_ends).mean(axis=0),
        strain_ends.mean(axis=0),
        size,
        abs(works[1] - works[0]) / 2,
        stresses,
        strain_ends,
        volumes,
    )
