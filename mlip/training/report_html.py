"""NAME_report.html: what was trained on what, how it went and how good it is, in one file that loads nothing."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from ase.data import chemical_symbols

import mlip
from mlip.checkpoint import write_atomically
from mlip.data.files import Given
from mlip.data.labels import PROPERTIES
from mlip.data.weights import DEFAULT_GROUP
from mlip.potential import Potential
from mlip.training.architectures import fine_tuning_in_words, in_words
from mlip.training.config import TrainingConfig
from mlip.training.data import RunData, TrainingData
from mlip.training.display import clock
from mlip.training.error_tables import columns_of, default_table, table_rows
from mlip.training.report_numbers import (
    QUANTILES,
    Outcome,
    energy_errors,
    force_vector_errors,
    forces_by_element,
    quantiles,
    worst_structures,
)
from mlip.training.report_style import (
    MAX_ROWS,
    Bar,
    Markup,
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


def write_report(
    config: TrainingConfig, data: TrainingData, potential: Potential, outcome: Outcome, path: Path
) -> Path:
    """Write the report; with `--no_plot` without pictures."""
    write_atomically(path, report_html(config, data, potential, outcome).encode())
    return path


def report_html(config: TrainingConfig, data: TrainingData, potential: Potential, outcome: Outcome) -> str:
    """The whole page."""
    curves, parities, histograms = _pictures(outcome) if config.plot else ([], [], [])
    date = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    parts = [
        f"<h1>{escaped(config.name)}</h1>",
        paragraph(
            f"{fine_tuning_in_words(config) or config.model} trained with mlip {mlip.__version__}, {date}", soft=True
        ),
        _headline(outcome),
        section("Errors", _errors(config, outcome)),
        *_forgetting(config, outcome),
        section("Learning curves", figures(curves), curve_note(outcome) if curves else ""),
        section("Parity", figures(parities)),
        section("Distribution of the errors", figures(histograms), _quantiles(outcome)),
        section("Forces by element and config_type", columns(_by_element(outcome), _by_group(outcome))),
        section("Worst structures", *_worst(outcome)),
        section("Data", *_data(config, data)),
        section("Model", _model(config, data, potential)),
        section("Time", timing(data, outcome)),
        section("To do it again", *again(config, potential.device)),
    ]
    return page(f"{config.name}: training report", "\n".join(parts))


def _pictures(outcome: Outcome) -> tuple[list[str], list[str], list[str]]:
    from mlip.training.plots import parity_panels
    from mlip.training.report_figures import histograms, learning_curves, parity

    return learning_curves(outcome), parity(parity_panels(outcome.pairs)), histograms(outcome.pairs)


def _headline(outcome: Outcome) -> str:
    name = "test" if "test" in outcome.errors else "valid"
    errors = outcome.errors[name]
    numbers = [
        (f"{name}: energy RMSE", "energy_rmse_meV_per_atom", "meV/atom"),
        (f"{name}: total energy RMSE", "energy_rmse_meV", "meV"),
        (f"{name}: force RMSE", "forces_rmse_meV_per_A", "meV/Å"),
        (f"{name}: stress RMSE", "stress_rmse_GPa", "GPa"),
    ]
    values = [(title, number(value), unit) for title, key, unit in numbers if (value := errors[key]) is not None]
    epochs = max((record["epoch"] for record in outcome.history), default=0)
    values += [
        ("weights of epoch", str(outcome.best_epoch), f"of {epochs}"),
        ("training", clock(outcome.timing.total), ""),
    ]
    return cards(values)


def _errors(config: TrainingConfig, outcome: Outcome) -> str:
    kind = config.error_table or default_table(outcome.errors)
    rows = table_rows(kind, outcome.errors, outcome.groups)
    whole = [k for k, (_, group, *_) in enumerate(rows) if not group]
    headings = ["set", "config_type", "structures", *(title for title, _, _ in columns_of(kind))]
    cells = [[name, group or "all", n, *values] for name, group, n, values in rows]
    if len(whole) == len(rows):
        headings, cells, whole = [headings[0], *headings[2:]], [[row[0], *row[2:]] for row in cells], []
    return table(headings, cells[:MAX_ROWS], whole=whole) + _more(len(cells))


def _forgetting(config: TrainingConfig, outcome: Outcome) -> list[str]:
    """Errors before and after fine-tuning, where they were measured."""
    forgetting = outcome.forgetting
    if forgetting is None:
        return []
    kind = config.error_table or default_table(forgetting.rows())
    rows = [[name, n, *values] for name, _, n, values in table_rows(kind, forgetting.rows(), {})]
    headings = ["", "structures", *(title for title, _, _ in columns_of(kind))]
    note = f"{forgetting.title}: errors of the foundation model, and of what fine-tuning made of it."
    return [section("Forgetting", table(headings, rows), paragraph(note, soft=True))]


def _more(n: int) -> str:
    return paragraph(f"and {n - MAX_ROWS} rows more", soft=True) if n > MAX_ROWS else ""


def curve_note(outcome: Outcome) -> str:
    """What the lines of the learning curves are."""
    text = (
        f"The dashed line is the best validation (epoch {outcome.best_epoch}), whose weights are the potential. "
        "The training loss is the mean over the steps of an epoch, during which the weights change."
    )
    if outcome.stage_two is not None:
        text += " The dotted line is the start of the second stage, whose loss has other weights."
    return paragraph(text, soft=True)


def _quantiles(outcome: Outcome) -> str:
    """Absolute errors of energies and of force vectors that so many percent do not exceed."""
    headings = ["set", *(f"{q} %" if q < 100 else "largest" for q in QUANTILES)]
    energy = [[name, *quantiles(energy_errors(pairs))] for name, pairs in outcome.pairs.items()]
    force = [[name, *quantiles(force_vector_errors(pairs))] for name, pairs in outcome.pairs.items()]
    return columns(
        table(
            headings,
            [row for row in energy if len(row) > 1],
            "Energy: absolute errors, meV/atom, quantiles over structures",
        ),
        table(
            headings,
            [row for row in force if len(row) > 1],
            "Forces: lengths of the error vectors, meV/Å, quantiles over atoms",
        ),
    )


def _by_element(outcome: Outcome) -> str:
    rows = []
    for name, pairs in outcome.pairs.items():
        for symbol, errors in forces_by_element(pairs).items():
            rows.append((name, symbol, errors.n // 3, 1e3 * (errors.rmse or 0.0), 1e3 * (errors.mae or 0.0)))
    return _barred(["set", "element", "atoms", "RMSE meV/Å", "MAE meV/Å"], rows, "By element")


def _by_group(outcome: Outcome) -> str:
    rows = [
        (name, group or DEFAULT_GROUP, values["n"], values["forces_rmse_meV_per_A"], values["forces_mae_meV_per_A"])
        for name, groups in outcome.groups.items()
        for group, values in groups.items()
        if values["forces_rmse_meV_per_A"] is not None
    ]
    shown = _barred(["set", "config_type", "structures", "RMSE meV/Å", "MAE meV/Å"], rows[:MAX_ROWS], "By config_type")
    return shown + _more(len(rows))


def _barred(headings: list[str], rows: Sequence[Sequence[object]], title: str) -> str:
    """A table whose fourth column is drawn as bars beside it."""
    largest = max((float(str(row[3])) for row in rows), default=0.0) or 1.0
    return table([*headings, ""], [[*row, Bar(float(str(row[3])) / largest)] for row in rows], title)


def _worst(outcome: Outcome) -> list[str]:
    headings = ["number", "formula", "energy error meV/atom", "largest force error meV/Å", "config_type"]
    note = paragraph(
        "The structures with the largest force errors, then those with the largest energy errors. The number counts "
        "from 0, as ase.io.read(file, index=number) does. Errors are prediction - label; a force error is the length "
        "of the difference vector of an atom. Errors far from all others point at wrong labels.",
        soft=True,
    )
    tables = []
    for name, pairs in outcome.pairs.items():
        rows = [(w.number, w.formula, w.energy, w.force, w.group or DEFAULT_GROUP) for w in worst_structures(pairs)]
        tables.append(table(headings, rows, name))
    return [note, columns(*tables)]


def _data(config: TrainingConfig, data: TrainingData) -> list[str]:
    """Structures and labels by set and config_type, names of labels, files; what people should know of them."""
    counts = [
        (name, c.group, c.structures, c.atoms, *c.labels.values())
        for name, part in data.sets.items()
        for c in part.groups
    ]
    keys = ", ".join(f"{name} = {key}" for name in PROPERTIES if (key := getattr(data.keys, name)))
    notes = f"Labels: {keys}. The loss is about {', '.join(p for p in PROPERTIES if p in data.properties)}."
    if data.n_isolated:
        notes += f" Isolated atoms, which do not train: {data.n_isolated}."
    return [
        table(["set", "config_type", "structures", "atoms", *PROPERTIES], counts[:MAX_ROWS]) + _more(len(counts)),
        paragraph(notes),
        *(paragraph(line) for line in data.remarks),
        files_table(config, data),
    ]


def files_table(config: TrainingConfig, data: RunData) -> str:
    """The files, their hashes and what they were used for."""
    files = [
        (Path(source).name, Markup(f"<code>{escaped(data.sha256[option])}</code>"), used)
        for option, source, used in _files(config, data)
    ]
    return table(["file", "SHA-256", "used for"], files)


def _files(config: TrainingConfig, data: RunData) -> list[tuple[str, str, str]]:
    """Option, path and use of each file."""
    uses = {"train_file": "train" if config.valid_file else "train, valid", "valid_file": "valid", "test_file": "test"}
    return [(option, _named(getattr(config, option)), uses.get(option, option)) for option in data.sha256]


def _named(given: Given) -> str:
    """One file by its path, several by their number."""
    return str(given) if isinstance(given, str | Path) else f"{len(given)} files, {Path(given[0]).name} and so on"


def _model(config: TrainingConfig, data: TrainingData, potential: Potential) -> str:
    stats, scale = data.statistics, potential.energy_scale
    E0s = ", ".join(f"{chemical_symbols[z]} {energy:.6f}" for z, energy in data.reference.E0s.items())
    n_parameters = sum(p.numel() for p in potential.parameters())
    scaling = "of the foundation model" if config.foundation_model else config.scaling
    rows = [
        ("model", in_words(config, potential.model)),
        ("parameters", f"{number(n_parameters)}, {config.default_dtype}"),
        ("cutoff", f"{potential.cutoff:g} Å"),
        ("E0s / eV", f"{E0s} ({data.reference.origin})"),
        ("scale, shift / eV", f"{scale.scale.item():.6g}, {scale.shift.item():.6g} ({scaling})"),
        ("neighbors per atom", f"{stats.avg_num_neighbors:.2f} on average in the training set"),
        ("RMS of the forces", f"{stats.forces_rms:.4g} eV/Å in the training set"),
    ]
    return table(["", ""], rows)


def timing(data: RunData, outcome: Outcome) -> str:
    """Where the time of a run went."""
    times = outcome.timing
    each = times.validation / times.validations if times.validations else None
    rows = [
        ("training in all, restarts included", times.total, "s"),
        ("start-up of this process: data, neighbor lists, model", times.start_up, "s"),
        ("one epoch without validation", times.seconds_per_epoch(data.trained.n_atoms), "s"),
        ("speed of training", times.atoms_per_second, "atoms per second"),
        ("one validation", each, "s"),
        ("final errors of all sets", times.final_errors, "s"),
    ]
    return table(["", "", ""], rows)


def again(config: TrainingConfig, device: torch.device) -> list[str]:
    """The command, seed and versions."""
    versions = [("mlip", mlip.__version__), ("Python", platform.python_version()), ("torch", torch.__version__)]
    versions += [(name, importlib.metadata.version(name)) for name in ("lightning", "numpy", "ase", "e3nn")]
    where = f"{device}, threads: {torch.get_num_threads()}, {platform.machine()} {platform.system()}"
    return [
        f"<pre>{lines_of(config.command(portable=False))}</pre>",
        paragraph(f"Seed {config.seed}, {config.default_dtype}, on {where}."),
        paragraph(", ".join(f"{name} {version}" for name, version in versions) + ".", soft=True),
    ]


def lines_of(command: str) -> str:
    """HTML of a command with each option on its line, to be pasted into a shell."""
    words = shlex.split(command)
    starts = [k for k, word in enumerate(words) if word.startswith("--")]
    parts = [words[a:b] for a, b in zip([0, *starts], [*starts, len(words)], strict=True)]
    return " \\\n  ".join(escaped(shlex.join(part)) for part in parts)
