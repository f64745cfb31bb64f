"""Random but seeded structures of any elements at sensible distances, and the motions applied to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.random import Generator
from numpy.typing import NDArray

from mlip.convert import atoms_to_graph

Array = NDArray[np.float64]

_CANDIDATES = 25  # random variants of a structure; the one with the emptiest shell around the cutoff is taken


def pair_distance(numbers: Sequence[int], cutoff: float = np.inf) -> float:
    """Return a bond length (Å) for the largest pair of these elements, between a sixth and half of the cutoff.

    Hydrogen at its own distance would have thousands of neighbors.
    """
    radii = sorted(max(covalent_radii[z], 0.3) for z in numbers)[-2:]
    length = 1.1 * 2 * float(np.mean(radii))
    return float(np.clip(length, cutoff / 6, cutoff / 2)) if np.isfinite(cutoff) else length


def representative(elements: Sequence[int], count: int = 3) -> tuple[int, ...]:
    """Return up to ``count`` of the elements, spread evenly over the list."""
    ordered = sorted(elements)
    if len(ordered) <= count:
        return tuple(ordered)
    return tuple(ordered[i] for i in np.linspace(0, len(ordered) - 1, count).round().astype(int))


def check_structures(elements: Sequence[int], cutoff: float, seed: int = 0) -> dict[str, Atoms]:
    """Return structures of every kind that a potential must get right.

    ``bulk`` (8 atoms, perturbed, triclinic), ``small`` (2 atoms in a cell below the cutoff, many images),
    ``molecule`` (5 atoms, no cell), ``slab`` (8 atoms, periodic along two axes). Of 25 random variants the one
    is taken whose pair distances stay farthest from the cutoff, where the energy has a kink of some order and a
    finite difference would measure that instead.
    """
    chosen = representative(elements)
    makers = {"bulk": bulk, "small": small_cell, "molecule": molecule, "slab": slab}
    rng = np.random.default_rng(seed)
    return {
        kind: max((make(chosen, cutoff, rng) for _ in range(_CANDIDATES)), key=lambda a: _gap(a, cutoff))
        for kind, make in makers.items()
    }


def bulk(elements: Sequence[int], cutoff: float, rng: Generator) -> Atoms:
    """Return a perturbed cubic crystal of 8 atoms in a slightly triclinic cell."""
    d = pair_distance(elements, cutoff)
    grid = np.array(list(np.ndindex(2, 2, 2))) / 2
    cell = 2 * d * (np.eye(3) + rng.uniform(-0.06, 0.06, (3, 3)))
    atoms = Atoms(_assign(elements, 8, rng), cell=cell, pbc=True, scaled_positions=grid)
    atoms.positions += rng.uniform(-0.08, 0.08, (8, 3)) * d
    return atoms


def small_cell(elements: Sequence[int], cutoff: float, rng: Generator) -> Atoms:
    """Return two atoms in a body-centered triclinic cell much smaller than the cutoff."""
    d = pair_distance(elements, cutoff)
    cell = 1.16 * d * (np.eye(3) + rng.uniform(-0.06, 0.06, (3, 3)))
    corner_and_center = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]) + rng.uniform(-0.04, 0.04, (2, 3))
    return Atoms(_assign(elements, 2, rng), cell=cell, pbc=True, scaled_positions=corner_and_center)


def one_atom_cell(element: int, cutoff: float, rng: Generator) -> Atoms:
    """Return one atom in a triclinic cell much smaller than the cutoff: it sees only its own images."""
    d = pair_distance([element, element], cutoff)
    fcc = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * d / np.sqrt(2)
    cell = fcc @ (np.eye(3) + rng.uniform(-0.06, 0.06, (3, 3)))
    return Atoms([element], cell=cell, pbc=True, positions=rng.uniform(0, d, (1, 3)))


def slab(elements: Sequence[int], cutoff: float, rng: Generator) -> Atoms:
    """Return two layers of four atoms, periodic along the first two axes, with vacuum along the third."""
    atoms = bulk(elements, cutoff, rng)
    cell = np.asarray(atoms.cell).copy()
    cell[2] *= 1 + 1.5 * cutoff / np.linalg.norm(cell[2])
    atoms.set_cell(cell, scale_atoms=False)
    atoms.pbc = (True, True, False)
    return atoms


def molecule(elements: Sequence[int], cutoff: float, rng: Generator, n_atoms: int = 5) -> Atoms:
    """Return a random cluster, each atom a bond length from an earlier one, without a cell."""
    numbers = _assign(elements, n_atoms, rng)
    positions = [np.zeros(3)]
    while len(positions) < n_atoms:
        z = numbers[len(positions)]
        anchor = int(rng.integers(len(positions)))
        step = rng.normal(size=3)
        d = pair_distance([z, numbers[anchor]], cutoff) * rng.uniform(0.95, 1.1)
        trial = positions[anchor] + d * step / np.linalg.norm(step)
        others = [
            np.linalg.norm(trial - p) / pair_distance([z, other], cutoff)
            for p, other in zip(positions, numbers, strict=False)
        ]
        if min(others) > 0.85:
            positions.append(trial)
    return Atoms(numbers, positions=np.array(positions))


def _assign(elements: Sequence[int], n_atoms: int, rng: Generator) -> NDArray[np.int64]:
    """Return ``n_atoms`` atomic numbers in random order, each element as often as the others."""
    return rng.permutation(np.resize(rng.permutation(np.asarray(elements)), n_atoms))


def _gap(atoms: Atoms, cutoff: float) -> float:
    """Distance (Å) from the cutoff of the pair distance closest to it, at most 0.5."""
    distances = atoms_to_graph(atoms, cutoff + 0.5).edge_vectors().norm(dim=1).numpy()
    return float(np.abs(distances - cutoff).min(initial=0.5))


def random_rotation(rng: Generator, improper: bool = False) -> Array:
    """Return a random orthogonal matrix (3, 3), of determinant -1 if ``improper``."""
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q)) * (-1 if improper else 1)


def rotated(atoms: Atoms, rotation: Array) -> Atoms:
    """Return a copy with positions and cell turned: each row vector v becomes ``v @ rotation.T``."""
    turned = atoms.copy()
    turned.set_cell(np.asarray(atoms.cell) @ rotation.T, scale_atoms=False)
    turned.positions = atoms.positions @ rotation.T
    return turned


def strained(atoms: Atoms, strain: Array) -> Atoms:
    """Return a copy with positions and cell deformed: each row vector v becomes ``v @ (1 + strain)``."""
    deformed = atoms.copy()
    deformed.set_cell(np.asarray(atoms.cell) @ (np.eye(3) + strain), scale_atoms=True)
    deformed.positions = atoms.positions @ (np.eye(3) + strain)
    return deformed


def moved(atoms: Atoms, displacement: Array) -> Atoms:
    """Return a copy with the displacement (N, 3) or (3,) added to the positions."""
    copy = atoms.copy()
    copy.positions = atoms.positions + displacement
    return copy
