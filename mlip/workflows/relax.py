"""Relaxation of positions, and of the cell, to a local minimum of energy or enthalpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from numpy.typing import NDArray

from mlip.errors import InputError
from mlip.workflows.evaluation import Progress, is_crystal, prepare, require_crystal, require_finite
from mlip.workflows.results import Result, hidden

Optimizer: TypeAlias = Literal["lbfgs", "bfgs", "fire"]
_OPTIMIZERS = {"lbfgs": LBFGS, "bfgs": BFGS, "fire": FIRE}


@dataclass(frozen=True)
class RelaxResult(Result):
    """Outcome of `relax`.

    Attributes:
        energy: total energy, eV.
        forces_max: largest force on an atom, eV/Å, constraints applied.
        stress: Voigt xx yy zz yz xz xy, eV/Å³, positive under tension; None if not periodic in 3D.
        cell: lattice vectors as rows (3, 3), Å.
        volume: Å³ of the cell given; None if not periodic in 3D.
        steps: optimizer steps taken.
        converged: whether the largest force (and cell gradient) fell below ``fmax``.
        initial_energy: energy before the first step, eV.
        atoms: the relaxed structure, with energy, forces and stress frozen in its calculator.
    """

    energy: float
    forces_max: float
    stress: NDArray[np.float64] | None
    cell: NDArray[np.float64]
    volume: float | None
    steps: int
    converged: bool
    initial_energy: float
    atoms: Atoms = hidden()


def relax(
    atoms: Atoms,
    calculator: BaseCalculator,
    *,
    cell: bool = False,
    pressure: float = 0.0,
    fmax: float = 0.01,
    steps: int = 1000,
    optimizer: Optimizer = "lbfgs",
    progress: Progress | None = None,
) -> RelaxResult:
    """Relax a structure; ``atoms`` is left as it is.

    Args:
        atoms: structure; its constraints are kept, its velocities are not.
        calculator: any ASE calculator.
        cell: relax the lattice vectors too.
        pressure: external pressure, GPa (needs ``cell``).
        fmax: converged when no force exceeds this, eV/Å; with ``cell`` also the cell gradient per atom.
        steps: at most this many optimizer steps.
        optimizer: ASE's LBFGS, BFGS or FIRE.
        progress: called with (step, 0, note) after every step.

    Raises:
        InputError: bad structure or options, a cell relaxation without three periodic directions.
        MLIPError: forces that are not finite.
    """
    if not (np.isfinite(fmax) and fmax > 0):
        raise InputError(f"fmax must be a positive force in eV/Å; got {fmax}")
    if steps < 0:
        raise InputError(f"steps must not be negative; got {steps}")
    if pressure and not cell:
        raise InputError("a pressure acts through the cell: relax the cell too (cell=True, --cell)")
    if optimizer not in _OPTIMIZERS:
        raise InputError(f"optimizer must be one of {', '.join(_OPTIMIZERS)}; got {optimizer!r}")
    system = prepare(atoms, calculator)
    system.arrays.pop("momenta", None)  # a minimum is at rest; MD from it must not begin with velocities of before
    if cell:
        require_crystal(atoms, "relaxing the cell")
    moving = FrechetCellFilter(system, scalar_pressure=pressure * units.GPa) if cell else system
    require_finite(moving.get_forces(), "in the structure given")
    initial_energy = float(system.get_potential_energy())
    dynamics = _OPTIMIZERS[optimizer](moving, logfile=None)

    def report() -> None:
        forces = system.get_forces()
        require_finite(forces, f"at step {dynamics.nsteps} of the relaxation")
        if progress:
            progress(dynamics.nsteps, 0, f"largest force {_largest(forces):.4f} eV/Å")

    dynamics.attach(report)
    converged = bool(dynamics.run(fmax=fmax, steps=steps))
    return _result(system, dynamics.nsteps, converged, initial_energy)


def _result(system: Atoms, steps: int, converged: bool, initial_energy: float) -> RelaxResult:
    energy, forces = float(system.get_potential_energy()), system.get_forces()
    stress = np.asarray(system.get_stress()) if is_crystal(system) else None
    relaxed = system.copy()
    relaxed.calc = SinglePointCalculator(
        relaxed, energy=energy, forces=system.get_forces(apply_constraint=False), stress=stress
    )
    return RelaxResult(
        energy=energy,
        forces_max=_largest(forces),
        stress=stress,
        cell=np.array(system.cell),
        volume=float(system.get_volume()) if is_crystal(system) else None,
        steps=int(steps),
        converged=converged,
        initial_energy=initial_energy,
        atoms=relaxed,
    )


def _largest(forces: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(forces, axis=1).max())
