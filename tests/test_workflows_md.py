from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read
from stillinger_weber import silicon, stillinger_weber

from mlip.errors import InputError, MLIPError
from mlip.workflows.md import run_md
from mlip.workflows.md_integrators import MDSettings

ENSEMBLES = ["nve", "nvt", "npt"]
SUFFIXES = [".traj", ".extxyz"]


def settings(ensemble: str = "nvt", **options) -> MDSettings:
    return MDSettings(**{"ensemble": ensemble, "temperature": 600.0, "interval": 5, "seed": 3} | options)


def assert_same_run(left: Path, right: Path) -> None:
    ours, theirs = read(left, ":"), read(right, ":")
    assert [frame.info["step"] for frame in ours] == [frame.info["step"] for frame in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert np.allclose(one.positions, other.positions, rtol=0, atol=1e-10)
        assert np.allclose(one.get_velocities(), other.get_velocities(), rtol=0, atol=1e-10)
        assert np.allclose(one.get_forces(), other.get_forces(), rtol=0, atol=1e-8)
        assert np.allclose(one.cell, other.cell, rtol=0, atol=1e-10)
    logs = [Path(f"{path}.log").read_text().splitlines() for path in (left, right)]
    assert [line.split()[0] for line in logs[0]] == [line.split()[0] for line in logs[1]]


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_conserved_quantity_is_conserved(ensemble):
    start = silicon() * (2, 1, 1)
    before = start.copy()
    result = run_md(start, stillinger_weber(), settings(ensemble), steps=200)
    conserved = result.log["conserved_eV"] / result.n_atoms
    assert np.ptp(conserved) < 1e-3
    assert np.ptp(result.log["total_eV"]) < (0.02 if ensemble == "nve" else np.inf)
    assert result.frames == 41 and result.steps == 200
    assert start == before and start.calc is None


def test_time_reversal_of_nve():
    start = silicon()
    forward = run_md(start, stillinger_weber(), settings("nve"), steps=50).atoms
    forward.set_velocities(-forward.get_velocities())
    back = run_md(forward, stillinger_weber(), settings("nve", temperature=None), steps=50).atoms
    assert np.allclose(back.positions, start.positions, atol=1e-9)


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_the_thermostat_holds_the_temperature(ensemble):
    """Of the 3N - 3 = 9 degrees of freedom; with 12 the kinetic energy would be a third too large."""
    start = bulk("Cu", a=3.65, cubic=True)
    result = run_md(start, EMT(), settings(ensemble, temperature=500, thermostat_time=20, timestep=3.0), steps=1500)
    kinetic = result.log["kinetic_eV"][50:].mean()
    assert 2 * kinetic / ((3 * len(start) - 3) * units.kB) == pytest.approx(500, rel=0.1)
    assert np.abs(result.atoms.get_momenta().sum(axis=0)).max() < 1e-8


def test_npt_meets_the_pressure():
    start = bulk("Cu", a=3.6, cubic=True) * (2, 2, 1)
    options = {"temperature": 300.0, "pressure": 5.0, "thermostat_time": 50.0, "barostat_time": 100.0, "timestep": 3.0}
    result = run_md(start, EMT(), settings("npt", **options), steps=500)
    assert result.pressure_mean == pytest.approx(5.0, abs=1.0)
    assert result.volume_mean < start.get_volume()


def test_the_seed_decides():
    runs = [run_md(silicon(), stillinger_weber(), settings(seed=seed), steps=10).atoms.positions for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1]) and not np.allclose(runs[0], runs[2])


def test_velocities_of_the_structure_are_kept():
    hot = run_md(silicon(), stillinger_weber(), settings("nve", temperature=900), steps=20).atoms
    result = run_md(hot, stillinger_weber(), settings("nve", temperature=None), steps=0)
    assert np.allclose(result.atoms.get_velocities(), hot.get_velocities(), atol=1e-12)


def test_frames_carry_no_labels_of_the_structure(tmp_path):
    start = silicon()
    start.info["REF_energy"] = 1.0
    start.set_array("REF_forces", np.ones((8, 3)))
    start.set_tags(range(8))
    run_md(start, stillinger_weber(), settings(), steps=5, trajectory=tmp_path / "run.extxyz")
    for frame in read(tmp_path / "run.extxyz", ":"):
        assert "REF_energy" not in frame.info and "REF_forces" not in frame.arrays
        assert frame.get_tags().tolist() == list(range(8))
        assert np.isfinite(frame.get_potential_energy()) and frame.get_forces().shape == (8, 3)


