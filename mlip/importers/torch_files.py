"""Files of torch.save, told apart by what is in them: a model of mace-torch, or weights of PyTorch Geometric."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from mlip.errors import InputError
from mlip.importers.mace import ADMITTED, mace_potential
from mlip.importers.pyg_dimenet import is_pyg_dimenet, pyg_potential
from mlip.importers.torch_archive import read_archive
from mlip.potential import Potential


def load_torch_file(
    path: Path,
    head: str | None = None,
    elements: str | Sequence[str | int] | None = None,
    E0s: Mapping[int, float] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Potential:
    """A potential from such a file; nothing in it is executed.

    Args:
        path: the file.
        head: which head of a model of several.
        elements: of weights of PyTorch Geometric, symbols or atomic numbers.
        E0s, kwargs: likewise, as in `load_pyg_dimenet`.

    Raises:
        ModelFileError: none of these files, or a damaged or hostile one.
        InputError: no elements for a file that needs them, or what a file has itself; no such head.
        OSError: the file can't be read.
    """
    found = read_archive(path, ADMITTED)
    if not is_pyg_dimenet(found):
        potential = mace_potential(found, path, head)
        refuse_told(elements=elements, E0s=E0s, kwargs=kwargs)
        return potential
    if elements is None:
        raise InputError(
            "weights of a DimeNet of PyTorch Geometric, which has numbers for every element, trained or not; say which "
            "ones it was trained for, and convert it first, as in: "
            f'mlip convert {path.name} -o {path.stem}.safetensors --elements "H C O" (in Python: '
            'mlip.load(path, elements="H C O"))'
        )
    potential = pyg_potential(found, path, _numbers(elements), kwargs, E0s)
    return potential if head is None else potential.with_head(head)


def refuse_told(**told: object) -> None:
    """Raise `InputError` if anything is told of a model that has it itself."""
    names = [name for name, value in told.items() if value is not None]
    if names:
        raise InputError(
            f"{' and '.join(names)} can be given for weights of PyTorch Geometric alone; this model has its own"
        )


def _numbers(elements: str | Sequence[str | int]) -> list[int]:
    """Atomic numbers of "H C O", ["H", "C"] or [1, 6]."""
    if isinstance(elements, int):
        elements = [elements]
    words = re.split(r"[\s,]+", elements.strip(" ,")) if isinstance(elements, str) else list(elements)
    numbers = []
    for word in words:
        number = int(word) if str(word).isdecimal() else atomic_numbers.get(str(word), 0)
        if not 1 <= number <= 118:
            raise InputError(f"elements: {word!r} is no element; expected symbols or atomic numbers, such as H C O")
        numbers.append(number)
    return numbers
