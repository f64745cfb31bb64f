"""Runs in two stages and schedule-free training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lj_data import argon, isolated, write_xyz
from small_runs import assert_equal, run_state
from small_runs import fast_config as config
from torch import nn

import mlip
from mlip.training.config import TrainingConfig
from mlip.training.module import TrainingModule
from mlip.training.schedule_free import ScheduleFreeAdamW
from mlip.training.stage_two import StageTwo
from mlip.training.train import train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_xyz(tmp_path / "train.xyz", [*argon(12), isolated()])


def weights_at(folder: Path, epoch: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"mlip_epoch-{epoch}.pt", weights_only=True)["weights"]


def test_two_stages(data: Path) -> None:
    """The loss, the rate and the outcome of each; the equal average is that of the epochs of the second."""
    options = {"swa": True, "start_swa": 2, "swa_lr": 0.005, "lr": 0.02, "save_all_checkpoints": True, "ema": False}
    result = train(config(data, max_num_epochs=5, **options))
    folder = data.parent / "run"
    assert [record.get("stage", 1) for record in result.history] == [1, 1, 2, 2, 2]
    assert [record["lr"] for record in result.history] == [0.02, 0.02, 0.005, 0.005, 0.005]
    for record in result.history:  # two sets of weights in the loss, as every structure has all labels
        energy, forces = (1000, 100) if record.get("stage") else (1, 100)
        squares = energy * record["valid_energy_rmse"] ** 2 + forces * record["valid_forces_rmse"] ** 2
        assert record["valid_loss"] == pytest.approx(squares)

    first, second = result.history[:2], result.history[2:]
    one = mlip.load(folder / "mlip.safetensors")
    assert one.metadata["best_epoch"] == min(first, key=lambda record: record["valid_loss"])["epoch"]
    assert one.metadata["stage"] == 1
    found = {name: parameter.detach() for name, parameter in one.named_parameters()}
    assert_equal(found, weights_at(folder, one.metadata["best_epoch"]))
    assert result.path == folder / "mlip_stagetwo.safetensors"
    assert result.best_epoch == min(second, key=lambda record: record["valid_loss"])["epoch"]

    state = torch.load(folder / "mlip_checkpoint.pt", weights_only=True)["stage_two"]
    epochs = [weights_at(folder, n) for n in (3, 4, 5)]
    for name, mean in zip(epochs[0], state["average"]["average"], strict=True):
        torch.testing.assert_close(mean, sum(weights[name] for weights in epochs) / 3)


def test_the_equal_average_is_the_result_where_it_is_better(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the second stage jump to and fro between the epochs, around better ones."""
    step = TrainingModule.optimizer_step

    def jump(module: TrainingModule, *arguments: object, **options: object) -> None:
        step(module, *arguments, **options)
        if module.stage_two.is_on and module.epoch_is_complete:
            with torch.no_grad():
                for parameter in module.potential.parameters():
                    parameter.mul_(3.0 if module.epoch % 2 else -1 / 3)

    monkeypatch.setattr(TrainingModule, "optimizer_step", jump)
    options = {"swa": True, "start_swa": 2, "swa_lr": 1e-9, "ema": False, "save_all_checkpoints": True}
    result = train(config(data, max_num_epochs=4, **options))
    assert [record.get("weights") for record in result.history] == [None, None, "last", "equal average"]
    folder, weights = data.parent / "run", dict(result.potential.named_parameters())
    assert result.best_epoch == 4
    for name, last in weights_at(folder, 4).items():
        torch.testing.assert_close(weights[name].detach(), (weights_at(folder, 3)[name] + last) / 2)


def test_patience_ends_the_first_stage_then_the_run(data: Path) -> None:
    options = {"swa": True, "patience": 2, "lr": 1e-12, "swa_lr": 1e-12, "ema": False, "scheduler": "constant"}
    result = train(config(data, max_num_epochs=40, **options))
    stages = [record.get("stage", 1) for record in result.history]
    assert stages == sorted(stages) and 3 <= stages.count(1) < 10 and 3 <= stages.count(2) < 10


