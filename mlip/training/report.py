"""What a run tells people before it trains: its data, labels, reference energies, model."""

from __future__ import annotations

from pathlib import Path

from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

from mlip.data.labels import PROPERTIES
from mlip.potential import Potential
from mlip.training.config import TrainingConfig
from mlip.training.setup import TrainingData


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


def quiet_console() -> Console:
    """A console that shows nothing."""
    return Console(quiet=True)
