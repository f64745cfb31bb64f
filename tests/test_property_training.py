"""Training of property models: what is learned, restarts, data, options, commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from small_runs import assert_equal, run_state

import mlip
from mlip.cli.main import main
from mlip.data.property_labels import label_property, read_property
from mlip.data.reading import read_structures
from mlip.errors import DataError, InputError
from mlip.property_model import PropertyModel
from mlip.training.config import TrainingConfig
from mlip.training.dry_run import rehearse
from mlip.training.property_data import load_property_data, standard
from mlip.training.train import train

#: Charges in e of the point charges that dipoles are made of.
CHARGES = {1: 0.3, 6: -0.2, 8: -0.6}
TINY = {
    "model": "DimeNet++",
    "num_channels": 8,
    "num_interactions": 1,
    "int_emb_size": 4,
    "out_emb_channels": 16,
    "r_max": 3.0,
    "batch_size": 8,
    "plot": False,
    "device": "cpu",
}
#: Instead of these.
_NONE = dict.fromkeys(("num_channels", "num_interactions", "int_emb_size", "out_emb_channels"))
MACE = _NONE | {"model": "MACE", "num_channels": 4, "max_L": 0, "max_ell": 1, "correlation": 2, "radial_MLP": "[8]"}
HDNNP = _NONE | {"model": "HDNNP", "num_symmetry_functions": 8, "hidden_layers": "[8]"}


def molecules(n: int, seed: int = 0) -> list[Atoms]:
    """Rattled water, methanol and CO with the dipole of point charges, its length, and a sum over pairs of atoms."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        atoms = molecule(("H2O", "CH3OH", "CO")[k % 3])
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
        charges = np.array([CHARGES[z] for z in atoms.numbers])
        dipole = (charges - charges.mean()) @ atoms.positions
        distances = atoms.get_all_distances()[np.triu_indices(len(atoms), 1)]
        pairs = float(np.exp(-distances).sum())
        atoms.info = {"REF_dipole": dipole, "mu_eA": float(np.linalg.norm(dipole)), "pairs": pairs}
        atoms.info["extent"] = pairs / len(atoms)
        made.append(atoms)
    return made


def written(path: Path, structures: list[Atoms]) -> Path:
    write(path, structures, format="extxyz")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "train.xyz", molecules(30))


def config(data: Path, **options: object) -> TrainingConfig:
    defaults = {"train_file": str(data), "work_dir": str(data.parent / "run"), "overwrite": True, **TINY}
    return TrainingConfig(**(defaults | options))


@pytest.mark.parametrize(
    ("target", "readout", "part"),
    [("dipole", None, 0.1), ("mu", None, 0.3), ("pairs", None, 0.3), ("extent", "mean", 0.3)],
)
def test_learns_a_property(data, target, readout, part):
    """The error on other structures falls below a part of what saying the mean gives."""
    test = written(data.parent / "test.xyz", molecules(12, seed=1))
    options = {"max_num_epochs": 20, "seed": 1, "optimizer": "soap", "lr": 0.02, "scheduler": "linear"}
    result = train(config(data, target=target, readout=readout, test_file=str(test), **options))
    errors = result.errors["test"]
    assert errors["n"] == 12 and errors["rmse"] < part * errors["std"]
    model = mlip.load(result.path)
    assert isinstance(model, PropertyModel) and model.metadata["errors"]["test"] == errors
    assert f"valid_{target}_mae" in result.history[-1]


@pytest.mark.parametrize("network", [MACE, HDNNP], ids=["MACE", "HDNNP"])
@pytest.mark.parametrize("target", ["pairs", "dipole"])
def test_other_networks_learn_a_sum_and_charges(data, target, network):
    result = train(config(data, target=target, max_num_epochs=20, lr=0.02, scheduler="linear", **network))
    assert result.errors["valid"]["rmse"] < 0.7 * result.errors["valid"]["std"]
    assert result.history[-1]["valid_loss"] < result.history[0]["valid_loss"]
    assert type(mlip.load(result.path).model).__name__ == network["model"]


def test_symmetry_functions_of_a_file_belong_to_the_run(data):
    """In Å, whatever the data is in; a continued run notices another content."""
    file = data.parent / "input.nn"
    file.write_text("".join(f"symfunction_short {a} 2 {b} 0.5 0.0 3.0\n" for a in "HCO" for b in "HCO"))
    options = HDNNP | {"num_symmetry_functions": None, "symmetry_functions": str(file), "length_unit": "Angstrom"}
    result = train(config(data, target="pairs", max_num_epochs=1, **options))
    assert len(result.potential.model.hyperparameters["symmetry_functions"]) == 9
    assert result.potential.metadata["data"]["symmetry_functions"]["file"] == "input.nn"
    file.write_text(file.read_text().replace("0.5", "0.6"))
    with pytest.raises(InputError, match="content of --symmetry_functions"):
        train(config(data, target="pairs", max_num_epochs=2, restart_latest=True, **options))


