"""VASP's OUTCAR and vasprun.xml, plain or packed by gzip: the ionic steps whose electrons converged.

The energy is the free energy (TOTEN, `e_fr_energy`), whose derivatives forces and stress are; energy(sigma->0), which
ASE calls the energy, differs for metals. Stresses are ASE's: positive under tension, from VASP's kbar under pressure.

ASE's readers don't tell whether a step converged, and of a run that was cut off they take steps that are not complete.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from numpy.typing import NDArray

from mlip.errors import DataError
from mlip.units import EV_PER_A3_TO_GPA

Array = NDArray[np.float64]

KBAR = 0.1 / EV_PER_A3_TO_GPA  # in eV/Å³
NUMBER = re.compile(r"[+-]?\d+\.\d*(?:[eE][+-]?\d+)?")
_OUTCAR = re.compile(r"(?i)(^|[._-])OUTCAR([._-].*)?$")
_OTHERS = (".xyz", ".extxyz", ".npz", ".h5", ".hdf5", ".lmdb", ".db", ".traj", ".json")  # whatever the name before
#: What expat calls the errors of a document that is cut off: no element found, unclosed token, partial character.
_CUT_OFF = (3, 5, 6)
_VASPRUN = re.compile(r"(?i)^vasprun.*\.xml([._-].*)?$|\.vasprun\.xml(\.gz)?$")


@dataclass
class Run:
    """Ionic steps of one file."""

    structures: list[Atoms] = field(default_factory=list)
    unconverged: int = 0  # electrons did not converge; left out
    incomplete: int = 0  # the file ends within; left out

    def remarks(self, file: Path) -> tuple[str, ...]:
        """What was left out, in words."""
        left = []
        if self.unconverged:
            left.append(f"{self.unconverged} whose electronic loop did not converge (NELM reached)")
        if self.incomplete:
            left.append(
                f"{self.incomplete} that {'is' if self.incomplete == 1 else 'are'} cut off at the end of the file"
            )
        if not left:
            return ()
        steps = len(self.structures) + self.unconverged + self.incomplete
        return (f"{file}: of {steps} ionic steps, left out: {' and '.join(left)}",)


def is_vasp(path: Path) -> bool:
    """Whether a file is one of VASP's, by its name."""
    return path.suffix not in _OTHERS and bool(_OUTCAR.search(path.name) or _VASPRUN.search(path.name))


def read_vasp(path: Path) -> Run:
    """The converged and complete ionic steps of an OUTCAR or a vasprun.xml.

    Raises:
        DataError: it is not such a file.
        OSError: it can't be read.
    """
    reader: Callable[[Any], Run] = _read_outcar if _OUTCAR.search(path.name) else _read_vasprun
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
        try:
            return reader(stream)
        except (ValueError, IndexError, KeyError, AttributeError, ElementTree.ParseError) as error:
            if isinstance(error, DataError):
                raise DataError(f"{path}: {error}") from error
            raise DataError(f"{path} is no file of VASP that can be read ({type(error).__name__}: {error})") from error


def _atoms(
    numbers: list[int], cell: Array, positions: Array, energy: float, forces: Array, kbar: Array | None
) -> Atoms:
    """One step; `kbar` (6,) in the order xx yy zz yz xz xy, positive under pressure."""
    atoms = Atoms(numbers=numbers, cell=cell, positions=positions, pbc=True)
    results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": forces}
    if kbar is not None:
        results["stress"] = -KBAR * kbar
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _read_vasprun(stream: IO[bytes]) -> Run:
    run = Run()
    numbers: list[int] = []
    settings = {"NELM": 60.0, "EDIFF": 1e-4, "PSTRESS": 0.0}
    open_steps = 0
    events = ElementTree.iterparse(stream, events=("start", "end"))
    try:
        for event, element in events:
            if event == "start":
                open_steps += element.tag == "calculation"
            elif element.tag == "parameters":
                settings |= {
                    i.get("name", ""): float(i.text or 0) for i in element.iter("i") if i.get("name") in settings
                }
            elif element.tag == "atominfo":
                numbers = [_number(str(row[0].text)) for row in element.findall("array[@name='atoms']/set/rc")]
            elif element.tag == "calculation":
                open_steps -= 1
                atoms = _vasprun_step(element, numbers, settings)
                if atoms is None:
                    run.unconverged += 1
                else:
                    run.structures.append(atoms)
                element.clear()
    except (ElementTree.ParseError, EOFError) as error:
        if not numbers or getattr(error, "code", _CUT_OFF[0]) not in _CUT_OFF:
            raise
        run.incomplete = open_steps
    return run


