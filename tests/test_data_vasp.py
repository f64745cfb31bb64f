"""VASP's OUTCAR and vasprun.xml: what ASE reads of a good run; unconverged and cut-off steps are counted."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write
from vasp_files import FOOT, Step, outcar, steps, vasprun

from mlip.cli.main import main
from mlip.data.files import find_files
from mlip.data.labels import LabelKeys, read_labelled
from mlip.data.reading import read_file
from mlip.errors import DataError
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.units import voigt_6_to_full_3x3
from mlip.workflows.check_data import check_data

WRITERS: dict[str, Callable[[list[Step]], str]] = {"OUTCAR": outcar, "vasprun.xml": vasprun}


def put(path: Path, made: list[Step]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    text = WRITERS[path.name.removesuffix(".gz")](made)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", [*WRITERS, "OUTCAR.gz", "vasprun.xml.gz"])
def test_a_good_run_is_what_ase_reads(name: str, tmp_path: Path) -> None:
    made = steps()
    path = put(tmp_path / name, made)
    ours, remarks = read_file(path)[:2]
    theirs = read(path, index=":")
    assert len(ours) == len(theirs) == 3 and not remarks
    for a, b, step in zip(ours, theirs, made, strict=True):
        assert a.get_chemical_symbols() == b.get_chemical_symbols() == ["Na", "Cl"] and a.pbc.all()
        np.testing.assert_allclose(a.cell, b.cell, atol=1e-7)
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
        np.testing.assert_allclose(a.get_forces(), b.get_forces(apply_constraint=False), atol=1e-7)
        np.testing.assert_allclose(a.get_stress(), b.get_stress(), rtol=1e-6)
        assert a.get_potential_energy() == pytest.approx(step.free_energy, abs=1e-7)
        assert b.get_potential_energy(force_consistent=True) == pytest.approx(step.free_energy, abs=1e-7)
        np.testing.assert_allclose(voigt_6_to_full_3x3(a.get_stress()) * 1602.1766, -step.kbar, atol=1e-4)


@pytest.mark.parametrize("name", WRITERS)
def test_unconverged_steps_are_left_out(name: str, tmp_path: Path) -> None:
    made = steps(4, unconverged=(1, 3))
    data = read_labelled(put(tmp_path / name, made))
    assert [s.energy for s in data.structures] == pytest.approx([made[0].free_energy, made[2].free_energy])
    (remark,) = data.remarks
    assert "of 4 ionic steps, left out: 2 whose electronic loop did not converge" in remark


CUTS = ("TOTAL-FORCE", "direct lattice", "in kB", "Iteration      3(   2)", "free  energy")


@pytest.mark.parametrize("mark", CUTS)
def test_a_truncated_outcar_keeps_complete_steps(mark: str, tmp_path: Path) -> None:
    text = outcar(steps()).removesuffix(FOOT)
    for extra in (0, 60, 150):
        (tmp_path / "OUTCAR").write_text(
            text[: text.rindex(mark) + extra] if mark != "free  energy" else text[: text.rindex(mark)]
        )
        content = read_file(tmp_path / "OUTCAR")
        assert len(content.structures) == 2
        assert "1 that is cut off" in content.remarks[0]


@pytest.mark.parametrize("mark", ["<calculation>", 'name="forces"', "</calculation>", "e_fr_energy"])
def test_a_truncated_vasprun_keeps_complete_steps(mark: str, tmp_path: Path) -> None:
    text = vasprun(steps())
    (tmp_path / "vasprun.xml").write_text(text[: text.rindex(mark) + 13 * (mark == "<calculation>")])
    content = read_file(tmp_path / "vasprun.xml")
    assert len(content.structures) == 2 and "1 that is cut off" in content.remarks[0]


def test_a_packed_file_that_is_cut_off(tmp_path: Path) -> None:
    for name in WRITERS:
        packed = put(tmp_path / f"{name}.gz", steps(40)).read_bytes()
        (tmp_path / f"{name}.gz").write_bytes(packed[: len(packed) // 2])
        content = read_file(tmp_path / f"{name}.gz")
        assert 5 < len(content.structures) < 40 and "cut off" in content.remarks[0]


def test_two_runs_in_one_outcar(tmp_path: Path) -> None:
    """Elements, cell and convergence of the second are its own."""
    first = outcar(steps(2))
    second = outcar(steps(2)).replace("=Na:", "=Ga:").replace("=Cl:", "=As:")
    (tmp_path / "OUTCAR").write_text(first + second)
    found = read_file(tmp_path / "OUTCAR").structures
    assert [str(atoms.symbols) for atoms in found] == 2 * ["NaCl"] + 2 * ["GaAs"]
    killed = first[: first.rindex("TOTEN")]
    (tmp_path / "OUTCAR").write_text(killed + "\n" + second)
    content = read_file(tmp_path / "OUTCAR")
    assert len(content.structures) == 3 and "1 that is cut off" in content.remarks[0]


def test_a_vasprun_that_is_broken_in_the_middle(tmp_path: Path) -> None:
    text = vasprun(steps())
    for broken in (text + text, text.replace("</calculation>", "</calculation><&", 1)):
        (tmp_path / "vasprun.xml").write_text(broken)
        with pytest.raises(DataError, match="no file of VASP that can be read"):
            read_file(tmp_path / "vasprun.xml")


def test_names_that_only_look_like_vasp(tmp_path: Path) -> None:
    for name in ("si_OUTCAR.extxyz", "vasprun.xml.extxyz"):
        write(tmp_path / name, steps(1)[0].atoms, format="extxyz")
        assert len(read_file(tmp_path / name).structures) == 1


def test_files_that_are_none_of_vasp(tmp_path: Path) -> None:
    for name, text in (("OUTCAR", "nothing\n"), ("vasprun.xml", "<a>"), ("OUTCAR.gz", "no gzip")):
        (tmp_path / name).write_text(text)
        with pytest.raises((DataError, OSError)):
            read_file(tmp_path / name)
    good = outcar(steps(2))
    (tmp_path / "OUTCAR").write_text(good.replace(" TOTAL-FORCE (eV/Angst)\n", " TOTAL-FORCE (eV/Angst)\n x\n", 1))
    with pytest.raises(DataError, match="a table of numbers is broken"):
        read_file(tmp_path / "OUTCAR")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    put(tmp_path / "runs/a/OUTCAR", steps(2))
    put(tmp_path / "runs/b/deep/vasprun.xml.gz", steps(3, unconverged=(0,)))
    put(tmp_path / "runs/b/deep/OUTCAR", steps(3))
    (tmp_path / "runs/c").mkdir()
    (tmp_path / "runs/c/OUTCAR").write_text(" vasp.6.3.2\n")
    return tmp_path


def test_a_tree_of_calculations(tree: Path) -> None:
    """vasprun.xml before OUTCAR; what can't be used is said and left out."""
    assert [str(f.relative_to(tree)) for f in find_files(tree)] == [
        "runs/a/OUTCAR",
        "runs/b/deep/vasprun.xml.gz",
        "runs/c/OUTCAR",
    ]
    data = read_labelled(tree / "runs")
    assert len(data) == 4 and data.counts == {"energy": 4, "forces": 4, "stress": 4}
    assert data.structures[2].file.endswith("vasprun.xml.gz") and data.structures[2].index == 0
    assert len(data.remarks) == 2
    assert (
        "1 whose electronic loop" in data.remarks[0] and "left out" in data.remarks[1] and "c/OUTCAR" in data.remarks[1]
    )
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match="folder without calculations of VASP"):
        find_files(tree / "empty")
    found = {f.topic: f.level for f in check_data(tree / "runs").found if f.topic == "file"}
    assert found == {"file": "warning"}


