"""Reading structures with their energies, forces and stresses; what is missing stays missing, never zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import compare_atoms
from numpy.typing import NDArray

from mlip.convert import check_structure
from mlip.errors import DataError, InputError
from mlip.units import voigt_6_to_full_3x3

PROPERTIES = ("energy", "forces", "stress")
ISOLATED_NAMES = frozenset({"isolatedatom", "isolated_atom"})
#: A stress tensor may be this asymmetric, relative to its largest component; what is written with few digits is.
ASYMMETRY = 1e-2


@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a file. None: `REF_energy` and so on where any structure has it, else the plain name."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None


@dataclass(frozen=True)
class LabelledStructure:
    """A structure and what is known about it: eV, eV/Å (N, 3), eV/Å³ (3, 3) positive under tension."""

    atoms: Atoms
    energy: float | None = None
    forces: NDArray[np.float64] | None = None
    stress: NDArray[np.float64] | None = None
    weight: float = 1.0
    group: str = ""
    index: int = 0  # place in the file, for errors

    @property
    def is_isolated_atom(self) -> bool:
        """One atom, marked as isolated in `config_type` or not periodic at all."""
        marked = self.group.lower() in ISOLATED_NAMES
        return len(self.atoms) == 1 and (marked or not self.atoms.pbc.any())


@dataclass(frozen=True)
class LabelledData:
    """The structures of one file and the keys that their labels were found under (None: no such label)."""

    structures: list[LabelledStructure]
    keys: LabelKeys
    source: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.structures)


def read_labelled(path: str | Path, keys: LabelKeys = LabelKeys()) -> LabelledData:  # noqa: B008 (frozen)
    """Read every structure of a file (extended xyz, or whatever ASE reads) with its labels.

    Raises:
        DataError: the file can't be read or is empty, a key given by name is on no structure, a label has the wrong
            shape, is not finite or belongs to other positions, nothing is labelled.
        InputError: a structure no potential can evaluate.
    """
    return label_structures(read_structures(path), keys, source=str(path))


def read_structures(path: str | Path) -> list[Atoms]:
    """All structures of a file.

    Raises:
        OSError: the file can't be opened.
        DataError: it is empty or not a file of structures.
    """
    from ase.io import read

    file = Path(path)
    with open(file, "rb") as stream:
        if not stream.read(1):
            raise DataError(f"{file} is empty; expected structures, for example in extended xyz")
    try:
        structures = read(file, index=":", format="extxyz" if file.suffix in (".xyz", ".extxyz") else None)
    except Exception as error:  # ASE's readers raise nearly anything on a file that is not theirs, OSError included
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{file} can't be read as structures: {type(error).__name__}: {error}") from error
    if not structures:
        raise DataError(f"{file} holds no structure")
    return list(structures)


def label_structures(structures: Sequence[Atoms], keys: LabelKeys, source: str = "the data") -> LabelledData:
    """Collect the labels of structures in memory; errors as in `read_labelled`."""
    found = LabelKeys(**{name: _find_key(structures, name, getattr(keys, name), source) for name in PROPERTIES})
    labelled = [_label(atoms, found, index, source) for index, atoms in enumerate(structures)]
    counts = {name: sum(getattr(s, name) is not None for s in labelled) for name in PROPERTIES}
    if not any(counts.values()):
        raise DataError(
            f"{source}: no structure has a label under REF_energy, REF_forces, REF_stress, energy, forces or stress; "
            f"present are {_present(structures)}. Name the right ones with --energy_key, --forces_key, --stress_key"
        )
    return LabelledData(labelled, found, source, counts)


def _find_key(structures: Sequence[Atoms], name: str, wanted: str | None, source: str) -> str | None:
    candidates = [wanted] if wanted else [f"REF_{name}", name]
    for key in candidates:
        if any(_value(atoms, name, key) is not None for atoms in structures):
            return key
    if wanted:
        raise DataError(
            f"{source}: no structure has the {name} key {wanted!r} (--{name}_key); present are {_present(structures)}"
        )
    return None


def _value(atoms: Atoms, name: str, key: str) -> Any:
    """The label under `key`: in info, in arrays, or (plain names) in the calculator where ASE's readers put it."""
    store = atoms.arrays if name == "forces" else atoms.info
    if key in store:
        return store[key]
    if key in PROPERTIES and atoms.calc is not None:
        return getattr(atoms.calc, "results", {}).get(key)
    return None


