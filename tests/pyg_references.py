"""Weights, structures and numbers of PyTorch Geometric's models, which tests/reference/make_pyg_dimenet.py made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mlip.convert import atoms_to_graph
from mlip.graph import AtomGraph, collate

FOLDER = Path(__file__).parent / "fixtures" / "pyg_dimenet"


class Reference:
    """One fixture: PyG's state dict, arguments, structures and numbers."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as npz:
            self.arrays = dict(npz)
        meta = json.loads(bytes(self.arrays["meta"]))
        self.kwargs, self.kind = meta["kwargs"], meta["class"]
        self.state = {
            key.removeprefix("state/"): torch.tensor(value)
            for key, value in self.arrays.items()
            if key.startswith("state/")
        }

    def graph(self) -> AtomGraph:
        numbers, positions, batch = (self.arrays[key] for key in ("numbers", "positions", "batch"))
        return batched(numbers, positions, batch, self.kwargs["cutoff"])


def batched(numbers: Any, positions: Any, batch: Any, cutoff: float) -> AtomGraph:
    numbers, positions, batch = (np.asarray(array) for array in (numbers, positions, batch))
    structures = [Atoms(numbers[batch == b], positions=positions[batch == b]) for b in np.unique(batch)]
    return collate([atoms_to_graph(atoms, cutoff) for atoms in structures])
