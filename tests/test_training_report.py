"""The report, the logs and the table of errors of `mlip train`."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from lj_data import argon, isolated, write_xyz
from rich.console import Console
from test_training_run import TINY, arguments, config, start, wait_for_epochs

import mlip
from mlip.cli import main
from mlip.data.labels import LabelKeys, label_structures
from mlip.data.predict import Predicted
from mlip.errors import InputError, MissingDependencyError, MLIPError
from mlip.training import display
from mlip.training.config import TrainingConfig
from mlip.training.error_tables import ERROR_TABLES, columns_of, error_table, table_rows
from mlip.training.logs import Csv, Logs
from mlip.training.report_numbers import worst_structures
from mlip.training.train import TrainingResult, train

HOSTILE = "<script>alert('x')</script> & [red]$x^2$ \x1b[2J"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    structures = argon(16)
    for k, atoms in enumerate(structures):
        atoms.info["config_type"] = HOSTILE if k % 2 else "bulk"
    write_xyz(folder / "train.xyz", [*structures, isolated()])
    tests = argon(5, seed=9)
    for k, atoms in enumerate(tests):
        atoms.info["config_type"] = "hot" if k < 2 else "cold"
    write_xyz(folder / "test.xyz", tests)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> tuple[TrainingResult, str]:
    console = Console(record=True, file=io.StringIO(), width=200)
    options = {"test_file": str(folder / "test.xyz"), "max_num_epochs": 3, "plot": True, "seed": 7, "loss": "stress"}
    result = train(config(folder / "train.xyz", **options), console)
    return result, console.export_text()


class Page(HTMLParser):
    """Tables as lists of rows of texts, by the heading before them; addresses; names of elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [v or "" for k, v in attributes if k in ("src", "href", "xlink:href", "action", "data")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data.replace("\N{WORD JOINER}", "")

    def table(self, *headings: str) -> list[list[str]]:
        """Rows of the first table that has these headings."""
        return next(t[1:] for t in self.tables if set(headings) <= set(t[0]))


def independent(path: Path, result: TrainingResult) -> list[dict[str, np.ndarray]]:
    """Errors of each structure from the calculator and ASE's reader alone: eV, eV/Å, eV/Å³."""
    calculator = mlip.MLIPCalculator(result.path, dtype="float32", radial="exact", device="cpu")
    rows = []
    for atoms in read(path, ":"):
        energy, forces, stress = atoms.info["REF_energy"], atoms.arrays["REF_forces"], atoms.info["REF_stress"]
        probe = atoms.copy()
        probe.calc = calculator
        full = np.zeros((3, 3)) if stress is None else probe.get_stress(voigt=False)
        voigt = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
        label = np.asarray(stress)[voigt] if np.size(stress) == 6 else np.reshape(stress, (3, 3))
        rows.append(
            {
                "group": atoms.info["config_type"],
                "n": len(atoms),
                "energy": probe.get_potential_energy() - energy,
                "forces": probe.get_forces() - forces,
                "labels": forces,
                "stress": full - label,
            }
        )
    return rows


def rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate([np.ravel(v) for v in values])))))


def mean(values) -> float:
    return float(np.mean(np.abs(np.concatenate([np.ravel(v) for v in values]))))


def test_error_tables_by_config_type_equal_an_independent_computation(folder, run):
    result, _ = run
    rows = independent(folder / "test.xyz", result)
    for group in (None, "hot", "cold"):
        part = [r for r in rows if group in (None, r["group"])]
        for kind in ERROR_TABLES:
            f = mean if "MAE" in kind else rms
            per_atom = [r["energy"] / (r["n"] if kind.startswith("PerAtom") else 1) for r in part]
            forces, labels = f([r["forces"] for r in part]), f([r["labels"] for r in part])
            expected = [1000 * f(per_atom), 1000 * forces, 100 * forces / labels]
            if kind.endswith("stressvirials"):
                stress = f([r["stress"] for r in part])
                expected += [160.2176634 * stress, 1000 * stress]
            found = [
                cells
                for name, g, n, cells in table_rows(kind, result.errors, result.groups)
                if (name, g, n) == ("test", group or "", len(part))
            ]
            assert found[0] == pytest.approx(expected, rel=2e-3), (kind, group)


