"""Objects that options name as module:callable."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from mlip.errors import InputError


def load_callable(name: str) -> Any:
    """Return the object that ``module:attribute`` names; modules in the current folder are found too.

    Raises:
        InputError: not of that form, or there is no such module or attribute.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InputError(f"--calculator {name!r}: expected module:callable, such as ase.calculators.emt:EMT")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--calculator {name!r}: {error}") from error
    return found
