"""Reading structures with the property that a property model learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.data.files import Given, find_files, in_words
from mlip.data.labels import OLD_RESULTS, LabelledStructure, as_array, check_all, present, results_are_old
from mlip.data.n2p2 import is_n2p2_data
from mlip.data.reading import read_file
from mlip.data.weights import structure_weight
from mlip.errors import DataError
from mlip.properties import UNIT_ENDINGS, Property, property_of, split_key


@dataclass(frozen=True)
class PropertyData:
    """Structures of one file that have the property."""

    structures: list[LabelledStructure]
    learned: Property
    key: str  # of the property in the file
    source: str
    without: int  # structures without it, which are left out
    not_characterized: int = 0  # molecules of an npz file that are left out

    def __len__(self) -> int:
        return len(self.structures)

    def remarks(self) -> list[str]:
        """What was left out."""
        lines = []
        if self.not_characterized:
            lines.append(f"{self.source}: {self.not_characterized} molecules are not characterized and left out")
        if self.without:
            lines.append(f"{self.source}: {self.without} structures have no {self.key} and are left out")
        return lines


def read_property(path: Given, name: str, readout: str | None = None, unit: str | None = None) -> PropertyData:
    """Read the structures of a file that have a property.

    It is looked for under REF_NAME, NAME, and NAME_UNIT with an ending of `mlip.properties.UNIT_ENDINGS`, in `info` or
    where ASE's readers put what they know (`dipole`). The total charge of a structure is `charge` in its info, else 0.

    Args:
        path: extended xyz, npz (`mlip.data.npz`) or whatever ASE reads; or several, as in `mlip.data.files.find_files`.
        name, readout, unit: as in `mlip.properties.property_of`.

    Raises:
        DataError: no structure has it, which none in n2p2's data can; one has it in the wrong shape, not finite, or as
            what it can't be.
        InputError: units that contradict each other, a readout that can't be.
    """
    structures: list[Atoms] = []
    left_out = 0
    for file in find_files(path):
        if is_n2p2_data(file):
            raise DataError(f"{file} is an input.data of n2p2, which holds no {name}; expected extended xyz or npz")
        content = read_file(file)
        structures += content.structures
        left_out += content.left_out
    return label_property(structures, name, readout, unit, in_words(path), left_out)


def label_property(
    structures: Sequence[Atoms],
    name: str,
    readout: str | None = None,
    unit: str | None = None,
    source: str = "the data",
    not_characterized: int = 0,
) -> PropertyData:
    """Collect the property of structures in memory; arguments and errors as in `read_property`."""
    key = _find_key(structures, name, source)
    learned = property_of(name, readout, unit, split_key(key.removeprefix("REF_"))[1])
    check_all(structures, source)
    labelled = []
    for index, atoms in enumerate(structures):
        found = _value(atoms, key)
        if found is not None and key not in atoms.info and results_are_old(atoms):
            raise DataError(f"structure {index} of {source}: {OLD_RESULTS}")
        if found is not None:
            labelled.append(_labelled(atoms, found, learned, key, index, f"structure {index} of {source}"))
    without = len(structures) - len(labelled)
    return PropertyData(labelled, learned, key, source, without, not_characterized)


def _find_key(structures: Sequence[Atoms], name: str, source: str) -> str:
    plain = [f"REF_{name}", name]
    there = {key for atoms in structures for key in (*atoms.info, *_results(atoms))}
    for key in plain:
        if key in there:
            return key
    keys = [key for ending in UNIT_ENDINGS for start in plain if (key := f"{start}_{ending}") in there]
    if len(keys) == 1:
        return keys[0]
    if keys:
        raise DataError(f"{source} has {name} as {' and '.join(keys)}; name one of them with --target")
    raise DataError(f"{source}: no structure has {name!r} (--target); present are {present(structures)}")


def _results(atoms: Atoms) -> dict[str, Any]:
    """Where ASE's readers put what they know."""
    return {} if atoms.calc is None else getattr(atoms.calc, "results", {})


def _value(atoms: Atoms, key: str) -> Any:
    return atoms.info[key] if key in atoms.info else _results(atoms).get(key)


def _labelled(atoms: Atoms, found: Any, learned: Property, key: str, index: int, where: str) -> LabelledStructure:
    if learned.is_dipole and atoms.pbc.any():
        raise DataError(
            f"{where} is periodic (pbc {atoms.pbc.tolist()}) and has no dipole moment of its own; expected molecules, "
            'pbc="F F F", or --readout sum or mean'
        )
    return LabelledStructure(
        atoms=atoms,
        weight=structure_weight(atoms.info, where),
        group=str(atoms.info.get("config_type", atoms.info.get("group", ""))),
        index=index,
        value=_checked(as_array(found, f"{where}: {key}"), learned, f"{where}: {key}"),
        charge=_charge(atoms, where) if learned.is_dipole else 0.0,
    )


def _checked(value: NDArray[np.float64], learned: Property, what: str) -> NDArray[np.float64]:
    if value.size != learned.size:
        expected = "3 numbers, a vector" if learned.size == 3 else "one number"
        hint = "; a vector is learned with --readout dipole" if value.size == 3 else ""
        hint = hint or "; a dipole without direction with --readout dipole_norm" * (learned.size == 3)
        raise DataError(f"{what} has shape {value.shape}; expected {expected}{hint}")
    if learned.readout == "dipole_norm" and value.item() < 0:
        raise DataError(f"{what} is {value.item():g}; the length of a dipole is not negative (--readout dipole_norm)")
    return value.reshape(learned.size)


def _charge(atoms: Atoms, where: str) -> float:
    value = as_array(atoms.info.get("charge", 0.0), f"{where}: charge")
    if value.size != 1:
        raise DataError(f"{where}: charge has shape {value.shape}; expected one number in e")
    return float(value.item())
