"""n2p2's input.data: read with its units, trained on, evaluated; units that can't be and broken files are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from stillinger_weber import stillinger_weber

import mlip
from mlip.cli.main import main
from mlip.data.labels import read_labelled
from mlip.data.n2p2 import is_n2p2_data
from mlip.data.reading import read_structures
from mlip.errors import DataError, InputError
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.units import BOHR, HARTREE
from mlip.workflows.evaluate import evaluate

ANGSTROM = ["--length_unit", "Angstrom", "--energy_unit", "eV"]
NUMBERS = "{:.12f} {:.12f} {:.12f}"


def crystals(count: int = 4) -> list[Atoms]:
    made = []
    for seed in range(count):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = stillinger_weber()
        atoms.get_forces()
        made.append(atoms)
    return made


def text(structures: list[Atoms], length: float = BOHR, energy: float = HARTREE) -> str:
    """As n2p2 has them, in other units."""
    lines = []
    for atoms in structures:
        lines += ["begin set=train", "comment some words"]
        lines += [f"lattice {NUMBERS.format(*row / length)}" for row in atoms.cell.array if atoms.pbc.all()]
        forces = atoms.get_forces() * length / energy
        for symbol, position, force in zip(atoms.symbols, atoms.positions / length, forces, strict=True):
            lines.append(f"atom {NUMBERS.format(*position)} {symbol} 0.25 0.0 {NUMBERS.format(*force)}")
        lines += [f"energy {atoms.get_potential_energy() / energy:.12f}", "charge 0.0", "end"]
    return "\n".join(lines) + "\n"


def put(path: Path, *arguments: object) -> Path:
    path.write_text(text(crystals(), *arguments))
    return path


@pytest.mark.parametrize(
    ("units", "written"),
    [
        (None, (BOHR, HARTREE)),
        ((BOHR, HARTREE), (BOHR, HARTREE)),
        ((1.0, 1.0), (1.0, 1.0)),
        ((1.0, HARTREE), (1.0, HARTREE)),
    ],
)
def test_read_in_its_units(units: tuple[float, float] | None, written: tuple[float, float], tmp_path: Path) -> None:
    """Whatever the file's name, ASE would take it for a file of LAMMPS by its suffix."""
    data = read_labelled(put(tmp_path / "input.data", *written), units=units)
    for structure, atoms in zip(data.structures, crystals(), strict=True):
        assert structure.atoms.pbc.all() and str(structure.atoms.symbols) == str(atoms.symbols)
        np.testing.assert_allclose(structure.atoms.cell, atoms.cell, atol=1e-10)
        np.testing.assert_allclose(structure.atoms.positions, atoms.positions, atol=1e-10)
        np.testing.assert_allclose(structure.forces, atoms.get_forces(), atol=1e-9)
        assert structure.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert structure.atoms.info["comment"] == "some words"
        assert structure.atoms.get_initial_charges().tolist() == [0.25] * 8


