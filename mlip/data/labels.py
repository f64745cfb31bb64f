"""Reading structures with their energies, forces and stresses; what is missing stays missing, never zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.convert import check_structures
from mlip.data.files import Given, find_files, in_words
from mlip.data.n2p2 import Units
from mlip.data.reading import read_file
from mlip.data.stress import stress_label
from mlip.data.vasp import is_vasp
from mlip.data.weights import LabelWeights, label_weights, structure_weight
from mlip.errors import DataError

#: What is learned. Virials become stresses as they are read.
PROPERTIES = ("energy", "forces", "stress")
#: What files may hold.
KEYS = (*PROPERTIES, "virials")
#: In eV and Å; the total energy of a million uranium atoms with all their electrons is below it.
LARGEST_LABEL = 1e12


@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a file. None: `REF_energy` and so on where any structure has it, else the plain name."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virials: str | None = None  # -volume x stress, eV: mace's and QUIP's sign


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
    weights: LabelWeights = LabelWeights()  # of the labels, beside that of the structure
    value: NDArray[np.float64] | None = None  # (1,) or (3,), what a property model learns, in its unit
    charge: float = 0.0  # of the whole structure in e, for dipoles
    file: str = ""  # where it is from, if there are several files
    head: int = 0  # of a model that is trained with several, the one these labels are of

    @property
    def is_isolated_atom(self) -> bool:
        """One atom, marked as isolated in `config_type` or not periodic at all.

        One atom in a periodic cell without a mark is a crystal (bcc, fcc), or at least may be one.
        """
        return len(self.atoms) == 1 and (is_isolated_mark(self.group) or not self.atoms.pbc.any())

    def label_weight(self, name: str) -> float:
        """Weight of the label `name` in the loss; zero without label."""
        return 0.0 if getattr(self, name) is None else self.weight * getattr(self.weights, name)


def is_isolated_mark(group: str) -> bool:
    """Whether a `config_type` marks an isolated atom: IsolatedAtom, isolated_atom, isolated-atom, isolated atom."""
    return "".join(filter(str.isalpha, group.lower())) == "isolatedatom"


@dataclass(frozen=True)
class LabelledData:
    """The structures of a file, or of several, and the keys of their labels (None: no such label)."""

    structures: list[LabelledStructure]
    keys: LabelKeys
    source: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    ignored_stresses: int = 0  # of structures that are not periodic in three dimensions
    remarks: tuple[str, ...] = ()  # on what was left out

    def __len__(self) -> int:
        return len(self.structures)


def read_labelled(
    path: Given,
    keys: LabelKeys = LabelKeys(),  # noqa: B008 (frozen)
    strict: bool = True,
    units: Units | None = None,
) -> LabelledData:
    """Read every structure with its labels (extended xyz, npz, files of n2p2 and VASP, or whatever ASE reads).

    Of several files, each has its own keys, and calculations of VASP without any step that counts are left out.

    Args:
        path: the file; or several, patterns, folders of VASP, as in `mlip.data.files.find_files`.
        keys: names of the labels.
        strict: whether stress and virials given by name must be there, as energy and forces must; a test set need not
            have all that is trained.
        units: of length in Å and of energy in eV, of a file of n2p2; None: Bohr and Hartree.

    Raises:
        DataError: the file can't be read or is empty, a key given by name is on no structure, a label has the wrong
            shape, is not finite or belongs to other positions, nothing is labelled.
        InputError: a structure no potential can evaluate.
    """
    remarks: list[str] = []
    parts = list(read_one_by_one(path, remarks, keys, strict, units))
    return combined(parts, in_words(path), remarks)


def read_one_by_one(
    path: Given,
    remarks: list[str],
    keys: LabelKeys = LabelKeys(),  # noqa: B008 (frozen)
    strict: bool = True,
    units: Units | None = None,
) -> Iterator[LabelledData]:
    """The files that `read_labelled` reads, one after the other, for those who need not have all in memory.

    Arguments and errors as there; `remarks` grows by what was left out.
    """
    files = find_files(path)
    n = 0
    for file in files:
        try:
            content = read_file(file, units)
        except DataError as error:
            if len(files) == 1 or not is_vasp(file):
                raise
            remarks.append(f"left out: {error}")
            continue
        remarks += content.remarks
        n += 1
        yield label_structures(content.structures, keys, str(file), strict)
    if not n:
        raise DataError(f"{in_words(path)}: nothing that can be used in {len(files)} files; {remarks[0]}")


def combined(parts: Sequence[LabelledData], source: str, remarks: Sequence[str] = ()) -> LabelledData:
    """Several files as one; the keys are those of the first file that has the label."""
    if len(parts) == 1:
        return replace(parts[0], remarks=tuple(remarks))
    keys = {name: next((key for p in parts if (key := getattr(p.keys, name))), None) for name in KEYS}
    return LabelledData(
        structures=[replace(s, file=part.source) for part in parts for s in part.structures],
        keys=LabelKeys(**keys),
        source=source,
        counts={name: sum(part.counts[name] for part in parts) for name in PROPERTIES},
        ignored_stresses=sum(part.ignored_stresses for part in parts),
        remarks=tuple(remarks),
    )


def label_structures(
    structures: Sequence[Atoms], keys: LabelKeys, source: str = "the data", strict: bool = True
) -> LabelledData:
    """Collect the labels of structures in memory; arguments and errors as in `read_labelled`."""
    needed = KEYS if strict else ("energy", "forces")
    found = LabelKeys(
        **{name: _find_key(structures, name, getattr(keys, name), source, name in needed) for name in KEYS}
    )
    check_all(structures, source)
    labelled = [label_structure(atoms, found, index, source) for index, atoms in enumerate(structures)]
    counts = {name: sum(getattr(s, name) is not None for s in labelled) for name in PROPERTIES}
    ignored = sum(s.stress is None and _has_stress(s.atoms, found) for s in labelled)
    if not any(counts.values()):
        names = ", ".join(f"REF_{name}" for name in KEYS)
        raise DataError(
            f"{source}: no structure has a label under {names} or {', '.join(KEYS)}; present are "
            f"{present(structures)}. Name the right ones with --energy_key, --forces_key, --stress_key, --virials_key"
            + (f" ({ignored} stresses of structures not periodic in three dimensions are none)" if ignored else "")
        )
    return LabelledData(labelled, found, source, counts, ignored)


def check_all(structures: Sequence[Atoms], source: str) -> None:
    """Raise for a structure that no potential can evaluate, with its place in the file."""
    for index, atoms in enumerate(structures):
        if len(atoms) == 0:
            raise DataError(f"structure {index} of {source} has no atoms")
    check_structures(structures, lambda index: f"structure {index} of {source}: ")


def _find_key(structures: Sequence[Atoms], name: str, wanted: str | None, source: str, is_needed: bool) -> str | None:
    candidates = [wanted] if wanted else [f"REF_{name}", name]
    for key in candidates:
        if any(_value(atoms, name, key) is not None for atoms in structures):
            return key
    if wanted and is_needed:
        raise DataError(
            f"{source}: no structure has the {name} key {wanted!r} (--{name}_key); present are {present(structures)}"
        )
    return None


def is_labelled(structures: Sequence[Atoms], keys: LabelKeys) -> bool:
    """Whether any structure has any label."""
    return any(_find_key(structures, name, getattr(keys, name), "", False) is not None for name in KEYS)


def _value(atoms: Atoms, name: str, key: str | None) -> Any:
    """The label under `key`: in info, in arrays, or (plain names) in the calculator where ASE's readers put it."""
    if key is None:
        return None
    store = atoms.arrays if name == "forces" else atoms.info
    if key in store:
        return store[key]
    if key in PROPERTIES and atoms.calc is not None:
        return getattr(atoms.calc, "results", {}).get(key)
    return None


