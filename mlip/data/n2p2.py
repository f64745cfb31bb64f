"""n2p2's and RuNNer's `input.data`: structures with energies and forces, in units that the file does not name.

The format is that of n2p2's documentation: blocks from `begin` to `end` with lines `comment`, `lattice` (none or
three), `atom x y z element charge unused fx fy fz`, `energy` and `charge`.
"""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, covalent_radii

from mlip.convert import atoms_to_graph
from mlip.data.files import without_part
from mlip.errors import DataError, InputError
from mlip.units import BOHR, HARTREE, atomic_units

Units = tuple[float, float]
"""Unit of length in Å and of energy in eV."""

#: In between lies the shortest distance between neighbors in units of the sum of both covalent radii, in the median of
#: a file's structures: 0.85 to 1.05 in molecules and covalent crystals, up to 1.25 in metals. Bohr taken for Å make it
#: 1.9 times as large, Å taken for Bohr 0.53 times.
PLAUSIBLE = 0.7, 1.5
_SAMPLE, _REACH = 20, 6.0  # about how many structures are looked at; how far from an atom, Å


def is_n2p2_data(path: str | Path) -> bool:
    """Whether the first word of a file is `begin`."""
    with open(without_part(path)[0], "rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(1 << 16), b"")):
            words = (line.removeprefix(codecs.BOM_UTF8) if number == 0 else line).split(maxsplit=1)
            if words and not words[0].startswith(b"#"):
                return words[0] == b"begin"
    return False


def data_units(length: str | None, energy: str | None, paths: Iterable[str | Path]) -> Units | None:
    """The units that --length_unit and --energy_unit name, None where none are given.

    Raises:
        InputError: one without the other, names of no unit, or no file that they are for.
        OSError: a file can't be read.
    """
    if length is None and energy is None:
        return None
    if length is None or energy is None:
        given, missing = ("energy", "length") if length is None else ("length", "energy")
        raise InputError(f"--{given}_unit needs --{missing}_unit: files of n2p2 name neither, and both are converted")
    units = atomic_units(length, energy)
    if not any(is_n2p2_data(path) for path in paths):
        raise InputError(
            "--length_unit and --energy_unit are for files of n2p2 (input.data) and would do nothing here; other files "
            "are in eV and Å"
        )
    return units


def read_n2p2_data(path: Path, units: Units | None = None) -> list[Atoms]:
    """All structures of such a file, in eV and Å, with energy and forces in a calculator.

    Args:
        path: the file.
        units: of length in Å and of energy in eV; None: Bohr and Hartree, n2p2's own.

    Raises:
        DataError: not such a file, or distances that these units, where none were given, make impossible.
        OSError: the file can't be read.
    """
    structures, block = [], _Block(path, 0)
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "begin" and not block.begun:
            block = _Block(path, number)
        elif words[0] == "end" and block.begun:
            structures.append(block.atoms(units or (BOHR, HARTREE)))
            block = _Block(path, 0)
        else:
            block.take(number, words)
    if block.begun:
        block.fail(block.begun, "this structure has no end; the file is not complete")
    _check_distances(structures, path, units is not None)
    return structures


class _Block:
    """One structure: what stands between `begin`, in the line `begun` (0: not yet), and `end`."""

    def __init__(self, path: Path, begun: int) -> None:
        self.path, self.begun = path, begun
        self.found: dict[str, list[tuple[int, list[str]]]] = {}

    def fail(self, number: int, problem: str) -> NoReturn:
        raise DataError(f"{self.path}, line {number}: {problem}")

    def take(self, number: int, words: list[str]) -> None:
        """A line that is neither `begin` nor `end` where these may stand."""
        if not self.begun:
            self.fail(number, f"{words[0]!r} outside of a structure; expected begin")
        if words[0] not in ("comment", "lattice", "atom", "energy", "charge"):
            self.fail(number, f"{words[0]!r} in a structure; expected comment, lattice, atom, energy, charge or end")
        self.found.setdefault(words[0], []).append((number, words))

    def atoms(self, units: Units) -> Atoms:
        """In eV and Å."""
        length, energy_unit = units
        symbols = []
        for number, words in self.found.get("atom", []):
            if len(words) < 10:
                self.fail(number, f"{len(words)} words; expected atom x y z element charge unused fx fy fz")
            if words[4] not in atomic_numbers:
                self.fail(number, f"{words[4]!r} is no chemical element")
            symbols.append(words[4])
        if not symbols:
            self.fail(self.begun, "a structure without atoms")
        cell = self._numbers("lattice", 1, 4)
        if len(cell) not in (0, 3):
            self.fail(self.found["lattice"][0][0], f"{len(cell)} lattice vectors; expected none or three")
        positions, charges, forces = (self._numbers("atom", *span) for span in ((1, 4), (5, 6), (7, 10)))
        results: dict[str, Any] = {"forces": forces * energy_unit / length}
        energy, charge = self._single("energy"), self._single("charge")
        if energy is not None:
            results["energy"] = energy * energy_unit
        atoms = Atoms(symbols, positions * length, cell=cell * length if len(cell) else None, pbc=len(cell) > 0)
        if charges.any():
            atoms.set_initial_charges(charges[:, 0])
        comments = [" ".join(words[1:]) for _, words in self.found.get("comment", [])]
        atoms.info |= {"comment": " ".join(comments)} if comments else {}
        atoms.info |= {"charge": charge} if charge else {}
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def _numbers(self, keyword: str, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Words of all lines of a keyword, (lines, stop - start)."""
        rows = self.found.get(keyword, [])
        if any(len(words) < stop for _, words in rows):
            self.fail(rows[0][0], f"too few numbers for {keyword}")
        try:
            return np.array([list(map(float, words[start:stop])) for _, words in rows]).reshape(-1, stop - start)
        except ValueError as error:
            self.fail(rows[0][0], f"in the lines {keyword} from here on: {error}")

    def _single(self, keyword: str) -> float | None:
        values = self._numbers(keyword, 1, 2)
        if len(values) > 1:
            self.fail(self.found[keyword][1][0], f"a second {keyword} for the same structure")
        return float(values[0, 0]) if len(values) else None


def _check_distances(structures: Sequence[Atoms], path: Path, given: bool) -> None:
    """Refuse, or warn of, units that can't be, by the shortest distances."""
    picked = structures[:: max(1, len(structures) // _SAMPLE)]
    shortest = [found for atoms in picked if (found := _shortest(atoms)) is not None]
    if not shortest or PLAUSIBLE[0] <= (middle := float(np.median(shortest))) <= PLAUSIBLE[1]:
        return
    taken = "the units given" if given else "lengths in Bohr"
    problem = (
        f"{path}: with {taken}, nearest neighbors are at {middle:.2f} times the sum of their covalent radii, where "
        f"{PLAUSIBLE[0]} to {PLAUSIBLE[1]} is usual. The file does not name its units"
    )
    if not given:
        raise DataError(
            f"{problem}; say which they are: --length_unit Angstrom --energy_unit eV, or, if they are right, "
            "--length_unit Bohr --energy_unit Hartree"
        )
    warnings.warn(f"{problem}: are --length_unit and --energy_unit right?", stacklevel=2)


def _shortest(atoms: Atoms) -> float | None:
    """Shortest distance in units of the sum of both covalent radii; None without neighbors, or if it can't be had."""
    try:
        graph = atoms_to_graph(atoms, _REACH)
    except InputError:  # said later, with the place of the structure
        return None
    center, neighbor = graph.edge_index.numpy()
    radii = covalent_radii[atoms.numbers]
    lengths = graph.edge_vectors().norm(dim=1).numpy() / (radii[center] + radii[neighbor])
    return float(lengths.min()) if len(lengths) else None
