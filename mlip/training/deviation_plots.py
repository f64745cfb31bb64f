"""Errors of a committee against its deviations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlip.committee import Calibration
from mlip.data.calibration import Deviations, Pairs, deviations_of
from mlip.training.plots import COLORS
from mlip.units import EV_PER_A3_TO_GPA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Label, unit, factor from eV and Å.
PANELS = {
    "energy": ("energy", "meV/atom", 1e3),
    "forces": ("force on an atom", "meV/Å", 1e3),
    "stress": ("stress component", "GPa", EV_PER_A3_TO_GPA),
}
MAX_POINTS = 4000
"""Points of a set that are drawn."""
_RANGE = 1e3
"""From the largest value drawn to the smallest; what is zero by symmetry is below."""
_BINS = 8
"""Groups of equally many points, of which the root mean squares are drawn."""
_FEWEST = 5
"""Points of a group at least."""


def deviation_panels(
    sets: Mapping[str, Pairs], calibration: Calibration | None
) -> dict[str, dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """By property and set: deviations, calibrated where there is a factor, and absolute errors, in `PANELS`' units.

    Of forces the lengths of both by atom.
    """
    panels: dict[str, dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for name, pairs in sets.items():
        for quantity, values in deviations_of(pairs).items():
            factor = None if calibration is None else getattr(calibration, quantity)
            compared: Deviations = values.by_atom() if quantity == "forces" else values
            unit = PANELS[quantity][2]
            shown = unit * (factor or 1.0) * compared.stds, unit * np.abs(compared.errors)
            panels.setdefault(quantity, {})[name] = shown
    return {quantity: panels[quantity] for quantity in PANELS if quantity in panels}


def plot_deviations(sets: Mapping[str, Pairs], calibration: Calibration | None, path: Path) -> None:
    """Absolute errors against deviations, one panel for each property, with logarithmic axes."""
    from matplotlib.figure import Figure

    panels = deviation_panels(sets, calibration)
    figure = Figure(figsize=(4.4 * len(panels), 4.2), layout="constrained")
    for axes, (quantity, by_set) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        is_calibrated = calibration is not None and getattr(calibration, quantity) is not None
        draw_deviations(axes, quantity, by_set, is_calibrated)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=140)


def draw_deviations(
    axes: Axes,
    quantity: str,
    by_set: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    is_calibrated: bool,
    ink: str = "black",
) -> None:
    """Points of each set, the diagonal with half and double, and root mean squares of groups of equal deviation."""
    from matplotlib.ticker import NullFormatter

    label, unit, _ = PANELS[quantity]
    everything = [values[values > 0] for both in by_set.values() for values in both]
    positive = np.concatenate(everything) if everything else np.empty(0)
    if not positive.size:
        axes.set_title(f"{label}: no deviation", fontsize=9)
        return
    high = positive.max()
    limits = (max(np.percentile(positive, 0.5), high / _RANGE) / 1.5, high * 1.5)
    for name, (all_stds, all_errors) in by_set.items():
        drawn = all_stds > limits[0]
        stds, errors = all_stds[drawn], all_errors[drawn]
        color = COLORS.get(name)
        some = np.random.default_rng(0).permutation(len(stds))[:MAX_POINTS]
        alpha = 0.5 if len(some) < 500 else 0.2
        size = 7 if len(some) < 500 else 3
        axes.plot(stds[some], errors[some], ".", ms=size, mew=0, alpha=alpha, color=color, rasterized=True)
        if not len(stds):
            continue
        x, y = group_means(stds, errors)
        axes.plot(x, y, "o-", ms=5, lw=1.2, color=color, mec=ink, mew=0.5, label=f"{name}: RMS of groups")
    axes.plot(limits, limits, color=ink, lw=1.0, label="error = deviation")
    for factor in (0.5, 2.0):
        axes.plot(limits, factor * np.array(limits), color=ink, lw=0.6, ls=":")
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):  # matplotlib names the ticks within a decade, one over the other
        axis.set_minor_formatter(NullFormatter())
    kind = "calibrated deviation" if is_calibrated else "deviation (not calibrated)"
    axes.set_xlabel(f"{label}: {kind} / {unit}")
    axes.set_ylabel(f"|error| / {unit}")
    axes.legend(frameon=False, fontsize=7.5, loc="lower right")


def group_means(
    stds: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Root mean squares of deviations and errors in groups of equally many points, sorted by deviation."""
    groups = min(_BINS, max(1, len(stds) // _FEWEST))
    parts = np.array_split(np.argsort(stds, kind="stable"), groups)
    means = [[float(np.square(values[part]).mean() ** 0.5) for part in parts] for values in (stds, errors)]
    return np.array(means[0]), np.array(means[1])