def _has_stress(atoms: Atoms, keys: LabelKeys) -> bool:
    return any(_value(atoms, name, getattr(keys, name)) is not None for name in ("stress", "virials"))


def _check_fresh(atoms: Atoms, keys: LabelKeys, where: str) -> None:
    """Refuse labels from a calculator that computed them for something else."""
    if not results_are_old(atoms):
        return
    for name in KEYS:
        key = getattr(keys, name)
        stored = key in (atoms.arrays if name == "forces" else atoms.info)
        if not stored and _value(atoms, name, key) is not None:
            raise DataError(f"{where}: {OLD_RESULTS}")


OLD_RESULTS = (
    "the calculator holds results of other positions or another cell (it is shared, or the structure was changed "
    "since); store the labels in info and arrays, as REF_energy and so on"
)


def results_are_old(atoms: Atoms) -> bool:
    """Whether the calculator's results are of something else than the atoms as they are now."""
    computed = getattr(atoms.calc, "atoms", None)
    return computed is not None and not all(
        np.array_equal(a, b)
        for a, b in (
            (computed.positions, atoms.positions),
            (computed.numbers, atoms.numbers),
            (computed.cell.array, atoms.cell.array),
            (computed.pbc, atoms.pbc),
        )
    )


def key_counts(structures: Sequence[Atoms]) -> dict[str, int]:
    """On how many structures there is what, the most common first."""
    counts: Counter[str] = Counter()
    for atoms in structures:
        results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
        counts.update({*atoms.info, *atoms.arrays, *results} - {"numbers", "positions"})
    return dict(counts.most_common())


