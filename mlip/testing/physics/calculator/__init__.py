"""Checks of any ASE calculator as a black box."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from mlip.errors import InputError
from mlip.testing.physics.answers import FORCE_FLOOR
from mlip.testing.physics.calculator import contract, derivatives, symmetry
from mlip.testing.physics.calculator.elements import structures_from, supported_structures
from mlip.testing.physics.calculator.subject import (
    DERIVATIVE_TOLERANCE,
    LOOSEST_TOLERANCE,
    SYMMETRY_TOLERANCE,
    Subject,
    evaluate_with,
    factory_of,
    noise,
)
from mlip.testing.physics.result import Check, CheckResult, Progress, run_checks

CALCULATOR_CHECKS: tuple[Check, ...] = (
    derivatives.check_forces_are_gradient,
    derivatives.check_net_force,
    derivatives.check_stress_is_derivative,
    derivatives.check_stress_sign,
    derivatives.check_voigt_order,
    symmetry.check_translation,
    symmetry.check_wrapping,
    symmetry.check_rotation,
    symmetry.check_inversion,
    symmetry.check_permutation,
    symmetry.check_supercell,
    contract.check_atoms_unchanged,
    contract.check_cache,
    contract.check_energies_consistent,
)


def check_calculator(
    calculator_or_factory: Any,
    structure: Atoms | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> list[CheckResult]:
    """Run every check that applies to a black box on an ASE calculator.

    Args:
        calculator_or_factory: a calculator, or a class or function that returns one when called.
        structure: what to test it on; without one, crystals of the elements that it is found to support.
        tolerance: relative, for every check that compares numbers; default 1e-4 for finite differences, 1e-6 for
            symmetries, wider (up to 5e-3) if the calculator's numbers are found to be noisy, as in float32.
        progress: called as ``progress(done, total, name)``.

    Raises:
        InputError: not a calculator, or none that evaluates the structure or any element.
    """
    return run_checks(CALCULATOR_CHECKS, subject_of(calculator_or_factory, structure, tolerance), progress)


def subject_of(calculator_or_factory: Any, structure: Atoms | None = None, tolerance: float | None = None) -> Subject:
    """Return the calculator with structures it supports and tolerances that fit its precision."""
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance {tolerance}: expected a positive number")
    factory = factory_of(calculator_or_factory)
    structures = structures_from(factory, structure) if structure is not None else supported_structures(factory)
    atoms = next(iter(structures.values()))
    if tolerance is None:
        energy_noise, force_noise = noise(factory, atoms)
        force = max(float(np.abs(evaluate_with(factory(), [atoms], stress=False).forces).max()), FORCE_FLOOR)
        # largest error of some ten finite differences, and of some hundred numbers whose inputs are rounded too
        slope_noise = 5 * (energy_noise / max(derivatives.STEPS) + force_noise) / force
        symmetry_noise = 20 * (energy_noise / len(atoms) + force_noise) / force
        derivative_tolerance = float(np.clip(slope_noise, DERIVATIVE_TOLERANCE, LOOSEST_TOLERANCE))
        symmetry_tolerance = float(np.clip(symmetry_noise, SYMMETRY_TOLERANCE, LOOSEST_TOLERANCE))
    else:
        derivative_tolerance = symmetry_tolerance = tolerance
    properties = frozenset(getattr(factory(), "implemented_properties", ("energy", "forces")))
    return Subject(factory, structures, properties, derivative_tolerance, symmetry_tolerance)


__all__ = ["CALCULATOR_CHECKS", "Subject", "check_calculator", "subject_of"]
