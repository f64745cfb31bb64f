"""Symmetry functions as the compiled operator takes them: which few parts the many functions are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mlip.nn.constants import double
from mlip.nn.symmetry_functions import CORES, CUTOFFS, KINDS, NARROW, RADIAL, WIDE, CutoffFunction, SymmetryFunction
from mlip.ops.symmetry_functions import SymmetryTables

#: As the operator numbers them.
_SHAPES = {RADIAL: 0, NARROW: 1, WIDE: 2}
_CORES = {name: k for k, name in enumerate(CORES)}
_KINDS_OF_WINDOWS = {"cos": 1, "tanhu": 2, "tanh": 3, "hard": 4}
_CORES_OF_WINDOWS = {"poly1": "p1", "poly2": "p2", "poly3": "p3", "poly4": "p4", "exp": "e"}
assert CUTOFFS.keys() == _KINDS_OF_WINDOWS.keys() | _CORES_OF_WINDOWS.keys()


class _Distinct:
    """Rows of numbers, equal ones once."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: dict[tuple[float, ...], int] = {}

    def place(self, *row: float) -> int:
        return self.rows.setdefault(row, len(self.rows))

    def tensor(self) -> Tensor:
        return double(list(self.rows)).view(-1, self.width)


def symmetry_tables(by_element: Mapping[int, Sequence[SymmetryFunction]], cutoff: CutoffFunction) -> SymmetryTables:
    """The tables of a model.

    Args:
        by_element: the functions of each element by its atomic number, the elements in the order of their indices.
        cutoff: of the functions that are no bumps.
    """
    index = {number: k for k, number in enumerate(by_element)}
    windows, parts, angles = _Distinct(4), _Distinct(8), _Distinct(7)
    rows = []
    for number, functions in by_element.items():
        for column, function in enumerate(functions):
            shape = KINDS[function.kind].shape
            part = _part(function, cutoff, windows, parts)
            angle = -1 if shape == RADIAL else _angle(function, angles)
            of = [*(index[z] for z in function.neighbors), -1, -1][:2]
            rows.append([index[number], column, _SHAPES[shape], *of, part, angle])
    return SymmetryTables(
        double(list(by_element)),
        windows.tensor(),
        parts.tensor(),
        angles.tensor(),
        torch.tensor(rows, dtype=torch.int64).view(-1, 7),
        max((len(functions) for functions in by_element.values()), default=0),
    )


def _part(f: SymmetryFunction, cutoff: CutoffFunction, windows: _Distinct, parts: _Distinct) -> int:
    if KINDS[f.kind].compact:
        core = _CORES[f.core.removesuffix("a")]
        return parts.place(1, 0, 0, 0, core, f.core.endswith("a"), f.lowest, f.cutoff)
    kind = _KINDS_OF_WINDOWS.get(cutoff.name, 0)
    core = _CORES[_CORES_OF_WINDOWS.get(cutoff.name, "p1")]
    window = windows.place(kind, core, f.cutoff, cutoff.inner * f.cutoff)
    return parts.place(0, window, f.eta, f.shift, 0, 0, 0, 0)


def _angle(f: SymmetryFunction, angles: _Distinct) -> int:
    if KINDS[f.kind].compact:
        return angles.place(1, 0, 0, 0, _CORES[f.core.removesuffix("a")], *f.angles)
    return angles.place(0, f.lam, f.zeta, 2 ** (1 - f.zeta), 0, 0, 0)
