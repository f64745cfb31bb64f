"""What the model is told about its training data: neighbors per atom, scale of forces, interaction energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mlip.data.batches import LabelledBatch, collate_samples

#: Structures that are looked at together.
AT_ONCE = 256


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
    energies: list[float] = []
    table = np.zeros(max(E0s) + 1)
    table[list(E0s)] = list(E0s.values())
    for start in range(0, len(samples), AT_ONCE):
        graph, labels = collate_samples(samples[start : start + AT_ONCE])
        n_atoms += graph.numbers.shape[0]
        n_edges += graph.edge_index.shape[1]
        n_connected += int(torch.unique_consecutive(graph.edge_index[0]).numel())
        # numpy's sums: those of torch depend on the number of threads
        reference = np.bincount(graph.batch.numpy(), weights=table[graph.numbers.numpy()], minlength=graph.n_graphs)
        interaction = (labels.energy.numpy() - reference) / graph.n_atoms.numpy()
        energies += interaction[labels.energy_weight.numpy() > 0].tolist()
        forces = labels.forces[(labels.forces_weight > 0)[graph.batch]].numpy()
        squares += float(np.square(forces).sum())
        components += forces.size
    return Statistics(
        avg_num_neighbors=n_edges / max(n_connected, 1),
        interaction_mean=float(np.mean(energies)) if energies else 0.0,
        interaction_std=float(np.std(energies)) if energies else float("nan"),
        forces_rms=(squares / components) ** 0.5 if components else float("nan"),
        n_structures=len(samples),
        n_atoms=n_atoms,
        n_edges=n_edges,
    )
