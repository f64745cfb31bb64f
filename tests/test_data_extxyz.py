"""Our reader of extended xyz against ASE's: equal on all that it reads, and left to that one on all else."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from lj_data import argon

from mlip.data.extxyz import Unusual, parse_comment, read_frames
from mlip.data.reading import read_structures
from mlip.errors import DataError

ATOM = "H 0 0 0\n"


def assert_same(ours: Any, ases: Any) -> None:
    """Equal values of equal types, in equal order; NaN equals NaN."""
    assert type(ours) is type(ases)
    if isinstance(ases, dict):
        assert list(ours) == list(ases)
        for key in ases:
            assert_same(ours[key], ases[key])
    elif isinstance(ases, list):
        assert len(ours) == len(ases)
        for a, b in zip(ours, ases, strict=True):
            assert_same(a, b)
    elif isinstance(ases, np.ndarray):
        assert (ours.dtype, ours.shape) == (ases.dtype, ases.shape)
        np.testing.assert_array_equal(ours, ases)
    else:
        assert ours == ases or (ours != ours and ases != ases)


def assert_equal(ours: Atoms, ases: Atoms) -> None:
    assert_same(ours.info, ases.info)
    assert_same(ours.arrays, ases.arrays)
    np.testing.assert_array_equal(ours.cell.array, ases.cell.array)
    np.testing.assert_array_equal(ours.pbc, ases.pbc)
    assert not ours.constraints and not ases.constraints
    assert type(ours.calc) is type(ases.calc)
    if ases.calc is not None:
        assert_same(ours.calc.results, ases.calc.results)
        assert not ours.calc.check_state(ours)


def compare(path: Path) -> list[Atoms]:
    """Read with both and compare; fails if ours leaves it to ASE."""
    ours, ases = read_frames(path.read_text()), read(path, ":", format="extxyz")
    assert len(ours) == len(ases)
    for a, b in zip(ours, ases, strict=True):
        assert_equal(a, b)
    return ours


def written(folder: Path, text: str) -> Path:
    path = folder / "a.xyz"
    path.write_text(text)
    return path


COMMENTS = [
    "",
    "a plain comment of words",
    "energy=-1.5",
    "free_energy=2 energy=1 dipole='1 2 3'",
    'Lattice="4 0 0 0 4 0 0 0 4"',
    'Lattice="4.0 0.1 0.2 0 4 0 0 0 4.5" pbc="T F T"',
    'Lattice="4 0 0 0 4 0 0 0 4" pbc="F F F" energy=1',
    'Lattice="4 0 0 0 4 0 0 0 4" pbc="1 0 1"',
    'Lattice="4 0 0 0 4 0 0 0 4" pbc=T',
    'Lattice="4 0 0 0 4 0 0 0 4" pbc="true FALSE True"',
    'Lattice="4,0,0,0,4,0,0,0,4" pbc=[T,T,F]',
    'pbc="F F F" stress="1 2 3 4 5 6 7 8 9"',
    'virial="1 2 3 4 5 6 7 8 9.5" REF_stress="1 2 3 4 5 6"',
    'name="quoted text" other=text mixed="3 words here" number="12" numbers="1 2 3"',
    "config_type=300K_MD version=1.2.3 date=2024-01-02 path=/a/b.c",
    "i=1 j=-3 k=+4 x=1e5 y=-.5 z=2. w=1E-3",
    "big=123456789012345678901234567890 huge=1e400 small=1e-400",
    "n=nan m=NaN k=inf l=-Infinity a=infinite",
    "under=1_000 hex=0x10 complex=1j",
    "flag yes=T no=F t=True f=False word=t",
    'list="T F T" some="T F maybe"',
    "uid=00123 UID=1e3",
    "a=1 a=2 b=3 a=4",
    "a=b=c d==e =f",
    "x={1 2 3} y=[1, 2, 3] z='single quoted' {braced key}=1",
    r"escaped=\"text\" back\\slash=1",
    '_JSON=1 j="_JSON {\\"a\\": [1, 2]}" k="_JSON [1, 2]"',
    'empty="" next=1',
    "spaces  =  3 tab\t=4",
    "  leading=1   trailing=2   ",
    "comma=1,2,3 text=a,b",
    "non_ascii=Å temperature=٣",
    'glued="a b"c=2 a="b""c"',
    "REF_energy config_type=flag",
]


@pytest.mark.parametrize("comment", COMMENTS)
def test_comment_lines(comment, tmp_path):
    path = written(tmp_path, f"1\n{comment}\n{ATOM}")
    try:
        ases = read(path, ":", format="extxyz")
    except Exception as error:
        with pytest.raises(Unusual):
            read_frames(path.read_text())
        assert isinstance(error, Exception)
        return
    assert_equal(read_frames(path.read_text())[0], ases[0])


PIECES = (
    "key stress virial Lattice pbc energy uid config_type dipole magmom T F true TRUE nan inf "
    "Infinity NaN 1 -3 2.5 1e5 E5 . - + 00 0x1 1_0 "
    '= = = " " \' , [ ] { } \\ _JSON : # ( ; | @ Å'
).split() + [" ", "  ", "\t", "x y", "1 2 3", "1 2 3 4 5 6 7 8 9", "T F", '"1 0 0 0 1 0 0 0 1"', "\x0b", "\xa0"]


def test_random_comment_lines():
    """Whatever ours takes, ASE takes, with the same result."""
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(1000):
        pieces = rng.choice(PIECES, size=rng.integers(1, 12)).tolist()
        text = f"1\n{''.join(pieces)} {pieces[0]}={pieces[-1]}\n{ATOM}"
        try:
            ours = read_frames(text)
        except Unusual:
            continue
        assert_equal(ours[0], read(StringIO(text), format="extxyz"))
        taken += 1
    assert taken > 300


@pytest.mark.parametrize("stress", ["1 2 3 4 5 6", "1", "text", "1 2 3 4 5 6 7 8 x"])
def test_what_ase_refuses_in_a_comment_is_left_to_it(stress, tmp_path):
    path = written(tmp_path, f'1\nstress="{stress}"\n{ATOM}')
    with pytest.raises(Unusual):
        read_frames(path.read_text())
    with pytest.raises(DataError, match="can't be read as structures"):
        read_structures(path)


PROPERTIES = [
    ("species:S:1:pos:R:3", "Si 0 1 2"),
    ("pos:R:3:species:S:1", "0 1 2 si"),
    ("species:S:1:pos:R:3:forces:R:3", "CL 0 1 2 3.5 4 -5e-3"),
    ("species:S:1:pos:R:3:tags:I:1:flag:L:1:label:S:1", "Cl 0 1 2 7 T some"),
    ("species:S:1:pos:R:3:three:I:3:masks:L:2:words:S:2", "X 0 1 2 1 2 3 T False a b"),
    ("Z:I:1:pos:R:3:mass:R:1:charge:R:1:magmoms:R:1", "14 0 1 2 28.0 0.5 1.0"),
    ("species:S:1:pos:R:3:momenta:R:3:energies:R:1:stresses:R:6", "Si 0 1 2 1 2 3 -1 1 2 3 4 5 6"),
    ("species:S:1:pos:R:3:x:R:3", "Si 0 1 2 nan inf 1_0"),
    ("species:S:1:pos:R:3:stress:R:2", "Si 0 1 2 1 2"),
]


@pytest.mark.parametrize(("properties", "line"), PROPERTIES)
def test_columns(properties, line, tmp_path):
    compare(written(tmp_path, f"2\nProperties={properties} a=1\n{line}\n  {line}  \n"))


@pytest.mark.parametrize(
    ("properties", "line"),
    [
        ("species:S:1:pos:R:3:move_mask:L:1", "Si 0 1 2 T"),
        ("species:S:1:pos:R:3:initial_charges:R:1", "Si 0 1 2 0.5"),
        ("species:S:1:pos:R:3", "Si 0 1 2 extra"),
        ("species:S:1:pos:R:3", "Si 0 1"),
        ("species:S:1:pos:R:3", "Xx 0 1 2"),
        ("species:S:1:pos:R:3:n:I:1", "Si 0 1 2 1.5"),
        ("species:S:1:pos:R:3:n:I:1", "Si 0 1 2 3000000000"),
        ("species:S:1:pos:R:3:l:L:1", "Si 0 1 2 maybe"),
        ("species:S:1:pos:R:2", "Si 0 1"),
        ("species:S:1:pos:Q:3", "Si 0 1 2"),
        ("species:S:1", "Si"),
    ],
)
def test_unusual_columns_are_left_to_ase(properties, line, tmp_path):
    path = written(tmp_path, f"1\nProperties={properties}\n{line}\n")
    with pytest.raises(Unusual):
        read_frames(path.read_text())
    try:
        ases = read(path, ":", format="extxyz")
    except Exception:
        with pytest.raises(DataError):
            read_structures(path)
    else:
        found = read_structures(path)
        assert len(found) == 1 and found[0] == ases[0]
        assert_same(found[0].arrays, ases[0].arrays)


def test_frames_of_different_kinds(tmp_path):
    text = f"1\nenergy=1\n{ATOM}2\nProperties=species:S:1:pos:R:3:forces:R:3\nO 0 0 0 1 2 3\nH 1 0 0 4 5 6\n1\n\n{ATOM}"
    assert [len(a) for a in compare(written(tmp_path, text))] == [1, 2, 1]


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n  \n\n"])
def test_ends_of_files(end, tmp_path):
    assert len(compare(written(tmp_path, f"1\na=1\n{ATOM} 1 \nb=2\n{ATOM.strip()}{end}"))) == 2


def test_windows_line_ends(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_bytes(b'1\r\nenergy=2 text="a b"\r\nH 0 0 0\r\n')
    assert_equal(read_structures(path)[0], read(path, ":", format="extxyz")[0])


@pytest.mark.parametrize("text", ["0\n\n", "2\n\nH 0 0 0\n", "x\n\nH 0 0 0\n", "-1\n\n", "1\n\nH 0 0 0\nVEC1 1 0 0\n"])
def test_unusual_frames(text):
    with pytest.raises(Unusual):
        read_frames(text)


def test_vectors_after_the_atoms_are_read_by_ase(tmp_path):
    path = written(tmp_path, "1\n\nH 0 0 0\nVEC1 3 0 0\nVEC2 0 3 0\n1\n\nH 0 0 0\n")
    assert [a.pbc.tolist() for a in read_structures(path)] == [[True, True, False], [False] * 3]


def test_structures_after_an_empty_line_are_not_lost_silently(tmp_path):
    path = written(tmp_path, f"1\n\n{ATOM}\n1\n\n{ATOM}")
    assert len(read(path, ":", format="extxyz")) == 1
    with pytest.raises(DataError, match="line 4 is empty, and structures come after it"):
        read_structures(path)


def test_what_ase_writes(tmp_path):
    structures = [*argon(3), bulk("Si"), molecule("CH3CH2OH"), Atoms("H")]
    structures[3].calc = SinglePointCalculator(structures[3], energy=1.5, forces=np.ones((2, 3)), stress=np.arange(6.0))
    structures[4].info |= {
        "text": 'with "quotes" and [brackets]',
        "json": {"a": [1, 2]},
        "matrix": np.eye(2),
        "none": None,
    }
    structures[4].arrays |= {
        "names": np.array(["a"] * 9),
        "on": np.array([True, False, True] * 3),
        "m": np.eye(9)[:, :2],
    }
    path = tmp_path / "a.xyz"
    write(path, structures, format="extxyz")
    assert len(compare(path)) == 6


@pytest.mark.skipif("MLIP_DATA" not in os.environ, reason="needs the data folder MLIP_DATA")
@pytest.mark.parametrize(
    "name", ["acac/train_300K.xyz", "acac/isolated_atoms.xyz", "mlearn/Si/train.extxyz", "mlearn/Li/test.extxyz"]
)
def test_published_files(name):
    compare(Path(os.environ["MLIP_DATA"]) / name)


def test_simple_lines_are_not_left_to_ase(monkeypatch):
    """Else the reader is no faster than ASE's."""
    monkeypatch.delattr("ase.io.extxyz.key_val_str_to_dict")
    line = 'Lattice="1 0 0 0 1 0 0 0 1" Properties=species:S:1:pos:R:3 config_type=300K_MD energy=-1.0 pbc="F F F" flag'
    assert list(parse_comment(line)) == ["Lattice", "Properties", "config_type", "energy", "pbc", "flag"]
