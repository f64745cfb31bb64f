"""Sets of labelled structures converted, split, and augmented by rattled and strained copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from mlip.data.files import Given, find_files, without_part
from mlip.data.labels import (
    KEYS,
    PROPERTIES,
    LabelKeys,
    LabelledData,
    LabelledStructure,
    check_all,
    read_labelled,
    read_one_by_one,
)
from mlip.data.n2p2 import Units
from mlip.data.parts import PARTS, Method, cut, shortest_distance
from mlip.data.reading import read_file
from mlip.data.records import count_labels
from mlip.data.storing import check_suffix, reported, write_structures
from mlip.errors import InputError
from mlip.units import voigt_6_to_full_3x3
from mlip.workflows.evaluation import Progress, is_crystal
from mlip.workflows.results import Result

#: Copies with atoms closer than this times the sum of their covalent radii are drawn again, so many times.
CLOSE, TRIES = 0.6, 20


@dataclass(frozen=True)
class Written(Result):
    """What has been written where.

    Attributes:
        files: by file: structures, and how many have energy, forces, stress.
        remarks: what was left out, and what to know.
    """

    files: dict[str, dict[str, int]]
    remarks: list[str]


def _write(path: Path, structures: list[LabelledStructure], progress: Progress | None) -> dict[str, int]:
    write_structures(path, reported(structures, progress))
    return {"structures": len(structures), **count_labels(structures)}


def _stripped(data: LabelledData, keys: LabelKeys) -> list[LabelledStructure]:
    """Without the labels under names of the file, which are written under ours."""
    named = {key for name in KEYS if (key := getattr(keys, name)) is not None}
    for s in data.structures:
        for key in named:
            s.atoms.info.pop(key, None)
    return data.structures


def _refuse_input(output: Path, files: Given) -> None:
    if output.resolve() in {without_part(file)[0].resolve() for file in find_files(files)}:
        raise InputError(f"{output} is one of the files that are read; name another one to write")


def convert_data(
    files: Given,
    output: Path,
    keys: LabelKeys = LabelKeys(),  # noqa: B008 (frozen)
    units: Units | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write the structures of files, with labels in eV and Å under REF_*, in the format that the suffix names.

    The files are read one after the other, so that memory goes by the largest of them.

    Raises:
        InputError: no such format; files as in `read_labelled`.
    """
    check_suffix(output)
    _refuse_input(output, files)
    remarks: list[str] = []
    counts: Counter[str] = Counter(structures=0, **dict.fromkeys(PROPERTIES, 0))

    def structures() -> Iterator[LabelledStructure]:
        for data in read_one_by_one(files, remarks, keys, units=units):
            counts.update(structures=len(data), **data.counts)
            yield from reported(_stripped(data, keys), progress)

    write_structures(output, structures())
    return Written({str(output): dict(counts)}, remarks)


