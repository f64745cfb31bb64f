"""A fast reader of extended xyz: what it reads equals what ASE's reader makes of it; all else it leaves to that one.

ASE parses the comment line character by character and the atoms through structured arrays. Here the usual forms are
taken by one regular expression and whole columns; anything that is not among them raises `Unusual`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.io import extxyz as ase_extxyz


class Unusual(Exception):
    """A file, or part of one, that is left to ASE's reader."""


#: key=value, key="value" or a key alone, without escapes, brackets and other subtleties.
_ITEM = re.compile(r"""\s*([^\s=,"'{}\[\]\\]+)(?:=(?:"([^"\\]*)"|([^\s="'{}\[\]\\]+))(?=\s|$))?(?=\s|$)""")
_WORD = re.compile(r"[^\s,]+")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
#: A letter that no number has: neither 1e5 nor nan nor infinity.
_LETTER = re.compile(r"[b-dg-hj-mo-su-xzB-DG-HJ-MO-SU-XZ]")
_BOOLEANS = {"T": True, "F": False} | {
    word: word[0] in "tT" for t in ("true", "false") for word in (t, t.title(), t.upper())
}
_TENSORS = ("Lattice", "virial", "stress")
#: Results that ASE's calculators hold per structure; those of the file become results, not info.
_PER_STRUCTURE = frozenset(ase_extxyz.per_config_properties)
_NAMES = dict(ase_extxyz.REV_PROPERTY_NAME_MAP)
#: Columns that ASE treats in a way of their own.
_SPECIAL = frozenset({"move_mask", "initial_charges"})
_TYPES: dict[str, tuple[Callable[[str], Any], Any]] = {
    "R": (float, np.float64),
    "I": (int, np.int32),
    "S": (str, object),
    "L": ({"T": True, "F": False, "True": True, "False": False}.__getitem__, np.bool_),
}


def read_frames(text: str) -> list[Atoms]:
    """All structures of an extended xyz file, as ASE reads them.

    Args:
        text: the whole file, with newlines as line ends.

    Raises:
        Unusual: something that only ASE's reader knows how to read or to refuse.
    """
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return list(_frames(lines))


def _frames(lines: list[str]) -> Iterator[Atoms]:
    position = 0
    layouts: dict[str, _Layout] = {}
    while position < len(lines):
        try:
            n_atoms = int(lines[position])
        except ValueError as error:
            raise Unusual(f"line {position + 1}: no number of atoms") from error
        end = position + 2 + n_atoms
        if n_atoms < 1 or end > len(lines):
            raise Unusual(f"line {position + 1}: no such number of atoms")
        info = parse_comment(lines[position + 1].strip())
        properties = info.pop("Properties", "species:S:1:pos:R:3")
        if properties not in layouts:
            layouts[properties] = _Layout(properties)
        yield _atoms(info, layouts[properties].columns([line.split() for line in lines[position + 2 : end]]))
        position = end


class _Layout:
    """Columns of the atoms' lines, from `Properties`."""

    def __init__(self, properties: Any) -> None:
        fields = properties.split(":") if isinstance(properties, str) else []
        names = [_NAMES.get(name, name) for name in fields[::3]]
        usual = len(fields) % 3 == 0 and len(set(names)) == len(names) and not _SPECIAL & set(names)
        kinds, counts = fields[1::3], fields[2::3]
        if not (usual and set(kinds) <= set(_TYPES) and all(c.isdecimal() and int(c) for c in counts)):
            raise Unusual(f"Properties {properties!r}")
        spans = np.cumsum([0, *map(int, counts)]).tolist()
        self.width = spans[-1]
        self.parts = list(zip(names, kinds, spans[:-1], spans[1:], strict=True))
        layout = {name: (kind, stop - start) for name, kind, start, stop in self.parts}
        species = layout.get("symbols") == ("S", 1) or layout.get("numbers") == ("I", 1)
        if not species or {"symbols", "numbers"} <= set(names) or layout.get("positions") != ("R", 3):
            raise Unusual(f"Properties {properties!r}")

    def columns(self, rows: list[list[str]]) -> dict[str, Any]:
        """Arrays by ASE's name: (N,) or (N, columns)."""
        if set(map(len, rows)) != {self.width}:
            raise Unusual("lines of different lengths")
        arrays = {}
        for name, kind, start, stop in self.parts:
            convert, dtype = _TYPES[kind]
            words = (row[start] for row in rows) if stop - start == 1 else chain(*(row[start:stop] for row in rows))
            try:
                values = _numbers(list(words)) if name == "symbols" else list(map(convert, words))
                array = np.array(values, np.int64 if name == "symbols" else dtype)
            except (ValueError, KeyError, OverflowError) as error:
                raise Unusual(f"column {name}") from error
            arrays[name] = array if stop - start == 1 else array.reshape(len(rows), stop - start)
        return arrays


