"""Forces and stress of a calculator against finite differences of its energy."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.testing.physics.answers import STRESS_FLOOR
from mlip.testing.physics.calculator.subject import Subject
from mlip.testing.physics.result import CheckResult, result, skipped
from mlip.testing.physics.stencils import probe_directions, slopes, strain_slopes
from mlip.testing.physics.structures import strained
from mlip.testing.physics.symmetry import worst
from mlip.units import full_3x3_to_voigt_6

Array = NDArray[np.float64]

STEPS = (0.02, 5e-3, 1e-3, 2e-4)
"""Å. The best of four is taken for each direction: long steps for noisy energies, short ones between the jumps that
an energy with an abrupt cutoff makes. Wrong forces are wrong at every step."""

STRAIN_STEPS = (5e-3, 1e-3, 2e-4, 4e-5)

DISTINCT_STRAINS = np.array([[0.02, 0.01, -0.02], [0.01, -0.01, 0.03], [-0.02, 0.03, 0.0]])
"""Puts clearly different values into the six components of the stress."""

NAMES = ("xx", "yy", "zz", "yz", "xz", "xy")


def check_forces_are_gradient(subject: Subject) -> CheckResult:
    """Forces are minus the gradient of the energy.

    Five-point differences along the forces, random directions and single atoms. The value is the largest error
    relative to the root-mean-square slope.
    """
    rng = np.random.default_rng(14)
    errors = {}
    for kind, atoms in subject.structures.items():
        forces = subject.evaluate([atoms]).forces
        directions = probe_directions(forces, rng, count=3)
        analytic = -np.einsum("kni,ni->k", directions, forces)
        wrong = np.min([np.abs(slopes(subject.energies, atoms, directions, h) - analytic) for h in STEPS], axis=0)
        errors[kind] = float(wrong.max() / np.sqrt(np.mean(analytic**2)))
    return worst(check_forces_are_gradient, errors, subject.derivative_tolerance)


def check_net_force(subject: Subject) -> CheckResult:
    """Forces add up to zero: nothing pushes itself."""
    from mlip.testing.physics.invariances import net_force

    errors = {kind: net_force(subject.evaluate([atoms]).forces) for kind, atoms in subject.structures.items()}
    return worst(check_net_force, errors, subject.symmetry_tolerance)


def check_stress_is_derivative(subject: Subject) -> CheckResult:
    """Stress is the energy's derivative by strain, over volume.

    All six components, on a sheared crystal. The value is the largest error relative to the largest component.
    """
    if (reason := no_stress(subject)) is not None:
        return skipped(check_stress_is_derivative, reason)
    errors = {}
    for kind, structure in subject.periodic.items():
        atoms = strained(structure, DISTINCT_STRAINS)
        stress = _stress(subject, atoms)
        numeric = best_strain_slopes(subject, atoms, stress)
        scale = max(float(np.abs(numeric).max()), STRESS_FLOOR)
        component = int(np.abs(stress - numeric).argmax())
        errors[f"{kind}, {NAMES[component]}"] = float(np.abs(stress - numeric).max() / scale)
    return worst(check_stress_is_derivative, errors, subject.derivative_tolerance)


def check_stress_sign(subject: Subject) -> CheckResult:
    """Stress is positive under tension.

    The trace has the sign of dE/dV for the crystal pressed and stretched by 3%; the value counts the failures.
    """
    if (reason := no_stress(subject)) is not None:
        return skipped(check_stress_sign, reason)
    atoms = next(iter(subject.periodic.values()))
    wrong, details = 0, []
    for stretch in (-0.03, 0.03):
        deformed = atoms.copy()
        deformed.set_cell(np.asarray(atoms.cell) * (1 + stretch), scale_atoms=True)
        stress = _stress(subject, deformed)
        numeric = best_strain_slopes(subject, deformed, stress)
        wrong += stress[:3].sum() * numeric[:3].sum() <= 0
        details.append(f"at {100 * stretch:+.0f}%: {stress[:3].mean():.3g} for {numeric[:3].mean():.3g} eV/Å³")
    return result(check_stress_sign, wrong, 0.0, "; ".join(details))


def check_voigt_order(subject: Subject) -> CheckResult:
    """Stress comes in the order xx yy zz yz xz xy.

    One strain at a time, by finite differences, on a sheared crystal. The value counts the components that fit
    another strain better than their own.
    """
    if (reason := no_stress(subject)) is not None:
        return skipped(check_voigt_order, reason)
    atoms = strained(next(iter(subject.periodic.values())), DISTINCT_STRAINS)
    stress = _stress(subject, atoms)
    numeric = best_strain_slopes(subject, atoms, stress)
    mismatch = np.abs(np.abs(stress)[:, None] - np.abs(numeric)[None, :])
    own = np.diagonal(mismatch)
    scale = max(float(np.abs(numeric).max()), STRESS_FLOOR)
    misplaced = [
        k for k in range(6) if own[k] > 10 * subject.derivative_tolerance * scale and mismatch[k].min() < own[k] / 10
    ]
    fits = [f"{NAMES[k]} holds {NAMES[int(mismatch[k].argmin())]}" for k in misplaced]
    return result(check_voigt_order, len(misplaced), 0.0, ", ".join(fits))


def no_stress(subject: Subject) -> str | None:
    """Return why the stress can't be checked, if so."""
    if "stress" not in subject.properties:
        return "the calculator implements no stress"
    return None if subject.periodic else "no structure periodic along three axes"


def best_strain_slopes(subject: Subject, atoms: Atoms, stress: Array) -> Array:
    """Return for each component the numerical derivative, among four steps, that is closest to the stress."""
    numeric = np.array([strain_slopes(subject.energies, atoms, h) for h in STRAIN_STEPS])
    return numeric[np.abs(numeric - stress).argmin(axis=0), np.arange(6)]


def _stress(subject: Subject, atoms: Atoms) -> Array:
    stress = subject.evaluate([atoms]).stress
    assert stress is not None
    return np.asarray(full_3x3_to_voigt_6(stress[0]))
