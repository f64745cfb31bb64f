"""n2p2's text files: keywords of `input.nn`, symmetry functions, `scaling.data` and `weights.*.data`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from mlip.errors import InputError, ModelFileError
from mlip.nn.symmetry_functions import KINDS, RADIAL, SymmetryFunction

FUNCTION = "symfunction_short"
#: Other names of keywords.
ALTERNATIVES = {FUNCTION: ["symfunction"], "nnp_type": ["nnp_generation", "nnp_type_gen", "nnp_gen"]}


def files_of(folder: Path) -> list[Path]:
    """The files of the potential in a folder."""
    return [folder / "input.nn", folder / "scaling.data", *sorted(folder.glob("weights.*.data"))]


class Line(NamedTuple):
    """One line of a file."""

    path: Path
    number: int
    words: list[str]

    def error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.path}, line {self.number} ({' '.join(self.words)}): {problem}")

    def number_at(self, k: int) -> float:
        """The k-th word.

        Raises:
            ModelFileError: there is none, or it is no number.
        """
        try:
            number = float(self._word(k))
        except ValueError as error:
            raise self.error(f"{self.words[k]!r} is no number") from error
        if not math.isfinite(number):
            raise self.error(f"expected a finite number, not {self.words[k]}")
        return number

    def integer_at(self, k: int) -> int:
        """The same of a whole number."""
        try:
            return int(self._word(k))
        except ValueError as error:
            raise self.error(f"{self.words[k]!r} is no integer") from error

    def _word(self, k: int) -> str:
        if k >= len(self.words):
            raise self.error(f"expected at least {k + 1} words")
        return self.words[k]

    def element_at(self, k: int) -> int:
        """Atomic number of the symbol that is the k-th word."""
        if self._word(k) not in atomic_numbers:
            raise self.error(f"{self.words[k]!r} is no chemical element")
        return int(atomic_numbers[self.words[k]])


def lines_of(path: Path, comments: str = "#") -> list[Line]:
    """The lines that say something; each of `comments` begins what is none.

    Raises:
        ModelFileError: the file is missing or no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} is missing; expected it beside the other files of an n2p2 potential") from error
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path} is no text file; expected a file of n2p2") from error
    words = [re.split(f"[{comments}]", line, maxsplit=1)[0].split() for line in text.splitlines()]
    return [Line(path, k + 1, found) for k, found in enumerate(words) if found]