def test_units_of_the_tables():
    assert [title for title, *_ in columns_of("TotalMAE")] == ["E MAE meV", "F MAE meV/Å", "F MAE %"]
    titles = ["E RMSE meV/atom", "F RMSE meV/Å", "F RMSE %", "S RMSE GPa", "S RMSE meV/Å³"]
    assert [title for title, *_ in columns_of("PerAtomRMSEstressvirials")] == titles


def test_table_chosen_and_refused(folder, capsys):
    for kind, word in (("DipoleRMSE", "dipoles.*are not trained here"), ("RMSE", "expected one of PerAtomRMSE, ")):
        with pytest.raises(InputError, match=f"--error_table '{kind}'.*{word}"):
            config(folder / "train.xyz", error_table=kind)
    options = TINY | {"train_file": folder / "train.xyz", "work_dir": folder / "t", "max_num_epochs": 1}
    assert main(["train", *arguments(options), "--error_table", "TotalMAE"]) == 0
    shown = capsys.readouterr().out
    assert "Errors (TotalMAE)" in shown and "E MAE" in shown and "RMSE" not in shown.partition("Errors (")[2]


def test_terminal_shows_names_of_the_file_as_text(run):
    result, shown = run
    assert "\x1b" not in shown and "<script>alert('x')</script> & [red]$x^2$ \N{REPLACEMENT CHARACTER}[2J" in shown
    console = Console(record=True, file=io.StringIO(), width=200)
    console.print(error_table("TotalRMSE", result.errors, result.groups))
    assert "[red]" in console.export_text()


def test_report_has_the_right_numbers(folder, run):
    result, _ = run
    page = Page(result.report.read_text())
    rows = independent(folder / "test.xyz", result)
    table = page.table("set", "config_type", "E RMSE meV/atom", "S RMSE GPa")
    shown = {(row[0], row[1]): row for row in table}
    for group in ("all", "hot", "cold"):
        part = [r for r in rows if group in ("all", r["group"])]
        n, energy, forces = (float(shown["test", group][k]) for k in (2, 3, 4))
        assert n == len(part)
        assert energy == pytest.approx(1000 * rms([r["energy"] / r["n"] for r in part]), rel=2e-3)
        assert forces == pytest.approx(1000 * rms([r["forces"] for r in part]), rel=2e-3)
    elements = {row[0]: row for row in page.table("element", "RMSE meV/Å")}
    assert elements["test"][1:3] == ["Ar", "20"]
    assert float(elements["test"][3]) == pytest.approx(1000 * rms([r["forces"] for r in rows]), rel=2e-3)
    worst = next(
        t for t in page.tables if "largest force error meV/Å" in t[0] and len(t) > 1 and t[1][-1] in ("hot", "cold")
    )
    vectors = [np.linalg.norm(r["forces"], axis=1).max() for r in rows]
    number, formula, energy, force, group = worst[1]
    assert int(number) == int(np.argmax(vectors)) and group == rows[int(number)]["group"] and formula == "Ar4"
    assert float(force) == pytest.approx(1000 * max(vectors), rel=2e-3)
    assert float(energy) == pytest.approx(1000 * rows[int(number)]["energy"] / 4, rel=2e-3)
    quantile = page.table("50 %", "largest")
    assert float(quantile[-1][-1]) == pytest.approx(1000 * max(abs(r["energy"]) / 4 for r in rows), rel=2e-3)


def test_report_says_how_to_do_it_again(folder, run):
    result, _ = run
    text = result.report.read_text()
    assert "--seed 7" in text and str(folder / "train.xyz") in text and mlip.__version__ in text
    assert result.as_dict()["report"] == str(result.report)
    digests = re.findall(r"[0-9a-f]{64}", text)
    metadata = mlip.load(result.path).metadata
    assert set(digests) == {part["sha256"] for part in metadata["data"].values()}
    page = Page(text)
    counts = {(row[0], row[1]): row[2:] for row in page.table("set", "structures", "atoms", "energy")}
    assert counts["test", "hot"] == ["2", "8", "2", "2", "2"]
    assert "Ar -1.5" in text and "isolated atoms of the training file" in text


