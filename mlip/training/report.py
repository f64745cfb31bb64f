"""What a run tells people: data table, one line per validation, final table; and the log file for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

from mlip.data.labels import PROPERTIES
from mlip.potential import Potential
from mlip.training.config import TrainingConfig
from mlip.training.setup import TrainingData
from mlip.units import EV_PER_A3_TO_GPA

ERROR_COLUMNS = {
    "E rmse": "energy_rmse_meV_per_atom",
    "E mae": "energy_mae_meV_per_atom",
    "F rmse": "forces_rmse_meV_per_A",
    "F mae": "forces_mae_meV_per_A",
    "S rmse": "stress_rmse_GPa",
    "S mae": "stress_mae_GPa",
}
ERROR_UNITS = "E in meV/atom, F in meV/Å, S in GPa"


def data_table(data: TrainingData) -> Table:
    """How many structures of each set carry which label."""
    table = Table(title="Data", title_justify="left", title_style="bold")
    for column in ("set", "structures", "atoms", *PROPERTIES, "file"):
        table.add_column(column, justify="left" if column in ("set", "file") else "right")
    for name, part in data.sets.items():
        n_atoms = sum(len(s.atoms) for s in part.structures)
        counts = [str(part.count(label)) for label in PROPERTIES]
        table.add_row(name, str(len(part.structures)), str(n_atoms), *counts, Path(part.source).name)
    return table


def describe(config: TrainingConfig, data: TrainingData, potential: Potential) -> list[str]:
    """Lines about labels, reference energies, statistics and model."""
    keys, stats = data.keys, data.statistics
    E0s = ", ".join(f"{chemical_symbols[z]} {e:.6g}" for z, e in data.reference.E0s.items())
    found = ", ".join(f"{name} = {key}" for name in PROPERTIES if (key := getattr(keys, name)))
    n_parameters = sum(p.numel() for p in potential.parameters())
    scale = potential.energy_scale
    lines = [
        f"labels: {found}; the loss is about {', '.join(p for p in PROPERTIES if p in data.properties)}",
        f"E0s / eV: {E0s} ({data.reference.origin})",
        f"{stats.avg_num_neighbors:.1f} neighbors per atom within {config.r_max:g} Å, "
        f"forces {stats.forces_rms:.4g} eV/Å RMS; scale {scale.scale.item():.6g}, shift {scale.shift.item():.6g} eV",
        f"{config.model}, {config.feature_irreps()}, {n_parameters} parameters, {config.default_dtype}, "
        f"{potential.device}",
    ]
    missing = [
        f"{label} of {len(part.structures) - n} in {name}"
        for name, part in data.sets.items()
        for label in PROPERTIES
        if 0 < (n := part.count(label)) < len(part.structures)
    ]
    if missing:
        lines.append(f"missing labels have weight zero: {', '.join(missing)}")
    if data.n_isolated:
        lines.append(f"isolated atoms, which do not train: {data.n_isolated}")
    return lines


def validation_line(record: dict[str, Any], config: TrainingConfig, seconds_left: float, improved: bool) -> str:
    """One line about an epoch with its validation."""
    parts = [f"epoch {record['epoch']:{len(str(config.max_num_epochs))}d}/{config.max_num_epochs}"]
    parts.append(f"loss {record['loss']:.4g}  valid {record['valid_loss']:.4g}")
    units = (("energy", "meV/atom", 1e3), ("forces", "meV/Å", 1e3), ("stress", "GPa", EV_PER_A3_TO_GPA))
    for name, unit, factor in units:
        value = record.get(f"valid_{name}_rmse")
        if value is not None:
            parts.append(f"{name[0].upper()} {value * factor:.3g} {unit}")
    parts.append(f"lr {record['lr']:.2g}  {_clock(record['seconds'])} gone, {_clock(seconds_left)} left")
    return "  ".join(parts) + (" *" if improved else "")


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def errors_table(errors: dict[str, dict[str, Any]]) -> Table:
    """Root mean square and mean absolute errors per set."""
    table = Table(title=f"Errors ({ERROR_UNITS})", title_justify="left", title_style="bold")
    table.add_column("set")
    table.add_column("structures", justify="right")
    for column in ERROR_COLUMNS:
        table.add_column(column, justify="right")
    for name, values in errors.items():
        cells = [values[key] for key in ERROR_COLUMNS.values()]
        table.add_row(name, str(values["n"]), *["-" if cell is None else f"{cell:.4g}" for cell in cells])
    return table


def write_log(history: list[dict[str, Any]], path: Path) -> None:
    """The log as JSON lines, one per validation; a restarted run starts it from its checkpoint's history."""
    path.write_text("".join(json.dumps(record) + "\n" for record in history))


def append_log(record: dict[str, Any], path: Path) -> None:
    with open(path, "a") as stream:
        stream.write(json.dumps(record) + "\n")


def quiet_console() -> Console:
    """A console that shows nothing."""
    return Console(quiet=True)
