"""The numbers of the report: errors by element, quantiles, worst structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from mlip.data.labels import LabelledStructure
from mlip.data.metrics import ErrorSum
from mlip.data.predict import Predicted
from mlip.training.forgetting import Forgetting
from mlip.training.timing import Timing

Pairs = Sequence[tuple[LabelledStructure, Predicted]]
QUANTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True)
class Outcome:
    """What a run reached."""

    pairs: dict[str, list[tuple[LabelledStructure, Any]]]  # by set; of potentials with `Predicted`
    errors: dict[str, dict[str, float | int | None]]  # `Errors.as_dict` by set
    groups: dict[str, dict[str, dict[str, float | int | None]]]  # likewise by set and config_type
    history: list[dict[str, Any]]
    best_epoch: int
    timing: Timing
    stage_two: int | None = None  # epochs before the second stage
    forgetting: Forgetting | None = None  # of fine-tuning


class Worst(NamedTuple):
    """A structure with large errors."""

    number: int  # in its file, from 0
    group: str
    formula: str
    energy: float | None  # meV/atom, predicted - label
    force: float | None  # meV/Å, largest |difference| of an atom's force vectors


def energy_errors(pairs: Pairs) -> NDArray[np.float64]:
    """(n,) predicted - label, meV/atom."""
    return np.array([1e3 * (p.energy - s.energy) / len(s.atoms) for s, p in pairs if s.energy is not None])


def force_component_errors(pairs: Pairs) -> NDArray[np.float64]:
    """(3 N,) predicted - label, meV/Å."""
    errors = [1e3 * (p.forces - s.forces).ravel() for s, p in pairs if s.forces is not None]
    return np.concatenate([np.empty(0), *errors])


def force_vector_errors(pairs: Pairs) -> NDArray[np.float64]:
    """(N,) |predicted - label| of the atoms' force vectors, meV/Å."""
    return np.linalg.norm(force_component_errors(pairs).reshape(-1, 3), axis=1)


def forces_by_element(pairs: Pairs) -> dict[str, ErrorSum]:
    """Errors of force components, eV/Å, by element in the order of atomic numbers."""
    sums: dict[int, ErrorSum] = {}
    for structure, predicted in pairs:
        if structure.forces is None:
            continue
        errors = predicted.forces - structure.forces
        for number in np.unique(structure.atoms.numbers):
            sums.setdefault(int(number), ErrorSum()).add(errors[structure.atoms.numbers == number])
    return {chemical_symbols[number]: sums[number] for number in sorted(sums)}


def quantiles(errors: NDArray[np.float64]) -> list[float]:
    """Absolute errors below which `QUANTILES` percent lie; empty without errors."""
    return np.percentile(np.abs(errors), QUANTILES).tolist() if errors.size else []


def worst_structures(pairs: Pairs, n: int = 5) -> list[Worst]:
    """The `n` structures with the largest force errors, then those of the `n` with the largest energy errors left."""
    rows = [(pair, *_errors(*pair)) for pair in pairs]
    by_force = sorted(rows, key=lambda row: -(row[2] or 0.0))[:n]
    by_energy = sorted(rows, key=lambda row: -abs(row[1] or 0.0))[:n]
    chosen = {id(row): row for row in by_force + by_energy}
    return [
        Worst(s.index, s.group, s.atoms.get_chemical_formula(), energy, force)
        for (s, _), energy, force in chosen.values()
    ]


def _errors(structure: LabelledStructure, predicted: Predicted) -> tuple[float | None, float | None]:
    """Energy error, meV/atom, and largest length of a force error, meV/Å; None without label."""
    energy = force = None
    if structure.energy is not None:
        energy = 1e3 * (predicted.energy - structure.energy) / len(structure.atoms)
    if structure.forces is not None:
        force = 1e3 * float(np.linalg.norm(predicted.forces - structure.forces, axis=1).max())
    return energy, force
