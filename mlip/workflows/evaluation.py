"""How the workflows call a calculator: checks before, checks after, batches where the calculator offers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from numpy.typing import NDArray

from mlip.convert import check_structure
from mlip.errors import InputError, MLIPError

Progress: TypeAlias = Callable[[int, int, str], None]
"""``progress(done, total, note)``; ``total`` 0 means unknown."""
BatchForces: TypeAlias = Callable[[list[Atoms]], list[NDArray[np.float64]]]

_ATOMS_PER_BATCH = 4096
_KEPT_ARRAYS = {"numbers", "positions", "momenta", "masses", "tags", "initial_charges", "initial_magmoms"}


def prepare(atoms: Atoms, calculator: BaseCalculator) -> Atoms:
    """Return a checked copy of ``atoms`` with ``calculator`` attached.

    Constraints, velocities, masses, tags, charges and magnetic moments are kept. Whatever else the structure carries
    (labels of a data set, the space group of a CIF file) would no longer be true once the atoms move, and is dropped.

    Raises:
        InputError: no atoms, coordinates that are not finite, a singular cell.
    """
    if not len(atoms):
        raise InputError("the structure holds no atoms")
    check_structure(atoms)
    copy = atoms.copy()
    copy.info = {}
    for name in set(copy.arrays) - _KEPT_ARRAYS:
        del copy.arrays[name]
    copy.calc = calculator
    return copy


def require_crystal(atoms: Atoms, purpose: str) -> None:
    """Raise `InputError` unless the structure is periodic in all three directions."""
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise InputError(f"{purpose} needs a structure periodic in three directions; got pbc={atoms.pbc.tolist()}")


def is_crystal(atoms: Atoms) -> bool:
    """Whether the structure is periodic in all three directions, so that it has a stress."""
    return bool(atoms.pbc.all() and atoms.cell.rank == 3)


def require_length(name: str, value: float, largest: float) -> None:
    """Raise `InputError` unless a length in Å is above zero and no larger than makes sense."""
    if not 0 < value <= largest:
        raise InputError(f"{name} must be positive and at most {largest:g} Å; got {value:g}")


def require_finite(forces: NDArray[np.float64], when: str) -> None:
    """Raise `MLIPError` if the model gave forces that are not numbers."""
    if not np.isfinite(forces).all():
        raise MLIPError(f"the forces are not finite {when}; the structure is too far from what the model knows")


def batch_forces(calculator: BaseCalculator) -> BatchForces:
    """Return a function from structures to their forces (N, 3), eV/Å.

    A calculator with ``evaluate(structures, forces, stress)`` (ours) gets all structures of a batch in
    one call, any other gets them one by one.
    """
    if hasattr(calculator, "evaluate"):
        return lambda structures: [
            np.asarray(result["forces"]) for result in calculator.evaluate(structures, forces=True, stress=False)
        ]
    return lambda structures: [prepare(atoms, calculator).get_forces() for atoms in structures]


def forces_in_batches(
    structures: Sequence[Atoms], evaluate: BatchForces, progress: Progress | None = None
) -> list[NDArray[np.float64]]:
    """Return the forces of many structures, evaluated in batches of about 4000 atoms."""
    forces: list[NDArray[np.float64]] = []
    while len(forces) < len(structures):
        size = max(1, _ATOMS_PER_BATCH // max(1, len(structures[len(forces)])))
        batch = list(structures[len(forces) : len(forces) + size])
        forces += evaluate(batch)
        for result in forces[-len(batch) :]:
            require_finite(result, "in a displaced structure")
        if progress:
            progress(len(forces), len(structures), "")
    return forces