def _is_stale(atoms: Atoms, name: str, key: str) -> bool:
    """Whether the label comes from a calculator that computed it for something else."""
    if key in (atoms.arrays if name == "forces" else atoms.info):
        return False
    computed = getattr(atoms.calc, "atoms", None)
    parts = {"positions", "numbers", "cell", "pbc"}
    return computed is not None and bool(parts & set(compare_atoms(computed, atoms)))


def _present(structures: Sequence[Atoms]) -> str:
    counts: Counter[str] = Counter()
    for atoms in structures:
        results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
        counts.update({*atoms.info, *atoms.arrays, *results} - {"numbers", "positions"})
    return ", ".join(f"{key} ({n} of {len(structures)})" for key, n in counts.most_common(20)) or "none at all"


def _label(atoms: Atoms, keys: LabelKeys, index: int, source: str) -> LabelledStructure:
    where = f"structure {index} of {source}"
    if len(atoms) == 0:
        raise DataError(f"{where} has no atoms")
    try:
        check_structure(atoms)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    values = {name: _value(atoms, name, key) if (key := getattr(keys, name)) else None for name in PROPERTIES}
    if any(value is not None and _is_stale(atoms, name, getattr(keys, name)) for name, value in values.items()):
        raise DataError(
            f"{where}: the calculator holds results of other positions or another cell (it is shared, or the structure "
            "was changed since); store the labels in info and arrays, as REF_energy and so on"
        )
    arrays = {name: _as_array(value, f"{where}: {name}") for name, value in values.items() if value is not None}
    energy, forces, stress = (arrays.get(name) for name in PROPERTIES)
    if energy is not None and energy.size != 1:
        raise DataError(f"{where}: the energy has shape {energy.shape}; expected one number in eV")
    if forces is not None and forces.shape != (len(atoms), 3):
        raise DataError(f"{where}: the forces have shape {forces.shape}; expected {(len(atoms), 3)}, eV/Å")
    return LabelledStructure(
        atoms=atoms,
        energy=None if energy is None else float(energy.item()),
        forces=forces,
        stress=None if stress is None else _full_stress(stress, atoms, where),
        weight=_weight(atoms, where),
        group=str(atoms.info.get("config_type", atoms.info.get("group", ""))),
        index=index,
    )


def _as_array(value: Any, what: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} {value!r} is not numeric") from error
    if not np.isfinite(array).all():
        raise DataError(f"{what} is not finite ({np.isnan(array).sum()} NaN); remove the label or the structure")
    return array


def _full_stress(stress: NDArray[np.float64], atoms: Atoms, where: str) -> NDArray[np.float64] | None:
    """Stress as a symmetric 3x3 tensor; a structure that is not periodic in 3D has none, whatever the file says."""
    if stress.size == 6 and stress.ndim == 1:
        full = voigt_6_to_full_3x3(stress)
    elif stress.size == 9:
        full = stress.reshape(3, 3)
    else:
        raise DataError(f"{where}: the stress has shape {stress.shape}; expected 3x3, 9 or 6 (Voigt) numbers, eV/Å³")
    if np.abs(full - full.T).max() > ASYMMETRY * np.abs(full).max():
        raise DataError(f"{where}: the stress tensor {full.tolist()} is not symmetric")
    return (full + full.T) / 2 if atoms.pbc.all() else None


def _weight(atoms: Atoms, where: str) -> float:
    """The structure's weight in the loss, `config_weight` in info as in MACE's data files."""
    weight = _as_array(atoms.info.get("config_weight", 1.0), f"{where}: config_weight")
    if weight.size != 1 or weight.item() < 0:
        raise DataError(f"{where}: config_weight is {weight.tolist()}; expected one number, zero or more")
    return float(weight.item())
