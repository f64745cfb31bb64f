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
    """Errors of energies per atom, force components and the nine stress components, where there are labels."""

    n: int = 0  # structures
    energy: ErrorSum = field(default_factory=ErrorSum)  # eV/atom
    forces: ErrorSum = field(default_factory=ErrorSum)  # eV/Å
    stress: ErrorSum = field(default_factory=ErrorSum)  # eV/Å³

    def add(self, structure: LabelledStructure, predicted: Predicted) -> None:
        """Add one structure."""
        self.n += 1
        if structure.energy is not None:
            self.energy.add((predicted.energy - structure.energy) / len(structure.atoms))
        if structure.forces is not None:
            self.forces.add(predicted.forces - structure.forces)
        if structure.stress is not None and predicted.stress is not None:
            self.stress.add(predicted.stress - structure.stress)

    def as_dict(self) -> dict[str, float | int | None]:
        """Errors in meV/atom, meV/Å and GPa; None where nothing is labelled."""

        def scaled(value: float | None, factor: float) -> float | None:
            return None if value is None else value * factor

        return {
            "n": self.n,
            "energy_rmse_meV_per_atom": scaled(self.energy.rmse, 1e3),
            "energy_mae_meV_per_atom": scaled(self.energy.mae, 1e3),
            "forces_rmse_meV_per_A": scaled(self.forces.rmse, 1e3),
            "forces_mae_meV_per_A": scaled(self.forces.mae, 1e3),
            "stress_rmse_GPa": scaled(self.stress.rmse, EV_PER_A3_TO_GPA),
            "stress_mae_GPa": scaled(self.stress.mae, EV_PER_A3_TO_GPA),
        }


def errors_of(structures: Iterable[LabelledStructure], predicted: Iterable[Predicted]) -> Errors:
    """Errors over structures, predictions in the same order."""
    errors = Errors()
    for structure, prediction in zip(structures, predicted, strict=True):
        errors.add(structure, prediction)
    return errors
