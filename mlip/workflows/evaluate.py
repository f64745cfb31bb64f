"""Errors of a potential, or of any ASE calculator, on labelled structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from mlip.calculators import MLIPCalculator
from mlip.calculators.batches import Batches
from mlip.committee import Calibration, Committee
from mlip.data.batches import collate_samples, make_samples
from mlip.data.calibration import deviations_of, reliability
from mlip.data.labels import LabelKeys, LabelledData, LabelledStructure, label_structures
from mlip.data.metrics import Errors
from mlip.data.predict import Predicted, predict_batch
from mlip.data.splits import check_elements
from mlip.errors import InputError
from mlip.graph import AtomGraph
from mlip.potential import Potential
from mlip.units import full_3x3_to_voigt_6, voigt_6_to_full_3x3
from mlip.workflows.evaluation import Progress, is_crystal, prepare
from mlip.workflows.results import Result, hidden


@dataclass(frozen=True)
class EvaluationResult(Result):
    """Outcome of `evaluate`. An error is None where no structure has the label.

    Attributes:
        n: number of structures.
        energy_rmse_meV_per_atom: of total energies divided by the number of atoms.
        energy_mae_meV_per_atom: likewise, mean absolute error.
        energy_rmse_meV: of total energies of structures, as tables for molecules give them.
        energy_mae_meV: likewise, mean absolute error.
        forces_rmse_meV_per_A: over components.
        forces_mae_meV_per_A: over components.
        forces_rmse_percent: relative to the root mean square of the labels.
        forces_mae_percent: relative to the mean absolute value of the labels.
        stress_rmse_GPa: over the nine components.
        stress_mae_GPa: over the nine components.
        n_extrapolating: structures with atoms outside the range of the model's training set; None of a model that has
            no such range.
        deviations: of a committee, by property: how its deviations compare with its errors (`Reliability`).
        groups: the same errors by `config_type` or `group` of the structures, where they have one.
        structures: the structures with their labels.
        predictions: energies, forces and stresses in the order of the structures.
        calibration: of the committee's deviations, None without one.
    """

    n: int
    energy_rmse_meV_per_atom: float | None
    energy_mae_meV_per_atom: float | None
    energy_rmse_meV: float | None
    energy_mae_meV: float | None
    forces_rmse_meV_per_A: float | None
    forces_mae_meV_per_A: float | None
    forces_rmse_percent: float | None
    forces_mae_percent: float | None
    stress_rmse_GPa: float | None
    stress_mae_GPa: float | None
    n_extrapolating: int | None
    deviations: dict[str, dict[str, Any]] | None
    groups: dict[str, dict[str, Any]]
    structures: list[LabelledStructure] = hidden()
    predictions: list[Predicted] = hidden()
    calibration: Calibration | None = hidden(default=None)


def evaluate(
    model: Potential | Committee | BaseCalculator,
    data: LabelledData | Sequence[Atoms],
    keys: LabelKeys = LabelKeys(),  # noqa: B008 (frozen)
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Compare a model's energies, forces and stresses with the labels of structures.

    Args:
        model: a potential or a committee (evaluated in batches), or any ASE calculator (one structure after the other).
        data: structures with labels in `info`, `arrays` or their calculator, or data from `read_labelled`.
        keys: names of the labels, for structures; default REF_energy and so on, else the plain names.
        batch_size: most structures at once; default: what memory allows, at most 512 atoms (2048 on a GPU).
        progress: called with (done, total, note).

    Raises:
        DataError: no labels, or labels that can't be used.
        UnknownElementError: an element the potential does not know.
        InputError: structures that can't be evaluated.
        TooLargeError: memory runs out on a single structure.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    labelled = data if isinstance(data, LabelledData) else label_structures(data, keys)
    if isinstance(model, MLIPCalculator):
        model = model.potential
    if isinstance(model, Potential | Committee):
        check_elements(labelled.structures, model.elements, labelled.source)
        answers = _batched(model, labelled, batch_size)
    else:
        answers = _one_by_one(model, labelled.structures)
    total, predictions = Errors(), []
    groups: dict[str, Errors] = {}
    for structure, prediction in zip(labelled.structures, answers, strict=True):
        predictions.append(prediction)
        total.add(structure, prediction)
        if structure.group:
            groups.setdefault(structure.group, Errors()).add(structure, prediction)
        if progress:
            progress(len(predictions), len(labelled), "")
    calibration = model.calibration if isinstance(model, Committee) else None
    deviations = deviations_of(zip(labelled.structures, predictions, strict=True))
    return EvaluationResult(
        **total.as_dict(),  # type: ignore[arg-type]
        n_extrapolating=_extrapolating(predictions),
        deviations=reliability(deviations, calibration) if isinstance(model, Committee) else None,
        groups={name: errors.as_dict() for name, errors in sorted(groups.items())},
        structures=labelled.structures,
        predictions=predictions,
        calibration=calibration,
    )


def _extrapolating(predictions: Sequence[Predicted]) -> int | None:
    counts = [prediction.extrapolations for prediction in predictions if prediction.extrapolations is not None]
    return sum(bool(count.any()) for count in counts) if counts else None


def _batched(potential: Potential | Committee, data: LabelledData, batch_size: int | None) -> Iterator[Predicted]:
    """Predictions in batches; graphs live no longer than their batch."""
    stress = data.counts["stress"] > 0

    def graph(part: Sequence[LabelledStructure]) -> AtomGraph:
        return collate_samples(make_samples(part, potential.cutoff, data.source)).graph

    return Batches(potential.device).evaluated(
        data.structures,
        [len(structure.atoms) for structure in data.structures],
        graph,
        lambda batch: predict_batch(potential, batch, stress),
        count=batch_size,
    )


def _one_by_one(calculator: BaseCalculator, structures: Sequence[LabelledStructure]) -> Iterator[Predicted]:
    """Predictions of a calculator; no stress where it has none to give."""
    for structure in structures:
        atoms = prepare(structure.atoms, calculator)
        atoms.set_constraint()
        stress = None
        if structure.stress is not None and is_crystal(atoms):
            try:
                stress = voigt_6_to_full_3x3(atoms.get_stress())
            except PropertyNotImplementedError:
                stress = None
        energy, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces())
        yield Predicted(energy, forces, stress, getattr(calculator, "extrapolations", None))


def with_predictions(result: EvaluationResult, prefix: str = "MLIP_") -> list[Atoms]:
    """Copies of the structures with labels under REF_* and predictions under `prefix`, stresses in Voigt order.

    Of a committee also the deviations as energy_std and so on, and calibrated ones as energy_uncertainty and so on.
    """
    annotated = []
    for structure, predicted in zip(result.structures, result.predictions, strict=True):
        atoms = structure.atoms.copy()
        for name, values in (("REF_", structure), (prefix, predicted)):
            if values.energy is not None:
                atoms.info[f"{name}energy"] = values.energy
            if values.forces is not None:
                atoms.arrays[f"{name}forces"] = values.forces
            if values.stress is not None:
                atoms.info[f"{name}stress"] = full_3x3_to_voigt_6(values.stress)
        _add_deviations(atoms, predicted, result.calibration, prefix)
        if predicted.extrapolations is not None:
            atoms.arrays[f"{prefix}extrapolations"] = predicted.extrapolations
        annotated.append(atoms)
    return annotated


def _add_deviations(atoms: Atoms, predicted: Predicted, calibration: Calibration | None, prefix: str) -> None:
    for name in ("energy", "forces", "stress"):
        value: Any = getattr(predicted, f"{name}_std")
        if value is None:
            continue
        store = atoms.arrays if name == "forces" else atoms.info
        value = full_3x3_to_voigt_6(value) if name == "stress" else value
        store[f"{prefix}{name}_std"] = value
        factor = None if calibration is None else getattr(calibration, name)
        if factor is not None:
            store[f"{prefix}{name}_uncertainty"] = factor * value
