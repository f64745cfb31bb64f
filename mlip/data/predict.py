"""A potential's predictions for labelled structures, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.committee import Committee
from mlip.data.batches import LabelledBatch
from mlip.graph import AtomGraph
from mlip.potential import Potential


class Predicted(NamedTuple):
    """Prediction for one structure: eV, eV/Å (N, 3), eV/Å³ (3, 3); stress None where it was not asked for.

    `extrapolations` (N,) as `Potential.extrapolations` counts them, None where the model knows no range. Of a committee
    also the deviations of its members, not calibrated.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None
    extrapolations: NDArray[np.int64] | None = None
    energy_std: float | None = None
    forces_std: NDArray[np.float64] | None = None
    stress_std: NDArray[np.float64] | None = None


def predict(
    potential: Potential | Committee, batches: Iterable[LabelledBatch], stress: bool = True
) -> Iterator[Predicted]:
    """Predictions in the order of the structures; stress where the structure is periodic in three dimensions."""
    for batch in batches:
        yield from predict_batch(potential, batch.graph, stress)


def predict_batch(potential: Potential | Committee, graph: AtomGraph, stress: bool = True) -> list[Predicted]:
    """Likewise for one batch."""
    graph = graph.to(potential.device)
    with_stress = stress and bool(graph.pbc.all(dim=1).any())
    prediction = potential(graph, forces=True, stress=with_stress)
    ends = np.cumsum(graph.n_atoms.cpu().numpy())[:-1]
    periodic = graph.pbc.all(dim=1).tolist()
    columns: dict[str, list[Any]] = {}
    for name in Predicted._fields:
        values = getattr(prediction, name, None)
        if values is None:
            columns[name] = [None] * graph.n_graphs
            continue
        array = (values if name == "extrapolations" else values.detach().double()).cpu().numpy()
        if name.startswith("energy"):
            columns[name] = array.tolist()
        elif name.startswith("stress"):
            columns[name] = [tensor if whole else None for tensor, whole in zip(array, periodic, strict=True)]
        else:
            columns[name] = np.split(array, ends)
    return [Predicted(*row) for row in zip(*columns.values(), strict=True)]
