"""Learning curve and parity plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mlip.data.labels import LabelledStructure
from mlip.data.predict import Predicted
from mlip.data.property_metrics import Pairs as ValuePairs
from mlip.data.property_metrics import errors_of_values, labels_of
from mlip.properties import Property
from mlip.training.display import ShownError
from mlip.units import EV_PER_A3_TO_GPA

Pairs = Sequence[tuple[LabelledStructure, Predicted]]
#: Label with unit, and reference and predicted values (2, n) by set.
Panels: TypeAlias = list[tuple[str, dict[str, np.ndarray]]]
COLORS = {"train": "#9aa5b1", "valid": "#2f6db5", "test": "#d9822b"}


def plot_learning_curve(history: Sequence[dict[str, Any]], errors: Sequence[ShownError], path: Path) -> None:
    """Losses, validation errors and learning rate against the epoch."""
    from matplotlib.figure import Figure

    epochs = [r["epoch"] for r in history]
    shown = [error for error in errors if any(error[0] in record for record in history)]
    marker = "." if len(history) == 1 else ""  # one point makes no line
    figure = Figure(figsize=(3.6 * (len(shown) + 2), 3.2), layout="constrained")
    axes = figure.subplots(1, len(shown) + 2)
    axes[0].plot(epochs, [r["loss"] for r in history], color=COLORS["train"], marker=marker, label="training")
    valid = [r["valid_loss"] for r in history]
    axes[0].plot(epochs, valid, color=COLORS["valid"], marker=marker, label="validation")
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    for axis, (key, _, unit, factor) in zip(axes[1:-1], shown, strict=True):
        values = [factor * r.get(key, float("nan")) for r in history]
        axis.plot(epochs, values, color=COLORS["valid"], marker=marker)
        *words, measure = key.removeprefix("valid_").split("_")
        axis.set_ylabel(f"validation {'_'.join(words)} {measure.upper()}" + (f" / {unit}" if unit else ""))
    axes[-1].plot(epochs, [r["lr"] for r in history], color=COLORS["train"], marker=marker)
    axes[-1].set_ylabel("learning rate")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    for axis in axes[:-1]:
        axis.set_yscale("log")
    figure.savefig(path, dpi=120)


def plot_parity(sets: Mapping[str, Pairs], path: Path) -> None:
    """Predicted against reference energies per atom, forces and stresses, one panel each."""
    draw_panels(parity_panels(sets), path)


def draw_panels(data: Panels, path: Path) -> None:
    """Predicted against reference values, one panel each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(data), 4.0), layout="constrained")
    for axis, (label, by_set) in zip(figure.subplots(1, len(data), squeeze=False)[0], data, strict=True):
        for name, values in by_set.items():
            axis.plot(*values, ".", markersize=3, color=COLORS.get(name), label=name, rasterized=True)
        both = np.concatenate([v.ravel() for v in by_set.values()])
        margin = 0.03 * (both.max() - both.min()) or 1e-3
        limits = (both.min() - margin, both.max() + margin)
        axis.plot(limits, limits, color="black", linewidth=0.6)
        axis.set(xlim=limits, ylim=limits, aspect="equal")
        axis.set_xlabel(f"reference {label}")
        axis.set_ylabel(f"predicted {label}")
        axis.legend(frameon=False, markerscale=3)
    figure.savefig(path, dpi=120)


def parity_panels(sets: Mapping[str, Pairs]) -> Panels:
    """Label with unit and (2, n) reference and predicted values by set, of each property that any set has."""
    panels = (("energy / eV/atom", _energies), ("forces / eV/Å", _forces), ("stress / GPa", _stresses))
    data = [(label, {name: values(pairs) for name, pairs in sets.items()}) for label, values in panels]
    return [(label, by_set) for label, by_set in data if any(v.size for v in by_set.values())]


def _energies(pairs: Pairs) -> np.ndarray:
    """(2, n): reference and predicted."""
    values = [(s.energy / len(s.atoms), p.energy / len(s.atoms)) for s, p in pairs if s.energy is not None]
    return np.array(values).reshape(-1, 2).T


def _forces(pairs: Pairs) -> np.ndarray:
    values = [np.stack([s.forces.ravel(), p.forces.ravel()]) for s, p in pairs if s.forces is not None]
    return np.concatenate([np.empty((2, 0)), *values], axis=1)


def _stresses(pairs: Pairs) -> np.ndarray:
    values = [
        EV_PER_A3_TO_GPA * np.stack([s.stress.ravel(), p.stress.ravel()])
        for s, p in pairs
        if s.stress is not None and p.stress is not None
    ]
    return np.concatenate([np.empty((2, 0)), *values], axis=1)


def property_panels(learned: Property, sets: Mapping[str, ValuePairs]) -> Panels:
    """One panel: reference and predicted values (2, n) of a property by set."""
    by_set = {}
    for name, pairs in sets.items():
        labels = labels_of(pairs)
        both = (labels, labels + errors_of_values(pairs))
        by_set[name] = np.stack([values.ravel() for values in both])
    return [(learned.label, by_set)]