def test_initial_temperature_is_exact_and_at_rest():
    result = run_md(silicon(), stillinger_weber(), settings("nve", temperature=450), steps=0)
    assert result.log["temperature_K"][0] == pytest.approx(450)
    assert np.allclose(result.atoms.get_momenta().sum(axis=0), 0, atol=1e-12)


def test_constraints_hold_and_molecules_move():
    atoms = molecule("CO")
    atoms.set_constraint(FixAtoms([0]))
    result = run_md(atoms, EMT(), settings("nvt", temperature=100), steps=10)
    assert np.array_equal(result.atoms.positions[0], atoms.positions[0])
    assert not np.allclose(result.atoms.positions[1], atoms.positions[1])
    assert result.volume_mean is None


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_resumed_equals_uninterrupted(tmp_path, ensemble, suffix):
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    expected = run_md(silicon(), stillinger_weber(), settings(ensemble), steps=73, trajectory=whole)
    for steps in (0, 12, 40, 40, 73):
        result = run_md(silicon(), stillinger_weber(), settings(ensemble), steps=steps, trajectory=parts, resume=True)
    assert_same_run(whole, parts)
    assert result.frames == expected.frames == 15
    assert np.allclose(result.atoms.positions, expected.atoms.positions, rtol=0, atol=1e-10)
    assert np.allclose(result.log["conserved_eV"], expected.log["conserved_eV"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whatever_a_kill_leaves_behind_the_state_is_cut_off(tmp_path, suffix):
    """A kill between two states: the trajectory holds any number of bytes of later frames."""
    whole, run = tmp_path / f"whole{suffix}", tmp_path / f"run{suffix}"
    early = tmp_path / "early"
    run_md(silicon(), stillinger_weber(), settings(), steps=60, trajectory=whole)
    run_md(silicon(), stillinger_weber(), settings(), steps=20, trajectory=run)
    shutil.copytree(tmp_path, early)
    start = run.stat().st_size
    run_md(silicon(), stillinger_weber(), settings(), steps=40, trajectory=run, resume=True)
    later, later_log = run.read_bytes(), Path(f"{run}.log").read_bytes()
    for length in np.linspace(start, len(later), 7).astype(int):
        run.write_bytes(later[:length])
        Path(f"{run}.log").write_bytes(later_log[: len(later_log) - length % 7])
        shutil.copy(early / f"run{suffix}.state", tmp_path)
        run_md(silicon(), stillinger_weber(), settings(), steps=60, trajectory=run, resume=True)
        assert_same_run(whole, run)


CHILD = """
import sys
from pathlib import Path
from stillinger_weber import silicon, stillinger_weber
from mlip.workflows.md import run_md
from mlip.workflows.md_integrators import MDSettings
settings = MDSettings(ensemble=sys.argv[2], temperature=600.0, interval=5, seed=3)
run_md(silicon(), stillinger_weber(), settings, steps=300, trajectory=Path(sys.argv[1]), resume=True)
"""


@pytest.mark.parametrize(("ensemble", "suffix"), [("nvt", ".traj"), ("npt", ".extxyz")])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, ensemble, suffix):
    whole, killed = tmp_path / f"whole{suffix}", tmp_path / f"killed{suffix}"
    run_md(silicon(), stillinger_weber(), settings(ensemble), steps=300, trajectory=whole)
    root = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root.parent)])}
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", CHILD, killed, ensemble], env=environment)
    log = Path(f"{killed}.log")
    give_up = time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") > 8) and time.monotonic() < give_up:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    result = run_md(silicon(), stillinger_weber(), settings(ensemble), steps=300, trajectory=killed, resume=True)
    assert 0 < result.resumed_from < 300
    assert_same_run(whole, killed)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_full_disk_loses_nothing(tmp_path, suffix):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"full{suffix}"
    run_md(silicon(), stillinger_weber(), settings(), steps=60, trajectory=whole)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = whole.stat().st_size * 2 // 3
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # writes beyond fail as on a full disk
    try:
        with pytest.raises(OSError, match="are safe, make room and resume") as caught:
            run_md(silicon(), stillinger_weber(), settings(), steps=60, trajectory=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    frames = read(path, ":")
    assert 2 < len(frames) < 13
    for frame, expected in zip(frames, read(whole, ":"), strict=False):
        assert np.allclose(frame.positions, expected.positions)
    run_md(silicon(), stillinger_weber(), settings(), steps=60, trajectory=path, resume=True)
    assert_same_run(whole, path)


def test_an_existing_trajectory_is_not_replaced_by_accident(tmp_path):
    path = tmp_path / "run.traj"
    run_md(silicon(), stillinger_weber(), settings(), steps=5, trajectory=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="--resume.*--overwrite"):
        run_md(silicon(), stillinger_weber(), settings(), steps=5, trajectory=path)
    assert path.read_bytes() == before
    assert run_md(silicon(), stillinger_weber(), settings(), steps=10, trajectory=path, overwrite=True).frames == 3
    assert len(read(path, ":")) == 3


def test_resume_refuses_another_run(tmp_path):
    path = tmp_path / "run.traj"
    run_md(silicon(), stillinger_weber(), settings(), steps=10, trajectory=path)
    with pytest.raises(InputError, match=r"temperature was 600.0, is 700"):
        run_md(silicon(), stillinger_weber(), settings(temperature=700), steps=20, trajectory=path, resume=True)
    with pytest.raises(InputError, match="other atoms"):
        run_md(silicon() * (2, 1, 1), stillinger_weber(), settings(), steps=20, trajectory=path, resume=True)
    before = path.read_bytes()
    with pytest.raises(InputError, match="take the model that the run began with"):
        run_md(silicon(), LennardJones(), settings(), steps=20, trajectory=path, resume=True)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="already at step 10"):
        run_md(silicon(), stillinger_weber(), settings(), steps=5, trajectory=path, resume=True)
    path.write_bytes(b"short")
    with pytest.raises(InputError, match="can't resume"):
        run_md(silicon(), stillinger_weber(), settings(), steps=20, trajectory=path, resume=True)
    Path(f"{path}.state").write_bytes(b"nonsense")
    with pytest.raises(MLIPError, match="not the state"):
        run_md(silicon(), stillinger_weber(), settings(), steps=20, trajectory=path, resume=True)