def test_a_molecule_has_no_cell(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(
        "# from n2p2\n\nbegin\natom 0 0 0 H 0 0 0 0 -0.1\natom 0 0 1.4 H 0 0 0 0 0.1\nenergy -1.17\ncharge -1\nend\n"
    )
    (atoms,) = read_structures(tmp_path / "m")
    assert not atoms.pbc.any() and not atoms.cell.array.any() and atoms.info == {"charge": -1.0}
    assert atoms.get_distance(0, 1) == pytest.approx(1.4 * BOHR)
    assert atoms.get_forces()[1, 2] == pytest.approx(0.1 * HARTREE / BOHR)
    assert atoms.get_potential_energy() == pytest.approx(-1.17 * HARTREE)


def test_units_that_can_not_be(tmp_path: Path) -> None:
    """Without a word about units an error that names the options; with one, a warning."""
    angstrom, bohr = put(tmp_path / "a", 1.0, 1.0), put(tmp_path / "b")
    message = r"at 0\.5\d times the sum .* --length_unit Angstrom --energy_unit eV"
    with pytest.raises(DataError, match=message):
        read_structures(angstrom)
    with pytest.warns(UserWarning, match=r"a: with the units given, .* at 0\.5\d times"):
        read_structures(angstrom, (BOHR, HARTREE))
    with pytest.warns(UserWarning, match=r"at 1\.8\d times .* are --length_unit and --energy_unit right"):
        read_structures(bohr, (1.0, 1.0))


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "no end": (lambda t: t[: t.rindex("end")], "line 49: this structure has no end"),
    "begin in a structure": (
        lambda t: t.replace("charge 0.0\nend\n", "", 1),
        "line 15: 'begin' in a structure",
    ),
    "line outside": (lambda t: t + "energy 1.0\n", "line 65: 'energy' outside of a structure"),
    "unknown keyword": (lambda t: t.replace("charge", "magmom", 1), "line 15: 'magmom'"),
    "no atoms": (lambda t: "begin\nenergy 1.0\nend\n" + t, "line 1: a structure without atoms"),
    "two vectors": (lambda t: t.replace("lattice", "comment", 1), "line 4: 2 lattice vectors"),
    "short vector": (
        lambda t: t.replace("\nlattice ", "\nlattice 1.0 2.0\ncomment ", 1),
        "too few numbers for lattice",
    ),
    "unknown element": (lambda t: t.replace(" Si ", " Sx ", 1), "line 6: 'Sx' is no chemical element"),
    "no forces": (lambda t: t.replace(" 0.25 0.0 ", "#", 1), "line 6: .* words; expected atom x y z"),
    "a word for a number": (lambda t: t.replace(" 0.25 0.0 ", " 0.25 0.0 x", 1), "could not convert string to float"),
    "two energies": (lambda t: t.replace("charge", "energy", 1), "line 15: a second energy"),
    "not a number": (lambda t: t.replace("energy ", "energy nan #", 1), "energy is not finite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    edit, message = BROKEN[name]
    path = put(tmp_path / "input.data")
    path.write_text(edit(path.read_text()))
    with pytest.raises(DataError, match=message):
        read_labelled(path)


def test_known_by_the_first_word(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", molecule("H2O"))
    (tmp_path / "begin.txt").write_text("beginning\n")
    (tmp_path / "empty").write_text("\n")
    assert not any(is_n2p2_data(tmp_path / name) for name in ("a.xyz", "begin.txt", "empty"))
    (tmp_path / "mark").write_text("\ufeffbegin\n", encoding="utf-8")
    (tmp_path / "long").write_text("# a comment\n" * 1000 + "begin\n")
    assert all(is_n2p2_data(tmp_path / name) for name in ("mark", "long"))


def test_training_data(tmp_path: Path) -> None:
    """In eV and Å from each set, mixed with extended xyz, and isolated atoms of the E0s too."""
    train, valid, lone = put(tmp_path / "train.data", 1.0, 1.0), tmp_path / "valid.xyz", tmp_path / "lone.data"
    write(valid, crystals(1))
    lone.write_text("begin\natom 0 0 0 Si 0 0 0 0 0\nenergy -2.5\nend\n")
    options = {"train_file": str(train), "valid_file": str(valid), "E0s": str(lone), "r_max": 3.0}
    data = load_data(TrainingConfig(**options, length_unit="angstrom", energy_unit="EV"))
    assert data.reference.E0s == {14: -2.5}
    assert data.sets["train"].structures[0].energy == pytest.approx(data.sets["valid"].structures[0].energy, abs=1e-9)
    assert "--length_unit angstrom" in TrainingConfig(**options, length_unit="angstrom", energy_unit="EV").command()
    with pytest.raises(DataError, match="--length_unit Angstrom"):
        load_data(TrainingConfig(**options))
    with pytest.raises(InputError, match="would do nothing here"):
        load_data(TrainingConfig(train_file=str(valid), length_unit="Bohr", energy_unit="eV"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_unit": "Bohr"}, "--length_unit Bohr would do nothing: it needs --energy_unit"),
        ({"energy_unit": "eV"}, "--energy_unit eV would do nothing: it needs --length_unit"),
        ({"length_unit": "nm", "energy_unit": "eV"}, "--length_unit nm: expected one of bohr, angstrom"),
    ],
)
def test_units_of_training_that_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(train_file="input.data", **options)


def test_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, same = put(tmp_path / "input.data", 1.0, 1.0), tmp_path / "same.xyz"
    write(same, crystals())
    command = ["evaluate", "--model", "silicon", "--json"]
    assert main([*command, str(data), *ANGSTROM]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*command, str(same)]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert found["forces_rmse_meV_per_A"] == pytest.approx(expected["forces_rmse_meV_per_A"], rel=1e-5)
    for words, message in (
        ([str(data)], "--length_unit Angstrom"),
        ([str(data), *ANGSTROM[:2]], "--length_unit needs --energy_unit"),
        ([str(same), *ANGSTROM], "would do nothing here"),
    ):
        assert main([*command, *words]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.skipif("MLIP_DATA" not in os.environ, reason="MLIP_DATA names no folder")
def test_sets_of_n2p2() -> None:
    """Water in Bohr and Hartree; Cu2S in Å and eV, which nothing but the distances tells."""
    folder = Path(os.environ["MLIP_DATA"]) / "n2p2" / "configuration-sets"
    water = read_labelled(folder / "input.data.H2O_RPBE-D3")
    assert water.counts == {"energy": 20, "forces": 20, "stress": 0} and len(water.structures[0].atoms) % 3 == 0
    bonds = water.structures[0].atoms.get_all_distances(mic=True)
    assert 0.85 < np.sort(bonds, axis=1)[:, 1].min() < 1.0
    with pytest.raises(DataError, match="--length_unit Angstrom"):
        read_labelled(folder / "input.data.Cu2S_PBE")
    copper = read_labelled(folder / "input.data.Cu2S_PBE", units=(1.0, 1.0))
    assert len(copper) == 20 and copper.structures[0].atoms.get_chemical_formula() == "Cu96S48"
    examples = folder.parent / "examples" / "Cu2S_PBE"
    found = evaluate(mlip.load(examples, units=(1.0, 1.0)), [copper.structures[0].atoms])
    assert found.forces_rmse_percent < 20 and found.energy_rmse_meV_per_atom < 10
