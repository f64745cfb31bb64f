"""The logs of `mlip train` and what it shows while it runs."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from lj_data import argon, isolated, write_xyz
from rich.console import Console
from small_runs import TINY, arguments, config, start, wait_for_epochs

from mlip.errors import InputError, MissingDependencyError, MLIPError
from mlip.training import display
from mlip.training.logs import Csv, Logs
from mlip.training.train import TrainingResult, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_xyz(folder / "train.xyz", [*argon(16), isolated()])
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> tuple[TrainingResult, str]:
    console = Console(record=True, file=io.StringIO(), width=200)
    result = train(config(folder / "train.xyz", max_num_epochs=3), console)
    return result, console.export_text()


def read_logs(folder: Path, name: str = "mlip") -> tuple[list[dict], list[dict[str, str]]]:
    lines = [json.loads(line) for line in (folder / f"{name}_log.jsonl").read_text().splitlines()]
    with open(folder / f"{name}_log.csv", newline="") as stream:
        return lines, list(csv.DictReader(stream))


def test_csv_beside_the_json_lines(run):
    result, _ = run
    lines, rows = read_logs(result.path.parent)
    assert lines == result.history and len(rows) == 3
    for line, row in zip(lines, rows, strict=True):
        assert {key: float(value) for key, value in row.items()} == line


def test_csv_whose_header_grows(tmp_path):
    log = Csv(tmp_path / "log.csv")
    log.start([])
    log.append({"epoch": 1, "loss": 2.0})
    log.append({"epoch": 2, "loss": 1.0, "valid_energy_rmse": 0.5})
    log.append({"epoch": 3, "loss": 0.5})
    with open(log.path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["valid_energy_rmse"] for row in rows] == ["", "0.5", ""]


def test_continued_logs_after_a_kill_have_each_epoch_once(tmp_path, folder):
    options = TINY | {"train_file": folder / "train.xyz", "work_dir": tmp_path, "max_num_epochs": 10000}
    process = start(options)
    try:
        wait_for_epochs(tmp_path, 3, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for suffix in ("jsonl", "csv"):  # an epoch that no checkpoint has, and half a line, as a kill may leave them
        with open(tmp_path / f"mlip_log.{suffix}", "a") as stream:
            stream.write('{"epoch": 9999, "loss"')
    before = len(read_logs_quietly(tmp_path))
    result = train(config(folder / "train.xyz", work_dir=str(tmp_path), max_num_epochs=before + 2, restart_latest=True))
    lines, rows = read_logs(tmp_path)
    epochs = list(range(1, before + 3))
    assert [line["epoch"] for line in lines] == epochs == [int(row["epoch"]) for row in rows]
    assert lines == result.history


def read_logs_quietly(folder: Path) -> list[str]:
    return [line for line in (folder / "mlip_log.jsonl").read_text().splitlines() if line.endswith("}")]


class FakeWriter:
    """Stands for TensorBoard's SummaryWriter: keeps what was written by file, as the folder does."""

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(exist_ok=True)
        self.file = Path(folder) / f"events.out.tfevents.{len(list(Path(folder).iterdir()))}"

    def add_scalar(self, name: str, value: float, step: int, walltime: float) -> None:
        with open(self.file, "a") as stream:
            stream.write(json.dumps([name, value, step]) + "\n")

    def flush(self) -> None:
        """Written already."""

    close = flush


def test_tensorboard_of_a_continued_run(tmp_path, folder, monkeypatch):
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    for epochs in (2, 4):
        result = train(
            config(
                folder / "train.xyz",
                work_dir=str(tmp_path),
                max_num_epochs=epochs,
                restart_latest=True,
                tensorboard=True,
            )
        )
    files = list((tmp_path / "mlip_tensorboard").iterdir())
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    forces = [(step, value) for name, value, step in events if name == "valid/forces_rmse_meV_per_A"]
    assert forces == [(r["epoch"], pytest.approx(1000 * r["valid_forces_rmse"])) for r in result.history]
    assert {name for name, *_ in events} >= {"loss/train", "loss/valid", "learning_rate"}


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_log_whose_package_is_missing(tmp_path, folder, monkeypatch, package):
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=f"--{package} needs {package}.*pip install {package}"):
        Logs(config(folder / "train.xyz", work_dir=str(tmp_path / "new"), **{package: True}), continued=False)
    assert not (tmp_path / "new").exists()


