"""How far the members of a committee disagree along a run: it ends, or structures are set aside for labelling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from numpy.typing import NDArray

from mlip.errors import InputError
from mlip.workflows.md_files import TrajectoryFile

COLUMN = "max_deviation_eV_per_A"


@dataclass(frozen=True)
class DeviationLimits:
    """What a run does where the members of a committee disagree.

    All are about the largest deviation of the force on an atom, max_i |σ_i| in eV/Å with σ_i the deviations of its
    three components (Zhang et al., Phys. Rev. Materials 3, 023804 (2019)): calibrated where the committee is, else not.

    Attributes:
        stop: the run ends at the first step with so much or more.
        flag: structures with so much or more are written to `file`, at most one in `interval` steps.
        file: .xyz, .extxyz or .traj.
    """

    stop: float | None = None
    flag: float | None = None
    file: Path | None = None

    def check(self, calculator: BaseCalculator, trajectory: Path | None) -> None:
        """Refuse what can't be.

        Raises:
            InputError: naming the option.
        """
        for name, value in (("stop_on_deviation", self.stop), ("flag_deviation", self.flag)):
            if value is None:
                continue
            if not 0 < value < math.inf:
                raise InputError(f"{name} is {value}; expected a positive number of eV/Å")
            if not is_committee(calculator):
                raise InputError(
                    f"{name}: one model does not deviate from itself; take a committee (mlip train --committee), or "
                    "leave the option out"
                )
        if (self.flag is None) != (self.file is None):
            raise InputError("flag_deviation and flag_file need each other; give both or none of them")
        if self.flag is not None and self.stop is not None and self.flag >= self.stop:
            raise InputError(
                f"flag_deviation {self.flag:g} is not below stop_on_deviation {self.stop:g}, where the run ends; "
                "choose it smaller"
            )
        if self.file is not None:
            TrajectoryFile(self.file)
            if trajectory is not None and self.file.absolute() == trajectory.absolute():
                raise InputError(f"flag_file is the trajectory {trajectory}; take another name")
            if not self.file.absolute().parent.is_dir():
                raise InputError(f"flag_file: there is no folder {self.file.absolute().parent}")


def is_committee(calculator: BaseCalculator) -> bool:
    return bool(getattr(calculator, "has_deviations", False))


class DeviationWatch:
    """Looks at the deviation of each step, once also where a resumed run begins again with the step of its state.

    Attributes:
        possible: whether the calculator is a committee.
        calibrated: whether its deviations of forces are calibrated.
        last: largest deviation of the force on an atom at the step looked at last, eV/Å.
        largest: and of all steps so far.
        flagged: structures written.
    """

    def __init__(self, calculator: Any, limits: DeviationLimits, interval: int) -> None:
        self.calculator = calculator
        self.limits, self.interval = limits, interval
        self.possible = is_committee(calculator)
        self.calibrated = self.possible and calculator.calibration_of("forces") is not None
        self.last = self.largest = 0.0
        self.flagged = 0
        self._step, self._last_flag = -1, -1
        self._file = TrajectoryFile(limits.file) if limits.file else None

    def start(self, overwrite: bool) -> None:
        """Begin a file of structures.

        Raises:
            InputError: there is one already.
        """
        if self._file is None:
            return
        path = self._file.path
        if path.exists() and path.stat().st_size and not overwrite:
            raise InputError(f"{path} exists; replace it with --overwrite or take another name for --flag_file")
        self._file.rewind({"size": 0, "header": ""})

    def look(self, atoms: Atoms, step: int, time_fs: float) -> None:
        """Take in the calculator's last calculation, which is of these atoms at this step."""
        if not self.possible:
            return
        lengths = self._lengths(atoms)
        self.last = float(lengths.max())
        if step <= self._step:
            return
        self._step, self.largest = step, max(self.largest, self.last)
        stops = self.limits.stop is not None and self.last >= self.limits.stop
        rested = self._last_flag < 0 or step - self._last_flag >= self.interval
        if self._file and self.limits.flag is not None and self.last >= self.limits.flag and (rested or stops):
            self._file.append_frame(self._frame(atoms, lengths, step, time_fs))
            self.flagged, self._last_flag = self.flagged + 1, step

    def reason(self) -> str | None:
        """Why the run ends here, None if it does not."""
        if self.limits.stop is None or self.last < self.limits.stop:
            return None
        return f"the {self.kind} of the force on an atom is {self.last:.4g} eV/Å, the limit is {self.limits.stop:g}"

    @property
    def kind(self) -> str:
        return "calibrated deviation" if self.calibrated else "deviation (not calibrated)"

    def _lengths(self, atoms: Atoms) -> NDArray[np.float64]:
        name = "forces_uncertainty" if self.calibrated else "forces_std"
        return np.asarray(np.linalg.norm(self.calculator.get_property(name, atoms), axis=1))

    def _frame(self, atoms: Atoms, lengths: NDArray[np.float64], step: int, time_fs: float) -> Atoms:
        """The structure without a calculator: what the model predicts is no label."""
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        frame.info |= {"step": step, "time_fs": time_fs, COLUMN: self.last, "calibrated": self.calibrated}
        frame.info["MLIP_energy"] = float(self.calculator.get_property("energy", atoms))
        frame.arrays["MLIP_forces"] = np.array(self.calculator.get_property("forces", atoms))
        frame.arrays["MLIP_forces_deviation"] = lengths
        return frame

    def state(self) -> dict[str, Any]:
        """What a state file holds of it."""
        if not self.possible:
            return {"deviation": None}
        flags = None
        if self._file:
            flags = {"file": self._file.path.name, "mark": self._file.mark(), "written": self.flagged}
            flags["last"] = self._last_flag
        return {"deviation": {"step": self._step, "largest": self.largest, "flags": flags}}

    def restore(self, values: dict[str, Any], overwrite: bool) -> None:
        """Take up the state of an earlier run; structures that a kill left after it are cut off.

        Raises:
            InputError: the run began with a model of another kind; the file of structures is not that of the run.
        """
        stored = values.get("deviation")
        if (stored is not None) != self.possible:
            raise InputError("can't resume: only one of the models, that the run began with and this, is a committee")
        if stored is None:
            return
        self._step, self.largest = stored["step"], stored["largest"]
        flags = stored["flags"]
        if self._file is None:
            return
        if flags is None or flags["file"] != self._file.path.name:
            self.start(overwrite)
            return
        self._file.rewind(flags["mark"])
        self.flagged, self._last_flag = flags["written"], flags["last"]