def test_when_the_second_stage_begins() -> None:
    def begins(epochs: int, progress: float, stalled: bool = False, **options: object) -> bool:
        defaults = {"train_file": "a", "swa": True, "max_num_epochs": 10}
        return StageTwo(nn.Linear(1, 1), TrainingConfig(**(defaults | options))).is_due(epochs, progress, stalled)

    assert [begins(n, n / 10) for n in (0, 5, 6)] == [False, False, True]  # 10 // 4 * 3, as in mace
    assert [begins(n, n / 10, start_swa=4) for n in (3, 4)] == [False, True]
    assert begins(1, 0.1, stalled=True) and not begins(9, 0.9, swa=False)
    assert [begins(1, part, max_time=1.0) for part in (0.7, 0.8)] == [False, True]


@pytest.mark.parametrize(
    "options",
    [
        {"swa": True, "start_swa": 2},
        {"optimizer": "schedulefree", "swa": True, "start_swa": 2, "warmup_steps": 2},
        {"optimizer": "adamw", "scheduler": "exponential", "loss": "universal"},
        {"optimizer": "soap", "swa": True, "start_swa": 2, "precondition_frequency": 3},
    ],
)
@pytest.mark.parametrize("stop", [1, 3])
def test_restarts_continue_bit_for_bit(data: Path, options: dict[str, object], stop: int) -> None:
    whole, parts = (str(data.parent / name) for name in ("whole", "parts"))
    train(config(data, work_dir=whole, max_num_epochs=5, **options))
    if not (options.get("swa") and stop <= 2):  # which has to be before the end
        train(config(data, work_dir=parts, max_num_epochs=stop, **options))
    train(config(data, work_dir=parts, max_num_epochs=5, restart_latest=True, **options))
    assert_equal(run_state(Path(whole)), run_state(Path(parts)))


# -- schedule-free -----------------------------------------------------------------------------------------------------


def least_squares(optimizer_of) -> tuple[nn.Parameter, ScheduleFreeAdamW]:
    """30 steps on a least-squares problem."""
    torch.manual_seed(0)
    x = nn.Parameter(torch.randn(5, dtype=torch.float64))
    a, b = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    optimizer = optimizer_of([x])
    for _ in range(30):
        optimizer.zero_grad()
        (a @ x - b).square().mean().backward()
        optimizer.step()
    return x, optimizer


def test_schedule_free_is_that_of_its_authors() -> None:
    """Average after 30 steps by their package, schedulefree 1.4.1: `AdamWScheduleFree` with the same numbers."""
    x, optimizer = least_squares(lambda p: ScheduleFreeAdamW(p, lr=0.05, betas=(0.9, 0.98), weight_decay=0.01))
    before = x.detach().clone()
    optimizer.swap()
    expected = [0.9623512014499054, 0.17016732121256886, -1.399249964590574, -0.07951542687073873, -0.3737879422496794]
    assert x.tolist() == pytest.approx(expected, rel=1e-12)
    optimizer.swap()
    assert torch.equal(x.detach(), before)


def test_schedule_free_starts_again_from_its_average() -> None:
    x, optimizer = least_squares(lambda p: ScheduleFreeAdamW(p, lr=0.05))
    average = optimizer.state[x]["average"].clone()
    optimizer.start_again()
    assert torch.equal(x.detach(), average) and torch.equal(optimizer.state[x]["fast"], average)
    x.grad = torch.ones_like(x)
    optimizer.step()
    assert torch.equal(optimizer.state[x]["average"], optimizer.state[x]["fast"])  # the first of a new average


def test_schedule_free_training_learns_and_gives_its_average(data: Path) -> None:
    result = train(config(data, optimizer="schedulefree", max_num_epochs=30, lr=0.05, num_channels=8))
    assert min(record["valid_loss"] for record in result.history) < 0.5 * result.history[0]["valid_loss"]
    forces = result.errors["valid"]["forces_rmse_meV_per_A"]
    assert forces == pytest.approx(1000 * result.history[result.best_epoch - 1]["valid_forces_rmse"], rel=1e-4)
