"""Finds and loads the compiled operators (`_ops.so`, registered as ``torch.ops.mlip``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

DISTRIBUTION = "mlip-torch"
LIBRARY = "_ops.so"
#: What the package calls; a library that lacks one of them is of an older version.
OPERATORS = (
    "bessel_basis",
    "cubic_weights",
    "distinct",
    "edge_vectors",
    "furthest_move",
    "irreps_linear",
    "matmul",
    "message_exact",
    "message_exact_general",
    "message_interpolated",
    "message_interpolated_general",
    "message_rows",
    "neighbor_list",
    "neighbor_outer",
    "pairs_within",
    "radial_activations",
    "row_offsets",
    "rowwise_dot",
    "shortest_pair",
    "silu",
    "spherical_harmonics",
    "symmetric_contraction",
    "symmetry_functions",
    "take_rows",
)


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
        except OSError as error:
            reason = f"{library} could not be loaded ({error})"
        else:
            missing = [name for name in OPERATORS if not hasattr(torch.ops.mlip, name)]
            if not missing:
                return True
            reason = f"{library} is older than the package (it has no {', '.join(missing)})"
    warnings.warn(
        f"The compiled operators of mlip are not available: {reason}. Everything works, but many times slower: "
        f"networks run in plain torch, and neighbor lists come from matscipy. To get them, install a C++ compiler and "
        f"run `pip install --force-reinstall --no-deps --no-cache-dir {DISTRIBUTION}` (or `pip install .` in the "
        "sources).",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


compiled: bool = _load()
