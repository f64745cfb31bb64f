"""Phonons by displacements or second derivatives: bands, density of states, thermal properties (phonopy, seekpath)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from mlip.calculators import MLIPCalculator
from mlip.errors import InputError
from mlip.units import EV_PER_A3_TO_GPA
from mlip.workflows.evaluation import (
    BatchForces,
    Progress,
    batch_forces,
    forces_in_batches,
    prepare,
    require_crystal,
    require_length,
)
from mlip.workflows.results import Result, hidden

IMAGINARY = -0.1
"""Modes below this frequency (THz) count as imaginary; above it lies numerical noise of acoustic modes."""
_NO_VIBRATION = 0.01
"""Modes below this frequency (THz), the acoustic ones at Γ, have no thermal energy counted."""
_TEMPERATURES = np.arange(0.0, 1001.0, 10.0)
_UNRELAXED_FORCE, _UNRELAXED_STRESS = 0.02, 0.5
_POINTS_PER_PATH = 61
METHODS = ("displacements", "hessian")
_LARGEST_SUPERCELL = 50_000
"""Atoms; far beyond any converged supercell, and before memory runs out."""


@dataclass(frozen=True)
class Bands:
    """Frequencies along the path of high symmetry.

    Attributes:
        distances: one array (q,) per segment, 1/Å without 2π, running on over the segments.
        frequencies: one array (q, bands) per segment, THz; imaginary ones negative.
        ticks: (distance, label) of the high-symmetry points.
    """

    distances: list[NDArray[np.float64]]
    frequencies: list[NDArray[np.float64]]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class PhononResult(Result):
    """Outcome of `phonons`; everything is per primitive cell.

    Attributes:
        frequencies_gamma_THz: at Γ, ascending, imaginary ones negative.
        heat_capacity_300K: at constant volume, J/K/mol.
        imaginary: number of modes below -0.1 THz on the mesh.
        entropy_300K: J/K/mol.
        free_energy_300K: with zero-point energy, kJ/mol.
        zero_point_energy: kJ/mol.
        frequency_max_THz: highest frequency on the mesh.
        supercell: repetitions of the given cell.
        displacements: number of displaced supercells evaluated; 0 with second derivatives.
        n_atoms_primitive: atoms in the primitive cell.
        mesh_points: number of q-points of the whole mesh.
        forces_max: largest force in the structure given, eV/Å.
        stress_max_GPa: largest stress component in the structure given.
        bands: band structure.
        dos: frequencies (n,) THz and density (n,) states/THz.
        thermal: temperatures (n,) K, free energy kJ/mol, entropy and heat capacity J/K/mol.
        phonopy: phonopy's object, for everything else.
    """

    frequencies_gamma_THz: NDArray[np.float64]
    heat_capacity_300K: float
    imaginary: int
    entropy_300K: float
    free_energy_300K: float
    zero_point_energy: float
    frequency_max_THz: float
    supercell: tuple[int, int, int]
    displacements: int
    n_atoms_primitive: int
    mesh_points: int
    forces_max: float
    stress_max_GPa: float
    bands: Bands = hidden()
    dos: tuple[NDArray[np.float64], NDArray[np.float64]] = hidden()
    thermal: dict[str, NDArray[np.float64]] = hidden()
    phonopy: Phonopy = hidden()


def phonons(
    atoms: Atoms,
    calculator: BaseCalculator,
    *,
    supercell: Sequence[int] | None = None,
    displacement: float = 0.01,
    mesh_length: float = 80.0,
    symprec: float = 0.01,
    method: str = "displacements",
    evaluate: BatchForces | None = None,
    progress: Progress | None = None,
) -> PhononResult:
    """Phonons of a relaxed crystal; warns if it isn't relaxed.

    Args:
        atoms: crystal, primitive or not.
        calculator: any ASE calculator; ours gets all displaced supercells in batches.
        supercell: repetitions of the cell given; default: at least 10 Å between opposite faces.
        displacement: of one atom, Å.
        mesh_length: density of the q mesh, Å: along each axis length x |reciprocal vector| points.
        symprec: tolerance of the symmetry search, Å; what a relaxation to 0.01 eV/Å leaves is below the default.
        method: where the force constants are from: "displacements", or "hessian", the exact second derivatives of an
            `MLIPCalculator`: nothing depends on a displacement then.
        evaluate: forces of a list of structures; default: those of the calculator.
        progress: called with (done, total, "") as displaced supercells are evaluated, or rows of the Hessian.

    Raises:
        InputError: not a crystal, bad options.
        MLIPError: forces that are not finite.
    """
    require_crystal(atoms, "a phonon calculation")
    require_length("displacement", displacement, 1.0)
    require_length("mesh_length", mesh_length, 1000.0)
    require_length("symprec", symprec, 0.5)
    if method not in METHODS:
        raise InputError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if method == "hessian" and not isinstance(calculator, MLIPCalculator):
        raise InputError(
            f"method 'hessian' needs an MLIPCalculator, not {type(calculator).__name__}; take displacements"
        )
    repeats = _supercell(atoms, supercell)
    forces_max, stress_max = _check_relaxed(prepare(atoms, calculator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # phonopy warns that it found a primitive cell, which is what we want
        phonon = Phonopy(_to_phonopy(atoms), np.diag(repeats), primitive_matrix="auto", symprec=symprec)
    if isinstance(calculator, MLIPCalculator) and method == "hessian":
        displacements = 0
        phonon.force_constants = _second_derivatives(phonon, calculator, progress)
    else:
        displacements = _displace(phonon, displacement, evaluate or batch_forces(calculator), progress)
    phonon.symmetrize_force_constants(level=3, show_drift=False)
    return _analyze(phonon, mesh_length, symprec, repeats, displacements, (forces_max, stress_max))


def _displace(phonon: Phonopy, displacement: float, evaluate: BatchForces, progress: Progress | None) -> int:
    """Give phonopy the force constants from displaced supercells, whose number is returned."""
    phonon.generate_displacements(distance=displacement)
    displaced = [_from_phonopy(cell) for cell in phonon.supercells_with_displacements or [] if cell is not None]
    forces = forces_in_batches([_from_phonopy(phonon.supercell), *displaced], evaluate, progress)
    # What is left of forces in the undisplaced crystal is no response to a displacement.
    phonon.forces = np.array(forces[1:]) - forces[0]
    phonon.produce_force_constants(show_drift=False)
    return len(displaced)


def _second_derivatives(phonon: Phonopy, calculator: MLIPCalculator, progress: Progress | None) -> NDArray[np.float64]:
    """Force constants (n, N, 3, 3) between the n atoms of the primitive cell and the N of the supercell, eV/Å²."""
    rows = [int(index) for index in phonon.primitive.p2s_map]
    supercell = _from_phonopy(phonon.supercell)
    hessian = calculator.get_hessian(supercell, indices=rows, progress=progress)
    return hessian.reshape(len(rows), 3, len(supercell), 3).transpose(0, 2, 1, 3)


def _supercell(atoms: Atoms, supercell: Sequence[int] | None, length: float = 10.0) -> tuple[int, int, int]:
    if supercell is None:
        heights = 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)
        supercell = np.maximum(1, np.ceil(length / heights - 1e-6)).astype(int).tolist()
    if len(supercell) != 3 or min(supercell) < 1:
        raise InputError(f"supercell must be three positive integers; got {list(supercell)}")
    n_atoms = len(atoms) * math.prod(map(int, supercell))
    if n_atoms > _LARGEST_SUPERCELL:
        raise InputError(
            f"the supercell would have {n_atoms} atoms, more than {_LARGEST_SUPERCELL}; repeat the cell less"
        )
    a, b, c = supercell
    return int(a), int(b), int(c)


def _check_relaxed(system: Atoms) -> tuple[float, float]:
    """Return the largest force (eV/Å) and stress component (GPa); warn if phonons would suffer."""
    stress = float(np.abs(system.get_stress()).max() * EV_PER_A3_TO_GPA)
    force = float(np.linalg.norm(system.get_forces(), axis=1).max())
    if force > _UNRELAXED_FORCE or stress > _UNRELAXED_STRESS:
        warnings.warn(
            f"the structure is not relaxed (largest force {force:.3f} eV/Å, largest stress {stress:.2f} GPa); "
            "phonons are those of the strained crystal; relax it first (mlip relax --cell --fmax 0.001)",
            stacklevel=3,
        )
    return force, stress


def _analyze(
    phonon: Phonopy,
    mesh_length: float,
    symprec: float,
    repeats: tuple[int, int, int],
    displacements: int,
    residual: tuple[float, float],
) -> PhononResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # phonopy says when it takes a generalized mesh, which keeps the symmetry
        phonon.run_mesh(mesh_length, is_gamma_center=True)
    phonon.run_total_dos(use_tetrahedron_method=True)
    phonon.run_thermal_properties(temperatures=_TEMPERATURES, cutoff_frequency=_NO_VIBRATION)
    phonon.run_qpoints([[0.0, 0.0, 0.0]])
    mesh: Any = phonon.mesh
    density: Any = phonon.total_dos
    gamma: Any = phonon.qpoints
    properties: Any = phonon.thermal_properties
    names = ("temperature", "free_energy", "entropy", "heat_capacity")
    thermal = {name: np.array(values) for name, values in zip(names, properties.thermal_properties, strict=True)}
    room = int(np.argmin(np.abs(_TEMPERATURES - 300.0)))
    return PhononResult(
        frequencies_gamma_THz=np.sort(gamma.frequencies[0]),
        heat_capacity_300K=float(thermal["heat_capacity"][room]),
        imaginary=int(((mesh.frequencies < IMAGINARY) * mesh.weights[:, None]).sum()),
        entropy_300K=float(thermal["entropy"][room]),
        free_energy_300K=float(thermal["free_energy"][room]),
        zero_point_energy=float(thermal["free_energy"][0]),
        frequency_max_THz=float(mesh.frequencies.max()),
        supercell=repeats,
        displacements=displacements,
        n_atoms_primitive=len(phonon.primitive),
        mesh_points=int(mesh.weights.sum()),
        forces_max=residual[0],
        stress_max_GPa=residual[1],
        bands=band_structure(phonon, symprec),
        dos=(np.array(density.frequency_points), np.array(density.dos)),
        thermal=thermal,
        phonopy=phonon,
    )


def band_structure(phonon: Phonopy, symprec: float) -> Bands:
    """Bands along seekpath's path (Hinuma et al., Comput. Mater. Sci. 128, 140, 2017)."""
    import seekpath

    cell = phonon.primitive
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = seekpath.get_path_orig_cell((cell.cell, cell.scaled_positions, cell.numbers), symprec=symprec)
    segments = [(path["point_coords"][start], path["point_coords"][end]) for start, end in path["path"]]
    qpoints = [np.linspace(start, end, _POINTS_PER_PATH) for start, end in segments]
    phonon.run_band_structure(qpoints)
    bands: Any = phonon.band_structure
    distances = [np.array(d) for d in bands.distances]
    ticks: list[tuple[float, str]] = []
    for (start, end), distance in zip(path["path"], distances, strict=True):
        if ticks and ticks[-1][1] != _label(start):
            ticks[-1] = (ticks[-1][0], f"{ticks[-1][1]}|{_label(start)}")
        elif not ticks:
            ticks.append((float(distance[0]), _label(start)))
        ticks.append((float(distance[-1]), _label(end)))
    return Bands(distances, [np.array(f) for f in bands.frequencies], ticks)


def _label(name: str) -> str:
    symbol, _, index = name.replace("GAMMA", "Γ").replace("SIGMA", "Σ").partition("_")
    return symbol + index.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _to_phonopy(atoms: Atoms) -> PhonopyAtoms:
    """The crystal for phonopy, which wants right-handed cells: the opposite vectors span the same lattice."""
    cell = np.array(atoms.cell)
    if np.linalg.det(cell) < 0:
        cell = -cell
    return PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(), cell=cell, positions=atoms.positions, masses=atoms.get_masses()
    )


def _from_phonopy(cell: Any) -> Atoms:
    return Atoms(numbers=cell.numbers, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True)