def test_several_files_and_patterns(tree: Path) -> None:
    made = read_labelled(tree / "runs/a").structures
    for name in ("one.xyz", "two.xyz"):
        atoms = made[0].atoms.copy()
        atoms.info["REF_energy"] = -1.0 if name == "one.xyz" else -2.0
        write(tree / name, atoms, format="extxyz")
    data = read_labelled([str(tree / "*.xyz"), tree / "runs/a"])
    assert [s.energy for s in data.structures] == pytest.approx([-1.0, -2.0, -6.5, -6.49])
    assert data.keys == LabelKeys("REF_energy", "forces", "stress")
    with pytest.raises(DataError, match=r"no file matches .*\*\.abc"):
        find_files(tree / "*.abc")
    with pytest.raises(DataError, match="one.xyz is named twice"):
        find_files([tree / "one.xyz", str(tree / "o*.xyz")])


def test_training_and_evaluation_take_them(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainingConfig(train_file=[str(tree / "runs/a"), str(tree / "runs/b")], E0s="average", valid_fraction=0.3)
    data = load_data(config)
    assert len(data.sets["train"].structures) + len(data.sets["valid"].structures) == 4
    assert any("electronic loop" in line for line in data.remarks)
    assert len(data.sha256["train_file"]) == 64
    assert f"--train_file {tree}/runs/a {tree}/runs/b" in config.command(portable=False)
    assert TrainingConfig(train_file=["a.xyz"]).train_file == "a.xyz"
    assert config.portable()["train_file"] == ["a", "b"]
    assert main(["train", "--train_file", str(tree / "none.xyz"), str(tree / "runs")]) == 1
    assert "none.xyz: No such file" in capsys.readouterr().err
    assert main(["evaluate", str(tree / "runs/a"), str(tree / "runs/b"), "--model", "silicon"]) == 1
    assert "does not know Na, Cl" in capsys.readouterr().err