class FakeRun:
    """A run of W&B: takes each step once, in order; a continued one knows its last step."""

    def __init__(self, steps: dict[int, dict[str, float]]) -> None:
        self.steps, self.step, self.summary, self.exit_code = steps, max(steps, default=-1) + 1, {}, None

    def log(self, values: dict[str, float], step: int, commit: bool) -> None:
        assert step >= self.step and commit
        self.steps[step], self.step = values, step + 1

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def fake_wandb(monkeypatch) -> tuple[list[dict], dict[str, dict], list[FakeRun]]:
    calls: list[dict] = []
    stored: dict[str, dict] = {}
    runs: list[FakeRun] = []

    def init(**options):
        calls.append(options)
        runs.append(FakeRun(stored.setdefault(options["id"], {})))
        return runs[-1]

    module = types.ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls, stored, runs


def test_wandb_of_a_continued_run(tmp_path, folder, monkeypatch):
    calls, stored, runs = fake_wandb(monkeypatch)
    options = {"work_dir": str(tmp_path), "restart_latest": True, "wandb": True, "wandb_project": "p"}
    for epochs in (2, 4):
        result = train(config(folder / "train.xyz", max_num_epochs=epochs, wandb_entity="e", **options))
    assert (
        [call["project"] for call in calls] == ["p", "p"] and calls[0]["entity"] == "e" and calls[0]["name"] == "mlip"
    )
    assert calls[0]["id"] == calls[1]["id"] and calls[1]["resume"] == "allow"
    assert [sorted(steps) for steps in stored.values()] == [[1, 2, 3, 4]]
    last = next(iter(stored.values()))[4]
    assert last["valid/energy_rmse_meV_per_atom"] == pytest.approx(1000 * result.history[-1]["valid_energy_rmse"])
    assert runs[-1].exit_code == 0 and runs[-1].summary["best_epoch"] == result.best_epoch
    assert str(tmp_path) not in json.dumps(calls[0]["config"])
    train(config(folder / "train.xyz", max_num_epochs=1, **options | {"restart_latest": False, "wandb_name": "again"}))
    assert calls[2]["id"] != calls[0]["id"] and calls[2]["name"] == "again"


def test_wandb_that_failed_and_wandb_not_asked_for(tmp_path, folder, monkeypatch):
    calls, _, runs = fake_wandb(monkeypatch)
    with pytest.raises(InputError, match="--wandb_project.*--wandb"):
        config(folder / "train.xyz", wandb_project="p")
    train(config(folder / "train.xyz", work_dir=str(tmp_path), max_num_epochs=1))
    assert not calls
    with pytest.raises(Exception, match="lower --lr"):
        train(config(folder / "train.xyz", work_dir=str(tmp_path), max_num_epochs=50, lr=1e30, clip_grad=0, wandb=True))
    assert runs[0].exit_code == 1

    def refuse(**options):
        raise RuntimeError("no API key configured")

    sys.modules["wandb"].init = refuse
    with pytest.raises(MLIPError, match="--wandb: no run could be started .RuntimeError: no API key.*wandb login"):
        train(config(folder / "train.xyz", work_dir=str(tmp_path), max_num_epochs=1, wandb=True))


def test_not_imported_unless_asked_for(tmp_path, folder):
    options = TINY | {"train_file": folder / "train.xyz", "work_dir": tmp_path, "max_num_epochs": 1}
    code = (
        f"import sys; from mlip.cli import main; assert main({['train', *arguments(options)]}) == 0; "
        "assert not {'wandb', 'tensorboard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# -- progress --------------------------------------------------------------------------------------------------------


def test_lines_of_a_pipe(folder, run, monkeypatch):
    _, shown = run
    lines = [line for line in shown.splitlines() if line.startswith("epoch")]
    pattern = (
        r"epoch \d/3  loss \S+ +valid \S+ +E +\S+ meV/atom  F +\S+ meV/Å  .*lr \S+ +0:\d\d:\d\d gone, \S+ left( \*)?$"
    )
    assert len(lines) == 3 and all(re.match(pattern, line) for line in lines)
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    console = Console(record=True, file=io.StringIO(), width=200)
    train(config(folder / "train.xyz", max_num_epochs=1), console)
    assert re.search(r"^epoch 1/1  step 1/4  loss \S+  \S+ left$", console.export_text(), re.MULTILINE)


def test_bar_of_a_terminal(folder):
    output = io.StringIO()
    console = Console(file=output, width=120, force_terminal=True)
    train(config(folder / "train.xyz", max_num_epochs=2), console)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())
    assert re.search(r"epoch 2/2 .*\d/4 ", text) and "left" in text


def test_clock():
    assert [display.clock(s) for s in (0, 61.4, 36000, float("nan"), -3)] == [
        "0:00:00",
        "0:01:01",
        "10:00:00",
        "?",
        "0:00:00",
    ]
