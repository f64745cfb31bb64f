"""From what an option names to files: single ones, several, patterns with wildcards, and folders of calculations."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mlip.errors import DataError

Given = str | Path | Sequence[str | Path]
"""One file, pattern or folder, or several."""

#: Files of VASP, plain and packed, the better one first: vasprun.xml says most about each step.
VASP_NAMES = ("vasprun.xml", "vasprun.xml.gz", "OUTCAR", "OUTCAR.gz")


def find_files(given: Given) -> list[Path]:
    """Files in the order they are named; those of patterns and folders are sorted.

    A folder stands for the calculations of VASP below it, at any depth. Where one lies as vasprun.xml and as OUTCAR,
    the first is taken.

    FILE@PART names a part of a file that has several (rMD17's npz).

    Raises:
        DataError: a pattern or folder without files, a file named twice, or nothing at all.
        FileNotFoundError: no such file.
    """
    names = [given] if isinstance(given, str | Path) else list(given)
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += _calculations(path)
        elif path.exists() or not glob.has_magic(str(name)):
            found.append(path)
        else:
            matched = [Path(match) for match in sorted(glob.glob(str(name), recursive=True))]
            if not matched:
                raise DataError(f"no file matches {name}")
            found += [file for match in matched for file in (_calculations(match) if match.is_dir() else [match])]
    twice = sorted(str(file) for file, n in Counter(file.resolve() for file in found).items() if n > 1)
    if twice:
        raise DataError(f"{twice[0]} is named twice; name each file once")
    if not found:
        raise DataError("no file is named; expected labelled structures")
    return found


def _calculations(folder: Path) -> list[Path]:
    """Files of VASP in a folder and below it, one of each calculation."""
    best: dict[Path, Path] = {}
    for name in reversed(VASP_NAMES):
        for file in folder.rglob(name):
            best[file.parent] = file
    if not best:
        raise DataError(
            f"{folder} is a folder without calculations of VASP ({', '.join(VASP_NAMES)}) in or below it; name other "
            f"files themselves, as in '{folder}/*.extxyz'"
        )
    return [best[parent] for parent in sorted(best)]


def without_part(path: str | Path) -> tuple[Path, str]:
    """File and part of FILE@PART; no part where a file has that very name, or there is no @."""
    name, at, part = Path(path).name.rpartition("@")
    if not at or Path(path).exists():
        return Path(path), ""
    return Path(path).with_name(name), part


def in_words(given: Given) -> str:
    """What was named, in short."""
    if isinstance(given, str | Path):
        return str(given)
    names = [str(name) for name in given]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