def test_restart_continues_bit_for_bit(tmp_path, data):
    runs = [tmp_path / name for name in ("whole", "parts")]
    options = {"target": "mu", "optimizer": "soap", "lr": 0.003}
    train(config(data, work_dir=str(runs[0]), max_num_epochs=3, **options))
    train(config(data, work_dir=str(runs[1]), max_num_epochs=2, **options))
    result = train(config(data, work_dir=str(runs[1]), max_num_epochs=3, restart_latest=True, **options))
    assert [record["epoch"] for record in result.history] == [1, 2, 3]
    assert_equal(*(run_state(folder) for folder in runs))
    assert_equal(*(dict(mlip.load(folder / "mlip.safetensors").state_dict()) for folder in runs))


def test_commands(tmp_path, data, capsys):
    """Train with pictures, info, evaluate with a table, JSON, structures and a plot."""
    options = ["--target", "dipole", "--max_num_epochs", "1", "--work_dir", str(tmp_path)]
    words = [w for k, v in TINY.items() if k != "plot" for w in (f"--{k}", str(v))]
    assert main(["train", "--train_file", str(data), *options, *words]) == 0
    shown = capsys.readouterr().out
    assert "target: dipole / e·Å (REF_dipole), charges and atomic dipoles" in shown
    assert "Errors of dipole / e·Å" in shown and "E0s" not in shown
    assert "--num_interactions 1" in mlip.load(tmp_path / "mlip.safetensors").metadata["command"]
    page = (tmp_path / "mlip_report.html").read_text()
    assert page.count("<svg") == 5 and "Worst structures" in page and "dipole RMSE" in page
    assert (tmp_path / "mlip_parity.png").stat().st_size > 1000
    assert (tmp_path / "mlip_learning_curve.png").stat().st_size > 1000

    file = str(tmp_path / "mlip.safetensors")
    assert main(["info", file, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["predicts"], facts["unit"], facts["readout"]) == ("dipole", "e·Å", "dipole")
    assert main(["info", file]) == 0
    assert "predicts" in capsys.readouterr().out

    output, plot = tmp_path / "out.xyz", tmp_path / "parity.png"
    evaluate = ["evaluate", str(data), "--model", file, "--device", "cpu"]
    assert main([*evaluate, "--output", str(output), "--plot", str(plot)]) == 0
    assert "Errors of dipole / e·Å on train.xyz" in capsys.readouterr().out
    assert plot.stat().st_size > 1000
    assert main([*evaluate, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    differences = np.array([a.info["MLIP_dipole"] - a.info["REF_dipole"] for a in read(output, ":")])
    assert found["n"] == 30 and np.isclose(found["mae"], np.abs(differences).mean(), rtol=1e-5)
    assert main([*evaluate, "--energy_key", "e"]) == 1
    assert "--energy_key e would do nothing" in capsys.readouterr().err


def test_dry_run(data):
    estimate = rehearse(config(data, target="mu"))
    assert estimate.steps_per_epoch == 4 and estimate.seconds_per_step > 0


def npz(path: Path, structures: list[Atoms], **changes: object) -> Path:
    arrays = {
        "n_atoms": np.array([len(a) for a in structures], dtype=np.int16),
        "Z": np.concatenate([a.numbers for a in structures]).astype(np.uint8),
        "R": np.concatenate([a.positions for a in structures]),
        "properties": np.array([[a.info["mu_eA"], a.info["pairs"]] for a in structures]),
        "property_names": np.array(["mu_eA", "pairs"]),
        "dipole": np.array([a.info["REF_dipole"] for a in structures]),
        "characterized": np.array([k != 1 for k in range(len(structures))]),
        "smiles": np.array(["O"] * len(structures)),
    }
    np.savez(path, **{name: a for name, a in (arrays | changes).items() if a is not None})
    return path


def test_npz_holds_what_extended_xyz_does(tmp_path):
    made = molecules(4)
    file = npz(tmp_path / "m.npz", made)
    structures = read_structures(file)
    assert len(structures) == 3 and structures[0].info["smiles"] == "O"
    for name in ("mu", "pairs", "dipole"):
        found = read_property(file, name)
        expected = label_property([made[0], *made[2:]], name)
        assert found.learned == expected.learned and found.not_characterized == 1
        assert found.remarks() == [f"{file}: 1 molecules are not characterized and left out"]
        for a, b in zip(found.structures, expected.structures, strict=True):
            assert np.array_equal(a.value, b.value) and np.array_equal(a.atoms.positions, b.atoms.positions)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"R": None}, "has no array R; expected n_atoms"),
        ({"Z": np.ones(3)}, r"Z has shape \(3,\)"),
        ({"property_names": np.array(["a"])}, "a column for each of property_names"),
    ],
)
def test_npz_of_another_kind_is_refused(tmp_path, changes, match):
    with pytest.raises(DataError, match=match):
        read_structures(npz(tmp_path / "m.npz", molecules(4), **changes))


