"""What the model is told about its training data: neighbors per atom, scale of forces, interaction energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mlip.data.batches import LabelledBatch


@dataclass(frozen=True)
class Statistics:
    """Statistics of a training set."""

    avg_num_neighbors: float  # neighbors within the cutoff, mean over atoms that have any
    interaction_mean: float  # eV per atom, mean over structures of (energy - sum of E0s) / n_atoms
    interaction_std: float  # eV per atom
    forces_rms: float  # eV/Å, over components; NaN without forces
    n_structures: int
    n_atoms: int
    n_edges: int


def statistics(samples: Sequence[LabelledBatch], E0s: Mapping[int, float]) -> Statistics:
    """Statistics of samples of one structure each; only labels that are there count, each structure once."""
    n_connected = n_atoms = n_edges = 0
    squares = components = 0.0
    energies = []
    table = torch.zeros(max(E0s) + 1, dtype=torch.float64)
    table[list(E0s)] = torch.tensor(list(E0s.values()), dtype=torch.float64)
    for graph, labels in samples:
        n_atoms += graph.numbers.shape[0]
        n_edges += graph.edge_index.shape[1]
        n_connected += int(torch.unique_consecutive(graph.edge_index[0]).numel())
        if labels.energy_weight.item():
            interaction = labels.energy.item() - table[graph.numbers].sum().item()
            energies.append(interaction / graph.numbers.shape[0])
        if labels.forces_weight.item():
            squares += labels.forces.double().square().sum().item()
            components += labels.forces.numel()
    return Statistics(
        avg_num_neighbors=n_edges / max(n_connected, 1),
        interaction_mean=float(np.mean(energies)) if energies else 0.0,
        interaction_std=float(np.std(energies)) if energies else float("nan"),
        forces_rms=(squares / components) ** 0.5 if components else float("nan"),
        n_structures=len(samples),
        n_atoms=n_atoms,
        n_edges=n_edges,
    )
