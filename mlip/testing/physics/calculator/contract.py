"""What ASE expects of a calculator: inputs left alone, a cache that notices changes, consistent properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms

from mlip.testing.physics.answers import FORCE_FLOOR, STRESS_FLOOR, Answer, deviation
from mlip.testing.physics.calculator.subject import Subject, attached, evaluate_with
from mlip.testing.physics.result import CheckResult, result, skipped
from mlip.testing.physics.symmetry import worst


def check_atoms_unchanged(subject: Subject) -> CheckResult:
    """A calculation leaves the Atoms alone.

    And its results can be written to without spoiling the cache. The value counts what changed.
    """
    changed = []
    for kind, structure in subject.structures.items():
        atoms = attached(subject.make(), structure)
        before = _snapshot(atoms)
        forces = _ask_everything(subject, atoms)
        after = _snapshot(atoms)
        names = before.keys() | after.keys()
        changed += [f"{kind}: {n}" for n in sorted(names) if not _same(before.get(n), after.get(n))]
        kept = forces.copy()
        forces += 1.0
        if not np.array_equal(atoms.get_forces(), kept):
            changed.append(f"{kind}: cached forces, through the array returned")
    return result(check_atoms_unchanged, len(changed), 0.0, f"changed: {', '.join(changed)}" if changed else "")


def check_cache(subject: Subject) -> CheckResult:
    """Asking twice calculates once; changes are noticed.

    Changes of positions, cell, numbers, number of atoms and pbc. The value counts the changes that were missed.
    """
    missed = []
    for kind, structure in subject.structures.items():
        atoms = attached(subject.make(), structure)
        first = _answer(atoms, subject)
        atoms.get_forces()
        stored = getattr(atoms.calc, "results", {}).get("forces")
        atoms.get_forces()
        again = getattr(atoms.calc, "results", {}).get("forces")
        if deviation(_answer(atoms, subject), first) > 0:
            missed.append(f"{kind}: a second call gives other numbers")
        elif again is not stored:
            missed.append(f"{kind}: a second call calculates again")
        for name, change in _changes(structure).items():
            if not _notices(subject, structure, change):
                missed.append(f"{kind}: {name} not noticed")
    return result(check_cache, len(missed), 0.0, ", ".join(missed))


def _notices(subject: Subject, structure: Atoms, change: Callable[[Atoms], None]) -> bool:
    """Whether the calculator gives the answer of the changed atoms after one of the unchanged."""
    changed = structure.copy()
    change(changed)
    try:
        expected = evaluate_with(subject.make(), [changed], "stress" in subject.properties)
    except Exception:  # the calculator does not support the changed structure: nothing to learn
        return True
    atoms = attached(subject.make(), structure)
    _answer(atoms, subject)
    change(atoms)
    try:
        return deviation(_answer(atoms, subject), expected) <= subject.symmetry_tolerance
    except Exception:  # a fresh calculator took the changed structure, so this one trips over its cache
        return False


def _changes(structure: Atoms) -> dict[str, Callable[[Atoms], None]]:
    def move(atoms: Atoms) -> None:
        atoms.positions[0] += (0.1, -0.05, 0.07)

    def stretch(atoms: Atoms) -> None:
        atoms.set_cell(np.asarray(atoms.cell) * 1.03, scale_atoms=False)

    def replace(atoms: Atoms) -> None:
        atoms.numbers[:] = atoms.numbers[0]

    def remove(atoms: Atoms) -> None:
        del atoms[-1]

    def open_axis(atoms: Atoms) -> None:
        atoms.pbc = (True, True, False)

    changes: dict[str, Callable[[Atoms], None]] = {"a moved atom": move, "a removed atom": remove}
    if len(set(structure.numbers)) > 1:
        changes["a changed element"] = replace
    if structure.pbc.all():
        changes |= {"a changed cell": stretch, "changed pbc": open_axis}
    return changes


def check_energies_consistent(subject: Subject) -> CheckResult:
    """Free energy equals energy; energies and stresses sum up.

    Relative to the largest force times 1 Å per atom. A free energy that differs is right only for electrons at
    finite temperature.
    """
    if not subject.properties & {"free_energy", "energies", "stresses"}:
        return skipped(check_energies_consistent, "only the total energy is implemented")
    errors = {}
    for kind, structure in subject.structures.items():
        atoms = attached(subject.make(), structure)
        scale = len(atoms) * max(float(np.abs(atoms.get_forces()).max()), FORCE_FLOOR)
        energy = atoms.get_potential_energy()
        if "free_energy" in subject.properties:
            free = atoms.get_potential_energy(force_consistent=True)
            errors[f"{kind}: free energy"] = abs(free - energy) / scale
        if "energies" in subject.properties:
            errors[f"{kind}: energies"] = abs(np.sum(atoms.get_potential_energies()) - energy) / scale
        if {"stress", "stresses"} <= subject.properties and atoms.pbc.all():
            total = atoms.get_stress()
            wrong = np.abs(np.sum(atoms.get_stresses(), axis=0) - total).max()
            errors[f"{kind}: stresses"] = wrong / max(float(np.abs(total).max()), STRESS_FLOOR)
    return worst(check_energies_consistent, errors, subject.symmetry_tolerance)


def _answer(atoms: Atoms, subject: Subject) -> Answer:
    """Ask the attached calculator, cache and all."""
    from mlip.testing.physics.calculator.subject import energy_of
    from mlip.units import voigt_6_to_full_3x3

    stress = None
    if "stress" in subject.properties and atoms.pbc.all():
        stress = voigt_6_to_full_3x3(atoms.get_stress())[None]
    return Answer(np.array([energy_of(atoms)]), np.array(atoms.get_forces()), stress, np.array([len(atoms)]))


def _ask_everything(subject: Subject, atoms: Atoms) -> np.ndarray:
    """Ask for every property checked here and return the array of forces that the calculator hands out."""
    _answer(atoms, subject)
    if "energies" in subject.properties:
        atoms.get_potential_energies()
    return atoms.get_forces()


def _snapshot(atoms: Atoms) -> dict[str, Any]:
    state: dict[str, Any] = {name: array.copy() for name, array in atoms.arrays.items()}
    state |= {f"info {key!r}": value for key, value in atoms.info.items()}
    state |= {"cell": np.array(atoms.cell), "pbc": atoms.pbc.copy(), "celldisp": atoms.get_celldisp().copy()}
    return state | {"constraints": len(atoms.constraints)}


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.array_equal(a, b))