def with_info(**info: object) -> list[Atoms]:
    made = molecules(4)
    for atoms in made:
        atoms.info |= info
    return made


@pytest.mark.parametrize(
    ("structures", "options", "match"),
    [
        (molecules(4), {"target": "gap"}, r"no structure has 'gap' \(--target\); present are .*mu_eA"),
        (molecules(4), {"target": "pairs", "readout": "dipole", "target_unit": "D"}, "expected 3 numbers, a vector"),
        (molecules(4), {"target": "dipole", "readout": "sum"}, "expected one number; a vector is learned with --read"),
        (with_info(x=float("nan")), {"target": "x"}, "structure 0 of .*: x is not finite"),
        (with_info(x="high"), {"target": "x"}, "is not numeric"),
        (with_info(x=2.0), {"target": "x"}, r"x is \[2.0\] on all 3 training structures: nothing to learn"),
        (with_info(mu=-1.0), {"target": "mu"}, "the length of a dipole is not negative"),
        (with_info(x_eV=1.0, x_Ha=1.0), {"target": "x"}, "has x as x_eV and x_Ha"),
        ([bulk("C")] * 4, {"target": "mu"}, "no structure has 'mu'"),
    ],
)
def test_data_that_can_not_be_learned(tmp_path, structures, options, match):
    with pytest.raises(DataError, match=match):
        load_property_data(config(written(tmp_path / "train.xyz", structures), **options))


def test_data_of_n2p2_has_no_properties(tmp_path):
    """And so no units are asked for."""
    (tmp_path / "input.data").write_text("begin\natom 0 0 0 H 0 0 0 0 0\nenergy 0\ncharge 1\nend\n")
    with pytest.raises(DataError, match="an input.data of n2p2, which holds no charge; expected extended xyz or npz"):
        read_property(tmp_path / "input.data", "charge")


def test_dipoles_of_crystals_are_refused():
    crystal = bulk("C")
    crystal.info["dipole"] = [0.0, 0.0, 1.0]
    with pytest.raises(DataError, match="structure 0 of the data is periodic"):
        label_property([crystal], "dipole")


def test_structures_without_the_property_are_left_out_and_counted():
    made = molecules(4)
    del made[1].info["pairs"]
    data = label_property(made, "pairs")
    assert [s.index for s in data.structures] == [0, 2, 3]
    assert data.remarks() == ["the data: 1 structures have no pairs and are left out"]


def test_single_atoms_need_no_reference_energy(tmp_path):
    """They are structures like others."""
    atom = Atoms("H", info={"pairs": 0.0, "config_type": "IsolatedAtom"})
    data = load_property_data(config(written(tmp_path / "train.xyz", [*molecules(8), atom]), target="pairs"))
    assert sum(len(part.structures) for part in data.sets.values()) == 9


def test_standard_of_a_sum_takes_out_what_the_elements_give():
    made = molecules(12)
    for k, atoms in enumerate(made):
        atoms.info["x"] = 3.0 * (atoms.numbers == 1).sum() - 100.0 * (atoms.numbers == 8).sum() + 0.01 * (-1) ** k
    data = label_property(made, "x")
    found = standard(data.structures, data.learned, [1, 6, 8])
    assert abs(found.shifts[1] - 3.0) < 0.02 and abs(found.shifts[8] + 100.0) < 0.04
    assert 0.005 < found.spread < 0.011


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"readout": "sum"}, "--readout sum would do nothing: it needs --target"),
        ({"target": "mu", "E0s": "average"}, "--E0s average would do nothing: --target mu trains no energies"),
        ({"target": "mu", "loss": "huber"}, "--loss huber would do nothing"),
        ({"target": "mu", "swa": True}, "--swa True would do nothing"),
        (
            {"target": "mu", "length_unit": "Bohr", "energy_unit": "eV"},
            "--energy_unit eV would do nothing: --target mu",
        ),
        ({"target": "mu", "max_ell": 2}, "--max_ell 2 would do nothing: it needs --model MACE"),
        ({"target": " "}, "--target is empty"),
        ({"target": "REF_energy"}, "are learned without --target"),
        ({"target": "mu", "readout": "max"}, "--readout is 'max'; expected one of sum"),
    ],
)
def test_options_that_do_nothing(data, options, match):
    with pytest.raises(InputError, match=match):
        config(data, **options)
