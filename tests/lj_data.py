"""Small labelled sets for the tests of data and training: argon in a smooth Lennard-Jones potential, plus E0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io import write

E0 = -1.5


def argon(n: int, seed: int = 0) -> list[Atoms]:
    """Rattled, strained cells of four atoms with REF_energy, REF_forces and REF_stress (Voigt), no calculator."""
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
        strain = rng.normal(scale=0.02, size=(3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + strain + strain.T), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.15, size=(4, 3))
        structures.append(label(atoms))
    return structures


def label(atoms: Atoms) -> Atoms:
    """Store labels under REF_* keys."""
    probe = atoms.copy()
    probe.calc = LennardJones(sigma=3.4, epsilon=0.05, rc=5.0, smooth=True)
    atoms.info["REF_energy"] = float(probe.get_potential_energy()) + E0 * len(atoms)
    atoms.arrays["REF_forces"] = probe.get_forces()
    if atoms.pbc.all():
        atoms.info["REF_stress"] = probe.get_stress()
    return atoms


def isolated(symbol: str = "Ar", energy: float = E0, config_type: str = "IsolatedAtom") -> Atoms:
    """One atom in a large periodic box, marked."""
    atoms = Atoms(symbol, cell=[20, 20, 20], pbc=True)
    atoms.info |= {"REF_energy": energy, "config_type": config_type}
    atoms.arrays["REF_forces"] = np.zeros((1, 3))
    return atoms


def write_xyz(path: Path, structures: list[Atoms]) -> Path:
    write(path, structures, format="extxyz")
    return path
