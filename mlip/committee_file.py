"""The file of a committee: the tensors and headers of all its members, and the calibration of their deviations."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

import mlip
from mlip.checkpoint import COMMITTEE_FORMAT, VERSIONS, network_tensors, potential_header, potential_of, write_file
from mlip.committee import Calibration, Committee


def save_committee(committee: Committee, path: str | PathLike[str]) -> None:
    """Write `committee` to `path`: a complete file appears there or none does.

    Raises:
        InputError: a member whose file could not be read again.
        OSError: the file can't be written.
    """
    tensors: dict[str, Tensor] = {}
    for k, member in enumerate(committee.potentials):
        tensors |= {f"{k}.{name}": tensor for name, tensor in network_tensors(member).items()}
    header = {
        "format": COMMITTEE_FORMAT,
        "format_version": VERSIONS[COMMITTEE_FORMAT],
        "package_version": mlip.__version__,
        "names": list(committee.names),
        "members": [potential_header(member) for member in committee.potentials],
        "calibration": None if committee.calibration is None else committee.calibration.as_dict(),
        "metadata": committee.metadata,
    }
    write_file(header, tensors, Path(path))


def committee_of(header: dict[str, Any], tensors: dict[str, Tensor]) -> Committee:
    """The committee of a file's header and tensors."""
    members = [
        potential_of(stored, {name[len(f"{k}.") :]: t for name, t in tensors.items() if name.startswith(f"{k}.")})
        for k, stored in enumerate(header["members"])
    ]
    calibration = None if header["calibration"] is None else Calibration(**header["calibration"])
    return Committee(members, header["names"], calibration, header["metadata"])
