"""Symmetries of space: the energy does not know where the atoms are, how they are turned or in what order they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from ase import Atoms

from mlip.potential import Potential
from mlip.testing.physics.answers import evaluator
from mlip.testing.physics.invariances import (
    handedness_error,
    permutation_error,
    rotation_error,
    translation_error,
    wrapping_error,
)
from mlip.testing.physics.result import Check, CheckResult, result
from mlip.testing.physics.structures import check_structures, pair_distance, representative

TOLERANCE = 1e-8
"""Rounding in float64 reaches 1e-10 in deep networks and for coordinates of 1e4 Å; a wrong term shows at 1e-3."""

Structures = Mapping[str, Atoms]


def structures_for(potential: Potential, structures: Structures | None = None, seed: int = 0) -> Structures:
    """Return the given structures, or generated ones for the potential's elements and cutoff."""
    return structures if structures is not None else check_structures(potential.elements, potential.cutoff, seed)


def worst(check: Check, errors: Mapping[str, float], tolerance: float) -> CheckResult:
    """Return the result for the structure with the largest error (a NaN counts as the largest)."""
    kind = max(errors, key=lambda k: np.inf if np.isnan(errors[k]) else errors[k])
    return result(check, errors[kind], tolerance, f"worst of {len(errors)}: {kind}")


def _over(structures: Structures, error: Callable[[Atoms], float]) -> dict[str, float]:
    return {kind: error(atoms) for kind, atoms in structures.items()}


def check_rotation(
    potential: Potential, structures: Structures | None = None, tolerance: float = TOLERANCE
) -> CheckResult:
    """Forces and stress turn with the structure."""
    evaluate, rng = evaluator(potential), np.random.default_rng(1)
    cases = structures_for(potential, structures)
    errors = _over(cases, lambda atoms: rotation_error(evaluate, atoms, rng, improper=False))
    return worst(check_rotation, errors, tolerance)


def check_inversion(
    potential: Potential, structures: Structures | None = None, tolerance: float = TOLERANCE
) -> CheckResult:
    """A mirror image has the same energy: no handedness."""
    evaluate, rng = evaluator(potential), np.random.default_rng(2)
    cases = structures_for(potential, structures)
    errors = _over(cases, lambda atoms: rotation_error(evaluate, atoms, rng, improper=True))
    return worst(check_inversion, errors, tolerance)


def check_translation(
    potential: Potential,
    structures: Structures | None = None,
    tolerance: float = TOLERANCE,
    distance: float = 1e4,
) -> CheckResult:
    """Moving everything by 1e4 Å changes nothing."""
    evaluate, rng = evaluator(potential), np.random.default_rng(3)
    cases = structures_for(potential, structures)
    errors = _over(cases, lambda atoms: translation_error(evaluate, atoms, rng, distance))
    return worst(check_translation, errors, tolerance)


def check_wrapping(
    potential: Potential, structures: Structures | None = None, tolerance: float = TOLERANCE
) -> CheckResult:
    """Atoms outside the cell count as their images inside it."""
    evaluate, rng = evaluator(potential), np.random.default_rng(4)
    cases = structures_for(potential, structures)
    errors = _over(cases, lambda atoms: wrapping_error(evaluate, atoms, rng))
    return worst(check_wrapping, errors, tolerance)


def check_permutation(
    potential: Potential, structures: Structures | None = None, tolerance: float = TOLERANCE
) -> CheckResult:
    """The order of the atoms does not matter."""
    evaluate, rng = evaluator(potential), np.random.default_rng(5)
    cases = structures_for(potential, structures)
    errors = _over(cases, lambda atoms: permutation_error(evaluate, atoms, rng))
    return worst(check_permutation, errors, tolerance)


def check_high_symmetry(potential: Potential, tolerance: float = TOLERANCE) -> CheckResult:
    """Symmetric structures are nothing special: no NaN, same answer when turned.

    Perfect cubic crystals, dimers along the axes, a line and a square: vectors that cancel exactly, at the poles of
    the spherical harmonics. The value compares with the same structure in a random orientation.
    """
    evaluate, rng = evaluator(potential), np.random.default_rng(9)
    d = pair_distance(potential.elements, potential.cutoff)
    errors = {}
    for z in representative(potential.elements, 2):
        shapes = {
            "crystal": Atoms([z], cell=[d, d, d], pbc=True),
            "dimer along x": Atoms([z, z], positions=[[0, 0, 0], [d, 0, 0]]),
            "dimer along y": Atoms([z, z], positions=[[0, 0, 0], [0, d, 0]]),
            "dimer along z": Atoms([z, z], positions=[[0, 0, 0], [0, 0, d]]),
            "line": Atoms([z] * 3, positions=[[0, 0, -d], [0, 0, 0], [0, 0, d]]),
            "square": Atoms([z] * 4, positions=[[0, 0, 0], [d, 0, 0], [d, d, 0], [0, d, 0]]),
        }
        for kind, atoms in shapes.items():
            errors[f"{kind} of {atoms.symbols[0]}"] = rotation_error(evaluate, atoms, rng, improper=False)
    return worst(check_high_symmetry, errors, tolerance)


def check_left_handed_cell(
    potential: Potential, structures: Structures | None = None, tolerance: float = TOLERANCE
) -> CheckResult:
    """A left-handed cell describes the same crystal."""
    evaluate = evaluator(potential)
    cases = {k: a for k, a in structures_for(potential, structures).items() if a.cell.rank == 3}
    return worst(check_left_handed_cell, _over(cases, lambda atoms: handedness_error(evaluate, atoms)), tolerance)
