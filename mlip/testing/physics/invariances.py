"""How far an evaluator breaks the symmetries of space: each function returns the relative error (`deviation`).

They serve our potentials and black-box calculators alike.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.random import Generator
from numpy.typing import NDArray

from mlip.testing.physics.answers import FORCE_FLOOR, Answer, Evaluate, deviation
from mlip.testing.physics.structures import moved, random_rotation, rotated


def rotation_error(evaluate: Evaluate, atoms: Atoms, rng: Generator, improper: bool) -> float:
    """Error after turning atoms and cell: same energy, forces F·Rᵀ, stress R·σ·Rᵀ."""
    turn = random_rotation(rng, improper)
    reference = evaluate([atoms])
    expected = Answer(
        energy=reference.energy,
        forces=reference.forces @ turn.T,
        stress=None if reference.stress is None else turn @ reference.stress @ turn.T,
        n_atoms=reference.n_atoms,
    )
    return deviation(evaluate([rotated(atoms, turn)]), expected)


def translation_error(evaluate: Evaluate, atoms: Atoms, rng: Generator, distance: float) -> float:
    """Error after moving all atoms by ``distance`` (Å) in a random direction."""
    direction = rng.normal(size=3)
    return deviation(evaluate([moved(atoms, distance * direction / np.linalg.norm(direction))]), evaluate([atoms]))


def wrapping_error(evaluate: Evaluate, atoms: Atoms, rng: Generator) -> float:
    """Error after moving each atom by lattice vectors of its own along the periodic axes."""
    translations = rng.integers(-3, 4, (len(atoms), 3)) * atoms.pbc
    return deviation(evaluate([moved(atoms, translations @ np.asarray(atoms.cell))]), evaluate([atoms]))


def permutation_error(evaluate: Evaluate, atoms: Atoms, rng: Generator) -> float:
    """Error after reordering the atoms, at random and by one place: same energy and stress, forces reordered alike."""
    reference = evaluate([atoms])
    errors = []
    for order in (rng.permutation(len(atoms)), np.roll(np.arange(len(atoms)), 1)):
        expected = Answer(reference.energy, reference.forces[order], reference.stress, reference.n_atoms)
        errors.append(deviation(evaluate([atoms[order]]), expected))
    return float(np.max(errors))


def supercell_error(
    evaluate: Evaluate, atoms: Atoms, repeats: tuple[int, int, int], floor: float = FORCE_FLOOR
) -> float:
    """Error of a supercell: n times the energy, the same forces on each copy, the same stress."""
    copies = int(np.prod(repeats))
    reference = evaluate([atoms])
    expected = Answer(
        energy=reference.energy * copies,
        forces=np.tile(reference.forces, (copies, 1)),
        stress=reference.stress,
        n_atoms=reference.n_atoms * copies,
    )
    return deviation(evaluate([atoms.repeat(repeats)]), expected, floor)


def handedness_error(evaluate: Evaluate, atoms: Atoms) -> float:
    """Error after exchanging two lattice vectors: the same crystal in a cell of the other handedness."""
    exchanged = atoms.copy()
    exchanged.set_cell(np.asarray(atoms.cell)[[1, 0, 2]], scale_atoms=False)
    exchanged.pbc = atoms.pbc[[1, 0, 2]]
    return deviation(evaluate([exchanged]), evaluate([atoms]))


def net_force(forces: NDArray[np.float64]) -> float:
    """Return the total force over the sum of the forces' lengths."""
    total = np.linalg.norm(forces, axis=1).sum()
    return float(np.linalg.norm(forces.sum(axis=0)) / total) if total != 0 else 0.0
