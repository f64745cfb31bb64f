"""A property model is trained: one number, or a dipole vector, per structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mlip.data.batches import batches
from mlip.data.property_metrics import (
    labels_of,
    predict_property,
    property_errors,
    property_errors_by_group,
)
from mlip.data.weights import DEFAULT_GROUP
from mlip.property_model import PropertyModel
from mlip.training.architectures import Shown, in_words
from mlip.training.config import TrainingConfig
from mlip.training.error_tables import printable
from mlip.training.module import TrainingModule
from mlip.training.plots import draw_panels, property_panels
from mlip.training.property_data import PropertyRunData, load_property_data
from mlip.training.property_module import PropertyModule
from mlip.training.property_setup import build_property_model
from mlip.training.report_numbers import Outcome
from mlip.training.setup import device_of
from mlip.training.task import Errors, Groups, Pairs, Task

#: Headings of the table of errors and keys of `property_errors`.
COLUMNS = (("MAE", "mae"), ("RMSE", "rmse"), ("largest", "largest"), ("std of labels", "std"))


@dataclass(frozen=True)
class PropertyTask(Task):
    """Data with a property, and the model that learns it."""

    data: PropertyRunData
    model: PropertyModel

    @classmethod
    def of(cls, config: TrainingConfig, shown: Shown) -> PropertyTask:
        """Reads the data, builds the model."""
        data = load_property_data(config)
        return cls(config, data, build_property_model(config, data, shown).to(device_of(config)))

    def introduction(self) -> list[RenderableType]:
        return [_data_table(self.data), *map(printable, self._lines())]

    def _lines(self) -> list[str]:
        config, learned, standard = self.config, self.data.learned, self.data.standard
        how = {"sum": "the sum of the atoms' numbers", "mean": "the mean of the atoms' numbers"}
        vectors = " and atomic dipoles" if len(getattr(self.model.model, "vectors", ())) else ""
        how |= {"dipole": f"charges{vectors}", "dipole_norm": f"the length of a dipole of charges{vectors}"}
        lines = [f"target: {learned.label} ({self.data.key}), {how[learned.readout]}"]
        if not learned.is_dipole:
            shifts = ", ".join(f"{chemical_symbols[z]} {shift:.6g}" for z, shift in standard.shifts.items())
            lines.append(f"added for each atom: {shifts} ({standard.origin})")
        n_parameters = sum(p.numel() for p in self.model.parameters())
        return [
            *lines,
            f"{self.data.avg_num_neighbors:.1f} neighbors per atom within {config.r_max:g} Å; scale "
            f"{standard.scale:.6g}, errors count in units of {standard.spread:.4g} {learned.unit}".rstrip(),
            f"{in_words(config, self.model.model)}, {n_parameters} parameters, {config.default_dtype}, "
            f"{self.model.device}",
            *self.data.remarks,
        ]

    def module(self) -> TrainingModule:
        return PropertyModule(self.model, self.config, self.data.standard.spread, self.data.plan.steps)

    def predictions(self) -> Pairs:
        size = self.config.valid_batch_size
        return {
            name: list(zip(part.structures, predict_property(self.model, batches(part.samples, size)), strict=True))
            for name, part in self.data.sets.items()
        }

    def errors(self, pairs: Pairs) -> tuple[Errors, Groups]:
        errors = {name: property_errors(part) for name, part in pairs.items()}
        return errors, {name: property_errors_by_group(part) for name, part in pairs.items()}

    def error_table(self, errors: Errors, groups: Groups) -> RenderableType:
        table = Table(title=f"Errors of {self.data.learned.label}", title_justify="left", title_style="bold")
        for column in ("set", "config_type", "structures", *(title for title, _ in COLUMNS)):
            table.add_column(column, justify="left" if column in ("set", "config_type") else "right")
        for name, group, *cells in error_rows(errors, groups):
            table.add_row(name, Text(printable(group)), *(f"{cell:.4g}" for cell in cells))
        return table

    def plot_parity(self, pairs: Pairs, path: Path) -> None:
        draw_panels(property_panels(self.data.learned, pairs), path)

    def write_report(self, outcome: Outcome, path: Path) -> Path:
        from mlip.training.property_report import write_property_report

        return write_property_report(self, outcome, path)

    def provenance(self) -> Mapping[str, Any]:
        learned = self.data.learned
        return {"target": {"name": learned.name, "unit": learned.unit, "key": self.data.key}}


def error_rows(errors: Errors, groups: Groups) -> list[tuple[Any, ...]]:
    """Set, config_type, number of structures and the errors of `COLUMNS`."""
    rows: list[tuple[Any, ...]] = []
    for name, values in errors.items():
        parts = {"all": values} | (groups[name] if len(groups.get(name, {})) > 1 else {})
        rows += [
            (name, group or DEFAULT_GROUP, part["n"], *(part[key] for _, key in COLUMNS))
            for group, part in parts.items()
        ]
    return rows


def _data_table(data: PropertyRunData) -> Table:
    table = Table(title="Data", title_justify="left", title_style="bold")
    for column in ("set", "structures", "atoms", f"mean {data.learned.label}", "std", "file"):
        table.add_column(column, justify="left" if column in ("set", "file") else "right", overflow="fold")
    for name, part in data.sets.items():
        values = labels_of([(s, s.value) for s in part.structures if s.value is not None])
        mean = " ".join(f"{m:.4g}" for m in values.mean(axis=0))
        atoms = sum(len(s.atoms) for s in part.structures)
        cells = [name, str(len(part.structures)), str(atoms), mean, f"{values.std():.4g}", Path(part.source).name]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
