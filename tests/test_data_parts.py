"""`mlip data split` and `augment`: nothing is lost or in two parts, nothing leaks; copies are labelled or bare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read, write
from lj_data import argon, isolated

from mlip.cli.main import main
from mlip.data.labels import LabelledStructure, read_labelled
from mlip.data.parts import cut, descriptors
from mlip.errors import InputError
from mlip.workflows.data_sets import augment_data, convert_data, split_data

THREE = (0.8, 0.1, 0.1)


def molecules() -> list[LabelledStructure]:
    names = ["H2O"] * 12 + ["CH4"] * 8 + ["CO2"] * 3 + ["NH3"] * 3 + ["C2H6"] * 4
    rng = np.random.default_rng(2)
    made = [LabelledStructure(Atoms("H"), group="IsolatedAtom")]
    for name in names:
        atoms = molecule(name)
        atoms.rattle(0.1, rng=rng)
        made.append(LabelledStructure(atoms, -1.0))
    return made


def whole(parts: Sequence[Sequence[int]]) -> list[int]:
    return sorted(k for part in parts for k in part)


@pytest.mark.parametrize("method", ["random", "composition", "farthest"])
def test_parts_are_disjoint_complete_and_seeded(method: str) -> None:
    data = molecules()
    parts = cut(data, THREE, method, 1, 5)  # type: ignore[arg-type]
    assert whole(parts) == list(range(31)) and 0 in parts[0] and all(parts)
    assert parts == cut(data, THREE, method, 1, 5)  # type: ignore[arg-type]
    if method != "composition":
        assert [len(p) for p in parts] == [25, 3, 3]


def test_no_composition_is_in_two_parts() -> None:
    data = molecules()
    for fractions in (THREE, (0.5, 0.5), (0.4, 0.3, 0.3)):
        parts = cut(data, fractions, "composition", 0, 5)
        formulas = [{data[k].atoms.get_chemical_formula() for k in part if k} for part in parts]
        assert sum(map(len, formulas)) == len(set().union(*formulas)) == 5
    with pytest.raises(InputError, match="leaves nothing for valid and test"):
        cut(data[:12], THREE, "composition", 0, 5)


def test_blocks_of_trajectories_with_gaps() -> None:
    walk = [LabelledStructure(Atoms("H2"), 0.0, file="a", index=k) for k in range(100)]
    short = [LabelledStructure(Atoms("H2"), 0.0, file=f"s{n}", index=k) for n in range(10) for k in range(10)]
    parts = cut(walk, THREE, "trajectory", 0, 5)
    assert [(p[0], p[-1], len(p)) for p in parts] == [(0, 71, 72), (77, 85, 9), (91, 99, 9)]
    parts = cut(short, THREE, "trajectory", 0, 5)
    assert whole(parts) == list(range(100)) and [len(p) for p in parts] == [80, 10, 10]
    files = [{short[k].file for k in part} for part in parts]
    assert not files[0] & files[1] and not files[1] & files[2]


def test_farthest_takes_what_is_different() -> None:
    """Twenty crystals that are nearly the same and three that are not."""
    rng = np.random.default_rng(0)
    made = [bulk("Cu", a=3.6, cubic=True) for _ in range(20)] + [bulk("Cu", a=a, cubic=True) for a in (3.2, 3.9, 4.2)]
    for atoms in made:
        atoms.rattle(0.01, rng=rng)
    data = [LabelledStructure(atoms) for atoms in made]
    assert set(cut(data, (0.2, 0.8), "farthest", 0, 0)[0]) >= {20, 21, 22}
    turned = made[0].copy()
    turned.rotate(33, (1, 2, 3), rotate_cell=True)
    points = descriptors([data[0], LabelledStructure(turned), LabelledStructure(made[0].repeat((2, 1, 1))), data[22]])
    np.testing.assert_allclose(points[1:3], points[[0, 0]], atol=1e-9)
    assert np.abs(points[3] - points[0]).max() > 0.1


@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.6), (0.9, 0.2, -0.1), (0.4, 0.3, 0.2, 0.1)])
def test_fractions_that_are_none(fractions: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="expected two or three above zero that sum to 1"):
        cut(molecules(), fractions, "random", 0, 5)


def test_split_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.xyz", [isolated(), *argon(20)], format="extxyz")
    command = ["data", "split", str(tmp_path / "a.xyz"), "-o", str(tmp_path / "parts"), "--json"]
    assert main([*command, "--fractions", "0.5", "0.25", "0.25", "--seed", "3"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [f["structures"] for f in files.values()] == [11, 5, 5]
    read_back = [read_labelled(tmp_path / "parts" / f"{name}.extxyz").structures for name in ("train", "valid", "test")]
    energies = [s.energy for part in read_back for s in part]
    assert sorted(energies) == pytest.approx(sorted(a.info["REF_energy"] for a in [isolated(), *argon(20)]))
    elsewhere = [str(tmp_path / "other") if word == str(tmp_path / "parts") else word for word in command]
    assert main([*elsewhere, "--method", "composition"]) == 1
    assert "leaves nothing for valid" in capsys.readouterr().err


def test_augmented_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crystal, cluster = bulk("Cu", cubic=True), Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]], info={"config_type": "dimer"})
    crystal.info["REF_energy"] = 99.0
    write(tmp_path / "a.xyz", [Atoms("Cu"), crystal, cluster], format="extxyz")
    out = tmp_path / "out.extxyz"
    words = ["data", "augment", str(tmp_path / "a.xyz"), "-o", str(out), "--rattle", "0.05", "--strain", "0.04"]
    assert main([*words, "--copies", "3", "--calculator", "ase.calculators.emt:EMT", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["files"][str(out)] == {"structures": 6, "energy": 6, "forces": 6, "stress": 3}
    data = read_labelled(out).structures
    assert data[4].group == "dimer" and data[4].atoms.info["augmented_from"] == "a.xyz:2"
    volumes = [s.atoms.get_volume() for s in data[:3]]
    assert max(volumes) - min(volumes) > 0.1
    for s in data:
        probe = s.atoms.copy()
        probe.calc = EMT()
        assert s.energy == pytest.approx(probe.get_potential_energy(), abs=1e-5)
    assert main([*words, "--copies", "2"]) == 0
    assert "no labels" in capsys.readouterr().out
    bare = read(out, index=":")
    assert len(bare) == 4 and not any("REF_energy" in atoms.info or atoms.calc for atoms in bare)
    assert main([*words, "--model", "silicon", "--calculator", "x:y"]) == 1
    assert "give one" in capsys.readouterr().err


def test_augmentation_that_can_not_be(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", bulk("Cu", cubic=True).repeat(2), format="extxyz")
    with pytest.raises(InputError, match="expected a rattle or a strain above zero"):
        augment_data(tmp_path / "a.xyz", tmp_path / "b.extxyz", 0.0, 0.0, 1)
    with pytest.raises(InputError, match="no copy keeps its atoms apart"):
        augment_data(tmp_path / "a.xyz", tmp_path / "b.extxyz", 2.0, 0.0, 1)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "train.extxyz"
    write(source, [bulk("Si", a=5.4 + 0.01 * k) for k in range(10)])
    before = source.read_text()
    with pytest.raises(InputError, match="train.extxyz is there already"):
        split_data(source, tmp_path, (0.8, 0.2))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "test.extxyz").write_text("of an earlier split")
    with pytest.raises(InputError, match="test.extxyz is there already"):
        split_data(source, tmp_path / "parts", (0.8, 0.2))
    with pytest.raises(InputError, match="one of the files that are read"):
        convert_data(source, tmp_path / "parts" / ".." / "train.extxyz")
    with pytest.raises(InputError, match="one of the files that are read"):
        augment_data(source, source, 0.1, 0.0, 1)
    assert source.read_text() == before
