"""What a run tells people before it trains: its data, labels, reference energies, model."""

from __future__ import annotations

from pathlib import Path

from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlip.data.labels import KEYS, PROPERTIES
from mlip.potential import Potential
from mlip.training.architectures import in_words
from mlip.training.config import TrainingConfig
from mlip.training.data import TrainingData
from mlip.training.error_tables import printable

#: Rows by `config_type` for each set in the table on the terminal; the report has more.
MAX_GROUPS = 20


def data_table(data: TrainingData) -> Table:
    """How many structures of each set and `config_type` carry which label, and how many do not."""
    table = Table(title="Data", title_justify="left", title_style="bold")
    rows = {name: part.rows() for name, part in data.sets.items()}
    words = ("set", "config_type") if any(len(counts) > 1 for counts in rows.values()) else ("set",)
    for column in (*words, "structures", "atoms", *PROPERTIES, "file"):
        table.add_column(column, justify="left" if column in (*words, "file") else "right", overflow="fold")
    for name, part in data.sets.items():
        whole, *groups = rows[name]
        for row in (whole, *groups[:MAX_GROUPS]):
            first = [name if row is whole else "", row.group][: len(words)]
            cells = [*first, str(row.structures), str(row.atoms), *map(row.cell, PROPERTIES)]
            file = Path(part.source).name if row is whole else ""
            table.add_row(*(Text(printable(cell)) for cell in (*cells, file)))
        if len(groups) > MAX_GROUPS:
            table.add_row("", f"and {len(groups) - MAX_GROUPS} more")
    return table


def describe(config: TrainingConfig, data: TrainingData, potential: Potential) -> list[str]:
    """Lines about labels, reference energies, statistics and model."""
    keys, stats = data.keys, data.statistics
    E0s = ", ".join(f"{chemical_symbols[z]} {e:.8g}" for z, e in data.reference.E0s.items())
    found = ", ".join(f"{name} = {key}" for name in KEYS if (key := getattr(keys, name)))
    n_parameters = sum(p.numel() for p in potential.parameters())
    n_trained = sum(p.numel() for p in potential.parameters() if p.requires_grad)
    trained = "" if n_trained == n_parameters else f", {n_trained} of them trained"
    scale = potential.energy_scale
    lines = [
        f"labels: {found}; the loss is about {', '.join(p for p in PROPERTIES if p in data.properties)}",
        f"E0s / eV: {E0s} ({data.reference.origin})",
        f"{stats.avg_num_neighbors:.1f} neighbors per atom within {potential.cutoff:g} Å, "
        f"forces {stats.forces_rms:.4g} eV/Å RMS; scale {scale.scale.item():.6g}, shift {scale.shift.item():.6g} eV",
        f"{in_words(config, potential.model)}, {n_parameters} parameters{trained}, {config.default_dtype}, "
        f"{potential.device}",
    ]
    missing = [
        f"{label} of {len(part) - n} in {name}"
        for name, part in data.sets.items()
        for label in PROPERTIES
        if 0 < (n := part.count(label)) < len(part)
    ]
    if missing:
        lines.append(f"missing labels have weight zero: {', '.join(missing)}")
    if data.n_isolated:
        lines.append(f"isolated atoms, which do not train: {data.n_isolated}")
    return [printable(line) for line in (*lines, *data.remarks)]


def quiet_console() -> Console:
    """A console that shows nothing."""
    return Console(quiet=True)
