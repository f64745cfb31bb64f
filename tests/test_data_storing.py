"""Labelled structures written and read again, in every format; files of frames; killed writers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from lj_data import argon, isolated

from mlip.cli.main import main
from mlip.data.labels import LabelKeys, LabelledStructure, label_structures, read_labelled
from mlip.data.shards import Shard, ShardWriter
from mlip.data.storing import write_structures
from mlip.data.stream_scan import scan
from mlip.data.streams import Stream
from mlip.errors import DataError, InputError, MissingDependencyError


@pytest.fixture
def mixed() -> list[LabelledStructure]:
    """A crystal, a molecule, structures that lack labels."""
    atoms = [isolated(), *argon(3), molecule("H2O")]
    atoms[1].info |= {"config_type": "bulk", "weights": [1, 2], "flag": True}
    atoms[2].info.pop("REF_energy")
    atoms[3].arrays.pop("REF_forces")
    atoms[4].info["REF_energy"] = -14.0
    return label_structures(atoms, LabelKeys()).structures


def same(a: LabelledStructure, b: LabelledStructure) -> None:
    assert str(a.atoms.symbols) == str(b.atoms.symbols) and (a.atoms.pbc == b.atoms.pbc).all() and a.group == b.group
    for name in ("energy", "forces", "stress"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            np.testing.assert_allclose(x, y, atol=1e-7)
    np.testing.assert_allclose(a.atoms.positions, b.atoms.positions, atol=1e-7)
    np.testing.assert_allclose(a.atoms.cell, b.atoms.cell, atol=1e-7)


@pytest.mark.parametrize("suffix", [".extxyz", ".h5", ".lmdb", ".db"])
def test_written_and_read_again(suffix: str, mixed: list[LabelledStructure], tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    write_structures(path, mixed)
    again = read_labelled(path).structures
    assert len(again) == 5 and [p.name for p in tmp_path.iterdir()] == [path.name]
    for a, b in zip(mixed, again, strict=True):
        same(a, b)
    assert list(again[1].atoms.info["weights"]) == [1, 2] and again[1].atoms.info["flag"]
    with pytest.raises(InputError, match="expected a name that ends in"):
        write_structures(tmp_path / "data.pdb", mixed)


def test_random_access_and_appending(mixed: list[LabelledStructure], tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with ShardWriter(path) as writer:
        for s in mixed[:2]:
            writer.add(s)
    with ShardWriter(path, append=True) as writer:
        for s in mixed[2:]:
            writer.add(s)
    shard = Shard(path)
    assert len(shard) == 5 and len(shard[3]) == 4 and len(shard[-1]) == 3
    np.testing.assert_array_equal(shard[3].positions, mixed[3].atoms.positions)
    assert shard[1].info["config_type"] == "bulk" and [len(a) for a in shard[1:3]] == [4, 4]
    assert "REF_energy" not in shard[2].info and "REF_forces" not in shard[3].arrays
    with pytest.raises(IndexError):
        shard[5]
    shard.close()


KILLED = """
import os, signal, sys
from ase import Atoms
from mlip.data.labels import LabelledStructure
from mlip.data.shards import ShardWriter
writer = ShardWriter(sys.argv[1])
for k in range(2500):
    writer.add(LabelledStructure(Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + k]]), float(k)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_what_was_flushed(tmp_path: Path) -> None:
    path = tmp_path / "killed.h5"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode < 0
    data = read_labelled(path)
    assert [s.energy for s in data.structures] == list(range(2000))
    assert data.structures[1999].atoms.get_distance(0, 1) == pytest.approx(1999.7)
    with pytest.raises(InputError, match="its writer was killed, or still writes"):
        ShardWriter(path, append=True)
    stream = Stream([path])
    found = scan(stream, 3)
    assert found.n == 2000 and found.heaviest.tolist() == [0, 1, 2]
    assert stream.labelled([1999])[0].energy == 1999.0


def test_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixed: list[LabelledStructure]) -> None:
    import h5py
    import lmdb

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="mlip data convert did not write; it holds x"):
        read_labelled(tmp_path / "other.h5")
    lmdb.open(str(tmp_path / "other.lmdb"), subdir=False).close()
    with pytest.raises(DataError, match="did not write"):
        read_labelled(tmp_path / "other.lmdb")
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for name, package in (("other.h5", "h5py"), ("other.lmdb", "lmdb")):
        with pytest.raises(MissingDependencyError, match=rf"need {package}: pip install"):
            read_labelled(tmp_path / name)
        with pytest.raises(MissingDependencyError, match=rf"need {package}"):
            write_structures(tmp_path / f"new{Path(name).suffix}", mixed)


