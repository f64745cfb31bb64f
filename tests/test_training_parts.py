"""Configuration, loss, weight average, learning rate, checkpoint file."""

from __future__ import annotations

import math

import pytest
import torch
from lj_data import argon
from torch import nn

from mlip.errors import DataError, InputError, ModelFileError
from mlip.training.checkpointing import load_checkpoint, save_checkpoint
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.training.ema import WeightAverage
from mlip.training.optimizer import make_optimizer
from mlip.training.schedule import Schedule
from mlip.training.setup import build_potential


def config(**options) -> TrainingConfig:
    return TrainingConfig(**{"train_file": "a.xyz", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_file": ""}, "--train_file is missing"),
        ({"lr": 0.0}, "--lr is 0"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"batch_size": -1}, "--batch_size"),
        ({"clip_grad": -1.0}, "--clip_grad"),
        ({"ema_decay": 1.0}, "--ema_decay"),
        ({"name": "a/b"}, "--name 'a/b'"),
        ({"radial_MLP": "[64, x]"}, "--radial_MLP"),
        ({"energy_weight": 0.0, "forces_weight": 0.0}, "nothing to train on"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(InputError, match=message):
        config(**options)


def test_command_line_of_a_run():
    options = config(train_file="/data/a.xyz", E0s="{Ar: -1.5}", lr=0.02, ema=False, work_dir="/tmp/x")
    assert options.command() == "mlip train --train_file a.xyz --E0s '{18: -1.5}' --lr 0.02 --no_ema"
    assert config(**options.portable()) == config(train_file="a.xyz", E0s="{Ar: -1.5}", lr=0.02, ema=False)


def test_irreps_and_widths():
    assert config(num_channels=16, max_L=2).feature_irreps() == "16x0e + 16x1o + 16x2e"
    assert config(hidden_irreps="8x0e").feature_irreps() == "8x0e"
    assert config(radial_MLP="[64, 32]").radial_MLP == config(radial_MLP="64 32").radial_MLP == [64, 32]


def test_weight_average():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    average = WeightAverage(module, 0.99)
    expected = 1.0
    for step in range(1, 5):
        nn.init.constant_(module.weight, 1.0 + step)
        average.update()
        decay = min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (1.0 + step)
    average.swap()
    assert module.weight.item() == pytest.approx(expected)
    average.swap()
    assert module.weight.item() == 5.0
    restored = WeightAverage(module, 0.99)
    restored.load_state_dict(average.state_dict())
    restored.swap()
    assert module.weight.item() == pytest.approx(expected)
    restored.swap()


def test_no_weight_average_is_the_weights():
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, None)
    nn.init.constant_(module.weight, 7.0)
    average.update()
    average.swap()
    assert module.weight.item() == 7.0
    average.swap()


def schedule(**options) -> Schedule:
    return Schedule(torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.01), config(**options))


@pytest.mark.parametrize(
    ("name", "half"), [("cosine", 0.005), ("linear", 0.005), ("plateau", 0.01), ("constant", 0.01)]
)
def test_learning_rate_over_the_run(name, half):
    rates = schedule(scheduler=name)
    for progress, expected in ((0.0, 0.01), (0.5, half), (1.0, 0.0 if half < 0.01 else 0.01)):
        rates.before_step(progress, 0)
        assert rates.rate == pytest.approx(expected, abs=1e-12)


def test_plateau_reduces_and_remembers():
    rates = schedule(scheduler_patience=1, lr_factor=0.5)
    for loss in (1.0, 1.0, 1.0):
        rates.after_validation(loss)
    assert rates.rate == pytest.approx(0.005)
    again = schedule(scheduler_patience=1, lr_factor=0.5)
    again.load_state_dict(rates.state_dict())
    for loss in (1.0, 1.0):
        rates.after_validation(loss)
        again.after_validation(loss)
    assert rates.rate == again.rate == pytest.approx(0.0025)


def test_warmup():
    rates = schedule(scheduler="constant", warmup_steps=3)
    seen = []
    for _ in range(5):
        rates.before_step(0.0, 0)
        seen.append(rates.rate)
    assert seen == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])


@pytest.fixture
def file(tmp_path):
    from lj_data import write_xyz

    return str(write_xyz(tmp_path / "a.xyz", argon(6)))