class Exploding(Calculator):
    """Pushes every atom away from the origin, ever harder; forces turn to NaN if asked."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, nan: bool) -> None:
        super().__init__()
        self.nan = nan
        self.count = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.count += 1
        forces = 10 * self.atoms.positions * (np.nan if self.nan and self.count > 5 else 1)
        self.results = {"energy": 0.0, "forces": forces}


@pytest.mark.parametrize(("nan", "message"), [(False, "temperature exploded"), (True, "not finite at step")])
def test_a_run_gone_astray_is_stopped(tmp_path, nan, message):
    path = tmp_path / "run.traj"
    atoms = Atoms("Cu4", positions=np.eye(4)[:, :3] + 1)
    with pytest.raises(MLIPError, match=message):
        run_md(atoms, Exploding(nan), settings("nve", interval=1), steps=500, trajectory=path)
    assert np.isfinite(read(path, "-1").positions).all()


@pytest.mark.parametrize(
    ("atoms", "options", "message"),
    [
        (Atoms(), {}, "no atoms"),
        (silicon(), {"temperature": -1.0}, "temperature"),
        (silicon(), {"temperature": None}, "temperature"),
        (silicon(), {"timestep": 0.0}, "timestep"),
        (silicon(), {"timestep": float("nan")}, "timestep"),
        (silicon(), {"interval": 0}, "interval"),
        (silicon(), {"seed": -1}, "seed"),
        (silicon(), {"ensemble": "nph"}, "ensemble"),
        (silicon(), {"pressure": 1.0}, "npt"),
        (molecule("CO"), {"ensemble": "npt"}, "periodic"),
    ],
)
def test_bad_settings(atoms, options, message):
    with pytest.raises(InputError, match=message):
        run_md(atoms, EMT(), settings(**options), steps=1)


def test_bad_trajectory_name(tmp_path):
    with pytest.raises(InputError, match=r"\.traj"):
        run_md(silicon(), stillinger_weber(), settings(), steps=1, trajectory=tmp_path / "run.dcd")
