"""Committees that are trained, calibrated, stored, and watched in MD."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.lj import LennardJones
from ase.io import read, write
from lj_data import argon, isolated, write_xyz
from small_runs import FAST, arguments, assert_equal
from test_committee import MEMBERS

import mlip
from mlip import MLIPCalculator
from mlip.cli.main import main
from mlip.committee import Calibration, Committee
from mlip.convert import atoms_to_graph
from mlip.data.calibration import calibrate, deviations_of, rank_correlation, reliability
from mlip.data.labels import LabelledStructure
from mlip.data.predict import Predicted
from mlip.data.weights import LabelWeights
from mlip.errors import DataError, InputError, ModelFileError
from mlip.training import committee as module
from mlip.training.committee import CommitteeResult, member_configs, train_committee
from mlip.training.config import TrainingConfig
from mlip.training.data import load_data
from mlip.workflows.evaluate import evaluate, with_predictions
from mlip.workflows.md import MDResult, run_md
from mlip.workflows.md_deviation import DeviationLimits
from mlip.workflows.md_integrators import MDSettings

FACTORS = Calibration(energy=2.0, forces=3.0, stress=0.5, structures=7)


def crystal(seed: int = 3) -> Atoms:
    atoms = bulk("SiC", "zincblende", 4.36, cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


# --- factors


def random_pairs(
    n: int, members: int, rng: np.random.Generator, alpha: float = 1.0
) -> list[tuple[LabelledStructure, Predicted]]:
    """Structures of two atoms; the truth is a draw of the members' distribution widened by alpha, of varying width."""
    pairs = []
    for _ in range(n):
        width = rng.uniform(0.1, 1.0)
        energies, forces = rng.normal(scale=width, size=members), rng.normal(scale=width, size=(members, 2, 3))
        truth = rng.normal(scale=alpha * width, size=7)
        structure = LabelledStructure(Atoms("Ar2"), energy=truth[0], forces=truth[1:].reshape(2, 3))
        predicted = Predicted(energies.mean(), forces.mean(0), None, None, energies.std(), forces.std(0))
        pairs.append((structure, predicted))
    return pairs


@pytest.mark.parametrize("members", [2, 3, 8])
def test_factors_of_a_known_distribution(members: int, rng: np.random.Generator) -> None:
    """Errors of the mean have variance (α² + 1/M) s², deviations (M - 1)/M s² in the mean, for any M."""
    pairs = random_pairs(4000, members, rng, alpha=2.0)
    found = calibrate(pairs)
    expected = ((4.0 + 1 / members) / ((members - 1) / members)) ** 0.5
    assert found.energy == pytest.approx(expected, rel=0.05) and found.forces == pytest.approx(expected, rel=0.03)
    assert found.stress is None and found.structures == 4000


def test_what_is_told_of_the_deviations(rng: np.random.Generator) -> None:
    pairs = random_pairs(600, 20, rng)
    calibration = calibrate(pairs)
    told = reliability(deviations_of(pairs), calibration)
    forces = told["forces"]
    assert forces["n"] == 3600 and forces["ratio"] == forces["factor"] == calibration.forces
    assert forces["rmse"] == pytest.approx(forces["deviation"] * calibration.forces)
    assert forces["within_1"] == pytest.approx(0.68, abs=0.03) and forces["within_2"] == pytest.approx(0.95, abs=0.02)
    assert 0.3 < forces["rank_correlation"] < 0.9
    assert told["energy"]["rmse"] == pytest.approx(np.mean([((s.energy - p.energy) / 2) ** 2 for s, p in pairs]) ** 0.5)
    assert reliability(deviations_of(pairs))["energy"]["within_1"] is None
    assert rank_correlation(np.array([1.0, 1, 2, 5]), np.array([0.0, 0, 3, 4])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([8.0, 5, 3, 1])) == pytest.approx(-1)
    assert rank_correlation(np.ones(4), np.arange(4.0)) is None


