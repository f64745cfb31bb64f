"""A property model's predictions for labelled structures, and their errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlip.data.batches import LabelledBatch
from mlip.data.labels import LabelledStructure
from mlip.property_model import PropertyModel

Values: TypeAlias = NDArray[np.float64]
#: Structures with predicted values (1,) or (3,).
Pairs: TypeAlias = Sequence[tuple[LabelledStructure, Values]]


def predict_property(model: PropertyModel, batches: Iterable[LabelledBatch]) -> Iterator[Values]:
    """Predicted values, in the order of the structures."""
    for batch in batches:
        yield from predict_batch(model, batch)


def predict_batch(model: PropertyModel, batch: LabelledBatch) -> list[Values]:
    """Likewise for one batch."""
    batch = batch.to(model.device)
    return list(model(batch.graph, charge=batch.labels.charge).value.cpu().numpy())


def labels_of(pairs: Pairs) -> Values:
    """Labels (n, size)."""
    return np.array([s.value for s, _ in pairs])


def errors_of_values(pairs: Pairs) -> Values:
    """Predicted - label (n, size)."""
    return np.array([p for _, p in pairs]) - labels_of(pairs)


def property_errors(pairs: Pairs) -> dict[str, float | int | None]:
    """Errors over structures, of vectors over their components, in the property's unit.

    `std` is the spread of the labels about their mean, what a model that always says the mean has for its RMSE.
    """
    errors, labels = errors_of_values(pairs), labels_of(pairs)
    return {
        "n": len(pairs),
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt(np.square(errors).mean())),
        "largest": float(np.abs(errors).max()),
        "std": float(np.sqrt(np.square(labels - labels.mean(axis=0)).mean())),
    }


def property_errors_by_group(pairs: Pairs) -> dict[str, dict[str, float | int | None]]:
    """Likewise by `config_type` ("" for structures without), in the order of the names."""
    groups: dict[str, list[tuple[LabelledStructure, Values]]] = {}
    for structure, value in pairs:
        groups.setdefault(structure.group, []).append((structure, value))
    return {group: property_errors(members) for group, members in sorted(groups.items())}
