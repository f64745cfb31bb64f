"""Errors of a property model on labelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mlip.calculators import PropertyCalculator
from mlip.data.labels import LabelledStructure
from mlip.data.property_labels import PropertyData, label_property
from mlip.data.property_metrics import Values, property_errors, property_errors_by_group
from mlip.data.splits import check_elements
from mlip.errors import InputError
from mlip.property_model import PropertyModel
from mlip.workflows.evaluation import Progress
from mlip.workflows.results import Result, hidden


@dataclass(frozen=True)
class PropertyEvaluation(Result):
    """Outcome of `evaluate_property`: errors over structures, of vectors over their components, in `unit`.

    Attributes:
        property: its name.
        unit: of the errors.
        n: number of structures.
        mae: mean absolute error.
        rmse: root mean squared error.
        largest: largest absolute error.
        std: of the labels about their mean, the RMSE of a model that always says the mean.
        groups: the same errors by `config_type` or `group` of the structures, where they have one.
        pairs: the structures with predicted values.
    """

    property: str
    unit: str
    n: int
    mae: float
    rmse: float
    largest: float
    std: float
    groups: dict[str, dict[str, Any]]
    pairs: list[tuple[LabelledStructure, Values]] = hidden()


def evaluate_property(
    model: PropertyModel | PropertyCalculator,
    data: PropertyData | Sequence[Atoms],
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> PropertyEvaluation:
    """Compare a model's property with the labels of structures.

    Args:
        model: a property model, or its calculator.
        data: structures with the property in `info`, or data from `read_property`.
        batch_size: most structures at once; default: what memory allows.
        progress: called with (done, total, note).

    Raises:
        DataError: no labels, or labels that can't be used.
        UnknownElementError: an element the model does not know.
        InputError: structures that can't be evaluated; labels in another unit.
        TooLargeError: memory runs out on a single structure.
    """
    calculator = model if isinstance(model, PropertyCalculator) else _calculator(model)
    learned, known = calculator.learned, calculator.model.elements
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    labelled = (
        data
        if isinstance(data, PropertyData)
        else label_property(data, learned.name, learned.readout, learned.unit or None)
    )
    if labelled.learned.unit != learned.unit:
        raise InputError(f"{labelled.source} has {labelled.learned.label}, the model gives {learned.label}")
    check_elements(labelled.structures, known, labelled.source)
    pairs: list[tuple[LabelledStructure, Values]] = []
    results = calculator.evaluate([s.atoms for s in labelled.structures], batch_size=batch_size)
    for structure, result in zip(labelled.structures, results, strict=True):
        pairs.append((structure, np.atleast_1d(result[learned.name])))
        if progress:
            progress(len(pairs), len(labelled), "")
    groups = property_errors_by_group(pairs)
    return PropertyEvaluation(
        property=learned.name,
        unit=learned.unit,
        **property_errors(pairs),  # type: ignore[arg-type]
        groups={name: errors for name, errors in groups.items() if name},
        pairs=pairs,
    )


def _calculator(model: PropertyModel) -> PropertyCalculator:
    return PropertyCalculator(model, device=str(model.device), dtype=str(model.dtype).removeprefix("torch."))


def with_values(result: PropertyEvaluation, prefix: str = "MLIP_") -> list[Atoms]:
    """Copies of the structures with labels under REF_NAME and predictions under `prefix`NAME."""
    annotated = []
    for structure, value in result.pairs:
        atoms = structure.atoms.copy()
        for name, found in (("REF_", structure.value), (prefix, value)):
            if found is not None:
                atoms.info[f"{name}{result.property}"] = found if found.size > 1 else float(found.item())
        annotated.append(atoms)
    return annotated
