"""What the end of a run with --committee tells: tables for the console, and NAME_report.html."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

import mlip
from mlip.checkpoint import write_atomically
from mlip.committee import Calibration
from mlip.training.config import TrainingConfig
from mlip.training.deviation_plots import PANELS, deviation_panels, draw_deviations
from mlip.training.display import clock
from mlip.training.report_html import lines_of
from mlip.training.report_style import cards, escaped, figures, number, page, paragraph, section, table
from mlip.training.task import Errors, Pairs

if TYPE_CHECKING:
    from mlip.training.train import TrainingResult

_ERRORS = {
    "E RMSE meV/atom": "energy_rmse_meV_per_atom",
    "F RMSE meV/Å": "forces_rmse_meV_per_A",
    "S RMSE GPa": "stress_rmse_GPa",
}
_NOTE = (
    "The factor is the ratio of the root mean squares of errors and deviations on the validation set. It multiplies "
    "the deviations of the members about their mean, which makes them errors to be expected. The rank correlation is "
    "Spearman's, of absolute errors and deviations (of forces by atom). Of Gaussian errors 68 % would be below one and "
    "95 % below two calibrated deviations."
)


def _judged(errors: Errors) -> str:
    return "test" if "test" in errors else "valid"


def _member_rows(results: Sequence[TrainingResult], errors: Errors) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows: the members, and the mean of them all."""
    name = _judged(errors)
    columns = {heading: key for heading, key in _ERRORS.items() if errors[name][key] is not None}
    rows: list[list[Any]] = [
        [
            f"member {k}",
            result.potential.metadata.get("config", {}).get("seed"),
            result.best_epoch,
            *(result.errors[name][key] for key in columns.values()),
        ]
        for k, result in enumerate(results, start=1)
    ]
    rows.append(["committee", None, None, *(errors[name][key] for key in columns.values())])
    return ["", "seed", "best epoch", *(f"{name}: {heading}" for heading in columns)], rows


def _deviation_rows(deviations: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[list[str], list[list[Any]]]:
    headings = ["", "set", "RMSE", "deviation", "ratio", "factor", "rank corr.", "< 1", "< 2"]
    rows: list[list[Any]] = []
    for quantity, (_, unit, factor) in PANELS.items():
        for name, by_quantity in deviations.items():
            if (found := by_quantity.get(quantity)) is None:
                continue
            parts = [None if found[k] is None else f"{100 * found[k]:.0f} %" for k in ("within_1", "within_2")]
            rows.append(
                [
                    f"{quantity[0].upper()} {unit}",
                    name,
                    factor * found["rmse"],
                    factor * found["deviation"],
                    found["ratio"],
                    found["factor"],
                    found["rank_correlation"],
                    *parts,
                ]
            )
    if set(deviations) == {""}:  # one set without a name
        return [headings[0], *headings[2:]], [[row[0], *row[2:]] for row in rows]
    return headings, rows


def members_table(results: Sequence[TrainingResult], errors: Errors) -> Table:
    """Errors of each member and of their mean, on the test set, else on the validation set."""
    return _console_table("Members", *_member_rows(results, errors))


def calibration_table(deviations: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Errors beside deviations by property and set."""
    return _console_table("Deviations and errors of the committee", *_deviation_rows(deviations))


def _console_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold")
    for k, heading in enumerate(headings):
        made.add_column(heading, justify="left" if k == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, str) else number(cell) for cell in row))
    return made


def write_committee_report(
    config: TrainingConfig,
    results: Sequence[TrainingResult],
    pairs: Pairs,
    calibration: Calibration,
    errors: Errors,
    deviations: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> Path:
    """Write NAME_report.html, which loads nothing; with `--no_plot` without pictures. The members have their own."""
    name = _judged(errors)
    values = [
        (f"{name}: energy RMSE", errors[name]["energy_rmse_meV_per_atom"], "meV/atom"),
        (f"{name}: force RMSE", errors[name]["forces_rmse_meV_per_A"], "meV/Å"),
        ("factor of the energy", calibration.energy, ""),
        ("factor of the forces", calibration.forces, ""),
    ]
    numbers = [(title, number(value), unit) for title, value, unit in values if value is not None]
    numbers.append(("training", clock(sum(result.seconds for result in results)), ""))
    pictures = _pictures(pairs, calibration) if config.plot else []
    date = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    reports = [(f"member {k}", f"{config.name}_member-{k}/{r.report.name}") for k, r in enumerate(results, start=1)]
    about = f"committee of {len(results)} {config.model} trained with mlip {mlip.__version__}, {date}"
    parts = [
        f"<h1>{escaped(config.name)}</h1>",
        paragraph(about, soft=True),
        cards(numbers),
        section("Members", table(*_member_rows(results, errors), whole=[len(results)])),
        section("Errors against deviations", figures(pictures), table(*_deviation_rows(deviations))),
        paragraph(_NOTE, soft=True),
        section("Reports of the members", table(["", "file"], reports)),
        section("To do it again", f"<pre>{lines_of(config.command(portable=False))}</pre>"),
    ]
    path = config.file("_report.html")
    write_atomically(path, page(f"{config.name}: report of the committee", "\n".join(parts)).encode())
    return path


def _pictures(pairs: Pairs, calibration: Calibration) -> list[str]:
    """SVG of errors against deviations, of what did not train."""
    from mlip.training.report_figures import INK, new_figure, svg_of

    sets = {name: part for name, part in pairs.items() if name != "train"}
    pictures = []
    for quantity, by_set in deviation_panels(sets, calibration).items():
        figure, axes = new_figure(height=3.6)
        draw_deviations(axes, quantity, by_set, getattr(calibration, quantity) is not None, ink=INK)
        pictures.append(svg_of(figure, f"deviations {quantity}"))
    return pictures