def split_data(
    files: Given,
    folder: Path,
    fractions: Sequence[float],
    method: Method = "random",
    seed: int = 0,
    gap: int = 5,
    suffix: str = ".extxyz",
    keys: LabelKeys = LabelKeys(),  # noqa: B008 (frozen)
    units: Units | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write train, valid and, of three fractions, test into a folder, as `mlip.data.parts.cut` has them.

    Raises:
        InputError: fractions that are none, a part that would be empty, no such format.
    """
    check_suffix(folder / f"train{suffix}")
    for name in PARTS:  # an earlier test set beside new parts would be a leak
        if (path := folder / f"{name}{suffix}").exists():
            raise InputError(f"{path} is there already; remove it, or take another folder")
    data = read_labelled(files, keys, units=units)
    structures = _stripped(data, keys)
    parts = cut(structures, fractions, method, seed, gap)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    remarks = list(data.remarks)
    for name, part in zip(PARTS, parts, strict=False):
        written[str(folder / f"{name}{suffix}")] = _write(
            folder / f"{name}{suffix}", [structures[k] for k in part], progress
        )
    if left := len(structures) - sum(map(len, parts)):
        remarks.append(f"{left} structures between blocks are in no part (--gap {gap})")
    known = {symbol for k in parts[0] for symbol in structures[k].atoms.symbols}
    for name, part in zip(PARTS[1:], parts[1:], strict=False):
        unknown = {symbol for k in part for symbol in structures[k].atoms.symbols} - known
        if unknown:
            remarks.append(
                f"{name} holds {', '.join(sorted(unknown))}, which train does not: a potential can't know it"
            )
    return Written(written, remarks)


def augment_data(
    files: Given,
    output: Path,
    rattle: float,
    strain: float,
    copies: int,
    seed: int = 0,
    calculator: BaseCalculator | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write rattled and strained copies of the structures, labelled by a calculator, or not at all.

    Args:
        files: structures, with or without labels; isolated atoms are left out.
        output: file to write.
        rattle: standard deviation (Å) of each coordinate.
        strain: largest component of the strain, which is drawn evenly in between for structures periodic in three
            dimensions.
        copies: of each structure.
        seed: of the random numbers.
        calculator: ASE's, for energy, forces and, of crystals, stress.
        progress: called with (done, total, note).

    Raises:
        InputError: numbers that are none, a calculator that fails, nothing to write.
    """
    if rattle < 0 or strain < 0 or not rattle + strain or strain >= 0.5 or copies < 1:
        raise InputError(
            f"--rattle {rattle:g}, --strain {strain:g}, --copies {copies}: expected a rattle or a strain above zero, a "
            "strain below 0.5, and at least one copy"
        )
    check_suffix(output)
    _refuse_input(output, files)
    originals = _structures(files)
    rng = np.random.default_rng(seed)
    made: list[LabelledStructure] = []
    refused = 0
    for k, (name, atoms) in enumerate(originals):
        for _ in range(copies):
            copy = _varied(atoms, rattle, strain, rng)
            if copy is None:
                refused += 1
                continue
            copy.info["augmented_from"] = name
            made.append(_labelled(copy, calculator, name))
        if progress:
            progress(k + 1, len(originals), "")
    if not made:
        raise InputError("no copy keeps its atoms apart; lower --rattle and --strain")
    remarks = [] if calculator else ["no labels: give --calculator or --model, or compute them"]
    if refused:
        remarks.append(f"{refused} copies are left out: atoms closer than {CLOSE} of the sum of their covalent radii")
    return Written({str(output): _write(output, made, None)}, remarks)


def _structures(files: Given) -> list[tuple[str, Atoms]]:
    """Structures without labels, and their places."""
    found = []
    for path in find_files(files):
        structures = read_file(path).structures
        check_all(structures, str(path))
        for k, atoms in enumerate(structures):
            bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            group = str(atoms.info.get("config_type", ""))
            if LabelledStructure(bare, group=group).is_isolated_atom:
                continue
            bare.info = {key: v for key, v in atoms.info.items() if key == "config_type"}
            found.append((f"{path.name}:{k}", bare))
    return found


def _varied(atoms: Atoms, rattle: float, strain: float, rng: np.random.Generator) -> Atoms | None:
    """A copy, None if its atoms come too close in all tries."""
    for _ in range(TRIES):
        copy = atoms.copy()
        if strain and is_crystal(atoms):
            tensor = rng.uniform(-strain, strain, size=(3, 3))
            upper = np.triu(tensor)
            symmetric = upper + np.triu(tensor, 1).T
            copy.set_cell(atoms.cell.array @ (np.eye(3) + symmetric), scale_atoms=True)
        copy.positions += rng.normal(scale=rattle, size=(len(copy), 3)) if rattle else 0.0
        if shortest_distance(LabelledStructure(copy)) >= CLOSE:
            return copy
    return None


def _labelled(atoms: Atoms, calculator: BaseCalculator | None, name: str) -> LabelledStructure:
    if calculator is None:
        return LabelledStructure(atoms)
    probe = atoms.copy()
    probe.calc = calculator
    try:
        energy, forces = float(probe.get_potential_energy()), np.array(probe.get_forces())
    except PropertyNotImplementedError as error:
        raise InputError(f"the calculator has no energies or no forces to label with: {error}") from error
    energy = float(getattr(calculator, "results", {}).get("free_energy", energy))  # whose derivatives the forces are
    try:
        stress: Any = voigt_6_to_full_3x3(probe.get_stress()) if is_crystal(atoms) else None
    except PropertyNotImplementedError:
        stress = None
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise InputError(f"the calculator gives no finite numbers for a copy of {name}")
    return LabelledStructure(atoms, energy, forces, stress)
