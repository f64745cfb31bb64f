"""Elastic constants from the stresses of strained crystals with relaxed atoms (strains and fit by matscipy)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from matscipy.elasticity import Voigt_6x6_to_full_3x3x3x3, fit_elastic_constants, generate_strained_configs
from numpy.typing import NDArray

from mlip.errors import InputError, MLIPError
from mlip.units import EV_PER_A3_TO_GPA, VOIGT_INDICES
from mlip.workflows.evaluation import Progress, prepare, require_crystal, require_length
from mlip.workflows.relax import relax
from mlip.workflows.results import Result

_STRAINS = 5
_PATTERNS = 6
_UNRELAXED_STRESS = 0.5
_MAX_STEPS = 500


@dataclass(frozen=True)
class ElasticResult(Result):
    """Outcome of `elastic`; all moduli in GPa.

    Attributes:
        C: stiffness (6, 6) in the axes of the structure given, Voigt order xx yy zz yz xz xy.
        C11, C12, C44: in the cubic axes; None if the crystal is not cubic.
        bulk_modulus: Voigt-Reuss-Hill average, as the following two.
        shear_modulus: see above.
        youngs_modulus: see above.
        poisson_ratio: of the average.
        stable: whether the stiffness is positive definite (Born's criterion).
        spacegroup: international symbol and number.
        stress_max: largest stress component of the structure given.
    """

    C: NDArray[np.float64]
    C11: float | None
    C12: float | None
    C44: float | None
    bulk_modulus: float
    shear_modulus: float
    youngs_modulus: float
    poisson_ratio: float
    stable: bool
    spacegroup: str
    stress_max: float


def elastic(
    atoms: Atoms,
    calculator: BaseCalculator,
    *,
    strain: float = 0.005,
    fmax: float = 5e-4,
    symprec: float = 0.01,
    progress: Progress | None = None,
) -> ElasticResult:
    """Elastic constants of a relaxed crystal; warns if it is under stress.

    Each of the six strains is applied with five amplitudes from -strain to +strain, the atoms relax, and the
    slope of the stress is fitted; the tensor is then averaged over the point group.

    Args:
        atoms: relaxed crystal.
        calculator: any ASE calculator with stress.
        strain: largest strain.
        fmax: atoms are relaxed to this largest force, eV/Å.
        symprec: tolerance of the symmetry search, Å; what a relaxation to 0.01 eV/Å leaves is below the default.
        progress: called with (done, total, "") as strained crystals are done.

    Raises:
        InputError: not a crystal, bad options.
        MLIPError: the atoms of a strained crystal can't be relaxed.
    """
    require_crystal(atoms, "a calculation of elastic constants")
    if not 0 < strain < 0.1:
        raise InputError(f"strain must be between 0 and 0.1; got {strain}")
    require_length("symprec", symprec, 0.5)
    reference = prepare(atoms, calculator)
    reference.set_constraint()
    stress_max = float(np.abs(reference.get_stress()).max() * EV_PER_A3_TO_GPA)
    if stress_max > _UNRELAXED_STRESS:
        warnings.warn(
            f"the structure is under stress (largest component {stress_max:.2f} GPa); its elastic constants are "
            "those of the strained crystal; relax it first (mlip relax --cell)",
            stacklevel=2,
        )
    step = 2 * strain / (_STRAINS - 1)
    strained = []
    for system in generate_strained_configs(reference, "triclinic", _STRAINS, step):
        relaxed = relax(system, calculator, fmax=fmax, steps=_MAX_STEPS)
        if not relaxed.converged:
            raise MLIPError(f"the atoms of a strained crystal did not relax to {fmax} eV/Å in {_MAX_STEPS} steps")
        system.calc = SinglePointCalculator(system, stress=relaxed.stress)
        strained.append(system)
        if progress:
            progress(len(strained), _PATTERNS * _STRAINS, "")
    fitted, _ = fit_elastic_constants(strained, "triclinic", _STRAINS, step, verbose=False)
    return _result(reference, fitted * EV_PER_A3_TO_GPA, symprec, stress_max)


def _result(atoms: Atoms, stiffness: NDArray[np.float64], symprec: float, stress_max: float) -> ElasticResult:
    crystal: Any = (np.array(atoms.cell), atoms.get_scaled_positions(), atoms.numbers)
    symmetry = spglib.get_symmetry_dataset(crystal, symprec)
    cubic: tuple[float | None, ...] = (None, None, None)
    spacegroup = "P1 (1)"
    if symmetry is not None:
        spacegroup = f"{symmetry.international} ({symmetry.number})"
        basis = np.array(atoms.cell).T
        rotations = [_orthogonal(basis @ r @ np.linalg.inv(basis)) for r in symmetry.rotations]
        stiffness = np.mean([_rotate(stiffness, rotation) for rotation in rotations], axis=0)
        if symmetry.number >= 195:
            standard = _rotate(stiffness, _orthogonal(symmetry.std_rotation_matrix))
            cubic = tuple(float(standard[i, j]) for i, j in ((0, 0), (0, 1), (3, 3)))
    bulk, shear = voigt_reuss_hill(stiffness)
    return ElasticResult(
        C=stiffness,
        C11=cubic[0],
        C12=cubic[1],
        C44=cubic[2],
        bulk_modulus=bulk,
        shear_modulus=shear,
        youngs_modulus=9 * bulk * shear / (3 * bulk + shear),
        poisson_ratio=(3 * bulk - 2 * shear) / (6 * bulk + 2 * shear),
        stable=bool(np.linalg.eigvalsh(stiffness).min() > 0),
        spacegroup=spacegroup,
        stress_max=stress_max,
    )


def voigt_reuss_hill(stiffness: NDArray[np.float64]) -> tuple[float, float]:
    """Bulk and shear modulus of a polycrystal (R. Hill, Proc. Phys. Soc. A 65, 349, 1952), in the units given."""

    def isotropic(m: NDArray[np.floating], shear_weight: float) -> tuple[float, float]:
        diagonal = m[0, 0] + m[1, 1] + m[2, 2]
        mixed = m[0, 1] + m[0, 2] + m[1, 2]
        shears = m[3, 3] + m[4, 4] + m[5, 5]
        return diagonal + 2 * mixed, (diagonal - mixed) * shear_weight + shears

    bulk, shear = isotropic(stiffness, 1 / 3)
    voigt = bulk / 9, shear / 5
    bulk, shear = isotropic(np.linalg.inv(stiffness), 4 / 3)
    reuss = 1 / bulk, 5 / shear
    return float(voigt[0] + reuss[0]) / 2, float(voigt[1] + reuss[1]) / 2


def _orthogonal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthogonal matrix nearest to one that is orthogonal up to the symmetry tolerance."""
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def _rotate(stiffness: NDArray[np.float64], rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stiffness (6, 6) in rotated axes."""
    full = Voigt_6x6_to_full_3x3x3x3(stiffness)
    r = rotation
    rotated = np.einsum("ia,jb,kc,ld,abcd->ijkl", r, r, r, r, full, optimize=True)
    return np.array([[rotated[i, j, k, m] for k, m in VOIGT_INDICES] for i, j in VOIGT_INDICES])
