"""ASE's integrators for the three ensembles, and their inner state for an exact restart.

- nve: velocity Verlet, symplectic.
- nvt: Bussi's stochastic velocity rescaling (J. Chem. Phys. 126, 014101, 2007): canonical also for harmonic solids,
  hardly disturbs the dynamics, has a conserved quantity.
- npt: isotropic Martyna-Tobias-Klein with Nose-Hoover chains (J. Chem. Phys. 101, 4177, 1994); has a conserved
  quantity.

The center of mass is at rest, so N free atoms have 3N - 3 degrees of freedom, which is what temperatures here count.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from ase import Atoms, units
from ase.constraints import FixCom
from ase.md.bussi import Bussi
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from mlip.errors import InputError
from mlip.workflows.evaluation import require_crystal

Ensemble: TypeAlias = Literal["nve", "nvt", "npt"]


@dataclass(frozen=True)
class MDSettings:
    """The physics of a run; a resumed run must have the same.

    Attributes:
        ensemble: nve, nvt or npt (isotropic).
        temperature: K; None keeps the velocities of the structure (in nvt and npt it must be given).
        pressure: GPa, npt only.
        timestep: fs.
        seed: of initial velocities and thermostat noise.
        interval: steps between two frames.
        thermostat_time: relaxation time of the thermostat, fs.
        barostat_time: relaxation time of the barostat, fs.
    """

    ensemble: Ensemble = "nvt"
    temperature: float | None = 300.0
    pressure: float = 0.0
    timestep: float = 1.0
    seed: int = 0
    interval: int = 10
    thermostat_time: float = 100.0
    barostat_time: float = 1000.0

    def check(self, atoms: Atoms) -> None:
        """Raise `InputError` for settings that make no sense, alone or with this structure."""
        if self.ensemble not in get_args(Ensemble):
            raise InputError(f"ensemble must be one of {', '.join(get_args(Ensemble))}; got {self.ensemble!r}")
        for name in ("timestep", "thermostat_time", "barostat_time"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} must be a positive time in fs; got {getattr(self, name)}")
        if self.interval < 1:
            raise InputError(f"interval must be at least 1 step; got {self.interval}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative; got {self.seed}")
        if self.temperature is not None and not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature must not be negative; got {self.temperature} K")
        if self.ensemble != "nve" and not self.temperature:
            raise InputError(f"{self.ensemble} needs a temperature above 0 K")
        if self.ensemble == "npt":
            require_crystal(atoms, "npt")
            if atoms.constraints:
                raise InputError("npt can't keep the constraints of the structure; remove them")
        elif self.pressure:
            raise InputError(f"a pressure needs the npt ensemble; got {self.ensemble}")


class _NPT(IsotropicMTKNPT):
    """ASE's integrator, asking for the stress first, so that one evaluation gives forces and stress."""

    def _get_forces(self) -> NDArray[np.float64]:
        self._update_atoms()
        self.atoms.get_stress()
        return super()._get_forces()


_INNER_STATE: dict[str, tuple[str, ...]] = {
    "nve": (),
    "nvt": ("transferred_energy",),
    "npt": (
        "_eps",
        "_p_eps",
        "_cell0",
        "_volume0",
        "_thermostat._eta",
        "_thermostat._p_eta",
        "_barostat._xi",
        "_barostat._p_xi",
    ),
}
"""Attributes of ASE's integrators beyond positions, momenta and cell; ASE has no public access to them."""


def make_integrator(atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> MolecularDynamics:
    """Return the integrator for ``atoms``, which it moves in place."""
    timestep = settings.timestep * units.fs
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    assert settings.temperature is not None
    damping = settings.thermostat_time * units.fs
    if settings.ensemble == "nvt":
        return Bussi(atoms, timestep, settings.temperature, damping, rng=rng)
    # The integrator thermalizes 3N degrees of freedom, but with the center of mass at rest there are 3N - 3.
    share = degrees_of_freedom(atoms) / (3 * len(atoms))
    return _NPT(
        atoms,
        timestep,
        temperature_K=settings.temperature * share,
        pressure_au=settings.pressure * units.GPa,
        tdamp=damping,
        pdamp=settings.barostat_time * units.fs,
    )


def rests(atoms: Atoms) -> bool:
    """Whether the center of mass is to stay at rest: always but for a lone atom or constrained ones."""
    return len(atoms) > 1 and all(isinstance(constraint, FixCom) for constraint in atoms.constraints)


def degrees_of_freedom(atoms: Atoms) -> int:
    """Number of degrees of freedom that share the thermal energy."""
    if rests(atoms):
        return 3 * len(atoms) - 3
    return max(1, atoms.get_number_of_degrees_of_freedom())


def temperature(atoms: Atoms) -> float:
    """Instantaneous temperature, K."""
    return float(2 * atoms.get_kinetic_energy() / (degrees_of_freedom(atoms) * units.kB))


def thermal_momenta(atoms: Atoms, temperature: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Momenta (N, 3) drawn from the Maxwell-Boltzmann distribution at ``temperature`` K."""
    return rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]


def conserved_energy(integrator: MolecularDynamics) -> float:
    """The quantity that exact integration would keep constant, eV: total energy less what the baths gave."""
    if isinstance(integrator, _NPT):
        return integrator.get_conserved_energy()
    total = float(integrator.atoms.get_total_energy())
    return total - integrator.transferred_energy if isinstance(integrator, Bussi) else total


def inner_state(integrator: MolecularDynamics, settings: MDSettings) -> dict[str, NDArray[np.float64]]:
    """Return the thermostat's and barostat's variables by attribute path."""
    return {path: np.array(attrgetter(path)(integrator)) for path in _INNER_STATE[settings.ensemble]}


def restore_inner_state(integrator: MolecularDynamics, settings: MDSettings, state: dict[str, NDArray[Any]]) -> None:
    """Set what `inner_state` returned."""
    for path in _INNER_STATE[settings.ensemble]:
        owner, _, name = path.rpartition(".")
        value = state[path]
        setattr(
            attrgetter(owner)(integrator) if owner else integrator, name, value.copy() if value.ndim else float(value)
        )