def test_frames_of_rMD17(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coords, energies, forces = rng.normal(size=(4, 3, 3)), rng.normal(size=4), rng.normal(size=(4, 3, 3))
    path = tmp_path / "m.npz"
    np.savez(path, nuclear_charges=[8, 1, 1], coords=coords, energies=energies, forces=forces, old_indices=range(4))
    data = read_labelled(path)
    assert [s.energy for s in data.structures] == pytest.approx(energies / 23.0605478, rel=1e-7)
    np.testing.assert_allclose(data.structures[2].forces, forces[2] / 23.0605478, rtol=1e-7)
    np.savez(path, nuclear_charges=[8, 1, 1], train_coords_A=coords, train_energies_eV=energies, test_coords_A=coords)
    assert read_labelled(f"{path}@train").structures[1].energy == pytest.approx(energies[1])
    with pytest.raises(DataError, match=r"has the parts train, test; name one of them, as in .*m\.npz@train"):
        read_labelled(path)
    with pytest.raises(DataError, match="has the parts"):
        read_labelled(f"{path}@valid")
    np.savez(path, nuclear_charges=[8, 1, 1], coords_nm=coords, energies=energies)
    with pytest.raises(DataError, match="coords_nm is in a unit that is not known"):
        read_labelled(path)
    np.savez(path, nuclear_charges=[8, 1], coords=coords, energies=energies)
    with pytest.raises(DataError, match="do not fit"):
        read_labelled(path)
    np.savez(path, z=[8, 1, 1], R=coords, E=energies, F=forces)
    with pytest.raises(DataError, match="do not tell their units"):
        read_labelled(path)


def test_convert_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other names become ours; several files become one."""
    first, second = argon(4), argon(2, seed=1)
    for atoms in first:
        atoms.info["dft_energy"] = atoms.info.pop("REF_energy")
    write(tmp_path / "a.xyz", first, format="extxyz")
    write(tmp_path / "b.traj", second)
    out = tmp_path / "out.extxyz"
    assert (
        main(["data", "convert", str(tmp_path / "a.xyz"), "-o", str(out), "--energy_key", "dft_energy", "--json"]) == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert shown["files"][str(out)] == {"structures": 4, "energy": 4, "forces": 4, "stress": 4}
    atoms = read(out, index=0)
    assert "REF_energy" in atoms.info and "dft_energy" not in atoms.info
    assert main(["data", "convert", str(out), str(tmp_path / "b.traj"), "-o", str(tmp_path / "all.h5")]) == 0
    assert "6" in capsys.readouterr().out and len(read_labelled(tmp_path / "all.h5")) == 6
    assert main(["data", "convert", str(out), "-o", str(tmp_path / "all.zip")]) == 1
    assert "expected a name that ends in .extxyz" in capsys.readouterr().err


def test_files_are_converted_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is read when the first is written; a broken one leaves nothing."""
    from mlip.data import labels
    from mlip.workflows.data_sets import convert_data

    files = [tmp_path / name for name in ("a.xyz", "b.xyz", "c.xyz")]
    for k, file in enumerate(files):
        write(file, argon(3, seed=k), format="extxyz")
    seen: list[str] = []
    add, read_file = ShardWriter.add, labels.read_file
    monkeypatch.setattr(ShardWriter, "add", lambda self, s: seen.append("write") or add(self, s))
    monkeypatch.setattr(labels, "read_file", lambda file, units: seen.append("read") or read_file(file, units))
    found = convert_data(files, tmp_path / "all.h5")
    assert seen == ["read", "write", "write", "write"] * 3
    assert found.files == {str(tmp_path / "all.h5"): {"structures": 9, "energy": 9, "forces": 9, "stress": 9}}
    files[1].write_text("nonsense\n")
    with pytest.raises(DataError, match=r"b\.xyz"):
        convert_data(files, tmp_path / "more.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xyz", "all.h5", "b.xyz", "c.xyz"]


def test_dead_atoms_are_not_written(tmp_path: Path) -> None:
    """A failing iterator leaves the old file alone."""
    path = tmp_path / "a.extxyz"
    write_structures(path, [LabelledStructure(Atoms("H"), 1.0)])
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_structures(path, [LabelledStructure(Atoms("H"), 2.0), None])  # type: ignore[list-item]
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