def test_factors_that_can_not_be() -> None:
    same = (LabelledStructure(Atoms("Ar"), energy=1.0), Predicted(1.5, np.zeros((1, 3)), None, None, 0.0, None))
    assert calibrate([same]).energy is None
    rounding = Predicted(1.5, np.full((1, 3), 1e-9), None, None, 0.1, np.full((1, 3), 1e-12))
    symmetric = LabelledStructure(Atoms("Ar"), energy=1.0, forces=np.zeros((1, 3)))
    found = calibrate([(symmetric, rounding)])
    assert found.forces is None and found.energy == pytest.approx(5.0)
    unweighted = dataclasses.replace(symmetric, weights=LabelWeights(energy=0.0))
    assert calibrate([(unweighted, rounding)]).energy is None
    with pytest.raises(DataError, match="no structure to calibrate on"):
        calibrate([(LabelledStructure(Atoms("Ar")), same[1])])
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="calibration of the forces is"):
            Calibration(forces=value)


# --- the file and the calculator


def trainable(seed: int) -> Any:
    from test_committee import mace

    return mace((6, 14), seed)


def test_the_file_of_a_committee(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.safetensors"
    members = [trainable(seed) for seed in (0, 1, 2)]
    Committee(members, ["a", "b", "c"], FACTORS, {"note": "x"}).save(path)
    loaded = mlip.load(path)
    assert isinstance(loaded, Committee) and loaded.calibration == FACTORS and loaded.names == ("a", "b", "c")
    graph = atoms_to_graph(crystal(), loaded.cutoff)
    for ours, read_back in zip(members, loaded.potentials, strict=True):
        assert_equal(dict(ours.state_dict()), dict(read_back.state_dict()))
        torch.testing.assert_close(ours(graph).forces, read_back(graph).forces, rtol=0, atol=1e-5)
    assert loaded.metadata == {"note": "x"}
    assert all(p.dtype == torch.float64 for p in mlip.load(path, dtype="float64").potentials)
    assert main(["info", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["committee"] == 3 and told["calibration"]["forces"] == 3.0 and told["members"][1]["name"] == "b"
    assert main(["info", str(path)]) == 0
    capsys.readouterr()
    for command in (["check", str(path)], ["convert", str(path), "-o", str(tmp_path / "o.safetensors")]):
        assert main(command) == 1
        assert "is a committee of 3 potentials, not one" in capsys.readouterr().err
    with pytest.raises(InputError, match="a committee is among several models"):
        MLIPCalculator([str(path), members[0]])
    with pytest.raises(InputError, match="no head 'x'"):
        mlip.load(path, head="x")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="checksum|finite"):
        mlip.load(path)


def test_calibrated_deviations_of_the_calculator(tmp_path: Path) -> None:
    atoms, plain = crystal(), MLIPCalculator(list(MEMBERS))
    committee = Committee(MEMBERS, ["a", "b", "c"], FACTORS)
    calculator = MLIPCalculator(committee)
    assert calculator.calibration == FACTORS and calculator.parameters["model"] == ["a", "b", "c"]
    atoms.calc = calculator
    for name, factor in (("energy", 2.0), ("forces", 3.0), ("stress", 0.5)):
        raw = plain.get_property(f"{name}_std", atoms)
        np.testing.assert_array_equal(calculator.get_property(f"{name}_std", atoms), raw)
        np.testing.assert_array_equal(calculator.get_property(f"{name}_uncertainty", atoms), factor * raw)
        np.testing.assert_array_equal(getattr(calculator, f"{name}_uncertainty"), factor * raw)
    atoms.positions[0] += 0.1
    assert calculator.energy_uncertainty == 2.0 * plain.get_property("energy_std", atoms)
    assert set(calculator.results) == {"energy", "free_energy", "energies"}
    with pytest.raises(PropertyNotImplementedError, match="not calibrated for the energy"):
        plain.get_property("energy_uncertainty", atoms)
    with pytest.raises(PropertyNotImplementedError, match="one model does not deviate"):
        MLIPCalculator(MEMBERS[0]).get_property("forces_uncertainty", atoms)
    half = MLIPCalculator(committee.calibrated(Calibration(energy=1.5)))
    assert half.get_property("energy_uncertainty", atoms) == 1.5 * plain.get_property("energy_std", atoms)
    with pytest.raises(PropertyNotImplementedError, match="not calibrated for the forces"):
        half.get_property("forces_uncertainty", atoms)


def test_evaluation_of_a_committee(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structures = []
    for seed in range(4):
        atoms = crystal(seed) if seed else crystal(9) * (2, 1, 1)
        probe = atoms.copy()
        probe.calc = LennardJones(sigma=1.5, epsilon=0.1)
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = probe.get_potential_energy(), probe.get_forces()
        structures.append(atoms)
    calculator = MLIPCalculator(Committee(MEMBERS, None, FACTORS))
    result = evaluate(calculator, structures)
    single = calculator.evaluate(structures)
    for predicted, expected in zip(result.predictions, single, strict=True):
        assert predicted.energy_std == pytest.approx(expected["energy_std"], abs=1e-10)
        np.testing.assert_allclose(predicted.forces_std, expected["forces_std"], atol=1e-10)
    assert result.deviations["forces"]["factor"] == 3.0 and set(result.deviations) == {"energy", "forces"}
    annotated = with_predictions(result)[1]
    np.testing.assert_allclose(annotated.arrays["MLIP_forces_uncertainty"], 3 * annotated.arrays["MLIP_forces_std"])
    assert annotated.info["MLIP_energy_uncertainty"] == 2 * annotated.info["MLIP_energy_std"]
    assert evaluate(MEMBERS[0], structures).deviations is None
    found = calibrate(list(zip(result.structures, result.predictions, strict=True)))
    assert found.forces == pytest.approx(result.deviations["forces"]["ratio"])
    model, data, picture = tmp_path / "c.safetensors", tmp_path / "d.xyz", tmp_path / "p.png"
    Committee([trainable(0), trainable(1)], None, FACTORS).save(model)
    write(data, structures)
    words = ["evaluate", str(data), "--model", str(model), "--plot_deviation", str(picture)]
    assert main(words) == 0 and picture.stat().st_size > 10_000
    assert "Deviations and errors of the committee" in capsys.readouterr().out
    trainable(0).save(tmp_path / "one.safetensors")
    words[3] = str(tmp_path / "one.safetensors")
    assert main(words) == 1
    assert "--plot_deviation" in capsys.readouterr().err


# --- training


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    return write_xyz(folder / "train.xyz", [*argon(16), isolated()]), write_xyz(folder / "test.xyz", argon(3, 8))


OPTIONS: dict[str, Any] = FAST | {"committee": 2, "max_num_epochs": 2, "valid_fraction": 0.25}


def config(files: tuple[Path, Path], work: Path, **options: Any) -> TrainingConfig:
    given = {"train_file": str(files[0]), "test_file": str(files[1]), "work_dir": str(work), **OPTIONS, **options}
    return TrainingConfig(**given)


@pytest.fixture(scope="module")
def trained(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> CommitteeResult:
    return train_committee(config(files, tmp_path_factory.mktemp("run"), plot=True))


def test_committee_is_trained_and_calibrated(trained: CommitteeResult, files: tuple[Path, Path]) -> None:
    first, second = trained.members
    work = trained.path.parent
    assert {path.name for path in work.iterdir()} == {
        "mlip.safetensors",
        "mlip_report.html",
        "mlip_calibration.png",
        "mlip_member-1",
        "mlip_member-2",
    }
    seeds = [m.potential.metadata["config"]["seed"] for m in trained.members]
    assert seeds == [123, 124] and not torch.equal(first.potential.model.embedding, second.potential.model.embedding)
    data = load_data(config(files, work, committee=None))
    valid = [s.atoms for s in data.sets["valid"].structures]
    assert len(valid) == 4
    result = evaluate(MLIPCalculator(str(trained.path)), [*valid])
    for name in ("energy", "forces", "stress"):  # the weights are float32, here evaluated in float64
        assert result.deviations[name]["ratio"] == pytest.approx(getattr(trained.calibration, name), rel=1e-3)
        assert result.deviations[name]["factor"] == getattr(trained.calibration, name)
    loaded = mlip.load(trained.path)
    assert loaded.calibration == trained.calibration and loaded.calibration.structures == 4
    assert loaded.metadata["config"]["committee"] == 2 and "--committee 2" in loaded.metadata["command"]
    assert loaded.metadata["deviations"] == trained.deviations and set(trained.errors) == {"train", "valid", "test"}
    page = (work / "mlip_report.html").read_text()
    assert page.count("<svg") == 3 and "mlip_member-2/mlip_report.html" in page and "rank corr." in page
    assert json.dumps(trained.as_dict())


def test_members_share_the_validation_set(files: tuple[Path, Path], tmp_path: Path) -> None:
    configs = member_configs(config(files, tmp_path, committee=3, seed=5))
    assert [(c.seed, c.valid_seed, c.committee) for c in configs] == [(5, 5, None), (6, 5, None), (7, 5, None)]
    sets = [[s.index for s in load_data(c).sets["valid"].structures] for c in configs]
    assert sets[0] == sets[1] == sets[2]
    other = load_data(dataclasses.replace(configs[0], valid_seed=9)).sets["valid"].structures
    assert [s.index for s in other] != sets[0]
    given = member_configs(config((files[0], files[1]), tmp_path, valid_file=str(files[1]), valid_fraction=0.1))
    assert [c.valid_seed for c in given] == [None, None]
    for options in ({"model": "HDNNP"}, {"optimizer": "schedulefree"}, {"E0s": "{18: -1.0}"}, {"swa": True}):
        extra = {"num_channels": None, "max_L": None, "max_ell": 3, "correlation": 3, "radial_MLP": None}
        extra = extra | {"num_interactions": None} if options.get("model") else {}
        assert len(member_configs(config(files, tmp_path, **options, **extra))) == 2


def test_a_killed_run_goes_on(
    files: tuple[Path, Path], trained: CommitteeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first epoch of the second member, whose checkpoint is what a kill leaves."""
    from mlip.training import train as trainer

    begun: list[int] = []
    whole = trainer.save_checkpoint

    def dies(state: dict[str, Any], path: Path) -> None:
        whole(state, path)
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", dies)
        with pytest.raises(KeyboardInterrupt):
            train_committee(config(files, tmp_path))
    assert not (tmp_path / "mlip.safetensors").exists() and (tmp_path / "mlip_member-2").is_dir()
    with pytest.raises(InputError, match="mlip_member-1.* is of an earlier run; continue it with --restart_latest"):
        train_committee(config(files, tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", lambda state, path: begun.append(1) or whole(state, path))
        resumed = train_committee(config(files, tmp_path, restart_latest=True))
    assert len(begun) == 4  # four epochs in all: nothing was trained twice
    for a, b in zip(resumed.members, trained.members, strict=True):
        assert_equal(dict(a.potential.state_dict()), dict(b.potential.state_dict()))
    assert resumed.calibration == trained.calibration
    larger = train_committee(config(files, tmp_path, restart_latest=True, committee=3))
    assert len(larger.members) == 3 and larger.members[2].potential.metadata["config"]["seed"] == 125
    with pytest.raises(InputError, match="different run .*--lr"):
        train_committee(config(files, tmp_path, restart_latest=True, lr=0.5))
    shutil.rmtree(tmp_path / "mlip_member-1")
    for k in (2, 3):
        shutil.rmtree(tmp_path / f"mlip_member-{k}")
    with pytest.raises(InputError, match="mlip.safetensors is of an earlier run, of one potential or of a committee"):
        train_committee(config(files, tmp_path))


def test_training_command(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *arguments({**OPTIONS, "train_file": files[0], "work_dir": tmp_path, "max_num_epochs": 1})]
    assert main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert len(told["members"]) == 2 and told["calibration"]["structures"] == 4
    assert "member 2 of 2, seed 124" in shown.err and "comes from 4 numbers and is uncertain by" in shown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"committee": 1}, "--committee is 1; expected at least 2"),
        ({"dry_run": True}, "--dry_run of a --committee"),
        ({"target": "mu"}, "--committee is of potentials"),
        ({"foundation_model": "mace-mp-0a-small"}, "--committee with --foundation_model"),
        ({"seed": 2**63 - 1}, "2\\^63"),
        ({"valid_seed": -1, "committee": None}, "--valid_seed is -1"),
        ({"valid_seed": 1, "valid_file": "x.xyz", "valid_fraction": 0.1}, "--valid_seed 1 would do nothing"),
    ],
)
def test_trainings_that_can_not_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(train_file="a.xyz", **({"committee": 2} | options))


def test_trainers_are_told_apart(files: tuple[Path, Path], tmp_path: Path) -> None:
    from mlip.training.train import train

    with pytest.raises(InputError, match="train_committee"):
        train(config(files, tmp_path))
    with pytest.raises(InputError, match="needs a committee"):
        train_committee(config(files, tmp_path, committee=None))
    assert module.member_configs(config(files, tmp_path))[1].name == "mlip"


# --- MD


def md(calculator: MLIPCalculator, steps: int = 20, **options: Any) -> MDResult:
    settings = MDSettings(ensemble="nve", temperature=1500.0, interval=4, seed=2)
    return run_md(crystal(), calculator, settings, steps=steps, **options)


@pytest.fixture(scope="module")
def committee() -> MLIPCalculator:
    return MLIPCalculator(Committee(MEMBERS, None, FACTORS))


@pytest.fixture(scope="module")
def by_hand(committee: MLIPCalculator, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Largest calibrated deviation at each step, from a trajectory with every step."""
    path = tmp_path_factory.mktemp("md") / "every.traj"
    settings = MDSettings(ensemble="nve", temperature=1500.0, interval=1, seed=2)
    run_md(crystal(), committee, settings, steps=20, trajectory=path)
    found = committee.evaluate(read(path, ":"))
    return [float(3 * np.linalg.norm(result["forces_std"], axis=1).max()) for result in found]


def test_md_tells_the_deviation(committee: MLIPCalculator, by_hand: list[float]) -> None:
    result = md(committee)
    assert result.max_deviation == pytest.approx(max(by_hand), rel=1e-6) and result.deviation_calibrated
    np.testing.assert_allclose(result.log["max_deviation_eV_per_A"], by_hand[::4], rtol=1e-6)
    assert result.flagged is None and result.stopped is None
    raw = md(MLIPCalculator(list(MEMBERS)))
    assert raw.max_deviation == pytest.approx(max(by_hand) / 3, rel=1e-6) and raw.deviation_calibrated is False
    single = md(MLIPCalculator(MEMBERS[0]))
    assert single.max_deviation is None and "max_deviation_eV_per_A" not in single.log


def test_md_stops_and_goes_on(committee: MLIPCalculator, by_hand: list[float], tmp_path: Path) -> None:
    limit = sorted(by_hand)[-4] * 0.9999
    first = next(step for step, value in enumerate(by_hand) if value >= limit)
    assert 0 < first < 20
    path = tmp_path / "a.extxyz"
    stopped = md(committee, trajectory=path, limits=DeviationLimits(stop=limit))
    assert stopped.steps == first and stopped.stopped.startswith(f"step {first}: the calibrated deviation of the force")
    again = md(committee, trajectory=path, resume=True, limits=DeviationLimits(stop=limit))
    assert again.steps == first and again.stopped == stopped.stopped
    on = md(committee, trajectory=path, resume=True)
    whole = md(committee, trajectory=tmp_path / "b.extxyz")
    assert on.steps == 20 and on.stopped is None and on.max_deviation == whole.max_deviation
    assert path.read_text() == (tmp_path / "b.extxyz").read_text()
    with pytest.raises(InputError, match="only one of the models"):
        run_md(
            crystal(),
            MLIPCalculator(MEMBERS[0]),
            MDSettings(ensemble="nve", temperature=1500.0, interval=4, seed=2),
            steps=20,
            trajectory=_same_energy(path, MEMBERS[0]),
            resume=True,
        )


def _same_energy(path: Path, potential: Any) -> Path:
    """The run's state with the energy that one member gives, so that only the kind of the model differs."""
    state = path.with_name(path.name + ".state")
    with np.load(state) as file:
        arrays = dict(file)
    atoms = crystal()
    atoms.set_cell(arrays["cell"])
    atoms.set_positions(arrays["positions"])
    arrays["potential_energy"] = np.array(MLIPCalculator(potential).get_potential_energy(atoms))
    with open(state, "wb") as stream:
        np.savez(stream, **arrays)
    return path


def test_structures_are_set_aside_also_across_a_kill(
    committee: MLIPCalculator, by_hand: list[float], tmp_path: Path
) -> None:
    flag = float(np.median(by_hand))
    expected, last = [], -9
    for step, value in enumerate(by_hand):
        if value >= flag and step - last >= 4:
            expected.append(step)
            last = step
    whole = tmp_path / "whole.xyz"
    result = md(committee, trajectory=tmp_path / "a.traj", limits=DeviationLimits(flag=flag, file=whole))
    frames = read(whole, ":")
    assert [frame.info["step"] for frame in frames] == expected and result.flagged == len(expected) > 1
    for frame in frames:
        assert frame.calc is None and frame.info["calibrated"]
        assert frame.info["max_deviation_eV_per_A"] == pytest.approx(by_hand[frame.info["step"]], rel=1e-6)
        lengths = frame.arrays["MLIP_forces_deviation"]
        assert lengths.max() == pytest.approx(frame.info["max_deviation_eV_per_A"])
    parts, limits = tmp_path / "parts.xyz", DeviationLimits(flag=flag, file=tmp_path / "parts.xyz")
    with pytest.raises(RuntimeError, match="killed"):
        md(committee, trajectory=tmp_path / "b.traj", limits=limits, progress=_killed_at(expected[1] + 1))
    md(committee, trajectory=tmp_path / "b.traj", limits=limits, resume=True)
    assert parts.read_text() == whole.read_text()
    with pytest.raises(InputError, match="parts.xyz exists; replace it with --overwrite or take another name"):
        md(committee, trajectory=tmp_path / "c.traj", limits=limits)
    md(committee, steps=0, trajectory=tmp_path / "c.traj", limits=limits, overwrite=True)
    assert len(parts.read_text()) < len(whole.read_text())


def _killed_at(step: int) -> Any:
    def progress(done: int, total: int, note: str) -> None:
        if done == step:
            raise RuntimeError("killed")

    return progress


@pytest.mark.parametrize(
    ("limits", "single", "message"),
    [
        ({"stop": 1.0}, True, "stop_on_deviation: one model does not deviate from itself"),
        ({"flag": 1.0, "file": "f.xyz"}, True, "flag_deviation: one model"),
        ({"stop": 0.0}, False, "stop_on_deviation is 0"),
        ({"flag": float("nan"), "file": "f.xyz"}, False, "flag_deviation is nan"),
        ({"flag": 1.0}, False, "need each other"),
        ({"file": "f.xyz"}, False, "need each other"),
        ({"stop": 1.0, "flag": 1.0, "file": "f.xyz"}, False, "is not below stop_on_deviation"),
        ({"flag": 1.0, "file": "f.dat"}, False, r"ends in .traj, .xyz or .extxyz"),
        ({"flag": 1.0, "file": "md.traj"}, False, "flag_file is the trajectory"),
        ({"flag": 1.0, "file": "none/f.xyz"}, False, "there is no folder"),
    ],
)
def test_limits_that_can_not_be(
    limits: dict[str, Any], single: bool, message: str, committee: MLIPCalculator, tmp_path: Path
) -> None:
    if "file" in limits:
        limits = limits | {"file": tmp_path / limits["file"]}
    calculator = MLIPCalculator(MEMBERS[0]) if single else committee
    with pytest.raises(InputError, match=message):
        md(calculator, trajectory=tmp_path / "md.traj", limits=DeviationLimits(**limits))
    assert not list(tmp_path.iterdir())


def test_md_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Committee([trainable(0), trainable(1)], None, FACTORS).save(tmp_path / "c.safetensors")
    write(tmp_path / "s.xyz", crystal())
    flags = ["--flag_deviation", "1e-6", "--flag_file", str(tmp_path / "f.xyz"), "--stop_on_deviation", "2e-6"]
    words = ["md", str(tmp_path / "s.xyz"), "--model", str(tmp_path / "c.safetensors"), "--steps", "3", *flags]
    assert main([*words, "-o", str(tmp_path / "md.traj")]) == 3
    shown = capsys.readouterr()
    assert "calibrated" in shown.out and "structures set aside" in shown.out
    assert "stopped at step 0: the calibrated deviation of the force" in shown.err
    assert len(read(tmp_path / "f.xyz", ":")) == 1
