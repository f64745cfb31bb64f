"""Figures of workflow results, drawn with matplotlib's objects (no pyplot, no global state)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlip.workflows.md import MDResult
from mlip.workflows.phonons import Bands, PhononResult

_LINE = "#1f4e79"
_ACCENT = "#c0504d"
_GREY = "0.65"


def plot_bands(result: PhononResult, path: Path, title: str = "") -> None:
    """Draw the phonon bands in THz along the labelled path."""
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    _draw_bands(axes, result.bands)
    axes.set_title(title)
    figure.savefig(path, dpi=150)


def plot_dos(result: PhononResult, path: Path, title: str = "") -> None:
    """Draw the density of states, and the heat capacity against temperature beside it."""
    figure = _figure(8.0, 3.8)
    left, right = figure.subplots(1, 2)
    frequency, dos = result.dos
    left.plot(frequency, dos, color=_LINE, lw=1.2)
    left.fill_between(frequency, dos, color=_LINE, alpha=0.15, lw=0)
    left.set(xlabel="frequency (THz)", ylabel="states per THz and primitive cell", ylim=(0, None))
    left.set_xlim(min(0.0, frequency[dos > 1e-3 * dos.max()].min()), frequency.max())
    temperature, capacity = result.thermal["temperature"], result.thermal["heat_capacity"]
    classical = 3 * result.n_atoms_primitive * 8.314462618
    right.axhline(classical, color=_GREY, ls="--", lw=1)
    right.annotate("classical limit", (0, classical), (4, 3), textcoords="offset points", color="0.4")
    right.plot(temperature, capacity, color=_ACCENT)
    right.set(xlabel="temperature (K)", ylabel="heat capacity (J/K/mol)", xlim=(0, temperature[-1]))
    right.set_ylim(0, 1.1 * classical)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def plot_md(result: MDResult, path: Path, title: str = "") -> None:
    """Draw temperature and conserved energy against time."""
    figure = _figure(7.0, 4.8)
    upper, lower = figure.subplots(2, 1, sharex=True)
    time = result.log["time_fs"] / 1000
    upper.plot(time, result.log["temperature_K"], color=_ACCENT, lw=1)
    upper.axhline(result.temperature_mean, color=_GREY, ls="--", lw=1)
    label = f"mean of the second half {result.temperature_mean:.0f} K"
    upper.annotate(label, (0.99, 0.96), xycoords="axes fraction", ha="right", va="top", color="0.4")
    upper.set_ylim(top=1.2 * result.log["temperature_K"].max() + 1)
    upper.set_ylabel("temperature (K)")
    for column, label, color in (("conserved_eV", "conserved", _LINE), ("total_eV", "total", _GREY)):
        energy = result.log[column]
        if column == "conserved_eV" or not np.array_equal(energy, result.log["conserved_eV"]):
            lower.plot(time, 1000 * (energy - energy[0]) / result.n_atoms, color=color, lw=1.2, label=label)
    lower.set(xlabel="time (ps)", ylabel="energy change\n(meV/atom)")
    if len(lower.lines) > 1:
        lower.legend(frameon=False)
    if len(time) > 1:
        lower.set_xlim(time[0], time[-1])
    figure.align_ylabels()
    upper.set_title(title)
    figure.savefig(path, dpi=150)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_bands(axes: Axes, bands: Bands) -> None:
    for distance, frequency in zip(bands.distances, bands.frequencies, strict=True):
        axes.plot(distance, frequency, color=_LINE, lw=1.2)
    positions, labels = zip(*bands.ticks, strict=True)
    for position in positions:
        axes.axvline(position, color=_GREY, lw=0.6)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xticks(positions, labels)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(positions[0], positions[-1])
    lowest = min(float(f.min()) for f in bands.frequencies)
    highest = max(float(f.max()) for f in bands.frequencies)
    axes.set_ylim(1.08 * lowest if lowest < -0.1 else 0.0, 1.06 * highest)
    axes.set_ylabel("frequency (THz)")
