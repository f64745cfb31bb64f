"""A potential's predictions for labelled structures, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.data.batches import LabelledBatch
from mlip.graph import AtomGraph
from mlip.potential import Potential


class Predicted(NamedTuple):
    """Prediction for one structure: eV, eV/Å (N, 3), eV/Å³ (3, 3); stress None where it was not asked for.

    `extrapolations` (N,) as `Potential.extrapolations` counts them, None where the model knows no range.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None
    extrapolations: NDArray[np.int64] | None = None


def predict(potential: Potential, batches: Iterable[LabelledBatch], stress: bool = True) -> Iterator[Predicted]:
    """Predictions in the order of the structures; stress where the structure is periodic in three dimensions."""
    for batch in batches:
        yield from predict_batch(potential, batch.graph, stress)


def predict_batch(potential: Potential, graph: AtomGraph, stress: bool = True) -> list[Predicted]:
    """Likewise for one batch."""
    graph = graph.to(potential.device)
    with_stress = stress and bool(graph.pbc.all(dim=1).any())
    prediction = potential(graph, forces=True, stress=with_stress)
    energies = prediction.energy.detach().double().cpu().numpy()
    forces = prediction.forces.detach().double().cpu().numpy()
    ends = np.cumsum(graph.n_atoms.cpu().numpy())[:-1]
    split = np.split(forces, ends)
    counts = prediction.extrapolations
    outside = [None] * len(energies) if counts is None else np.split(counts.cpu().numpy(), ends)
    tensors = prediction.stress.detach().double().cpu().numpy() if with_stress else None
    periodic = graph.pbc.all(dim=1).tolist()
    return [
        Predicted(float(energy), split[k], tensors[k] if tensors is not None and periodic[k] else None, outside[k])
        for k, energy in enumerate(energies)
    ]
