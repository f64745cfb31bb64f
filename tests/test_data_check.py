"""`mlip data check`: mistakes made on purpose are found and named, good sets raise no alarm."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write
from stillinger_weber import stillinger_weber

from mlip.cli.main import main
from mlip.data.checks.nearby import nearby_pairs
from mlip.data.labels import read_labelled
from mlip.units import BOHR, HARTREE
from mlip.workflows.check_data import check_data

ROOT = Path(__file__).parents[1]
KBAR = 1602.1766


def labelled(atoms: Atoms, calculator: object) -> Atoms:
    probe = atoms.copy()
    probe.calc = calculator
    atoms.info["REF_energy"] = probe.get_potential_energy() - 2.0 * len(atoms)
    atoms.arrays["REF_forces"] = probe.get_forces()
    if atoms.pbc.all():
        atoms.info["REF_stress"] = probe.get_stress(voigt=False)
    return atoms


@pytest.fixture(scope="module")
def silicon() -> list[Atoms]:
    """A walk of 8 atoms, one of 16 atoms, strained copies."""
    rng = np.random.default_rng(1)
    made = []
    for atoms in (bulk("Si", cubic=True), bulk("Si", cubic=True).repeat((2, 1, 1))):
        for _ in range(8):
            atoms = atoms.copy()
            atoms.rattle(0.04, rng=rng)
            made.append(atoms)
    for _ in range(14):
        atoms = bulk("Si", cubic=True)
        strain = rng.uniform(-0.03, 0.03, size=(3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.rattle(0.02, rng=rng)
        made.append(atoms)
    calculator = stillinger_weber()
    return [labelled(atoms, calculator) for atoms in made]


def energies(factor: Callable[[Atoms], float]) -> Callable[[list[Atoms]], None]:
    def edit(structures: list[Atoms]) -> None:
        for atoms in structures:
            atoms.info["REF_energy"] *= factor(atoms)

    return edit


def forces(factor: float) -> Callable[[list[Atoms]], None]:
    def edit(structures: list[Atoms]) -> None:
        for atoms in structures:
            atoms.arrays["REF_forces"] = atoms.arrays["REF_forces"] * factor

    return edit


def stresses(change: Callable[[np.ndarray, Atoms], np.ndarray]) -> Callable[[list[Atoms]], None]:
    def edit(structures: list[Atoms]) -> None:
        for atoms in structures:
            atoms.info["REF_stress"] = change(atoms.info["REF_stress"], atoms)

    return edit


def vasp_order(stress: np.ndarray, _: Atoms) -> np.ndarray:
    """xx yy zz xy yz zx, taken for xx yy zz yz xz xy."""
    return np.array([stress[0, 0], stress[1, 1], stress[2, 2], stress[0, 1], stress[1, 2], stress[0, 2]])


def both(*edits: Callable[[list[Atoms]], None]) -> Callable[[list[Atoms]], None]:
    def edit(structures: list[Atoms]) -> None:
        for one in edits:
            one(structures)

    return edit


MISTAKES = {
    "sign of stress": (stresses(lambda s, _: -s), "stress", "its sign is wrong .* multiply it by -1"),
    "kbar": (stresses(lambda s, _: s * KBAR), "stress", r"it is in kbar.* 0\.000624151"),
    "kbar and sign": (stresses(lambda s, _: -s * KBAR), "stress", r"sign is wrong .* and it is in kbar"),
    "GPa": (stresses(lambda s, _: s * 160.21766), "stress", "it is in GPa"),
    "virial": (
        stresses(lambda s, a: -s * a.get_volume()),
        "stress",
        r"it is a virial \(eV\), not a stress.*name it with --virials_key",
    ),
    "shear": (stresses(vasp_order), "stress", "shear columns are in the order xy yz xz"),
    "per atom": (energies(lambda a: 1 / len(a)), "energy and forces", "energies are per atom, not total"),
    "Hartree": (energies(lambda _: 1 / HARTREE), "energy and forces", "energies are in Hartree"),
    "gradients": (forces(-1.0), "energy and forces", "they are gradients"),
    "force unit": (forces(BOHR / HARTREE), "energy and forces", "forces are in Hartree/Bohr"),
    "atomic units": (
        both(energies(lambda _: 1 / HARTREE), forces(BOHR / HARTREE)),
        "energy and forces",
        "in Hartree and Hartree/Bohr",
    ),
    "no unit": (forces(0.3), "energy and forces", "contradict each other, by no unit"),
    "zeros": (forces(0.0), "zeros", "forces exactly zero on 30 of 30 frames"),
}


def findings(structures: list[Atoms], path: Path, level: str = "error") -> dict[str, str]:
    write(path, structures, format="extxyz")
    return {f.topic: f.text for f in check_data(path).found if f.level == level}


def test_a_good_set(silicon: list[Atoms], tmp_path: Path) -> None:
    write(tmp_path / "good.xyz", silicon, format="extxyz")
    result = check_data(tmp_path / "good.xyz")
    assert result.passed and not result.warnings, result.findings
    right = {f.topic: f.text for f in result.found if f.level == "ok"}
    assert {"energy and forces", "stress", "duplicates", "distances", "outliers", "elements"} <= set(right)
    assert "and the order" in right["stress"] and "expected 1" in right["energy and forces"]
    slopes = [float(x) for x in re.findall(r"(?:xx|yy|zz|yz|xz|xy) (-?[\d.]+)", right["stress"])]
    assert len(slopes) == 6 and slopes == pytest.approx([1] * 6, abs=0.1)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str, silicon: list[Atoms], tmp_path: Path) -> None:
    edit, topic, message = MISTAKES[name]
    broken = [atoms.copy() for atoms in silicon]
    edit(broken)
    found = findings(broken, tmp_path / "broken.xyz")
    assert list(found) == [topic], found
    assert re.search(message, found[topic]), found[topic]


def test_mistakes_of_energies_where_no_two_cells_are_equal(silicon: list[Atoms], tmp_path: Path) -> None:
    """Forces and stresses together tell, even if the stress is wrong as well."""
    for edit, message in (
        (energies(lambda a: 1 / len(a)), "per atom"),
        (both(energies(lambda _: 1 / HARTREE), MISTAKES["kbar"][0]), "energies are in Hartree"),
    ):
        broken = [atoms.copy() for atoms in silicon[-14:]]
        edit(broken)
        assert message in findings(broken, tmp_path / "b.xyz")["energy and forces"]


def test_energies_per_atom_by_size_alone(tmp_path: Path) -> None:
    """Molecules without forces: energies that do not grow with the number of atoms."""
    rng = np.random.default_rng(0)
    made = []
    for name in ("CH4", "C2H6", "C2H4", "C3H8", "C6H6", "C2H2", "CH3CH2OH", "CH3OH", "H2O", "CO2"):
        atoms = molecule(name)
        atoms.info["REF_energy"] = sum({1: -15.0, 6: -1030.0, 8: -2040.0}[z] for z in atoms.numbers) + rng.normal()
        made.append(atoms)
    assert not findings(made, tmp_path / "m.xyz")
    energies(lambda a: 1 / len(a))(made)
    assert "look like energies per atom" in findings(made, tmp_path / "m.xyz")["total energies"]


def test_all_electron_energies_in_Hartree(tmp_path: Path) -> None:
    made = [molecule(name) for name in ("CH4", "C2H6", "CH3OH")]
    for atoms, energy in zip(made, (-40.4, -79.7, -115.6), strict=True):
        atoms.info["REF_energy"] = energy
    assert "0.03675 for Hartree" in findings(made, tmp_path / "m.xyz", "warning")["unit of energy"]
    energies(lambda _: HARTREE)(made)
    assert "unit of energy" not in findings(made, tmp_path / "m.xyz", "warning")


def test_duplicates(silicon: list[Atoms], tmp_path: Path) -> None:
    """Across files, too; equal structures with different labels are an error."""
    write(tmp_path / "a.xyz", silicon, format="extxyz")
    write(tmp_path / "b.xyz", silicon[3:5], format="extxyz")
    result = check_data([tmp_path / "a.xyz", tmp_path / "b.xyz"])
    (found,) = [f for f in result.found if f.topic == "duplicates"]
    assert found.level == "warning" and result.passed
    assert found.frames == (f"{tmp_path}/b.xyz:0", f"{tmp_path}/b.xyz:1")
    other = silicon[3].copy()
    other.info["REF_energy"] += 1.0
    assert "different labels" in findings([*silicon, other], tmp_path / "c.xyz")["duplicates"]


def test_outliers_distances_and_net_forces(silicon: list[Atoms], tmp_path: Path) -> None:
    broken = [atoms.copy() for atoms in silicon]
    broken[5].info["REF_energy"] *= HARTREE
    assert "energies of 1 frame (frame 5)" in findings(broken, tmp_path / "a.xyz")["outliers"]
    broken = [atoms.copy() for atoms in silicon]
    broken[7].positions[1] = broken[7].positions[0] + [1.0, 0, 0]
    broken[9].arrays["REF_forces"][:, 2] += 0.2
    found = findings(broken, tmp_path / "b.xyz", "warning")
    assert "frame 7; Si-Si 1.000 Å, at 0.45" in found["distances"] and "(frame 9)" in found["net force"]


def test_missing_and_misnamed_labels(silicon: list[Atoms], tmp_path: Path) -> None:
    broken = [atoms.copy() for atoms in silicon]
    del broken[2].info["REF_energy"], broken[4].arrays["REF_forces"]
    for atoms in broken:
        atoms.info["dft_virial"] = 1.0
        del atoms.info["REF_stress"]
    write(tmp_path / "a.xyz", broken, format="extxyz")
    result = check_data(tmp_path / "a.xyz")
    texts = [f.text for f in result.found if f.level == "warning"]
    assert len(texts) == 3 and result.passed
    assert "dft_virial on 30 frames looks like a label" in texts[0]
    assert "1 of 30 frames lack energy (frame 2)" in texts[1] and "lack forces (frame 4)" in texts[2]
    for atoms in broken:
        atoms.info = {"dft_energy": 1.0}
        atoms.arrays.pop("REF_forces", None)
    assert "dft_energy (30 of 30)" in findings(broken, tmp_path / "b.xyz")["file"]


def test_isolated_atoms(silicon: list[Atoms], tmp_path: Path) -> None:
    lone = Atoms("Si", info={"REF_energy": -2.5, "config_type": "IsolatedAtom"})
    write(tmp_path / "a.xyz", [lone, *silicon], format="extxyz")
    found = {f.topic: f for f in check_data(tmp_path / "a.xyz").found}
    assert found["isolated atoms"].text.startswith("1 frame: Si -2.5000 eV") and found["binding energy"].level == "ok"
    lone.info["REF_energy"] = -7870.0
    assert "may be binding energies already" in findings([lone, *silicon], tmp_path / "b.xyz")["binding energy"]


def test_stress_of_molecules_in_a_box(tmp_path: Path) -> None:
    """Forces on what has vacuum around give the stress exactly: no strained copies are needed."""
    rng = np.random.default_rng(3)
    made = []
    for _ in range(5):
        atoms = Atoms("Cu4", [[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0], [0, 0, 2.4]], cell=[14, 15, 16], pbc=True)
        atoms.rattle(0.2, rng=rng)
        atoms.positions += 13.0  # across the border of the cell
        atoms.wrap()
        made.append(labelled(atoms, EMT()))
    write(tmp_path / "a.xyz", made, format="extxyz")
    (ok,) = [f for f in check_data(tmp_path / "a.xyz").found if f.topic == "stress"]
    assert ok.level == "ok" and "forces on 5 frames with vacuum" in ok.text and "and the order" in ok.text
    for name in ("sign of stress", "kbar", "shear"):
        broken = [atoms.copy() for atoms in made]
        edit, _, message = MISTAKES[name]
        edit(broken)
        assert re.search(message, findings(broken, tmp_path / "b.xyz")["stress"])


def test_stress_without_evidence(silicon: list[Atoms], tmp_path: Path) -> None:
    walk = [atoms.copy() for atoms in silicon[:8]]
    assert "cannot be judged: no strained copies" in findings(walk, tmp_path / "a.xyz", "note")["stress"]
    MISTAKES["kbar"][0](walk)
    assert "too large for eV/Å³" in findings(walk, tmp_path / "b.xyz")["stress"]


def test_work_between_frames_turned_against_each_other(tmp_path: Path) -> None:
    """Molecules turn, crystals cross the border of their cell: neither does work."""
    rng = np.random.default_rng(5)
    cluster = Atoms("Cu4", [[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0], [0, 0, 2.4]])
    crystal = bulk("Cu", cubic=True)
    made = []
    for atoms in (cluster, crystal):
        first, second = atoms.copy(), atoms.copy()
        for one in (first, second):
            one.rattle(0.03, rng=rng)
        if atoms is cluster:
            second.rotate(130, (1, 2, 3))
        second.positions += [4.0, -7.0, 1.0]
        second.wrap()
        made += [labelled(first, EMT()), labelled(second, EMT())]
    write(tmp_path / "a.xyz", made, format="extxyz")
    pairs = nearby_pairs(read_labelled(tmp_path / "a.xyz").structures)
    assert len(pairs) == 2 and pairs.size.max() < 0.3
    np.testing.assert_allclose(pairs.force_work, pairs.energy, rtol=0.1)


def test_command(silicon: list[Atoms], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.xyz", silicon, format="extxyz")
    assert main(["data", "check", str(tmp_path / "a.xyz")]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    broken = [atoms.copy() for atoms in silicon]
    MISTAKES["kbar"][0](broken)
    write(tmp_path / "b.xyz", broken, format="extxyz")
    assert main(["data", "check", str(tmp_path / "b.xyz"), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["n"] == 30 and not shown["passed"] and shown["errors"] == 1
    assert shown["files"][0]["keys"]["energy"] == "REF_energy" and shown["files"][0]["counts"]["stress"] == 30
    assert main(["data", "check", str(tmp_path / "none.xyz")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main(["data", "chekc"]) == 2
    assert "no command 'chekc', did you mean check?" in capsys.readouterr().err
    assert main(["data", "--help"]) == 0 and "check FILES" in capsys.readouterr().out
    assert main(["data"]) == 2


@pytest.mark.parametrize("name", ["silicon_train.extxyz", "silicon_test.extxyz"])
def test_our_own_set(name: str) -> None:
    result = check_data(ROOT / "examples" / "data" / name)
    assert result.passed and not result.warnings, result.findings
    assert any(f.topic == "stress" and "and the order" in f.text for f in result.found)


def water(folder: Path) -> list[Atoms]:
    """Frames of a set that keeps each part under a name of its own, with kinds of atoms O, H."""
    arrays = dict(np.load(folder / "water" / "water_dp.npz"))
    made = []
    for name in sorted(key.removesuffix("coord") for key in arrays if key.endswith("coord")):
        kinds = next(a for key, a in arrays.items() if key.startswith(name[:6]) and key.endswith("type"))
        parts = [arrays[name + key] for key in ("coord", "box", "energy", "force")]
        for coords, box, energy, forces in zip(*parts, strict=True):
            atoms = Atoms(np.where(kinds == 0, 8, 1), coords.reshape(-1, 3), cell=box.reshape(3, 3), pbc=True)
            atoms.info["REF_energy"] = float(energy)
            atoms.arrays["REF_forces"] = forces.reshape(-1, 3).astype(float)
            made.append(atoms)
    return made


GOOD = [
    ["mlearn/Si/train.extxyz"],
    ["mlearn/Li/train.extxyz"],
    ["acac/train_300K.xyz", "acac/isolated_atoms.xyz"],
    ["acac/test_MD_300K.xyz"],
    ["rmd17/rmd17_aspirin_split01.npz@train"],
    ["rmd17/rmd17_ethanol_split01.npz@test"],
    ["qm9/qm9_sample15k_f32.npz"],
    ["n2p2/configuration-sets/input.data.H2O_RPBE-D3"],
]


@pytest.mark.slow
@pytest.mark.skipif("MLIP_DATA" not in os.environ, reason="MLIP_DATA names no folder")
@pytest.mark.parametrize("names", [*GOOD, ["water"]], ids=lambda names: names[0])
def test_no_alarm_on_good_sets(names: list[str], tmp_path: Path) -> None:
    folder = Path(os.environ["MLIP_DATA"])
    files = [folder / name for name in names]
    if names == ["water"]:
        files = [tmp_path / "water.xyz"]
        write(files[0], water(folder), format="extxyz")
    result = check_data(files)
    assert result.passed and not result.warnings, result.findings


@pytest.mark.skipif("MLIP_DATA" not in os.environ, reason="MLIP_DATA names no folder")
@pytest.mark.parametrize("name", ["mlearn/Si/test", "mlearn/Li/test", "mlearn/Cu/test"])
def test_sets_of_mlearn(name: str, tmp_path: Path) -> None:
    """No alarm, and mistakes are found."""
    path = Path(os.environ["MLIP_DATA"]) / f"{name}.extxyz"
    result = check_data(path)
    assert result.passed and not result.warnings, result.findings
    if "Si" not in name:
        return
    data = read_labelled(path)
    made = []
    for s in data.structures:
        atoms = s.atoms.copy()
        atoms.info |= {"REF_energy": s.energy, "REF_stress": s.stress}
        atoms.arrays["REF_forces"] = s.forces
        made.append(atoms)
    for mistake in ("sign of stress", "shear", "per atom", "Hartree"):
        broken = [atoms.copy() for atoms in made]
        edit, topic, message = MISTAKES[mistake]
        edit(broken)
        found = findings(broken, tmp_path / "b.xyz")
        assert list(found) == [topic] and re.search(message, found[topic]), found
