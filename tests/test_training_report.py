"""The report and the table of errors of `mlip train`."""

from __future__ import annotations

import io
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from lj_data import argon, isolated, write_xyz
from rich.console import Console
from small_runs import TINY, arguments, config

import mlip
from mlip.cli import main
from mlip.data.labels import LabelKeys, label_structures
from mlip.data.predict import Predicted
from mlip.errors import InputError
from mlip.training.config import TrainingConfig
from mlip.training.error_tables import ERROR_TABLES, columns_of, error_table, table_rows
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


def test_command_of_the_report_is_read_back(folder):
    given = config(folder / "train.xyz", ema=False, seed=3, E0s="{Ar: -1.5}", radial_MLP="[8, 8]")
    words = given.command(portable=False)
    assert words.startswith("mlip train --train_file ") and "--no_ema" in words
    from mlip.cli import train as module
    from mlip.cli.parser import make_parser, parse

    options = parse(make_parser("train", module), shlex.split(words)[2:])
    known = {k: v for k, v in options.items() if k in given.as_dict()}
    assert TrainingConfig(**known) == given
