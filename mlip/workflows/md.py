"""Molecular dynamics: nve, nvt, npt; deterministic, resumable, and loud when something goes wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary
from numpy.typing import NDArray

from mlip.errors import InputError, MLIPError
from mlip.units import EV_PER_A3_TO_GPA
from mlip.workflows.evaluation import Progress, is_crystal, prepare, require_finite
from mlip.workflows.md_deviation import COLUMN as DEVIATION_COLUMN
from mlip.workflows.md_deviation import DeviationLimits, DeviationWatch
from mlip.workflows.md_extrapolation import ExtrapolatedSteps, check_stop
from mlip.workflows.md_files import LogFile, TrajectoryFile, load_state, save_state
from mlip.workflows.md_integrators import (
    MDSettings,
    conserved_energy,
    inner_state,
    make_integrator,
    restore_inner_state,
    rests,
    temperature,
    thermal_momenta,
)
from mlip.workflows.results import Result, hidden

COLUMNS = ("step", "time_fs", "temperature_K", "potential_eV", "kinetic_eV", "total_eV", "conserved_eV", "volume_A3")
NPT_COLUMNS = (*COLUMNS, "pressure_GPa")
EXTRAPOLATION_COLUMN = "extrapolated_steps"
"""Of models that know the range of their training set: steps up to here with atoms outside of it."""
_EXPLODED = 20.0, 10_000.0
"""A run is stopped above this many times the target temperature, and this many K."""
_SAME_ENERGY = 1e-4
"""Difference in eV/atom up to which a resumed run takes the calculator for that of the earlier run."""


@dataclass(frozen=True)
class MDResult(Result):
    """Outcome of `run_md`; means and drift are over the second half of the run, energies in eV.

    Attributes:
        ensemble: nve, nvt or npt.
        n_atoms: number of atoms.
        steps: steps done, those before a resume included.
        time_ps: simulated time.
        energy: total energy at the end.
        temperature: K at the end.
        temperature_mean: K.
        temperature_std: K.
        drift: fitted slope of the conserved quantity per atom, eV/atom/ps (whole run); None if too short.
        pressure_mean: GPa, npt only.
        volume_mean: Å³, crystals only.
        frames: frames in the trajectory.
        resumed_from: step at which this call took over, None for a new run.
        extrapolated_steps: steps with atoms outside the range of the model's training set, the first structure (step 0)
            among them; None of a model that has no such range.
        max_deviation: of a committee the largest deviation of the force on an atom so far, eV/Å, step 0 included; None
            of one model.
        deviation_calibrated: whether that is calibrated.
        flagged: structures set aside, None if none were to be.
        stopped: why the run ended early, None if it did not.
        trajectory: file, None if none was asked for.
        log: one array per column of the log.
        atoms: final structure with velocities.
    """

    ensemble: str
    n_atoms: int
    steps: int
    time_ps: float
    energy: float
    temperature: float
    temperature_mean: float
    temperature_std: float
    drift: float | None
    pressure_mean: float | None
    volume_mean: float | None
    frames: int
    resumed_from: int | None
    trajectory: str | None
    extrapolated_steps: int | None
    max_deviation: float | None
    deviation_calibrated: bool | None
    flagged: int | None
    stopped: str | None
    log: dict[str, NDArray[np.float64]] = hidden()
    atoms: Atoms = hidden()


def run_md(
    atoms: Atoms,
    calculator: BaseCalculator,
    settings: MDSettings,
    *,
    steps: int,
    trajectory: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stop_on_extrapolation: int | None = None,
    limits: DeviationLimits = DeviationLimits(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> MDResult:
    """Run molecular dynamics up to step ``steps``; ``atoms`` is left as it is.

    Velocities of the structure are kept in nvt, npt, and in nve without temperature; else they are drawn
    from the Maxwell-Boltzmann distribution at exactly the temperature given.

    Args:
        atoms: initial structure; constraints are kept (not in npt).
        calculator: any ASE calculator.
        settings: ensemble, temperature, timestep, ...
        steps: total number of steps, counted from the start of the first run.
        trajectory: ``.traj`` or ``.xyz``/``.extxyz``; ``.log`` and ``.state`` files are kept beside it.
        resume: go on from the state file if there is one; the result equals that of an uninterrupted run.
        overwrite: replace an existing trajectory.
        stop_on_extrapolation: end the run at the first step at which at least so many symmetry functions, summed over
            the atoms, are outside the range of the training set (n2p2's `maxew` with `resetew yes`). Files are kept,
            and the run can be resumed.
        limits: likewise of the deviations of a committee, which may also set structures aside.
        progress: called with (step, steps, note).

    Raises:
        InputError: bad structure or settings; an existing trajectory; a state of other settings;
            `stop_on_extrapolation` for a model that knows no range, `limits` for one that is no committee.
        MLIPError: temperature or forces went out of all bounds.
        OSError: a file can't be written; all frames before are safe.
    """
    if steps < 0:
        raise InputError(f"steps must not be negative; got {steps}")
    settings.check(atoms)
    check_stop(stop_on_extrapolation, calculator)
    limits.check(calculator, trajectory)
    run = _Run(prepare(atoms, calculator), settings, trajectory, limits)
    resumed_from = run.start(resume, overwrite)
    if run.integrator.nsteps > steps:
        raise InputError(f"{trajectory} is already at step {run.integrator.nsteps}, beyond the {steps} asked for")
    for _ in run.integrator.irun(steps - run.integrator.nsteps):
        run.check()
        if run.integrator.nsteps == run.frames * settings.interval:
            run.record()
        if progress:
            progress(run.integrator.nsteps, steps, f"{temperature(run.atoms):.0f} K")
        reason = run.extrapolation.reason(stop_on_extrapolation) or run.deviation.reason()
        if reason:
            run.stopped = f"step {run.integrator.nsteps}: {reason}"
            break
    run.save()
    return run.result(resumed_from)


class _Run:
    """A run under way: the moving atoms, the integrator, the files."""

    def __init__(self, atoms: Atoms, settings: MDSettings, trajectory: Path | None, limits: DeviationLimits) -> None:
        self.atoms = atoms
        self.own_constraints = list(atoms.constraints)
        self.settings = settings
        self.rng = np.random.default_rng(settings.seed)
        self.frames = 0
        self.rows: list[tuple[float, ...]] = []
        self.extrapolation = ExtrapolatedSteps(atoms.calc)
        self.deviation = DeviationWatch(atoms.calc, limits, settings.interval)
        self.stopped: str | None = None
        self.columns = NPT_COLUMNS if settings.ensemble == "npt" else COLUMNS
        if self.extrapolation.possible:
            self.columns = (*self.columns, EXTRAPOLATION_COLUMN)
        if self.deviation.possible:
            self.columns = (*self.columns, DEVIATION_COLUMN)
        self.trajectory = TrajectoryFile(trajectory) if trajectory else None
        self.log = LogFile(trajectory.with_name(trajectory.name + ".log"), self.columns) if trajectory else None
        self.state = trajectory.with_name(trajectory.name + ".state") if trajectory else None
        self.integrator: MolecularDynamics

    def start(self, resume: bool, overwrite: bool) -> int | None:
        """Prepare velocities, integrator and files, afresh or from the state; returns the step resumed from."""
        if self.settings.ensemble == "nvt" and rests(self.atoms):
            self.atoms.set_constraint(FixCom())
        if resume and self.state is not None and self.state.exists():
            self._restore(self.state, overwrite)
            return int(self.integrator.nsteps)
        if self.trajectory and self.trajectory.path.exists() and self.trajectory.path.stat().st_size and not overwrite:
            how = "there is no state to resume from" if resume else "resume it (--resume)"
            raise InputError(f"{self.trajectory.path} exists: {how}; replace it with --overwrite or take another name")
        self.deviation.start(overwrite)
        self._draw_velocities()
        self.integrator = make_integrator(self.atoms, self.settings, self.rng)
        for file in (self.trajectory, self.log):
            if file:
                file.path.parent.mkdir(parents=True, exist_ok=True)
                file.rewind({"size": 0, "header": ""})
        self.save()
        return None

    def _draw_velocities(self) -> None:
        wanted = self.settings.temperature
        keep = wanted is None or (self.settings.ensemble != "nve" and self.atoms.get_kinetic_energy() > 0)
        if not keep:
            self.atoms.set_momenta(thermal_momenta(self.atoms, wanted or 0.0, self.rng))
        if rests(self.atoms):
            Stationary(self.atoms, preserve_temperature=False)
        if not keep and wanted:
            self.atoms.set_momenta(self.atoms.get_momenta() * np.sqrt(wanted / temperature(self.atoms)))

    def _restore(self, path: Path, overwrite: bool) -> None:
        """Take up the state of an earlier run and cut its files back to it."""
        arrays, values = load_state(path)
        former = values["settings"]
        changed = [
            f"{key} was {former.get(key)}, is {now}"
            for key, now in asdict(self.settings).items()
            if former.get(key) != now
        ]
        if not np.array_equal(arrays["numbers"], self.atoms.numbers):
            changed.append("the structure has other atoms")
        if changed:
            raise InputError(f"can't resume from {path}: {'; '.join(changed)}")
        self.atoms.set_cell(arrays["cell"])
        self.atoms.set_positions(arrays["positions"], apply_constraint=False)
        self.atoms.set_momenta(arrays["momenta"], apply_constraint=False)
        now, then = self._potential_energy(), float(arrays["potential_energy"])
        if abs(now - then) > _SAME_ENERGY * len(self.atoms):
            raise InputError(
                f"can't resume from {path}: the energy was {then:.6f} eV and is {now:.6f} eV for the same structure; "
                "take the model that the run began with"
            )
        assert self.trajectory and self.log
        self.trajectory.rewind(values["trajectory"])
        self.log.rewind(values["log"])
        self.rows = self.log.rows()
        self.frames = values["frames"]
        self.extrapolation.restore(values)
        self.deviation.restore(values, overwrite)
        self.rng.bit_generator.state = values["rng"]
        self.integrator = make_integrator(self.atoms, self.settings, self.rng)
        restore_inner_state(self.integrator, self.settings, arrays)
        self.integrator.nsteps = values["step"]

    def _potential_energy(self) -> float:
        self.atoms.get_forces()  # first, so that one evaluation gives both
        return float(self.atoms.get_potential_energy())

    def save(self) -> None:
        """Write the state, if the run has files."""
        if not (self.state and self.trajectory and self.log):
            return
        arrays = {
            "numbers": self.atoms.numbers,
            "positions": self.atoms.positions,
            "momenta": self.atoms.get_momenta(),
            "cell": np.array(self.atoms.cell),
            "potential_energy": np.array(self._potential_energy()),
        }
        values = {
            "step": self.integrator.nsteps,
            "frames": self.frames,
            "settings": asdict(self.settings),
            "rng": self.rng.bit_generator.state,
            "trajectory": self.trajectory.mark(),
            "log": self.log.mark(),
            **self.extrapolation.state(),
            **self.deviation.state(),
        }
        save_state(self.state, arrays | inner_state(self.integrator, self.settings), values)

    def check(self) -> None:
        """Stop a run that has gone astray."""
        step = self.integrator.nsteps
        require_finite(self.atoms.get_forces(apply_constraint=False), f"at step {step}")
        self.extrapolation.count(step)
        self.deviation.look(self.atoms, step, step * self.settings.timestep)
        factor, floor = _EXPLODED
        now, limit = temperature(self.atoms), max(floor, factor * (self.settings.temperature or 0.0))
        if not now < limit:
            raise MLIPError(
                f"the temperature exploded to {now:.3g} K at step {step}; relax the structure first, take a smaller "
                f"timestep (now {self.settings.timestep} fs), or a model that knows such structures"
            )

    def record(self) -> None:
        """Add the present moment to trajectory and log, then save the state."""
        row = self._row()
        if self.trajectory and self.log:
            try:
                self.trajectory.append_frame(self._frame())
                self.log.append_row(row)
                self.frames += 1
                self.save()
            except OSError as error:
                kept = (
                    f"the frames up to step {self.rows[-1][0]:.0f} are safe" if self.rows else "no frame is written yet"
                )
                reason = f"{error.strerror}; {kept}, make room and resume"
                raise OSError(error.errno, reason, error.filename) from error
        else:
            self.frames += 1
        self.rows.append(row)

    def _row(self) -> tuple[float, ...]:
        atoms, step = self.atoms, self.integrator.nsteps
        potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
        volume = float(atoms.get_volume()) if is_crystal(atoms) else float("nan")
        row = (
            *(step, step * self.settings.timestep, temperature(atoms), potential, kinetic, potential + kinetic),
            *(conserved_energy(self.integrator), volume),
        )
        pressure = (self._pressure(),) if self.settings.ensemble == "npt" else ()
        outside = (self.extrapolation.steps,) if self.extrapolation.possible else ()
        return (*row, *pressure, *outside, *((self.deviation.last,) if self.deviation.possible else ()))

    def _pressure(self) -> float:
        stress = self.atoms.get_stress(voigt=False, include_ideal_gas=True)
        return float(-np.trace(stress) / 3 * EV_PER_A3_TO_GPA)

    def _frame(self) -> Atoms:
        """The present structure with its energy and forces (npt: stress), wearing its own constraints only."""
        frame = self.atoms.copy()
        frame.set_constraint(self.own_constraints)
        results: dict[str, Any] = {
            "energy": self.atoms.get_potential_energy(),
            "forces": self.atoms.get_forces(apply_constraint=False),
        }
        if self.settings.ensemble == "npt":
            results["stress"] = self.atoms.get_stress()
        frame.info |= {"step": int(self.integrator.nsteps), "time_fs": self.integrator.nsteps * self.settings.timestep}
        frame.calc = SinglePointCalculator(frame, **results)
        return frame

    def result(self, resumed_from: int | None) -> MDResult:
        """Sum up the run from its log."""
        table = np.array(self.rows).reshape(-1, len(self.columns))
        log = dict(zip(self.columns, table.T, strict=True))
        late = {name: values[len(values) // 2 :] for name, values in log.items()}
        final = self.atoms.copy()
        final.set_constraint(self.own_constraints)
        return MDResult(
            ensemble=self.settings.ensemble,
            n_atoms=len(final),
            steps=int(self.integrator.nsteps),
            time_ps=self.integrator.nsteps * self.settings.timestep / 1000,
            energy=float(self.atoms.get_total_energy()),
            temperature=temperature(self.atoms),
            temperature_mean=float(late["temperature_K"].mean()),
            temperature_std=float(late["temperature_K"].std()),
            drift=_slope(log["time_fs"] / 1000, log["conserved_eV"] / len(final)),
            pressure_mean=float(late["pressure_GPa"].mean()) if "pressure_GPa" in late else None,
            volume_mean=float(late["volume_A3"].mean()) if is_crystal(final) else None,
            frames=self.frames,
            resumed_from=resumed_from,
            trajectory=str(self.trajectory.path) if self.trajectory else None,
            extrapolated_steps=self.extrapolation.steps if self.extrapolation.possible else None,
            max_deviation=self.deviation.largest if self.deviation.possible else None,
            deviation_calibrated=self.deviation.calibrated if self.deviation.possible else None,
            flagged=self.deviation.flagged if self.deviation.limits.file else None,
            stopped=self.stopped,
            log=log,
            atoms=final,
        )


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """Least-squares slope; None with fewer than three points."""
    if len(x) < 3:
        return None
    return float(np.polyfit(x - x.mean(), y - y.mean(), 1)[0])
