"""Derivatives of an energy by finite differences, for anything that maps structures to energies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from numpy.random import Generator
from numpy.typing import NDArray

from mlip.testing.physics.structures import moved, strained
from mlip.units import VOIGT_INDICES

Array = NDArray[np.float64]
Energies = Callable[[Sequence[Atoms]], Array]

OFFSETS = np.array([-2.0, -1.0, 1.0, 2.0])
WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12  # five-point stencil, error h^4/30 of the fifth derivative


def probe_directions(forces: Array, rng: Generator, count: int = 4) -> Array:
    """Return directions (K, N, 3) to move the atoms along: the forces themselves, random ones, single atoms.

    The first has the strongest signal, the random ones touch every component, the last ones one atom each.
    Each is scaled to a root-mean-square displacement of 1 over the atoms that move.
    """
    n_atoms = len(forces)
    directions = [rng.normal(size=(n_atoms, 3)) for _ in range(count)]
    if np.abs(forces).max(initial=0) > 0:
        directions.insert(0, forces.copy())
    for atom in rng.permutation(n_atoms)[:2]:
        single = np.zeros((n_atoms, 3))
        single[atom] = rng.normal(size=3)
        directions.append(single)
    return np.array([d * np.sqrt(np.count_nonzero(d.any(axis=1))) / np.linalg.norm(d) for d in directions])


def slopes(energies: Energies, atoms: Atoms, directions: Array, step: float) -> Array:
    """Return the derivatives (K,) of the energy (eV/Å) along the directions, with ``step`` in Å."""
    structures = [moved(atoms, h * step * d) for d in directions for h in OFFSETS]
    return energies(structures).reshape(len(directions), -1) @ WEIGHTS / step


def strain_slopes(energies: Energies, atoms: Atoms, step: float) -> Array:
    """Return the stress in Voigt order (6,), eV/Å³: derivatives by the symmetric strains, over the volume.

    A shear component strains both off-diagonal elements by half the step each.
    """
    structures = [strained(atoms, h * step * unit_strain(k)) for k in range(6) for h in OFFSETS]
    return energies(structures).reshape(6, -1) @ WEIGHTS / step / atoms.get_volume()


def unit_strain(component: int) -> Array:
    """Return the symmetric strain (3, 3) conjugate to one Voigt component of the stress."""
    i, j = VOIGT_INDICES[component]
    strain = np.zeros((3, 3))
    strain[i, j] += 0.5
    strain[j, i] += 0.5
    return strain