def test_report_loads_nothing_and_escapes_everything(run):
    result, _ = run
    text = result.report.read_text()
    page = Page(text)
    assert "script" not in page.tags and page.tags >= {"svg", "table", "style"}
    assert page.addresses and all(a.startswith(("data:image/png;base64,", "#")) for a in page.addresses)
    assert "url(http" not in text and "@import" not in text and "://" not in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in text and "<script" not in text and "\x1b" not in text
    assert text.count("<svg") == 5 + 3 + 2 and len(text) < 2_000_000


def test_report_without_pictures(folder):
    result = train(config(folder / "train.xyz", max_num_epochs=1, name="plain"))
    assert result.errors["train"]["stress_rmse_GPa"] is not None  # labels that do not train are compared, too
    text = result.report.read_text()
    assert "<svg" not in text and "Worst structures" in text and "Learning curves" not in text


def test_report_about_energies_alone_of_one_epoch(tmp_path):
    """Labels that are missing leave out their parts; two sets are one structure each, all energies are equal."""
    structures = argon(1) * 3
    for number, atoms in enumerate(structures):
        structures[number] = atoms = atoms.copy()
        del atoms.arrays["REF_forces"], atoms.info["REF_stress"]
    paths = {name: str(write_xyz(tmp_path / f"{name}.xyz", structures[k : k + 1])) for k, name in enumerate("abc")}
    options = {"valid_file": paths["b"], "test_file": paths["c"], "E0s": "{Ar: -1.5}", "scaling": "no_scaling"}
    result = train(config(Path(paths["a"]), max_num_epochs=1, plot=True, **options))
    text = result.report.read_text()
    assert "By element" not in text and "force RMSE" not in text and text.count("<svg") == 3 + 1 + 1
    assert ">nan<" not in text and ">inf<" not in text


def test_worst_structures_are_those_with_the_largest_errors():
    rng = np.random.default_rng(0)
    pairs, forces, energies = [], [], []
    for number, structure in enumerate(label_structures(argon(40), LabelKeys()).structures):
        error = rng.normal(size=(4, 3))
        forces.append(np.sqrt((error**2).sum(axis=1)).max())
        energies.append(abs(rng.normal()))
        assert structure.index == number and structure.energy is not None and structure.forces is not None
        pairs.append((structure, Predicted(structure.energy - energies[-1], structure.forces + error, None)))
    found = worst_structures(pairs, 5)
    by_force, by_energy = (list(np.argsort(values)[::-1][:5]) for values in (forces, energies))
    assert [w.number for w in found] == by_force + [k for k in by_energy if k not in by_force]
    assert [w.force for w in found] == pytest.approx([1000 * forces[w.number] for w in found])
    assert [w.energy for w in found] == pytest.approx([-250 * energies[w.number] for w in found])


def test_stays_small_and_draws_long_runs(run):
    from mlip.training.report_figures import MAX_EPOCHS, MAX_POINTS, _sample, learning_curves
    from mlip.training.report_numbers import Outcome
    from mlip.training.timing import Timing

    result, _ = run
    history = [result.history[-1] | {"epoch": k + 1} for k in range(20 * MAX_EPOCHS)]
    pictures = learning_curves(Outcome({}, {}, {}, history, 777, Timing(), stage_two=5000))
    assert sum(map(len, pictures)) < 500_000 and all("777" in p and "stage two" in p for p in pictures)
    assert _sample(np.zeros((2, 3 * MAX_POINTS))).shape == (2, MAX_POINTS)


# -- logs ------------------------------------------------------------------------------------------------------------


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


def test_command_of_the_report_is_read_back(folder):
    given = config(folder / "train.xyz", ema=False, seed=3, E0s="{Ar: -1.5}", radial_MLP="[8, 8]")
    words = given.command(portable=False)
    assert words.startswith("mlip train --train_file ") and "--no_ema" in words
    import shlex

    from mlip.cli import train as module
    from mlip.cli.parser import make_parser, parse

    options = parse(make_parser("train", module), shlex.split(words)[2:])
    known = {k: v for k, v in options.items() if k in given.as_dict()}
    assert TrainingConfig(**known) == given
