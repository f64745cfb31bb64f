"""Reads the structure and makes the calculator that a command was asked for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from mlip.cli.output import check_output, writing
from mlip.errors import InputError, UnknownElementError

if TYPE_CHECKING:
    from ase import Atoms

    from mlip.calculators import MLIPCalculator

Dtype: TypeAlias = Literal["float64", "float32"]


def read_structure(path: Path) -> Atoms:
    """Return the structure in any file that ASE reads; of several images the last one, said on stderr.

    ``FILE@INDEX`` picks an image, as everywhere in ASE.

    Raises:
        InputError: not a structure, no atoms, coordinates that are not finite, a singular cell.
        OSError: the file can't be opened.
    """
    from mlip.convert import check_structure

    images = _read_images(path)
    if not images or not len(images[-1]):
        raise InputError(f"{path} holds no atoms")
    if len(images) > 1:
        print(f"{path} holds several structures; the last one is used", file=sys.stderr)
    atoms = images[-1]
    atoms.calc = None
    try:
        check_structure(atoms)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return atoms


def _read_images(path: Path) -> list[Atoms]:
    """Read the last two images at most: enough to know whether there are several."""
    from ase.io import read

    chosen = "@" in path.name and not path.exists()
    if not chosen:
        if path.is_dir():
            raise InputError(f"{path} is a folder, expected a file with a structure")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty, expected a structure")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read(str(path)) if chosen else read(str(path), index=_last_images(path))
    except OSError as error:
        if error.errno is None:
            raise InputError(f"{path} is not a structure that ASE can read: {error}") from error
        raise
    except Exception as error:
        if chosen and isinstance(error, StopIteration | IndexError):
            raise InputError(f"{path}: there is no structure of this index") from error
        reason = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
        raise InputError(f"{path} is not a structure that ASE can read ({reason})") from error
    return found if isinstance(found, list) else [found]


def _last_images(path: Path) -> int | slice:
    """Index of the last two images; formats of one structure (POSCAR, ...) have but the last."""
    from ase.io.formats import filetype, get_ioformat

    return -1 if get_ioformat(filetype(str(path))).single else slice(-2, None)


def make_calculator(
    model: str | None, atoms: Atoms, *, device: str = "auto", dtype: Dtype = "float64", head: str | None = None
) -> MLIPCalculator:
    """Return the calculator of a model: a file, a name that `mlip models` lists, or None for the bundled one that fits.

    Raises:
        UnknownElementError: no bundled potential covers the structure, or the model does not.
        ModelFileError, OSError: the file can't be used.
        InputError: no such device; no head of that name, or several and none named.
    """
    from mlip.calculators import MLIPCalculator

    name = default_model(atoms) if model is None else model
    calculator = MLIPCalculator(name, device=device, dtype=dtype, head=head)
    unknown = set(atoms.numbers.tolist()) - set(calculator.potential.elements)
    if unknown:
        raise UnknownElementError(
            f"the model {name} does not know {_symbols(unknown)}; it knows {_symbols(calculator.potential.elements)}"
        )
    return calculator


def default_model(atoms: Atoms) -> str:
    """Return the name of the first bundled potential whose elements cover the structure."""
    from mlip.checkpoint import read_header
    from mlip.zoo import bundled_models

    needed = set(atoms.numbers.tolist())
    models = bundled_models()
    for name, path in models.items():
        if needed <= set(read_header(path)["hyperparameters"]["elements"]):
            return name
    raise UnknownElementError(
        f"no bundled potential covers {_symbols(needed)} (bundled: {', '.join(models) or 'none'}); "
        "name a model with --model"
    )


def _symbols(numbers: Iterable[int]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[number] for number in sorted(numbers))


def check_structure_output(path: Path) -> None:
    """Raise now, not after the work, what `write_structure` can't do.

    Raises:
        InputError: ASE can't write this format.
        OSError: no file can be made there.
    """
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    check_output(path)
    try:
        writable = get_ioformat(filetype(str(path), read=False)).can_write
    except UnknownFileTypeError:
        writable = False
    if not writable:
        raise InputError(f"can't write {path}: its suffix names no format that ASE writes; take .extxyz, .cif or .vasp")


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write a structure in the format that the suffix of ``path`` names.

    Raises:
        InputError: ASE can't write this format.
        OSError: the disk or folder refuses.
    """
    from ase.io import write

    try:
        with writing(path):
            write(str(path), atoms)
    except OSError:
        raise
    except Exception as error:
        raise InputError(f"can't write {path}: {type(error).__name__}: {error}") from error
