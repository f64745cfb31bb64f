"""Deviations of a committee beside ASE's results."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from numpy.typing import NDArray

from mlip.committee import Calibration
from mlip.errors import InputError

#: The deviations, and which of ASE's properties each comes with.
DEVIATIONS = {"energy_std": "energy", "forces_std": "forces", "stress_std": "stress"}
#: Calibrated ones, and which of ASE's properties each comes with.
UNCERTAINTIES = {"energy_uncertainty": "energy", "forces_uncertainty": "forces", "stress_uncertainty": "stress"}


class DeviatingCalculator(Calculator):
    """An ASE calculator that may have deviations: `energy_std`, `forces_std`, `stress_std`.

    With a calibration also `energy_uncertainty`, `forces_uncertainty` and `stress_uncertainty`: deviations times its
    factors, which are errors to be expected.

    They are not in `results`: a name that ASE does not know breaks `SinglePointCalculator(**results)`,
    `Atoms.get_properties` and `export_properties` there, and its writers drop it silently. They are attributes, always
    of the atoms as they are now, and `get_property("forces_std", atoms)`. Both compute what is not known yet.

    A subclass's `calculate` fills `deviations` together with `results`.
    """

    def __init__(self, has_deviations: bool, **parameters: Any) -> None:
        self.has_deviations = has_deviations
        self.calibration: Calibration | None = None
        self.deviations: dict[str, Any] = {}
        self._used_with: weakref.ref[Atoms] | None = None
        super().__init__(**parameters)

    @property
    def energy_std(self) -> float:
        """Standard deviation of the total energy, eV."""
        return float(self._deviation("energy_std"))

    @property
    def forces_std(self) -> NDArray[np.float64]:
        """Standard deviation of each component of the forces (N, 3), eV/Å."""
        return np.asarray(self._deviation("forces_std"))

    @property
    def stress_std(self) -> NDArray[np.float64]:
        """Standard deviation of each component of the stress (6,), eV/Å³, in Voigt order."""
        return np.asarray(self._deviation("stress_std"))

    @property
    def energy_uncertainty(self) -> float:
        """Error to be expected of the total energy, eV: calibrated `energy_std`."""
        return float(self._deviation("energy_uncertainty"))

    @property
    def forces_uncertainty(self) -> NDArray[np.float64]:
        """Error to be expected of each component of the forces (N, 3), eV/Å: calibrated `forces_std`."""
        return np.asarray(self._deviation("forces_uncertainty"))

    @property
    def stress_uncertainty(self) -> NDArray[np.float64]:
        """Error to be expected of each component of the stress (6,), eV/Å³: calibrated `stress_std`."""
        return np.asarray(self._deviation("stress_uncertainty"))

    def calibration_of(self, name: str) -> float | None:
        """Factor of the deviation of "energy", "forces" or "stress"; None if there is none."""
        return None if self.calibration is None else getattr(self.calibration, name)

    def _deviation(self, name: str) -> Any:
        """The deviation for the Atoms object that the calculator was last attached to or used with."""
        if not self.has_deviations:
            raise AttributeError(f"no {name}: {_ONE_MODEL}")
        atoms = self._used_with() if self._used_with else None
        if atoms is None:
            raise InputError(
                f"{name} of which structure? Set atoms.calc = calculator first, or get_property({name!r}, atoms)"
            )
        return self.get_property(name, atoms)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """ASE's way to a result, from the last calculation where that holds; knows the deviations too."""
        if atoms is not None:
            self.set_atoms(atoms)
        if name in UNCERTAINTIES:
            return self._uncertainty(UNCERTAINTIES[name], atoms, allow_calculation)
        if name not in DEVIATIONS:
            return super().get_property(name, atoms, allow_calculation)
        if not self.has_deviations:
            raise PropertyNotImplementedError(f"no {name}: {_ONE_MODEL}")
        if super().get_property(DEVIATIONS[name], atoms, allow_calculation) is None:
            return None
        value = self.deviations[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def _uncertainty(self, of: str, atoms: Atoms | None, allow_calculation: bool) -> Any:
        factor = self.calibration_of(of)
        if self.has_deviations and factor is None:
            raise PropertyNotImplementedError(
                f"no {of}_uncertainty: the deviations of this committee are not calibrated for the {of}; "
                f"{of}_std is the deviation itself. mlip train --committee calibrates"
            )
        deviation = self.get_property(f"{of}_std", atoms, allow_calculation)
        return None if deviation is None else factor * deviation

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Prepare a calculation: the structure is kept, what is known of the one before is forgotten."""
        if atoms is not None:
            self.set_atoms(atoms)
        super().calculate(atoms, list(properties), list(system_changes))
        self.results, self.deviations = {}, {}

    def set_atoms(self, atoms: Atoms) -> None:
        """Called by ASE at `atoms.calc = calculator`."""
        self._used_with = weakref.ref(atoms)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_used_with": None}


_ONE_MODEL = "one model does not deviate from itself; a committee is MLIPCalculator([a, b, ...])"
