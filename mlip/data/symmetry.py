"""Whether the forces on all atoms of a crystal are zero by its symmetry."""

from __future__ import annotations

import numpy as np
from ase import Atoms

#: Atoms closer than this (Å) to where a symmetry operation puts them count as there.
TOLERANCE = 1e-4


def forces_vanish(atoms: Atoms) -> bool:
    """Whether no atom may have a force: no vector is left as it is by all operations that leave the atom where it is.

    Only periodic structures are looked at; of others, nothing is claimed.
    """
    import spglib

    if not atoms.pbc.all():
        return False
    cell, fractional = atoms.cell.array, atoms.get_scaled_positions(wrap=False)
    symmetry = spglib.get_symmetry((cell, fractional, atoms.numbers), symprec=TOLERANCE)
    if symmetry is None:
        return False
    sums = np.zeros((len(atoms), 3, 3))
    for rotation, translation in zip(symmetry["rotations"], symmetry["translations"], strict=True):
        moved = fractional @ rotation.T + translation - fractional
        moved -= np.round(moved)
        stays = np.linalg.norm(moved @ cell, axis=1) < 10 * TOLERANCE
        sums[stays] += rotation
    return bool((np.abs(sums) < 1e-6).all())  # sums over a group project onto what the group leaves as it is
