"""E0s: the energy of one atom of each element, taken from isolated atoms, fitted, given, or from a file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from mlip.data.labels import LabelKeys, LabelledStructure, read_labelled
from mlip.data.n2p2 import Units
from mlip.errors import DataError, InputError

_ENTRY = re.compile(r"""["']?([A-Za-z]{1,2}|\d{1,3})["']?\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)""")
_PLAIN_MAPPING = re.compile(r"\{[^{}]*\}")
_XYZ = (".xyz", ".extxyz")


class ReferenceEnergies(NamedTuple):
    """E0 (eV) by atomic number, and where they came from in words."""

    E0s: dict[int, float]
    origin: str


def reference_energies(
    option: str | Mapping[int, float] | Mapping[str, float],
    training: Sequence[LabelledStructure],
    isolated: Sequence[LabelledStructure],
    energy_key: str | None = None,
    units: Units | None = None,
    also: Collection[int] = (),
) -> ReferenceEnergies:
    """E0s of the elements of the training structures, as asked for.

    Args:
        option: `isolated`, `average`, a mapping such as `{14: -0.8}` or `{Si: -0.8}`, or a file: a mapping in JSON,
            or isolated atoms in extended xyz.
        training: structures that train, without isolated atoms.
        isolated: structures of one isolated atom.
        energy_key: of the energies in a file of isolated atoms.
        units: of such a file, if it is one of n2p2.
        also: other elements, whose E0s are taken where they are given.

    Raises:
        DataError: isolated atoms asked for but not there for every element; no energies to average; a file that does
            not hold what it should.
        InputError: an option that is none of these, or a mapping that leaves out an element of the data.
    """
    elements = sorted({int(z) for s in training for z in s.atoms.numbers})
    return energies_of_elements(
        option, elements, isolated, lambda: _average(training, elements), energy_key, units, also
    )


def energies_of_elements(
    option: str | Mapping[int, float] | Mapping[str, float],
    elements: Sequence[int],
    isolated: Sequence[LabelledStructure],
    average: Callable[[], ReferenceEnergies],
    energy_key: str | None = None,
    units: Units | None = None,
    also: Collection[int] = (),
) -> ReferenceEnergies:
    """As `reference_energies`, given the elements of the training structures and what makes E0s by least squares."""
    if isinstance(option, Mapping) or _PLAIN_MAPPING.fullmatch(option.strip()):
        return _given(parse_E0s(option), elements, also, "given")
    if option == "average":
        return average()
    if option == "isolated":
        return _from_isolated(isolated, elements, also, "the training data", "isolated atoms of the training file")
    if is_E0s_file(option):
        return _from_file(Path(option), elements, also, energy_key, units)
    raise InputError(
        f"--E0s {option!r}: expected isolated, average, a mapping such as {{14: -0.8}} or a file, .json or .xyz"
    )


def is_E0s_file(option: object) -> bool:
    """Whether a value of --E0s names a file."""
    if not isinstance(option, str) or option in ("isolated", "average", "foundation", "estimated"):
        return False
    return Path(option).suffix in (".json", *_XYZ) or Path(option).is_file()


def _from_file(
    path: Path, elements: Sequence[int], also: Collection[int], energy_key: str | None, units: Units | None
) -> ReferenceEnergies:
    """A mapping in JSON, or isolated atoms with energies in whatever ASE reads.

    Raises:
        OSError: no such file.
        DataError: the file does not hold that.
    """
    if path.suffix != ".json":
        atoms = read_labelled(path, LabelKeys(energy=energy_key), units=units).structures
        for s in atoms:
            if not s.is_isolated_atom:
                raise DataError(
                    f"--E0s: structure {s.index} of {path} is no isolated atom but {s.atoms.get_chemical_formula()} "
                    f"with pbc {s.atoms.pbc.tolist()}; expected one atom each, with config_type=IsolatedAtom or "
                    "without periodic boundaries"
                )
        return _from_isolated(atoms, elements, also, str(path), f"isolated atoms of {path.name}")
    try:
        mapping = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"--E0s: {path} is not JSON: {error}") from error
    if not isinstance(mapping, dict):
        raise DataError(f'--E0s: {path} holds a {type(mapping).__name__}; expected a mapping such as {{"14": -0.8}}')
    return _given(parse_E0s(mapping), elements, also, f"given in {path.name}")


def parse_E0s(option: str | Mapping[int, float] | Mapping[str, float]) -> dict[int, float]:
    """`{14: -0.8}` or `{Si: -0.8}`, as text or as a mapping, to energies by atomic number."""
    if isinstance(option, Mapping):
        pairs: list[tuple[str, float]] = [(str(key), _number(key, value)) for key, value in option.items()]
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