TINY = {
    "num_channels": 2,
    "max_L": 1,
    "max_ell": 1,
    "correlation": 2,
    "radial_MLP": "[4]",
    "r_max": 4.0,
    "E0s": "average",
}


def test_model_options_reach_the_model(file):
    options = TINY | {"num_radial_basis": 5, "num_cutoff_basis": 6, "num_interactions": 3, "MLP_irreps": "3x0e"}
    potential = build_potential(c := config(train_file=file, **options), load_data(c))
    chosen = {
        "elements": [18],
        "cutoff": 4.0,
        "hidden_irreps": "2x0e + 2x1o",
        "l_max": 1,
        "correlation": 2,
        "num_interactions": 3,
        "num_bessel": 5,
        "num_polynomial_cutoff": 6,
        "radial_mlp": [4],
        "avg_num_neighbors": pytest.approx(load_data(c).statistics.avg_num_neighbors),
        "mlp_irreps": "3x0e",
        "interaction_first": "agnostic",
    }
    assert chosen.items() <= potential.model.hyperparameters.items()


def test_a_cutoff_without_neighbors_is_refused(file):
    with pytest.raises(DataError, match="within --r_max 0.5 Å"):
        load_data(config(train_file=file, **TINY | {"r_max": 0.5}))


def test_scale_and_shift(file):
    data = load_data(c := config(train_file=file, **TINY | {"E0s": "{Ar: -1.0}"}))
    mace = build_potential(c, data)
    assert mace.energy_scale.scale.item() == pytest.approx(data.statistics.forces_rms)
    assert mace.energy_scale.shift.item() == 0.0 and mace.isolated_is_E0
    shifted = build_potential(config(train_file=file, **TINY, model="ScaleShiftMACE", scaling="std_scaling"), data)
    assert shifted.energy_scale.scale.item() == pytest.approx(data.statistics.interaction_std)
    assert shifted.energy_scale.shift.item() == pytest.approx(data.statistics.interaction_mean)
    assert shifted.model.hyperparameters["interaction_first"] == "residual"
    plain = build_potential(config(train_file=file, **TINY, scaling="no_scaling"), data)
    assert plain.energy_scale.scale.item() == 1.0


def test_same_seed_same_weights(file):
    first, again, other = (
        build_potential(c := config(train_file=file, **TINY, seed=seed), load_data(c)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(first.parameters(), other.parameters(), strict=True))


def test_decay_of_inner_linear_maps_only(file):
    potential = build_potential(c := config(train_file=file, **TINY), load_data(c))
    names = {id(p): name for name, p in potential.named_parameters()}
    decayed, free = make_optimizer(potential, c).param_groups
    assert decayed["weight_decay"] == c.weight_decay and free["weight_decay"] == 0
    assert any("product" in names[id(p)] for p in decayed["params"])
    assert {names[id(p)].split(".")[1] for p in free["params"]} >= {"embedding", "readouts"}
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_checkpoint_file(tmp_path):
    path = tmp_path / "c.pt"
    options, data = config().as_dict(), {"train_file": "abc"}
    save_checkpoint({"config": options, "data": data, "x": torch.arange(3)}, path)
    assert load_checkpoint(path, options | {"max_num_epochs": 7}, data)["x"].tolist() == [0, 1, 2]
    with pytest.raises(TypeError):  # can't be pickled: the file of before stays
        save_checkpoint({"config": options, "data": data, "x": (i for i in range(3))}, path)
    assert load_checkpoint(path, options, data)["x"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    with pytest.raises(InputError, match=r"--lr 0\.01 -> 0\.02"):
        load_checkpoint(path, options | {"lr": 0.02}, data)
    with pytest.raises(InputError, match="content of --train_file"):
        load_checkpoint(path, options, {"train_file": "xyz"})
    with pytest.raises(InputError, match="content of --valid_file"):
        load_checkpoint(path, options, data | {"valid_file": "new"})
    assert load_checkpoint(path, options, data | {"test_file": "new"})
    save_checkpoint({"version": 99, "config": options, "data": data}, path)
    with pytest.raises(ModelFileError, match="version 99"):
        load_checkpoint(path, options, data)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelFileError, match="damaged"):
        load_checkpoint(path, options, data)
    torch.save({"version": 1}, path)
    with pytest.raises(InputError, match="different run"):
        load_checkpoint(path, options, data)
