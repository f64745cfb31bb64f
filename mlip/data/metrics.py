"""Errors of predictions against labels, summed in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlip.data.labels import LabelledStructure
from mlip.data.predict import Predicted
from mlip.units import EV_PER_A3_TO_GPA


@dataclass
class ErrorSum:
    """Running sums of one property's errors."""

    squares: float = 0.0
    absolutes: float = 0.0
    n: int = 0

    def add(self, error: NDArray[np.float64] | float) -> None:
        self.squares += float(np.square(error).sum())
        self.absolutes += float(np.abs(error).sum())
        self.n += int(np.size(error))

    @property
    def rmse(self) -> float | None:
        return (self.squares / self.n) ** 0.5 if self.n else None

    @property
    def mae(self) -> float | None:
        return self.absolutes / self.n if self.n else None


@dataclass
class Errors:
    """Errors of energies, force components and the nine stress components, where there are labels."""

    n: int = 0  # structures
    energy: ErrorSum = field(default_factory=ErrorSum)  # eV/atom
    total_energy: ErrorSum = field(default_factory=ErrorSum)  # eV, of the whole structure
    forces: ErrorSum = field(default_factory=ErrorSum)  # eV/Å
    stress: ErrorSum = field(default_factory=ErrorSum)  # eV/Å³
    forces_labels: ErrorSum = field(default_factory=ErrorSum)  # eV/Å, of the labels: what errors are relative to

    def add(self, structure: LabelledStructure, predicted: Predicted) -> None:
        """Add one structure."""
        self.n += 1
        if structure.energy is not None:
            error = predicted.energy - structure.energy
            self.total_energy.add(error)
            self.energy.add(error / len(structure.atoms))
        if structure.forces is not None:
            self.forces.add(predicted.forces - structure.forces)
            self.forces_labels.add(structure.forces)
        if structure.stress is not None and predicted.stress is not None:
            self.stress.add(predicted.stress - structure.stress)

    def as_dict(self) -> dict[str, float | int | None]:
        """Errors in meV/atom, meV, meV/Å, % and GPa; None where nothing is labelled.

        Relative errors of forces are RMSE by RMS and MAE by mean absolute value of the labels, as in mace.
        """

        def scaled(value: float | None, factor: float) -> float | None:
            return None if value is None else value * factor

        def percent(value: float | None, of: float | None) -> float | None:
            return None if value is None or not of else 100 * value / of

        return {
            "n": self.n,
            "energy_rmse_meV_per_atom": scaled(self.energy.rmse, 1e3),
            "energy_mae_meV_per_atom": scaled(self.energy.mae, 1e3),
            "energy_rmse_meV": scaled(self.total_energy.rmse, 1e3),
            "energy_mae_meV": scaled(self.total_energy.mae, 1e3),
            "forces_rmse_meV_per_A": scaled(self.forces.rmse, 1e3),
            "forces_mae_meV_per_A": scaled(self.forces.mae, 1e3),
            "forces_rmse_percent": percent(self.forces.rmse, self.forces_labels.rmse),
            "forces_mae_percent": percent(self.forces.mae, self.forces_labels.mae),
            "stress_rmse_GPa": scaled(self.stress.rmse, EV_PER_A3_TO_GPA),
            "stress_mae_GPa": scaled(self.stress.mae, EV_PER_A3_TO_GPA),
        }


def errors_of(structures: Iterable[LabelledStructure], predicted: Iterable[Predicted]) -> Errors:
    """Errors over structures, predictions in the same order."""
    errors = Errors()
    for structure, prediction in zip(structures, predicted, strict=True):
        errors.add(structure, prediction)
    return errors


def errors_by_group(structures: Iterable[LabelledStructure], predicted: Iterable[Predicted]) -> dict[str, Errors]:
    """Likewise by `config_type` ("" for structures without), in the order of the names."""
    groups: dict[str, Errors] = {}
    for structure, prediction in zip(structures, predicted, strict=True):
        groups.setdefault(structure.group, Errors()).add(structure, prediction)
    return dict(sorted(groups.items()))