class Settings:
    """Keywords of an `input.nn`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, list[Line]] = {}
        for line in lines_of(path, "#!"):
            self._found.setdefault(line.words[0], []).append(line)

    def __contains__(self, keyword: str) -> bool:
        return bool(self.all(keyword))

    def all(self, keyword: str) -> list[Line]:
        """The lines of a keyword, in their order, none if it is missing."""
        names = [keyword, *ALTERNATIVES.get(keyword, [])]
        return sorted((line for name in names for line in self._found.get(name, [])), key=lambda line: line.number)

    def one(self, keyword: str) -> Line:
        """The line of a keyword.

        Raises:
            ModelFileError: it is missing, or there are several.
        """
        lines = self.all(keyword)
        if not lines:
            raise ModelFileError(f"{self.path}: the keyword {keyword} is missing")
        if len(lines) > 1:
            raise lines[1].error(f"{keyword} stands in line {lines[0].number} already")
        return lines[0]

    def number(self, keyword: str, default: float) -> float:
        return self.one(keyword).number_at(1) if keyword in self else default


def symmetry_function(line: Line, length: float) -> SymmetryFunction:
    """The symmetry function of a line.

    Args:
        line: `symfunction_short` and what follows.
        length: unit of length in Å.

    Raises:
        ModelFileError: a kind that is not known, too few or too many words, impossible numbers.
    """
    number = line.integer_at(2)
    if number not in KINDS:
        raise line.error(f"symmetry functions of kind {number} are not known; known are {', '.join(map(str, KINDS))}")
    kind = KINDS[number]
    at = 3 + kind.n_neighbors
    names = {
        (False, True): ["eta", "shift", "cutoff"],
        (False, False): ["eta", "shift", "lam", "zeta", "cutoff"]
        if kind.weighted
        else ["eta", "lam", "zeta", "cutoff", "shift"],
        (True, True): ["lowest", "cutoff", "core"],
        (True, False): ["lowest", "cutoff", "left", "right", "core"],
    }[kind.compact, kind.shape == RADIAL]
    optional = names[-1] == "shift"  # of the kinds 3 and 9
    if not at + len(names) - optional <= len(line.words) <= at + len(names):
        raise line.error(f"expected the elements of {kind.n_neighbors} neighbors, then {' '.join(names)}")
    there = [(k, name) for k, name in enumerate(names, at) if name != "core" and k < len(line.words)]
    units = {"cutoff": length, "shift": length, "lowest": length, "eta": length**-2}
    options: dict[str, Any] = {name: line.number_at(k) * units.get(name, 1.0) for k, name in there}
    neighbors = tuple(line.element_at(k) for k in range(3, at))
    try:
        if not kind.compact:
            return SymmetryFunction(number, line.element_at(1), neighbors, **options)
        angles = (options.pop("left"), options.pop("right")) if kind.shape != RADIAL else (-180.0, 180.0)
        return SymmetryFunction(
            number, line.element_at(1), neighbors, **options, angles=angles, core=line.words[at + len(names) - 1]
        )
    except InputError as error:
        raise line.error(str(error)) from error


def order_key(function: SymmetryFunction) -> tuple[object, ...]:
    """By what n2p2 sorts the symmetry functions of an element: the order of their scaling and of their weights."""
    kind = KINDS[function.kind]
    if not kind.compact:
        angular = () if kind.shape == RADIAL else (function.zeta, function.lam)
        return (function.kind, function.cutoff, function.eta, function.shift, *angular, function.neighbors)
    return (function.kind, function.core, function.neighbors, function.cutoff, function.lowest, function.angles)


def read_scaling(path: Path, sizes: Sequence[int]) -> list[NDArray[np.float64]]:
    """Smallest, largest, mean and standard deviation (K, 4) of each element's symmetry functions.

    Old files have no standard deviations, which are NaN then.

    Raises:
        ModelFileError: other numbers of them than `sizes`, or numbers that are none.
    """
    found = [np.full((size, 4), np.nan) for size in sizes]
    for line in lines_of(path):
        if len(line.words) < 5:  # the range of the energies
            continue
        element, place = line.integer_at(0), line.integer_at(1)
        if not (1 <= element <= len(sizes) and 1 <= place <= sizes[element - 1]):
            raise line.error(f"there is no such symmetry function; the elements have {', '.join(map(str, sizes))}")
        row = found[element - 1][place - 1]
        if not np.isnan(row[0]):
            raise line.error("there is a line for this symmetry function already")
        row[: len(line.words) - 2] = [line.number_at(k) for k in range(2, min(6, len(line.words)))]
    for k, values in enumerate(found):
        missing = np.isnan(values[:, :3]).any(axis=1).nonzero()[0]
        if len(missing):
            raise ModelFileError(
                f"{path}: no numbers for symmetry function {missing[0] + 1} of element {k + 1}; "
                "the file belongs to another input.nn, or is not complete"
            )
    return found


def read_weights(path: Path, sizes: Sequence[int]) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Matrices (from, to) and biases (to,) of all layers of a network of these sizes.

    Old files have the numbers alone: of each layer the matrix, row by row, then the biases.

    Raises:
        ModelFileError: other sizes, or numbers that are none.
    """
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    weights: list[NDArray[np.float64]] = [np.full(shape, np.nan) for shape in shapes]
    biases: list[NDArray[np.float64]] = [np.full(out, np.nan) for _, out in shapes]
    arrays = [part for both in zip(weights, biases, strict=True) for part in both]
    lines = lines_of(path)
    if all(len(line.words) == 1 for line in lines) and len(lines) == sum(part.size for part in arrays):
        numbers = np.array([line.number_at(0) for line in lines])
        for part, values in zip(arrays, np.split(numbers, np.cumsum([part.size for part in arrays])), strict=False):
            part[...] = values.reshape(part.shape)
        lines = []
    for line in lines:
        value, kind = line.number_at(0), line.words[1] if len(line.words) > 1 else ""
        if kind not in ("a", "b"):
            raise line.error("expected a number, then a (weight) or b (bias)")
        if kind == "a":
            layer, begin, end = (line.integer_at(k) for k in (3, 4, 6))
            place: tuple[int, ...] = (begin - 1, end - 1)
            array: NDArray[np.float64] | None = weights[layer] if 0 <= layer < len(shapes) else None
        else:
            layer, begin = line.integer_at(3), line.integer_at(4)
            place, array = (begin - 1,), biases[layer - 1] if 1 <= layer <= len(shapes) else None
        if array is None or not all(0 <= k < n for k, n in zip(place, array.shape, strict=True)):
            raise line.error(f"the network has no such place; its layers are {' x '.join(map(str, sizes))}")
        if not np.isnan(array[place]):
            raise line.error("there is a number for this place already")
        array[place] = value
    if any(np.isnan(part).any() for part in arrays):
        raise ModelFileError(f"{path}: too few numbers for a network {' x '.join(map(str, sizes))}")
    return weights, biases
