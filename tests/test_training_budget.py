"""Runs whose batches keep to a budget: as many steps in every epoch, and exact restarts inside one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase import Atoms
from lj_data import argon, isolated, label, write_xyz

import mlip
from mlip.training import engine
from mlip.training.config import TrainingConfig
from mlip.training.module import TrainingModule
from mlip.training.train import train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Crystals of four atoms and chains of two to seven."""
    chains = [label(Atoms(f"Ar{n}", positions=[[3.7 * k, 0.1 * k * k, 0] for k in range(n)])) for n in range(2, 8)]
    return write_xyz(tmp_path / "train.xyz", [*argon(10), *chains, isolated()])


def config(data: Path, folder: str, **options: object) -> TrainingConfig:
    small = {"hidden_irreps": "4x0e", "max_ell": 1, "correlation": 2, "radial_MLP": "[8]", "r_max": 4.5}
    run = {"num_interactions": 1, "scheduler": "constant", "plot": False, "device": "cpu", "max_num_epochs": 3}
    where = {"train_file": str(data), "work_dir": str(data.parent / folder)}
    return TrainingConfig(**(small | run | where | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [{"batch_atoms": 12}, {"batch_edges": 150, "batch_size": 3}])
@pytest.mark.parametrize("steps", [2, 7])
def test_stop_inside_an_epoch_continues_exactly(budget, steps, data, monkeypatch):
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    taken: list[tuple[int, int, int]] = []

    def count(module: TrainingModule, outputs: object, batch: object, *_: object) -> None:
        taken.append((module.epoch, batch.graph.numbers.shape[0], batch.graph.edge_index.shape[1]))  # type: ignore[attr-defined]
        if len(taken) == steps and stopping:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", count)
    stopping = True
    with pytest.raises(KeyboardInterrupt):
        train(config(data, "parts", **budget))
    stopping = False
    train(config(data, "parts", restart_latest=True, **budget))
    taken.clear()
    train(config(data, "whole", **budget))
    found = [mlip.load(data.parent / folder / "mlip.safetensors").state_dict() for folder in ("parts", "whole")]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])

    by_epoch = [[step[1:] for step in taken if step[0] == epoch] for epoch in (1, 2, 3)]
    assert len({len(epoch) for epoch in by_epoch}) == 1  # as many steps in each
    assert len({sum(atoms for atoms, _ in epoch) for epoch in by_epoch}) == 1
    limit = budget.get("batch_atoms") or budget["batch_edges"]
    assert all((atoms if "batch_atoms" in budget else pairs) <= limit for _, atoms, pairs in taken)
