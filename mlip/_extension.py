"""Finds and loads the compiled operators (`_ops.so`, registered as ``torch.ops.mlip``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

DISTRIBUTION = "mlip-torch"
LIBRARY = "_ops.so"


def _candidates() -> Iterator[Path]:
    """Beside the package; else where the distribution was installed, while the package is run from its sources."""
    yield Path(__file__).with_name(LIBRARY)
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    yield from (Path(str(file.locate())) for file in files if file.name == LIBRARY)


def _load() -> bool:
    """Load the first library found; True on success, else a warning tells what is lost."""
    library = next((path for path in _candidates() if path.is_file()), None)
    if library is None:
        reason = f"no {LIBRARY} was found"
    else:
        try:
            torch.ops.load_library(library)
            return True
        except OSError as error:
            reason = f"{library} could not be loaded ({error})"
    warnings.warn(
        f"The compiled operators of mlip are not available: {reason}. Everything works, but neighbor lists come "
        f"from matscipy (many times slower, CPU only). To get them, install a C++ compiler and run "
        f"`pip install --force-reinstall --no-deps --no-cache-dir {DISTRIBUTION}` (or `pip install .` in the sources).",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


compiled: bool = _load()
