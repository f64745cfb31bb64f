"""The picture of a map of descriptors: points colored by a number, with a color bar, or by a word, with a legend."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlip.workflows.descriptors import DescriptorMap
from mlip.workflows.map_labels import ENERGY

#: Told apart in ordinary and in color-blind eyes (Wong, Nature Methods 8, 441 (2011)), and three more.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f4f24", "#6a4fb3", "#b5b800", "#333333")
_REST = "0.75"
#: Beyond these percentiles numbers have the color of the end, so that one outlier does not take all colors.
_ENDS = 1.0, 99.0
_UNITS = {ENERGY: "energy / eV/atom", "forces": "force / eV/Å"}


def plot_map(result: DescriptorMap, path: Path, title: str = "") -> None:
    """Draw the map; `result` must have one."""
    assert result.coordinates is not None
    order = np.random.default_rng(0).permutation(len(result.coordinates))  # no group lies on top of all others
    xy = result.coordinates[order]
    figure = Figure(figsize=(7.4, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    style: dict[str, Any] = {
        "s": _size(len(xy)),
        "linewidths": 0,
        "alpha": 0.85 if len(xy) < 3000 else 0.6,
        "rasterized": True,
    }
    if result.labels is None:
        axes.scatter(*xy.T, color=_COLORS[0], **style)
    elif result.labels.dtype.kind == "f":
        _numbers(figure, axes, xy, result.labels[order], _UNITS.get(str(result.color), str(result.color)), style)
    else:
        _words(axes, xy, result.labels[order], str(result.color), style)
    axes.set_title(title, fontsize=10)
    _name_axes(axes, result)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=160)


def _size(n: int) -> float:
    """Area of a marker in points², smaller the more there are."""
    return float(np.clip(6000 / max(n, 1), 2.0, 26.0))


def _name_axes(axes: Axes, result: DescriptorMap) -> None:
    if result.explained is None:
        axes.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
        return
    first, second = result.explained
    axes.set_xlabel(f"principal component 1 ({100 * first:.1f} % of the variance)")
    axes.set_ylabel(f"principal component 2 ({100 * second:.1f} %)")


def _numbers(
    figure: Figure, axes: Axes, xy: NDArray[np.float64], values: NDArray[np.float64], name: str, style: dict[str, Any]
) -> None:
    known = np.isfinite(values)
    if not known.all():
        axes.scatter(*xy[~known].T, color=_REST, **style, label=f"without ({(~known).sum()})")
        axes.legend(frameon=False, loc="best")
    low, high = np.percentile(values[known], _ENDS)
    if low == high:
        low, high = float(values[known].min()), float(values[known].max())
    drawn = axes.scatter(xy[known, 0], xy[known, 1], c=values[known], cmap="viridis", vmin=low, vmax=high, **style)
    below, above = bool((values[known] < low).any()), bool((values[known] > high).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]
    bar = figure.colorbar(drawn, ax=axes, label=name, extend=extend, pad=0.02)
    if bar.solids is not None:
        bar.solids.set_alpha(1)


def _words(axes: Axes, xy: NDArray[np.float64], words: NDArray[Any], name: str, style: dict[str, Any]) -> None:
    counts = Counter(words.tolist())
    known = [word for word, _ in counts.most_common() if word]
    shown = known if len(known) <= len(_COLORS) else known[: len(_COLORS) - 1]
    colors = dict(zip(sorted(shown), _COLORS, strict=False))
    of_points = np.array([colors.get(word, _REST) for word in words.tolist()])
    axes.scatter(xy[:, 0], xy[:, 1], c=of_points, **style)
    entries = [(f"{word} ({counts[word]})", colors[word]) for word in sorted(shown)]
    if len(known) > len(shown):
        rest = known[len(shown) :]
        entries.append((f"{len(rest)} others ({sum(counts[word] for word in rest)})", _REST))
    if "" in counts:
        entries.append((f"without ({counts['']})", _REST))
    handles = [
        axes.scatter([], [], s=30, color=color, linewidths=0, label=text.replace("$", r"\$")) for text, color in entries
    ]
    axes.legend(handles=handles, title=name, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