def present(structures: Sequence[Atoms]) -> str:
    counts = list(key_counts(structures).items())[:20]
    return ", ".join(f"{key} ({n} of {len(structures)})" for key, n in counts) or "none at all"


def label_structure(atoms: Atoms, keys: LabelKeys, index: int, source: str) -> LabelledStructure:
    """One structure with the labels under these very keys; errors as in `read_labelled`."""
    where = f"structure {index} of {source}"
    if atoms.calc is not None:
        _check_fresh(atoms, keys, where)
    values = {name: _value(atoms, name, getattr(keys, name)) for name in KEYS}
    arrays = {name: as_array(value, f"{where}: {name}") for name, value in values.items() if value is not None}
    energy, forces, stress, virials = (arrays.get(name) for name in KEYS)
    if energy is not None and energy.size != 1:
        raise DataError(f"{where}: the energy has shape {energy.shape}; expected one number in eV")
    if forces is not None and forces.shape != (len(atoms), 3):
        raise DataError(f"{where}: the forces have shape {forces.shape}; expected {(len(atoms), 3)}, eV/Å")
    if stress is not None or virials is not None:
        stress = stress_label(stress, virials, atoms, where)
    group = str(atoms.info.get("config_type", atoms.info.get("group", "")))
    if len(atoms) > 1 and is_isolated_mark(group):
        raise DataError(f"{where} is marked {group} but has {len(atoms)} atoms; expected one, or another config_type")
    return LabelledStructure(
        atoms=atoms,
        energy=None if energy is None else float(energy.item()),
        forces=forces,
        stress=stress,
        weight=structure_weight(atoms.info, where),
        group=group,
        index=index,
        weights=label_weights(atoms.info, where),
    )


def as_array(value: Any, what: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(value)
        if array.dtype == bool:  # a key without a value reads as True
            raise ValueError
        array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} {value!r} is not numeric") from error
    if not np.isfinite(array).all():
        raise DataError(f"{what} is not finite ({np.isnan(array).sum()} NaN); remove the label or the structure")
    if array.size and np.abs(array).max() > LARGEST_LABEL:
        raise DataError(
            f"{what} has {np.abs(array).max():.3g}, which no calculation gives in eV and Å; remove the label or the "
            "structure, or convert the units"
        )
    return array
