"""Vibrations of a molecule, an adsorbate, or a crystal at Γ, from second derivatives of the energy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.vibrations import VibrationsData
from numpy.typing import NDArray

from mlip.calculators import MLIPCalculator
from mlip.errors import InputError
from mlip.workflows.evaluation import Progress, batch_forces, forces_in_batches, prepare, require_length
from mlip.workflows.results import Result, hidden

METHODS = ("hessian", "displacements")
IMAGINARY = -1.0
"""Modes below this (1/cm) count as imaginary; above it lies noise."""
_UNRELAXED_FORCE = 0.02
_SMALLEST_ARM = 0.1
"""√(moment of inertia) in Å √amu below which an axis is that of a linear molecule. A relaxation leaves it bent by some
mÅ, and to turn it about its axis is then a bending mode; the smallest of water is 0.8."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class VibrationResult(Result):
    """Outcome of `vibrations`.

    Attributes:
        frequencies_per_cm: ascending, 1/cm, imaginary ones negative; without translations, and without rotations of a
            molecule, or of a wire about its axis.
        frequencies_THz: the same in THz.
        imaginary: number of modes below -1/cm: none at a minimum, one at a transition state.
        zero_point_energy: eV, of the modes that are not imaginary.
        forces_max: largest force on an atom that may move, eV/Å.
        n_atoms: atoms that may move.
        method: where the second derivatives are from.
        vibrations: ASE's analysis of the same Hessian, with all modes, translations and rotations among them: for
            thermochemistry, pictures and files.
    """

    frequencies_per_cm: Array
    frequencies_THz: Array
    imaginary: int
    zero_point_energy: float
    forces_max: float
    n_atoms: int
    method: str
    vibrations: VibrationsData = hidden()


def vibrations(
    atoms: Atoms,
    calculator: BaseCalculator,
    *,
    method: str | None = None,
    displacement: float = 0.01,
    progress: Progress | None = None,
) -> VibrationResult:
    """Harmonic vibrations of a relaxed structure; warns if it isn't relaxed.

    Atoms that a constraint of the structure holds (`FixAtoms`) do not vibrate. Of a crystal these are the modes at Γ of
    the cell given.

    Args:
        atoms: molecule, surface, crystal.
        calculator: any ASE calculator.
        method: "hessian", exact second derivatives of an `MLIPCalculator`, its default; or "displacements" of each atom
            forward and back, the default of any other.
        displacement: Å.
        progress: called with (done, total, "").

    Raises:
        InputError: a structure that can't be evaluated or can't move, constraints other than `FixAtoms`, bad options.
        MLIPError: forces that are not finite.
    """
    require_length("displacement", displacement, 1.0)
    method = method or ("hessian" if isinstance(calculator, MLIPCalculator) else "displacements")
    if method not in METHODS:
        raise InputError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if method == "hessian" and not isinstance(calculator, MLIPCalculator):
        raise InputError(f"method 'hessian' needs an MLIPCalculator, not {type(calculator).__name__}")
    system = prepare(atoms, calculator)
    _check_constraints(atoms)
    free = [int(index) for index in VibrationsData.indices_from_constraints(atoms)]
    if not free:
        raise InputError("all atoms are held by constraints; expected some that may move")
    if not (system.get_masses()[free] > 0).all():
        raise InputError(f"masses {system.get_masses()[free]}: expected positive ones of all atoms that may move")
    forces_max = float(np.linalg.norm(system.get_forces(), axis=1)[free].max())
    if forces_max > _UNRELAXED_FORCE:
        warnings.warn(
            f"the structure is not relaxed (largest force {forces_max:.3f} eV/Å); relax it first "
            "(mlip relax --fmax 0.001)",
            stacklevel=2,
        )
    if method == "hessian" and isinstance(calculator, MLIPCalculator):
        rows = calculator.get_hessian(system, indices=free, progress=progress)
        hessian = rows[:, free].reshape(3 * len(free), 3 * len(free))
    else:
        hessian = _by_displacements(system, calculator, free, displacement, progress)
    hessian = (hessian + hessian.T) / 2
    energies = _energies(hessian, system, free)
    return VibrationResult(
        frequencies_per_cm=energies / units.invcm,
        frequencies_THz=energies * units._e / units._hplanck / 1e12,
        imaginary=int((energies / units.invcm < IMAGINARY).sum()),
        zero_point_energy=float(energies[energies > 0].sum() / 2),
        forces_max=forces_max,
        n_atoms=len(free),
        method=method,
        vibrations=VibrationsData.from_2d(system, hessian, indices=free),
    )


def _check_constraints(atoms: Atoms) -> None:
    for constraint in atoms.constraints:
        whole = isinstance(constraint, FixCartesian) and bool(np.all(constraint.mask))
        if not (isinstance(constraint, FixAtoms) or whole):
            raise InputError(
                f"the structure has a constraint {type(constraint).__name__}; expected FixAtoms only: an atom vibrates "
                "in all directions or is held"
            )


def _by_displacements(
    system: Atoms, calculator: BaseCalculator, free: list[int], step: float, progress: Progress | None
) -> Array:
    """Central differences of the forces, (3n, 3n) in eV/Å²."""
    structures = []
    for index in free:
        for axis in range(3):
            for sign in (1, -1):
                moved = system.copy()
                moved.set_constraint()
                moved.positions[index, axis] += sign * step
                structures.append(moved)
    forces = np.array(forces_in_batches(structures, batch_forces(calculator), progress))[:, free]
    return np.asarray((forces[1::2] - forces[::2]).reshape(3 * len(free), -1) / (2 * step))


def _energies(hessian: Array, system: Atoms, free: list[int]) -> Array:
    """Quanta ħω in eV, ascending, imaginary ones negative, without motions of the whole."""
    masses = np.repeat(system.get_masses()[free], 3)
    dynamical = hessian / np.sqrt(np.outer(masses, masses))
    if len(free) == len(system):
        inner = _inner_motions(system)
        dynamical = inner.T @ dynamical @ inner
    squares = np.linalg.eigvalsh(dynamical) if len(dynamical) else np.zeros(0)
    scale = units._hbar * 1e10 / np.sqrt(units._e * units._amu)
    return np.asarray(scale * np.sign(squares) * np.sqrt(np.abs(squares)))


def _inner_motions(system: Atoms) -> Array:
    """Orthonormal mass-weighted motions (3N, k) other than translations and rotations, as far as axes are open."""
    arms = system.positions - system.get_center_of_mass()
    whole = [np.tile(axis, (len(system), 1)) for axis in np.eye(3)]
    if system.pbc.sum() < 2:  # a wire turns about its axis only
        along = system.cell.array[system.pbc]
        axes = along / np.linalg.norm(along) if len(along) else np.eye(3)
        whole += [np.cross(axis, arms) for axis in axes]
    weighted = np.array(whole).reshape(len(whole), -1) * np.sqrt(np.repeat(system.get_masses(), 3))
    _, sizes, motions = np.linalg.svd(weighted)
    rank = int((sizes > _SMALLEST_ARM).sum())  # linear molecules and single atoms turn about fewer axes
    return np.asarray(motions[rank:].T)
