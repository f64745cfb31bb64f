"""Symmetries and extensivity of a black-box calculator."""

from __future__ import annotations

import numpy as np

from mlip.testing.physics import invariances
from mlip.testing.physics.calculator.subject import Subject
from mlip.testing.physics.result import CheckResult, skipped
from mlip.testing.physics.symmetry import worst

DISTANCE = 10.0
"""Å; far enough to leave the cell, near enough for coordinates in single precision."""


def check_translation(subject: Subject) -> CheckResult:
    """Moving everything by 10 Å changes nothing."""
    rng = np.random.default_rng(15)
    errors = {
        kind: invariances.translation_error(subject.evaluate, atoms, rng, DISTANCE)
        for kind, atoms in subject.structures.items()
    }
    return worst(check_translation, errors, subject.symmetry_tolerance)


def check_wrapping(subject: Subject) -> CheckResult:
    """Atoms outside the cell count as their images inside it."""
    if not subject.periodic:
        return skipped(check_wrapping, "no periodic structure")
    rng = np.random.default_rng(16)
    errors = {k: invariances.wrapping_error(subject.evaluate, a, rng) for k, a in subject.periodic.items()}
    return worst(check_wrapping, errors, subject.symmetry_tolerance)


def check_rotation(subject: Subject) -> CheckResult:
    """Forces and stress turn with the structure."""
    rng = np.random.default_rng(17)
    errors = {k: invariances.rotation_error(subject.evaluate, a, rng, False) for k, a in subject.structures.items()}
    return worst(check_rotation, errors, subject.symmetry_tolerance)


def check_inversion(subject: Subject) -> CheckResult:
    """A mirror image has the same energy: no handedness."""
    rng = np.random.default_rng(18)
    errors = {k: invariances.rotation_error(subject.evaluate, a, rng, True) for k, a in subject.structures.items()}
    return worst(check_inversion, errors, subject.symmetry_tolerance)


def check_permutation(subject: Subject) -> CheckResult:
    """The order of the atoms does not matter."""
    rng = np.random.default_rng(19)
    errors = {k: invariances.permutation_error(subject.evaluate, a, rng) for k, a in subject.structures.items()}
    return worst(check_permutation, errors, subject.symmetry_tolerance)


def check_supercell(subject: Subject) -> CheckResult:
    """n cells have n times the energy, and the same stress."""
    if not subject.periodic:
        return skipped(check_supercell, "no periodic structure")
    errors = {
        f"{kind} x {repeats}": invariances.supercell_error(subject.evaluate, atoms, repeats)
        for kind, atoms in subject.periodic.items()
        for repeats in ((2, 1, 1), (1, 1, 2))
    }
    return worst(check_supercell, errors, subject.symmetry_tolerance)
