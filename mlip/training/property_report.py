"""NAME_report.html of a run that learns a property, in the form of that of a potential."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import mlip
from mlip.checkpoint import write_atomically
from mlip.data.property_metrics import Pairs, errors_of_values
from mlip.data.weights import DEFAULT_GROUP
from mlip.training.display import clock
from mlip.training.report_html import again, curve_note, files_table, timing
from mlip.training.report_numbers import QUANTILES, Outcome, quantiles
from mlip.training.report_style import (
    MAX_ROWS,
    cards,
    columns,
    escaped,
    figures,
    number,
    page,
    paragraph,
    section,
    table,
)

if TYPE_CHECKING:
    from mlip.training.property_task import PropertyTask

#: Structures with large errors that are listed for each set.
WORST = 8


def write_property_report(task: PropertyTask, outcome: Outcome, path: Path) -> Path:
    """Write the report; with `--no_plot` without pictures."""
    write_atomically(path, property_report_html(task, outcome).encode())
    return path


def property_report_html(task: PropertyTask, outcome: Outcome) -> str:
    """The whole page."""
    config, data = task.config, task.data
    curves, parities = _pictures(task, outcome) if config.plot else ([], [])
    date = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    parts = [
        f"<h1>{escaped(config.name)}</h1>",
        paragraph(f"{data.learned.label}: {config.model} trained with mlip {mlip.__version__}, {date}", soft=True),
        _headline(task, outcome),
        section("Errors", _errors(task, outcome), _quantiles(task, outcome)),
        section("Learning curves", figures(curves), curve_note(outcome) if curves else ""),
        section("Parity", figures(parities)),
        section("Worst structures", *_worst(task, outcome)),
        section("Data", *_data(task)),
        section("Model", _model(task)),
        section("Time", timing(data, outcome)),
        section("To do it again", *again(config, task.model.device)),
    ]
    return page(f"{config.name}: training report", "\n".join(parts))


def _pictures(task: PropertyTask, outcome: Outcome) -> tuple[list[str], list[str]]:
    from mlip.training.plots import property_panels
    from mlip.training.report_figures import learning_curves, parity

    curves = learning_curves(outcome, task.module().validation_errors)
    return curves, parity(property_panels(task.data.learned, outcome.pairs))


def _headline(task: PropertyTask, outcome: Outcome) -> str:
    name = "test" if "test" in outcome.errors else "valid"
    errors, unit = outcome.errors[name], task.data.learned.unit
    epochs = max((record["epoch"] for record in outcome.history), default=0)
    return cards(
        [
            (f"{name}: MAE", number(errors["mae"]), unit),
            (f"{name}: RMSE", number(errors["rmse"]), unit),
            ("weights of epoch", str(outcome.best_epoch), f"of {epochs}"),
            ("training", clock(outcome.timing.total), ""),
        ]
    )


def _errors(task: PropertyTask, outcome: Outcome) -> str:
    from mlip.training.property_task import COLUMNS, error_rows

    headings = ["set", "config_type", "structures", *(f"{title} {task.data.learned.unit}" for title, _ in COLUMNS)]
    return table(headings, error_rows(outcome.errors, outcome.groups)[:MAX_ROWS])


def _quantiles(task: PropertyTask, outcome: Outcome) -> str:
    headings = ["set", *(f"{q} %" if q < 100 else "largest" for q in QUANTILES)]
    rows = [[name, *quantiles(_sizes(pairs))] for name, pairs in outcome.pairs.items()]
    return table(headings, rows, f"Absolute errors {task.data.learned.unit}, quantiles over structures")


def _sizes(pairs: Pairs) -> np.ndarray:
    """Sizes of the errors (n,), of vectors their lengths."""
    return np.asarray(np.linalg.norm(errors_of_values(pairs), axis=1))


def _worst(task: PropertyTask, outcome: Outcome) -> list[str]:
    headings = ["number", "formula", f"label {task.data.learned.unit}", "predicted", "config_type"]
    note = paragraph(
        "The structures with the largest errors. The number counts from 0 in the file. Errors far from all others "
        "point at wrong labels.",
        soft=True,
    )
    tables = []
    for name, pairs in outcome.pairs.items():
        rows = []
        for k in np.argsort(-_sizes(pairs))[:WORST]:
            structure, predicted = pairs[k]
            label = _text(np.zeros(0) if structure.value is None else structure.value)
            formula = structure.atoms.get_chemical_formula()
            rows.append((structure.index, formula, label, _text(predicted), structure.group or DEFAULT_GROUP))
        tables.append(table(headings, rows, name))
    return [note, columns(*tables)]


def _text(value: np.ndarray) -> str:
    return " ".join(f"{x:.4g}" for x in value)


def _data(task: PropertyTask) -> list[str]:
    rows = [
        (name, len(part.structures), sum(len(s.atoms) for s in part.structures))
        for name, part in task.data.sets.items()
    ]
    return [
        table(["set", "structures", "atoms"], rows),
        paragraph(f"The property is {task.data.key} in the training file."),
        *(paragraph(line) for line in task.data.remarks),
        files_table(task.config, task.data),
    ]


def _model(task: PropertyTask) -> str:
    config, learned, standard = task.config, task.data.learned, task.data.standard
    rows = [
        ("model", f"{config.model}, {config.num_interactions} layers"),
        ("readout", learned.readout),
        ("parameters", f"{sum(p.numel() for p in task.model.parameters())}, {config.default_dtype}"),
        ("cutoff", f"{config.r_max:g} Å"),
        ("scale", f"{standard.scale:.6g}"),
        ("shifts of the elements", standard.origin),
        ("neighbors per atom", f"{task.data.avg_num_neighbors:.2f} on average in the training set"),
    ]
    return table(["", ""], rows)