def _number(element: object, value: object) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number):
        raise InputError(f"--E0s: the energy of {element} is {value!r}; expected a number, eV")
    return number


def _symbols(elements: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in elements)


def _given(E0s: dict[int, float], elements: Sequence[int], also: Collection[int], origin: str) -> ReferenceEnergies:
    missing = [z for z in elements if z not in E0s]
    if missing:
        raise InputError(f"--E0s gives no energy for {_symbols(missing)}, which the training data holds")
    return _only(elements, also, E0s, origin)


def _only(elements: Sequence[int], also: Collection[int], E0s: Mapping[int, float], origin: str) -> ReferenceEnergies:
    """Those of elements that train: a potential must not claim to know others."""
    unused = sorted(set(E0s) - {*elements, *also})
    if unused:
        origin += f"; {len(unused)} more are left out ({_symbols(unused[:10])}), since no training structure holds them"
    return ReferenceEnergies({z: E0s[z] for z in (*elements, *also) if z in E0s}, origin)


def _from_isolated(
    isolated: Sequence[LabelledStructure], elements: Sequence[int], also: Collection[int], source: str, origin: str
) -> ReferenceEnergies:
    E0s: dict[int, float] = {}
    silent = set()
    for structure in isolated:
        number = int(structure.atoms.numbers[0])
        if structure.energy is None:
            silent.add(number)
            continue
        if abs(E0s.setdefault(number, structure.energy) - structure.energy) > 1e-4:
            raise DataError(
                f"two isolated atoms of {chemical_symbols[number]} have different energies, {E0s[number]} and "
                f"{structure.energy} eV; keep one, or give --E0s"
            )
    missing = [z for z in elements if z not in E0s]
    if missing:
        without = sorted(silent & set(missing))
        hint = f" ({_symbols(without)} without an energy under the key of the other energies)" if without else ""
        raise DataError(
            f"{source} holds no isolated atom of {_symbols(missing)} to take the reference energy from{hint}. "
            "Add one (config_type=IsolatedAtom), give the energies (--E0s '{14: -0.8}', or a file), or fit them to the "
            "data with --E0s average"
        )
    return _only(elements, also, E0s, origin)


def _average(training: Sequence[LabelledStructure], elements: Sequence[int]) -> ReferenceEnergies:
    """Least-squares energies over the compositions; of minimal norm where the compositions do not determine them."""
    with_energy = [s for s in training if s.label_weight("energy") > 0]
    seen = {int(z) for s in with_energy for z in s.atoms.numbers}

    def solve() -> tuple[dict[int, float], int]:
        return least_squares(with_energy, np.array([s.energy for s in with_energy]), elements)

    return averaged(elements, len(with_energy), seen, solve)


def averaged(
    elements: Sequence[int], n: int, seen: Collection[int], solve: Callable[[], tuple[dict[int, float], int]]
) -> ReferenceEnergies:
    """What a fit over the compositions gives, and in words how far it can be trusted.

    Args:
        elements: of the training structures.
        n: number of energies.
        seen: elements of the structures that have them.
        solve: the fit, as `least_squares`.

    Raises:
        DataError: no energies, or none of an element.
    """
    if not n:
        raise DataError("--E0s average needs energies whose weight is not zero, and no training structure has one")
    unseen = [z for z in elements if z not in seen]
    if unseen:
        raise DataError(f"--E0s average: no structure with {_symbols(unseen)} has an energy; give --E0s")
    solution, rank = solve()
    origin = f"least squares over {n} energies"
    if rank < len(elements):
        origin += (
            f" (the compositions fix only {rank} of {len(elements)} of them: the solution of smallest norm; "
            "the model can't know energies of other compositions)"
        )
    return ReferenceEnergies(solution, origin)


def least_squares(
    structures: Sequence[LabelledStructure], values: NDArray[np.float64], elements: Sequence[int]
) -> tuple[dict[int, float], int]:
    """Numbers by element whose sums over the atoms come closest to the structures' values, of minimal norm.

    Returns:
        The numbers, and how many of them the compositions determine.
    """
    counts = np.array([[np.count_nonzero(s.atoms.numbers == z) for z in elements] for s in structures], dtype=float)
    solution, _, rank, _ = np.linalg.lstsq(counts, values, rcond=None)
    return {z: float(e) for z, e in zip(elements, solution, strict=True)}, int(rank)