def _numbers(symbols: list[str]) -> list[int]:
    try:
        return [atomic_numbers[symbol] for symbol in symbols]
    except KeyError:
        return [atomic_numbers[symbol.capitalize()] for symbol in symbols]


def _atoms(info: dict[str, Any], arrays: dict[str, Any]) -> Atoms:
    """Atoms with labels where ASE puts them: standard names in a calculator, others in info and arrays."""
    pbc = info.pop("pbc", True if "Lattice" in info else None)
    cell = info.pop("Lattice").T if "Lattice" in info else None
    numbers = arrays.pop("numbers") if "numbers" in arrays else arrays.pop("symbols")
    results = {name: arrays.pop(name) for name in list(arrays) if name in all_properties}
    for name in [name for name in info if name in _PER_STRUCTURE]:
        results[name] = info.pop(name)
        if name == "stress":
            if np.shape(results[name]) != (3, 3):
                raise Unusual("stress")
            results[name] = results[name][(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    try:
        atoms = Atoms(numbers=numbers, positions=arrays.pop("positions"), cell=cell, pbc=pbc, info=info)
        for name, array in arrays.items():
            atoms.new_array(name, array)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
    except (ValueError, TypeError, RuntimeError) as error:
        raise Unusual(str(error)) from error
    return atoms


def parse_comment(line: str) -> dict[str, Any]:
    """Values by key, as of `ase.io.extxyz.key_val_str_to_dict`, which is asked where a line is not simple."""
    info: dict[str, Any] = {}
    position = 0
    while position < len(line):
        match = _ITEM.match(line, position)
        if match is None:
            return _parsed_by_ase(line)
        key, quoted, bare = match.groups()
        value = bare if quoted is None else quoted
        if value is None:
            value = "T"
        if key.lower() in ase_extxyz.UNPROCESSED_KEYS:
            info[key] = value
        else:
            converted = _value(value)
            if converted is None:
                return _parsed_by_ase(line)
            if key in _TENSORS:
                if np.shape(converted) != (9,) or not isinstance(converted, np.ndarray):
                    raise Unusual(key)
                converted = converted.reshape(3, 3).T
            info[key] = converted
        position = match.end()
    return info


def _parsed_by_ase(line: str) -> dict[str, Any]:
    try:
        return ase_extxyz.key_val_str_to_dict(line)
    except Exception as error:  # the same error comes from ASE's reader of the whole file, to be reported from there
        raise Unusual(str(error)) from error


def _value(text: str) -> Any:
    """A number, an array of numbers, a boolean, a list of booleans or the text; None for what is not clearly one."""
    words = _WORD.findall(text)
    if not words:
        return None
    if all(map(_INTEGER.fullmatch, words)):
        return np.int64(int(words[0])) if len(words) == 1 else np.array(list(map(int, words)))
    if all(map(_FLOAT.fullmatch, words)):
        return np.float64(float(words[0])) if len(words) == 1 else np.array(list(map(float, words)))
    if all(word in _BOOLEANS for word in words):
        return _BOOLEANS[words[0]] if len(words) == 1 else [_BOOLEANS[word] for word in words]
    return text if _LETTER.search(text) and not text.startswith("_JSON") else None