def _vasprun_step(step: ElementTree.Element, numbers: list[int], settings: dict[str, float]) -> Atoms | None:
    """A complete step; None if its electrons did not converge."""
    energies = [float(i.text or "nan") for i in step.findall("scstep/energy/i[@name='e_fr_energy']")]
    still = len(energies) > 1 and abs(energies[-1] - energies[-2]) <= settings["EDIFF"]
    if not energies or (len(energies) >= settings["NELM"] and not still):
        return None
    cell = _rows(step.find("structure/crystal/varray[@name='basis']"))
    positions = _rows(step.find("structure/varray[@name='positions']")) @ cell
    forces = _rows(step.find("varray[@name='forces']"))
    energy = float(step.find("energy/i[@name='e_fr_energy']").text)  # type: ignore[union-attr, arg-type]
    energy -= settings["PSTRESS"] * KBAR * abs(float(np.linalg.det(cell)))  # it is an enthalpy, unlike that of scstep
    tensor = step.find("varray[@name='stress']")
    kbar = None if tensor is None else _rows(tensor)[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    return _atoms(numbers, cell, positions, energy, forces, kbar)


def _rows(element: ElementTree.Element | None) -> Array:
    if element is None:
        raise DataError("a step without cell, positions or forces")
    return np.array([list(map(float, (v.text or "").split())) for v in element.findall("v")])


def _number(symbol: str) -> int:
    """Atomic number of a name as potentials have it: Si, Fe_pv, H1.25."""
    element = re.split(r"[^A-Za-z]", symbol.strip())[0]
    if element not in atomic_numbers:
        raise DataError(f"{symbol!r} is no chemical element")
    return int(atomic_numbers[element])


class _Outcar:
    """What has been read of an OUTCAR, line by line."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines
        self.run = Run()
        self.species: list[int] = []
        self.counts: list[int] = []
        self.cell: Array | None = None
        self.new_step()

    def new_run(self) -> None:
        """Nothing of the run before holds; a step of it that is not complete is cut off."""
        self.run.incomplete += self.is_begun
        self.species, self.counts, self.cell = [], [], None
        self.new_step()

    def new_step(self) -> None:
        self.is_converged, self.is_begun = False, False
        self.kbar: Array | None = None
        self.positions: Array | None = None
        self.forces: Array | None = None

    @property
    def numbers(self) -> list[int]:
        if not self.counts or len(self.species) < len(self.counts):
            raise DataError("no kinds of atoms (VRHFIN, ions per type) before the first step")
        return [z for z, n in zip(self.species, self.counts, strict=False) for _ in range(n)]

    def take(self, line: str) -> None:
        """One line, and those after it that belong to it."""
        if "(ML)" in line:  # of a force field that VASP makes, not of electrons
            return
        if "VRHFIN" in line:
            if self.counts:  # another run in the same file
                self.new_run()
            self.species.append(_number(line.split("=")[1].split(":")[0]))
        elif "ions per type =" in line:
            self.counts = list(map(int, line.split("=")[1].split()))
        elif "- Iteration" in line:
            self.is_begun = True
        elif "aborting loop because EDIFF is reached" in line:
            self.is_converged = True
        elif "direct lattice vectors" in line:
            self.cell = self.table(3)[:, :3]
        elif line.startswith("  in kB"):
            xx, yy, zz, xy, yz, zx = map(float, NUMBER.findall(line))
            self.kbar = np.array([xx, yy, zz, yz, zx, xy])
        elif "TOTAL-FORCE (eV/Angst)" in line:
            next(self.lines)  # dashes
            table = self.table(len(self.numbers))
            self.positions, self.forces = table[:, :3], table[:, 3:6]
        elif "free  energy   TOTEN" in line and line.rstrip().endswith("eV") and self.forces is not None:
            self.finish(float(NUMBER.findall(line)[0]))

    def table(self, n: int) -> Array:
        """The next n lines; numbers may touch each other, as in -1.0-2.0."""
        rows = [list(map(float, NUMBER.findall(next(self.lines)))) for _ in range(n)]
        if len({len(row) for row in rows}) != 1 or len(rows[0]) < 6:
            raise DataError(f"a table of numbers is broken: {rows[0]}")
        return np.array(rows)

    def finish(self, energy: float) -> None:
        """The last line of an ionic step that counts."""
        if self.cell is None or self.positions is None or self.forces is None:
            raise DataError("a step without cell or positions")
        if not self.is_converged:
            self.run.unconverged += 1
        else:
            self.run.structures.append(_atoms(self.numbers, self.cell, self.positions, energy, self.forces, self.kbar))
        self.new_step()


def _read_outcar(stream: IO[bytes]) -> Run:
    lines = (line.decode("utf-8", errors="replace") for line in stream)
    read = _Outcar(lines)
    try:
        for line in lines:
            read.take(line)
    except (StopIteration, EOFError, RuntimeError):  # cut off within a table, or within a packed block
        read.is_begun = True
    except (DataError, ValueError, IndexError):
        if next(lines, None) is not None:
            raise  # broken before its end
        read.is_begun = True
    if not read.species:
        raise DataError("no OUTCAR of VASP: it names no potential (VRHFIN)")
    read.run.incomplete += read.is_begun
    return read.run
