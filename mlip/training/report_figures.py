"""The pictures of the report as inline SVG whose ink takes the colors of the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlip.training.display import VALIDATION_ERRORS, ShownError
from mlip.training.plots import COLORS, Panels
from mlip.training.report_numbers import Outcome, Pairs, energy_errors, force_component_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colors that matplotlib draws with, replaced by variables of the page's style sheet.
INK, _GRID, _BEST, _STAGE = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f"
_VARIABLES = {INK: "var(--ink)", _GRID: "var(--grid)", _BEST: "var(--best)", _STAGE: "var(--stage)"}
_VARIABLES |= {color: f"var(--{name})" for name, color in COLORS.items()}
_NAMES = {"E": "energy", "F": "force", "S": "stress"}
MAX_POINTS = 20000
"""Points of a set in a parity plot; more look the same. Errors are always of all of them."""
MAX_EPOCHS = 1000
"""Points of a learning curve."""
Sets = Mapping[str, Pairs]


def learning_curves(outcome: Outcome, errors: Sequence[ShownError] = VALIDATION_ERRORS) -> list[str]:
    """Losses, validation errors and learning rate against the epoch, best epoch and start of stage two marked."""
    from matplotlib.ticker import MaxNLocator

    history = _thinned(outcome.history, outcome.best_epoch)
    epochs = [record["epoch"] for record in history]
    panels: list[tuple[str, list[tuple[str, str, list[float]]]]] = [
        ("loss", [(key, name, [r[column] for r in history]) for key, name, column in _LOSSES])
    ]
    for column, letter, unit, factor in errors:
        if any(column in record for record in history):
            values = [factor * record.get(column, float("nan")) for record in history]
            named = f"{_NAMES[letter]} RMSE" if letter in _NAMES else letter
            panels.append((f"{named} / {unit}" if unit else named, [("valid", "validation", values)]))
    panels.append(("learning rate", [("train", "", [record["lr"] for record in history])]))
    pictures = []
    for number, (label, curves) in enumerate(panels):
        figure, axes = new_figure()
        marker = "o" if len(history) < 8 else ""
        for key, name, values in curves:
            axes.plot(epochs, values, color=COLORS[key], marker=marker, markersize=3, linewidth=1.3, label=name)
        _log_axis(axes, np.array([v for *_, values in curves for v in values], dtype=float))
        _mark_epochs(axes, outcome.best_epoch, outcome.stage_two)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        if number == 0:
            _legend(axes)
        pictures.append(svg_of(figure, f"learning {label}"))
    return pictures


_LOSSES = (("train", "training", "loss"), ("valid", "validation", "valid_loss"))


def _thinned(history: Sequence[dict[str, Any]], best: int) -> list[dict[str, Any]]:
    stride = -(-len(history) // MAX_EPOCHS)
    last = len(history) - 1
    return [r for k, r in enumerate(history) if k % stride == 0 or k == last or r["epoch"] == best]


def _mark_epochs(axes: Axes, best: int, stage_two: int | None) -> None:
    """Vertical lines, named above the frame. The second stage begins between two epochs."""
    marks: list[tuple[float, str, str, str]] = [(best, f"best: {best}", _BEST, "--")]
    if stage_two is not None:
        marks.append((stage_two + 0.5, "stage two", _STAGE, ":"))
    for epoch, _, color, style in marks:
        axes.axvline(epoch, color=color, linestyle=style, linewidth=1.0)
    title = "\N{NO-BREAK SPACE}" * 4
    title = title.join(f"{2 * style}\N{NO-BREAK SPACE}{text}" for _, text, _, style in marks)
    axes.set_title(title, fontsize=7.5, color=INK, loc="right", pad=4)


def _log_axis(axes: Axes, values: NDArray[np.float64]) -> None:
    """Logarithmic y axis with plain numbers: 1, 2 and 5 where the range is small."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return
    low, high = positive.min() / 1.15, positive.max() * 1.15
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    decades = np.log10(high / low)
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    if decades < 0.8:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def parity(panels: Panels) -> list[str]:
    """Predicted against reference values."""
    pictures = []
    for label, by_set in panels:
        figure, axes = new_figure(height=3.3)
        both = np.concatenate([values.ravel() for values in by_set.values()])
        margin = 0.04 * (both.max() - both.min()) or 1e-3
        limits = (both.min() - margin, both.max() + margin)
        axes.plot(limits, limits, color=INK, linewidth=0.7)
        for name, values in by_set.items():
            x, y = _sample(values)
            axes.plot(x, y, ".", markersize=3, alpha=0.7, color=COLORS.get(name), rasterized=True)
            axes.plot([], [], "o", markersize=4, color=COLORS.get(name), label=name)
        axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"reference {label}", ylabel=f"predicted {label}")
        axes.locator_params(nbins=5)
        _legend(axes)
        pictures.append(svg_of(figure, f"parity {label}"))
    return pictures


def _sample(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, n) to at most `MAX_POINTS` of its columns, always the same ones."""
    if values.shape[1] <= MAX_POINTS:
        return values
    return values[:, np.random.default_rng(0).choice(values.shape[1], MAX_POINTS, replace=False)]


def histograms(sets: Sets) -> list[str]:
    """Distribution of the errors of energies per atom and of force components, in percent of each set."""
    pictures = []
    kinds = (("energy error / meV/atom", energy_errors), ("force component error / meV/Å", force_component_errors))
    for label, errors_of in kinds:
        by_set = {name: errors for name, pairs in sets.items() if (errors := errors_of(pairs)).size}
        if not by_set:
            continue
        figure, axes = new_figure(height=2.5)
        every = np.concatenate(list(by_set.values()))
        low, high = np.percentile(every, (0.5, 99.5))
        margin = 0.05 * (high - low) or 1e-3
        low, high = min(low - margin, 0.0), max(high + margin, 0.0)
        n_bins = int(np.clip(2 * np.sqrt(max(map(len, by_set.values()))), 8, 40))
        bins = np.linspace(low, high, n_bins + 1)
        for name, errors in by_set.items():
            shares = 100 * np.histogram(np.clip(errors, low, high), bins)[0] / errors.size
            axes.stairs(shares, bins, color=COLORS.get(name), label=name, linewidth=1.3)
        axes.set(xlabel=label, ylabel="% of the set", xlim=(low, high))
        axes.axvline(0, color=INK, linewidth=0.7)
        axes.locator_params(axis="x", nbins=6)
        _legend(axes)
        pictures.append(svg_of(figure, f"histogram {label}"))
    return pictures


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=7.5, labelcolor=INK)


def new_figure(width: float = 3.9, height: float = 2.7) -> tuple[Figure, Axes]:
    """A transparent figure, drawn in the variables of the page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=7.5, which="both")
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_GRID, linewidth=0.5)
    axes.xaxis.label.set(color=INK, fontsize=8.5)
    axes.yaxis.label.set(color=INK, fontsize=8.5)
    return figure, axes


def svg_of(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element without addresses, names of groups and fixed size."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):  # text as text; the same ids in every run
        figure.savefig(buffer, format="svg", dpi=160, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'<g id="\w+">', "<g>", svg)
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg role="img" aria-label="{name}"', svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
