"""The table of errors at the end of a run, in mace's kinds: rows by set and `config_type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from mlip.data.weights import DEFAULT_GROUP
from mlip.errors import InputError
from mlip.training.forgetting import Forgetting
from mlip.units import EV_PER_A3_TO_GPA

Values = Mapping[str, float | int | None]

#: Heading, key of `Errors.as_dict`, factor; by the letters that the names of tables are made of.
_ENERGY = {"PerAtom": ("E {} meV/atom", "energy_{}_meV_per_atom", 1.0), "Total": ("E {} meV", "energy_{}_meV", 1.0)}
_FORCES = (("F {} meV/Å", "forces_{}_meV_per_A", 1.0), ("F {} %", "forces_{}_percent", 1.0))
_STRESS = (("S {} GPa", "stress_{}_GPa", 1.0), ("S {} meV/Å³", "stress_{}_GPa", 1e3 / EV_PER_A3_TO_GPA))
ERROR_TABLES = (
    "PerAtomRMSE",
    "TotalRMSE",
    "PerAtomMAE",
    "TotalMAE",
    "PerAtomRMSEstressvirials",
    "PerAtomMAEstressvirials",
)


def check_error_table(kind: str) -> None:
    """Raise `InputError` unless `kind` is a table that there is."""
    if kind in ERROR_TABLES:
        return
    why = "; dipoles and polarizabilities are not trained here" if "Dipole" in kind else ""
    raise InputError(f"--error_table {kind!r}: expected one of {', '.join(ERROR_TABLES)}{why}")


def columns_of(kind: str) -> list[tuple[str, str, float]]:
    """Heading with unit, key in `Errors.as_dict` and factor of each column of a table."""
    measure = "MAE" if "MAE" in kind else "RMSE"
    columns = [_ENERGY["Total" if kind.startswith("Total") else "PerAtom"], *_FORCES]
    if kind.endswith("stressvirials"):
        columns += _STRESS
    return [(title.format(measure), key.format(measure.lower()), factor) for title, key, factor in columns]


def default_table(errors: Mapping[str, Values]) -> str:
    """mace's default, with stresses where there are any."""
    stresses = any(values["stress_rmse_GPa"] is not None for values in errors.values())
    return "PerAtomRMSEstressvirials" if stresses else "PerAtomRMSE"


def table_rows(
    kind: str, errors: Mapping[str, Values], groups: Mapping[str, Mapping[str, Values]]
) -> list[tuple[str, str, int, list[float | None]]]:
    """Rows of set, config_type ("" for all of the set), number of structures and errors, in the units of the headings.

    Args:
        kind: one of `ERROR_TABLES`.
        errors: `Errors.as_dict` by set.
        groups: likewise by set and config_type; shown where a set has several.
    """
    columns = columns_of(kind)

    def row(name: str, group: str, values: Values) -> tuple[str, str, int, list[float | None]]:
        cells = [None if (value := values[key]) is None else value * factor for _, key, factor in columns]
        return name, group, int(values["n"] or 0), cells

    rows = []
    for name, values in errors.items():
        rows.append(row(name, "", values))
        parts = groups.get(name, {})
        if len(parts) > 1:
            rows += [row(name, group or DEFAULT_GROUP, part) for group, part in parts.items()]
    return rows


def error_table(kind: str, errors: Mapping[str, Values], groups: Mapping[str, Mapping[str, Values]]) -> Table:
    """The table for a console; names from files are text, whatever they hold."""
    table = Table(title=f"Errors ({kind})", title_justify="left", title_style="bold")
    rows = table_rows(kind, errors, groups)
    with_groups = any(group for _, group, _, _ in rows)
    table.add_column("set")
    if with_groups:
        table.add_column("config_type")
    for column in ("structures", *(title for title, _, _ in columns_of(kind))):
        words = column.rsplit(" ", 1)  # the unit on a line of its own
        table.add_column("\n".join(words), justify="right", no_wrap=True)
    for name, group, n, cells in rows:
        first: list[Any] = [name, *([Text(printable(group))] if with_groups else []), str(n)]
        table.add_row(*first, *["-" if cell is None else f"{cell:.4g}" for cell in cells])
    return table


def forgetting_table(forgetting: Forgetting, kind: str | None = None) -> Table:
    """Errors before and after fine-tuning, for a console; `kind` of `ERROR_TABLES`, None: as `default_table`."""
    rows = forgetting.rows()
    table = error_table(kind or default_table(rows), rows, {})
    table.title = Text(printable(forgetting.title), style="bold")
    table.columns[0].header = ""
    return table


def printable(text: str) -> str:
    """Text of a file with U+FFFD for all that would move the cursor, color the terminal or hide something."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
