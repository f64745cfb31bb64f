"""E0s: the energy of one atom of each element, taken from isolated atoms, fitted, or given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from mlip.data.labels import LabelledStructure
from mlip.errors import DataError, InputError

_ENTRY = re.compile(r"""["']?([A-Za-z]{1,2}|\d{1,3})["']?\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)""")
_PLAIN_MAPPING = re.compile(r"\{[^{}]*\}")


class ReferenceEnergies(NamedTuple):
    """E0 (eV) by atomic number, and where they came from in words."""

    E0s: dict[int, float]
    origin: str


def reference_energies(
    option: str | Mapping[int, float] | Mapping[str, float],
    training: Sequence[LabelledStructure],
    isolated: Sequence[LabelledStructure],
) -> ReferenceEnergies:
    """E0s as asked for: `isolated`, `average`, `{14: -0.8}` or `{Si: -0.8}`.

    Args:
        option: what the user asked for.
        training: structures that train, without isolated atoms.
        isolated: structures of one isolated atom.

    Raises:
        DataError: isolated atoms asked for but not there for every element; no energies to average.
        InputError: an option that is none of these, or a mapping that leaves out an element of the data.
    """
    elements = sorted({int(z) for s in (*training, *isolated) for z in s.atoms.numbers})
    if isinstance(option, Mapping) or _PLAIN_MAPPING.fullmatch(option.strip()):
        return _given(parse_E0s(option), elements)
    if option == "average":
        return _average(training, sorted({int(z) for s in training for z in s.atoms.numbers}))
    if option == "isolated":
        return _from_isolated(isolated, elements)
    raise InputError(f"--E0s {option!r}: expected isolated, average or a mapping such as {{14: -0.8}}")


def parse_E0s(option: str | Mapping[int, float] | Mapping[str, float]) -> dict[int, float]:
    """`{14: -0.8}` or `{Si: -0.8}`, as text or as a mapping, to energies by atomic number."""
    if isinstance(option, Mapping):
        pairs: list[tuple[str, float]] = [(str(key), float(value)) for key, value in option.items()]
    else:
        body = option.strip().removeprefix("{").removesuffix("}")
        entries = [entry.strip() for entry in body.split(",") if entry.strip()]
        matches = [_ENTRY.fullmatch(entry) for entry in entries]
        bad = [entry for entry, match in zip(entries, matches, strict=True) if match is None]
        if bad or not entries:
            raise InputError(f"--E0s: {bad[0] if bad else option!r} is not ELEMENT: ENERGY, for example {{14: -0.8}}")
        pairs = [(match[1], float(match[2])) for match in matches if match]
    E0s: dict[int, float] = {}
    for element, energy in pairs:
        number = int(element) if element.isdigit() else atomic_numbers.get(element, 0)
        if not 1 <= number <= 118:
            raise InputError(f"--E0s: {element!r} is no element")
        if number in E0s:
            raise InputError(f"--E0s: {chemical_symbols[number]} is given twice")
        E0s[number] = energy
    return E0s


def _symbols(elements: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in elements)


def _given(E0s: dict[int, float], elements: Sequence[int]) -> ReferenceEnergies:
    missing = [z for z in elements if z not in E0s]
    if missing:
        raise InputError(f"--E0s gives no energy for {_symbols(missing)}, which the training data holds")
    return ReferenceEnergies(dict(sorted(E0s.items())), "given")


def _from_isolated(isolated: Sequence[LabelledStructure], elements: Sequence[int]) -> ReferenceEnergies:
    E0s: dict[int, float] = {}
    for structure in isolated:
        number = int(structure.atoms.numbers[0])
        if structure.energy is None:
            continue
        if abs(E0s.setdefault(number, structure.energy) - structure.energy) > 1e-4:
            raise DataError(
                f"two isolated atoms of {chemical_symbols[number]} have different energies, {E0s[number]} and "
                f"{structure.energy} eV; keep one, or give --E0s"
            )
    missing = [z for z in elements if z not in E0s]
    if missing:
        raise DataError(
            f"the training data holds no isolated atom of {_symbols(missing)} to take the reference energy from. "
            "Add one (config_type=IsolatedAtom), give the energies (--E0s '{14: -0.8}'), or fit them to the data "
            "with --E0s average"
        )
    return ReferenceEnergies(dict(sorted(E0s.items())), "isolated atoms of the training file")


def _average(training: Sequence[LabelledStructure], elements: Sequence[int]) -> ReferenceEnergies:
    """Least-squares energies over the compositions; of minimal norm where the compositions do not determine them."""
    with_energy = [s for s in training if s.energy is not None]
    if not with_energy:
        raise DataError("--E0s average needs energies, and no training structure has one")
    counts = np.array([[np.count_nonzero(s.atoms.numbers == z) for z in elements] for s in with_energy], dtype=float)
    energies = np.array([s.energy for s in with_energy])
    solution, _, rank, _ = np.linalg.lstsq(counts, energies, rcond=None)
    unseen = [z for z, column in zip(elements, counts.T, strict=True) if not column.any()]
    if unseen:
        raise DataError(f"--E0s average: no structure with {_symbols(unseen)} has an energy; give --E0s")
    origin = f"least squares over {len(with_energy)} energies"
    if rank < len(elements):
        origin += (
            f" (the compositions fix only {rank} of {len(elements)} of them: the solution of smallest norm; "
            "the model can't know energies of other compositions)"
        )
    return ReferenceEnergies({z: float(e) for z, e in zip(elements, solution, strict=True)}, origin)
