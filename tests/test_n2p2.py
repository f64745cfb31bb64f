"""Potentials of n2p2 give the numbers of n2p2; files that are wrong give one clear error."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms

import mlip
from mlip import MLIPCalculator
from mlip.cli.main import main
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, ModelFileError
from mlip.importers.n2p2 import load_n2p2
from mlip.importers.n2p2_export import save_n2p2
from mlip.potential import Potential
from mlip.units import BOHR, HARTREE

FIXTURE = Path(__file__).parent / "fixtures" / "n2p2.json.xz"
CASES: list[dict[str, Any]] = json.loads(lzma.decompress(FIXTURE.read_bytes()))
DATA = Path(os.environ.get("MLIP_DATA", "")) / "n2p2"
needs_data = pytest.mark.skipif("MLIP_DATA" not in os.environ, reason="MLIP_DATA names no folder")
#: With which the predictions on mlearn's structures were recorded.
RECORDED_UNITS = 0.5291772086, 1 / 0.0367493254


def write(case: dict[str, Any], folder: Path) -> Path:
    for name, text in case["files"].items():
        (folder / name).write_text(text)
    return folder


def atoms_of(structure: dict[str, Any]) -> Atoms:
    """Lengths are in Bohr."""
    cell = structure["cell"]
    return Atoms(
        structure["symbols"],
        positions=BOHR * np.array(structure["positions"]),
        cell=None if cell is None else BOHR * np.array(cell),
        pbc=cell is not None,
    )


def in_atomic_units(potential: Potential, atoms: Atoms) -> tuple[float, np.ndarray]:
    found = potential(atoms_to_graph(atoms, potential.cutoff), forces=True, stress=False)
    assert found.forces is not None
    return float(found.energy[0]) / HARTREE, found.forces.numpy() * BOHR / HARTREE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_equals_n2p2(case: dict[str, Any], tmp_path: Path) -> None:
    """Every kind of symmetry function, cutoff, core, activation and scaling; which functions leave their range."""
    potential = load_n2p2(write(case, tmp_path))
    for structure in case["structures"]:
        atoms = atoms_of(structure)
        energy, forces = in_atomic_units(potential, atoms)
        expected = np.array(structure["forces"])
        assert abs(energy - structure["energy"]) < 1e-12 * abs(structure["energy"])
        assert np.abs(forces - expected).max() < 1e-10 * max(np.abs(expected).max(), 1e-3)
        outside = potential.model.extrapolations(atoms_to_graph(atoms, potential.cutoff))
        assert outside.tolist() == structure["outside"]


def test_folder_is_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For the calculator, `load`, and `mlip convert`, which writes a file that gives the same numbers."""
    folder = write(CASES[0], tmp_path)
    structure = CASES[0]["structures"][1]
    atoms = atoms_of(structure)
    atoms.calc = MLIPCalculator(folder)
    assert atoms.get_potential_energy() == pytest.approx(structure["energy"] * HARTREE, rel=1e-12)
    output = tmp_path / "made.safetensors"
    assert main(["convert", str(folder), "-o", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "HDNNP"
    converted = mlip.load(output)
    energy, forces = in_atomic_units(converted, atoms)
    assert energy == pytest.approx(structure["energy"], rel=1e-12)
    np.testing.assert_allclose(forces, structure["forces"], rtol=1e-10, atol=1e-13)
    assert main(["info", str(folder)]) == 0


def test_other_units(tmp_path: Path) -> None:
    """The same files taken for Å and eV: the structure in Å, with that number of eV."""
    folder = write(CASES[0], tmp_path)
    structure = CASES[0]["structures"][0]
    atoms = atoms_of(structure)
    atoms.positions /= BOHR
    assert main(["convert", str(folder), "-o", str(tmp_path / "m.safetensors")]) == 0
    options = ["--length_unit", "Angstrom", "--energy_unit", "eV"]
    assert main(["convert", str(folder), "-o", str(tmp_path / "e.safetensors"), *options]) == 0
    potential = mlip.load(tmp_path / "e.safetensors")
    found = potential(atoms_to_graph(atoms, potential.cutoff), stress=False)
    assert float(found.energy[0]) == pytest.approx(structure["energy"], rel=1e-12)
    assert main(["convert", str(folder), "-o", str(tmp_path / "f.safetensors"), "--energy_unit", "Ry"]) != 0
    again = ["convert", str(tmp_path / "e.safetensors"), "-o", str(tmp_path / "g.safetensors")]
    assert main([*again, "--energy_unit", "eV"]) != 0
    with pytest.raises(InputError, match="folder of n2p2"):
        mlip.load(tmp_path / "e.safetensors", units=(1.0, 1.0))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_written_and_read_again(case: dict[str, Any], tmp_path: Path) -> None:
    """The same energies and forces; what n2p2's files can't say is refused."""
    potential = load_n2p2(write(case, tmp_path))
    if "normalize_nodes" in case["files"]["input.nn"]:
        with pytest.raises(InputError, match="normalized"):
            save_n2p2(potential, tmp_path / "again")
        assert not (tmp_path / "again").exists()
        return
    save_n2p2(potential, tmp_path / "again", length=1.0, energy=1.0)
    again = load_n2p2(tmp_path / "again", length=1.0, energy=1.0)
    for structure in case["structures"]:
        atoms = atoms_of(structure)
        graph = atoms_to_graph(atoms, potential.cutoff)
        expected, found = potential(graph, stress=False), again(graph, stress=False)
        torch.testing.assert_close(found.energy, expected.energy, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.forces, expected.forces, rtol=1e-9, atol=1e-10)
        assert torch.equal(again.model.extrapolations(graph), potential.model.extrapolations(graph))


def test_only_hdnnp_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is MACE"):
        save_n2p2(mlip.load("silicon"), tmp_path)
    assert main(["convert", "silicon", "-o", str(tmp_path / "folder")]) != 0


def test_folder_to_folder(tmp_path: Path) -> None:
    """By the command line, in units of their own."""
    first, weights, last = write(CASES[1], tmp_path), tmp_path / "w.safetensors", tmp_path / "last"
    assert main(["convert", str(first), "-o", str(weights)]) == 0
    assert main(["convert", str(weights), "-o", str(last), "--length_unit", "Angstrom", "--energy_unit", "eV"]) == 0
    atoms = atoms_of(CASES[1]["structures"][1])
    energy, forces = in_atomic_units(mlip.load(last, units=(1.0, 1.0)), atoms)
    assert energy == pytest.approx(CASES[1]["structures"][1]["energy"], rel=1e-12)
    np.testing.assert_allclose(forces, CASES[1]["structures"][1]["forces"], rtol=1e-9, atol=1e-12)


Edit = Callable[[str], str]
WRONG: dict[str, tuple[str, Edit | None, str]] = {
    "no weights": ("weights.006.data", None, r"weights\.006\.data is missing"),
    "no scaling": ("scaling.data", None, r"scaling\.data is missing"),
    "short weights": ("weights.001.data", lambda t: t[: len(t) // 2].rpartition("\n")[0], "too few numbers"),
    "weights of another network": ("weights.001.data", lambda t: t + "1.0 a 1 0 99 1 1\n", "no such place"),
    "weights that are words": ("weights.001.data", lambda t: t.replace(" a ", " c ", 1), r"a \(weight\) or b"),
    "scaling of fewer": ("scaling.data", lambda t: "\n".join(t.splitlines()[:-1]), "belongs to another input.nn"),
    "scaling of more": ("scaling.data", lambda t: t + "2 99 0 1 0.5 0.1\n", "no such symmetry function"),
    "element without functions": (
        "input.nn",
        lambda t: "\n".join(line for line in t.splitlines() if not line.startswith("symfunction_short C")),
        "no symmetry function for C",
    ),
    "unknown element": ("input.nn", lambda t: t.replace("elements C H", "elements C Hx"), "no chemical element"),
    "foreign element": ("input.nn", lambda t: t + "symfunction_short N 2 H 0.1 0 6.0\n", "not among the elements"),
    "too few words": ("input.nn", lambda t: t + "symfunction_short H 2 H 0.1 0\n", "eta shift cutoff"),
    "no number": ("input.nn", lambda t: t + "symfunction_short H 2 H 0.1 x 6.0\n", "'x' is no number"),
    "unknown kind": ("input.nn", lambda t: t + "symfunction_short H 7 H 0.1 0 6.0\n", "kind 7 are not known"),
    "negative eta": ("input.nn", lambda t: t + "symfunction_short H 2 H -0.1 0 6.0\n", "not negative"),
    "no cutoff type": ("input.nn", lambda t: t.replace("cutoff_type", "#"), "cutoff_type is missing"),
    "wrong cutoff type": ("input.nn", lambda t: t.replace("cutoff_type 1", "cutoff_type 11"), "type from 0 to 8"),
    "two cutoff types": ("input.nn", lambda t: t + "cutoff_type 2\n", "stands in line"),
    "unknown activation": ("input.nn", lambda t: t.replace("short t t l", "short t q l"), "each one of"),
    "other number of layers": ("input.nn", lambda t: t.replace("_short 4 3", "_short 4 3 2"), "expected 2 of them"),
    "charges": ("input.nn", lambda t: t + "nnp_type 4G-HDNNP\n", "second generation"),
    "two global activations": ("input.nn", lambda t: t + "global_activation_short p p l\n", "stands in line"),
    "two activations of an element": (
        "input.nn",
        lambda t: t + 2 * "element_activation_short C p p l\n",
        "has one in line",
    ),
    "weights given twice": ("weights.001.data", lambda t: t + t.splitlines()[0] + "\n", "place already"),
    "infinite weights": ("weights.001.data", lambda t: "inf" + t[t.index(" ") :], "finite number"),
    "scaling given twice": ("scaling.data", lambda t: t + t.splitlines()[0] + "\n", "already"),
    "van der Waals of RuNNer": ("input.nn", lambda t: t + "use_vdw\n", "n2p2, which we follow"),
    "generation by another name": ("input.nn", lambda t: t + "nnp_gen 4\n", "second generation"),
    "scaled to a point": (
        "input.nn",
        lambda t: t + "scale_symmetry_functions\nscale_min_short 1\n",
        "equals scale_max_short",
    ),
    "half a normalization": ("input.nn", lambda t: t + "conv_energy 3\n", "expected all of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused(name: str, tmp_path: Path) -> None:
    file, edit, message = WRONG[name]
    path = write(CASES[0], tmp_path) / file
    if edit is None:
        path.unlink()
    else:
        path.write_text(edit(path.read_text()))
    with pytest.raises((ModelFileError, InputError), match=message):
        mlip.load(tmp_path)


SPELLINGS: dict[str, tuple[str, Edit]] = {
    "comments of both kinds": ("input.nn", lambda t: t.replace("\n", " ! one\n", 3).replace("t t l", "t t l # b")),
    "a comment without a space": ("input.nn", lambda t: t.replace("\n", "!c\n")),
    "other names of keywords": ("input.nn", lambda t: t.replace("symfunction_short", "symfunction") + "nnp_gen 2\n"),
    # n2p2 takes the size of the last hidden layer and the activation of the output from the keywords for all elements.
    "last layers of an element": (
        "input.nn",
        lambda t: t.replace("nodes_short C 5 3", "nodes_short C 5 9").replace("short C t p l", "short C t p t"),
    ),
    "no standard deviations": ("scaling.data", lambda t: "".join(w.rpartition(" ")[0] + "\n" for w in t.splitlines())),
    "weights alone": ("weights.006.data", lambda t: "".join(w.split()[0] + "\n" for w in t.splitlines())),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_other_spellings(name: str, tmp_path: Path) -> None:
    """Of the same potential, which n2p2 reads too."""
    file, edit = SPELLINGS[name]
    path = write(CASES[3], tmp_path) / file
    path.write_text(edit(path.read_text()))
    structure = CASES[3]["structures"][0]
    energy, _ = in_atomic_units(load_n2p2(tmp_path), atoms_of(structure))
    assert energy == pytest.approx(structure["energy"], rel=1e-12)


def test_a_folder_without_potential(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"folder of n2p2 with an input\.nn"):
        mlip.load(tmp_path)


def read_n2p2(path: Path) -> Atoms:
    """The first structure of an input.data."""
    rows = [line.split() for line in path.read_text().partition("end")[0].splitlines()]
    cell = [[float(x) for x in row[1:4]] for row in rows if row[0] == "lattice"]
    atoms = [row for row in rows if row[0] == "atom"]
    return atoms_of(
        {"symbols": [a[4] for a in atoms], "positions": [[float(x) for x in a[1:4]] for a in atoms], "cell": cell}
    )


@needs_data
@pytest.mark.parametrize("name", ["Cu2S_PBE", "H2O_RPBE-D3", pytest.param("Anisole_SCAN", marks=pytest.mark.slow)])
def test_examples_of_n2p2(name: str) -> None:
    expected = json.loads((DATA / "examples" / "expected_predictions.json").read_text())[name]
    potential = load_n2p2(DATA / "examples" / name)
    energy, forces = in_atomic_units(potential, read_n2p2(DATA / "examples" / name / "input.data"))
    assert abs(energy - expected["energy"]) < 1e-12 * abs(expected["energy"])
    scale = np.abs(expected["forces"]).max()
    # 938 bumps of the angle on every pair of neighbors: what rounding leaves is larger there.
    assert np.abs(forces - expected["forces"]).max() < (1e-9 if name == "Anisole_SCAN" else 1e-10) * scale


def smallest_image(atoms: Atoms) -> float:
    """Distance of an atom to its nearest image."""
    shifts = np.array([s for s in np.ndindex(7, 7, 7) if s != (3, 3, 3)]) - 3
    return float(np.linalg.norm(shifts @ atoms.cell.array, axis=1).min())


@needs_data
@pytest.mark.parametrize("element", ["Si", "Li", "Cu"])
def test_recorded_predictions(element: str) -> None:
    """Where an atom has an image of itself within the cutoff, n2p2's forces are not the derivatives of its energies."""
    recorded = np.load(DATA / "mlearn" / element / "test_reference_n2p2.npz")
    potential = load_n2p2(DATA / "mlearn" / element, *RECORDED_UNITS)
    begin = compared = 0
    for k, atoms in enumerate(ase.io.iread(DATA.parent / "mlearn" / element / "test.extxyz")):
        found = potential(atoms_to_graph(atoms, potential.cutoff), forces=True, stress=False)
        assert abs(float(found.energy[0]) / recorded["energy_eV"][k] - 1) < 1e-10
        expected = recorded["forces_eV_A"][begin : begin + len(atoms)]
        begin += len(atoms)
        if smallest_image(atoms) < potential.cutoff:
            continue
        compared += 1
        scale = max(1.0, np.abs(expected).max())
        # n2p2 takes the derivative of the cosine from √(1 - cos²), which leaves eight decimals near the cutoff.
        assert np.abs(found.forces.numpy() - expected).max() < 1e-8 * scale
    assert begin == len(recorded["forces_eV_A"]) and compared > 15
