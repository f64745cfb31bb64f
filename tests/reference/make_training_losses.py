"""Losses of mace-torch 0.3.16 on random labels and predictions, for tests/test_training_loss.py.

Run with a Python that has mace-torch: python tests/reference/make_training_losses.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mace.modules import loss as mace

OUT = Path(__file__).parent.parent / "fixtures" / "training_losses.json"
WEIGHTS = {"energy": 2.0, "forces": 30.0, "stress": 400.0, "virials": 5.0}
DELTA = 0.05
N_ATOMS = [1, 4, 7]


class Batch(dict):
    """What mace's losses ask of a batch: items and attributes."""

    __getattr__ = dict.__getitem__


def symmetric(rng: np.random.Generator, scale: float) -> np.ndarray:
    x = rng.normal(scale=scale, size=(len(N_ATOMS), 3, 3))
    return (x + x.transpose(0, 2, 1)) / 2


def numbers() -> dict[str, Any]:
    """Labels, predictions and weights; forces up to 500 eV/Å, errors on both sides of DELTA."""
    rng = np.random.default_rng(7)
    n = sum(N_ATOMS)
    forces = rng.normal(size=(n, 3)) * rng.choice([1.0, 90.0, 180.0, 300.0], size=(n, 1))
    energy, stress = rng.normal(scale=5.0, size=len(N_ATOMS)), symmetric(rng, 0.1)
    return {
        "n_atoms": N_ATOMS,
        "cell": (np.eye(3) * rng.uniform(3, 6, size=(3, 1, 1)) + symmetric(rng, 0.3)).tolist(),
        "energy": energy.tolist(),
        "forces": forces.tolist(),
        "stress": stress.tolist(),
        "predicted_energy": (energy + rng.normal(scale=0.3, size=3)).tolist(),
        "predicted_forces": (forces + rng.normal(scale=0.06, size=(n, 3))).tolist(),
        "predicted_stress": (stress + symmetric(rng, 0.05)).tolist(),
        "weight": [1.0, 0.5, 3.0],
        "energy_weight": [1.0, 0.0, 2.0],
        "forces_weight": [0.0, 1.0, 0.7],
        "stress_weight": [2.0, 1.0, 0.0],
    }


def losses() -> dict[str, torch.nn.Module]:
    e, f, s, v = (WEIGHTS[name] for name in ("energy", "forces", "stress", "virials"))
    return {
        "weighted": mace.WeightedEnergyForcesLoss(e, f),
        "forces_only": mace.WeightedForcesLoss(f),
        "stress": mace.WeightedEnergyForcesStressLoss(e, f, s),
        "virials": mace.WeightedEnergyForcesVirialsLoss(e, f, v),
        "huber": mace.WeightedHuberEnergyForcesStressLoss(e, f, s, DELTA),
        "universal": mace.UniversalLoss(e, f, s, DELTA),
        "l1l2": mace.WeightedEnergyForcesL1L2Loss(e, f),
    }


def main() -> None:
    torch.set_default_dtype(torch.float64)
    given = numbers()
    tensors = {name: torch.tensor(value) for name, value in given.items()}
    volume = torch.linalg.det(tensors["cell"]).abs().view(-1, 1, 1)
    found: dict[str, dict[str, float]] = {"ones": {}, "weights": {}}
    for kind, values in found.items():
        names = ("weight", "energy_weight", "forces_weight", "stress_weight")
        weights = {n: tensors[n] if kind == "weights" else torch.ones(len(N_ATOMS)) for n in names}
        labels = {name: tensors[name] for name in ("energy", "forces", "stress")}
        ptr = torch.tensor([0, *np.cumsum(N_ATOMS).tolist()])
        ref = Batch(
            labels, virials=-volume * labels["stress"], virials_weight=weights["stress_weight"], ptr=ptr, **weights
        )
        pred = {name: tensors[f"predicted_{name}"] for name in labels}
        pred["virials"] = -volume * pred["stress"]
        for name, loss in losses().items():
            values[name] = float(loss(ref, pred))
    given |= {"loss_weights": WEIGHTS, "delta": DELTA, "losses": found}
    OUT.write_text(json.dumps(given) + "\n")


if __name__ == "__main__":
    main()
