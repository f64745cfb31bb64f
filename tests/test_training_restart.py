"""Runs that end early, at a limit or by a kill, and go on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from lj_data import argon, isolated, write_xyz
from small_runs import TINY, assert_equal, checkpoint, config, run_state, start, wait_for_epochs, without_time

import mlip
from mlip.errors import InputError
from mlip.training import engine
from mlip.training.module import TrainingModule
from mlip.training.train import train


@pytest.fixture
def data(tmp_path) -> Path:
    return write_xyz(tmp_path / "train.xyz", [*argon(16), isolated()])


@pytest.mark.parametrize(
    "options", [{"scheduler": "plateau", "scheduler_patience": 0}, {"ema": False, "default_dtype": "float64"}]
)
def test_restart_continues_bit_for_bit(tmp_path, data, options):
    runs = [tmp_path / name for name in ("whole", "parts")]
    train(config(data, work_dir=str(runs[0]), max_num_epochs=4, **options))
    train(config(data, work_dir=str(runs[1]), max_num_epochs=2, **options))
    result = train(config(data, work_dir=str(runs[1]), max_num_epochs=4, restart_latest=True, **options))
    assert [r["epoch"] for r in result.history] == [1, 2, 3, 4]
    assert_equal(*(run_state(folder) for folder in runs))
    assert_equal(*(dict(mlip.load(folder / "mlip.safetensors").state_dict()) for folder in runs))


def test_sigkill_at_any_time_leaves_a_run_that_continues_exactly(tmp_path, data):
    options = TINY | {"train_file": data, "work_dir": tmp_path / "killed", "max_num_epochs": 10000}
    process = start(options)
    try:
        wait_for_epochs(tmp_path / "killed", 3, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = checkpoint(tmp_path / "killed")["epoch"]
    for folder, restart in (("killed", True), ("whole", False)):
        train(config(data, work_dir=str(tmp_path / folder), max_num_epochs=done + 2, restart_latest=restart))
    assert_equal(run_state(tmp_path / "killed"), run_state(tmp_path / "whole"))


@pytest.mark.parametrize(("steps", "kept"), [(1, 1), (5, 1), (8, 3), (11, 3)])
def test_stop_inside_an_epoch_continues_at_the_step(tmp_path, data, monkeypatch, steps, kept):
    """Four steps an epoch, a checkpoint after each but the last, where it follows the validation."""
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    taken = []

    def stop(module, *_):
        taken.append(module.epoch)
        if len(taken) == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingModule, "on_train_batch_end", stop)
        train(config(data, work_dir=str(tmp_path / "parts"), max_num_epochs=4))
    assert len(checkpoint(tmp_path / "parts")["losses"]) == kept
    train(config(data, work_dir=str(tmp_path / "parts"), max_num_epochs=4, restart_latest=True))
    train(config(data, work_dir=str(tmp_path / "whole"), max_num_epochs=4))
    assert_equal(run_state(tmp_path / "parts"), run_state(tmp_path / "whole"))


def test_ctrl_c_says_how_to_resume(tmp_path, data):
    options = TINY | {"train_file": data, "work_dir": tmp_path / "stopped", "max_num_epochs": 10000}
    process = start(options)
    try:
        wait_for_epochs(tmp_path / "stopped", 2, process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "--restart_latest continues it" in output
    assert "Traceback" not in output and "graceful" not in output
    assert checkpoint(tmp_path / "stopped")["epoch"] >= 2


def test_restart_refuses_other_options_and_starts_without_checkpoint(data):
    train(config(data, max_num_epochs=1, restart_latest=True))
    with pytest.raises(InputError, match="different run.*--lr"):
        train(config(data, max_num_epochs=2, lr=0.5, restart_latest=True))


def test_max_time_ends_with_a_potential_and_zero_rate(data):
    result = train(config(data, max_num_epochs=100000, max_time=2 / 60, scheduler="linear"))
    assert 2 <= result.seconds < 20
    assert result.path.exists() and result.history[-1]["lr"] < 1e-3
    again = train(config(data, max_num_epochs=100000, max_time=2 / 60, scheduler="linear", restart_latest=True))
    assert again.epochs <= result.epochs + 2 and again.seconds < result.seconds + 2


def test_patience_ends_the_run(data):
    result = train(config(data, max_num_epochs=200, lr=1e-12, ema=False, patience=3))
    assert result.epochs < 20


def test_eval_interval(data):
    result = train(config(data, max_num_epochs=5, eval_interval=2))
    assert [r["epoch"] for r in result.history] == [2, 4, 5]


@pytest.mark.parametrize("interrupted", [1, 4, 5])
def test_eval_interval_of_a_continued_run(data, tmp_path, interrupted, monkeypatch):
    """Validations are after the same epochs, and after the last one even if a kill came between training and it."""
    options = {"max_num_epochs": 5, "eval_interval": 2}
    whole = train(config(data, work_dir=str(tmp_path / "whole"), **options))

    def stop(place, *_, **__):
        if interrupted == 5 or place.epoch > interrupted:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        last = interrupted == 5  # the validation after the last epoch is on its own
        patch.setattr(*(engine.L.Trainer, "validate") if last else (TrainingModule, "on_train_batch_end"), stop)
        train(config(data, work_dir=str(tmp_path / "parts"), **options))
    continued = train(config(data, work_dir=str(tmp_path / "parts"), restart_latest=True, **options))
    assert without_time(continued.history) == without_time(whole.history)
    assert_equal(run_state(tmp_path / "parts"), run_state(tmp_path / "whole"))
    assert continued.errors == whole.errors
    again = train(config(data, work_dir=str(tmp_path / "whole"), restart_latest=True, **options))
    assert without_time(again.history) == without_time(whole.history) and again.errors == whole.errors


def test_a_run_out_of_patience_is_not_trained_on(data):
    options = {"max_num_epochs": 200, "lr": 1e-12, "ema": False, "patience": 3}
    ended = train(config(data, **options))
    again = train(config(data, restart_latest=True, **options))
    assert again.history == ended.history
    longer = train(config(data, restart_latest=True, **options | {"patience": 5}))
    assert longer.epochs > ended.epochs
