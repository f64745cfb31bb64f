"""Our weights file: one safetensors file, tensors plus a JSON header. Never pickle.

The header holds the architecture, its hyperparameters, E0s, scale and shift, units, dtype, provenance, and a SHA-256 of
all that and the tensors, so that a flipped bit or an edited number is noticed.
`FORMAT_VERSION` grows with each change of the format; `mlip.upgrades` brings older files to the present form, and files
of every version stay in the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import mlip
from mlip.energy_scale import Reference
from mlip.errors import InputError, MLIPError, ModelFileError
from mlip.models import ARCHITECTURES
from mlip.potential import Potential, usable_device
from mlip.upgrades import upgrade_header, upgrade_tensors

FORMAT = "mlip-potential"
FORMAT_VERSION = 2
#: What building a model from a header that does not fit its architecture may raise.
_MISFITS = (
    *(LookupError, TypeError, AttributeError, ValueError, ArithmeticError, AssertionError, RuntimeError),
    *(SafetensorError, MLIPError),
)
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save_potential(potential: Potential, path: str | PathLike[str]) -> None:
    """Write `potential` to `path`: a complete file appears there or none does.

    Raises:
        InputError: a model that is not in `mlip.models.ARCHITECTURES`, so that the file could not be read again.
        OSError: the disk is full, or the folder does not exist or can't be written.
    """
    path = Path(path)
    architecture = next((name for name, cls in ARCHITECTURES.items() if cls is type(potential.model)), None)
    if architecture is None:
        raise InputError(
            f"{type(potential.model).__name__} is no architecture that a weights file can name; "
            f"expected one of {', '.join(ARCHITECTURES)}"
        )
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": mlip.__version__,
        "architecture": architecture,
        "hyperparameters": potential.model.hyperparameters,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "head": potential.head,
        "references": {
            head: {"E0s": {str(z): e for z, e in r.E0s.items()}, "scale": r.scale, "shift": r.shift}
            for head, r in zip(potential.heads, potential.energy_scale.references(), strict=True)
        },
        "units": {"energy": "eV", "length": "Å"},
        "metadata": potential.metadata,
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in potential.model.state_dict().items()}
    header = json.loads(json.dumps(header))  # as it will be read: JSON knows no tuples and no numbers as keys
    header["sha256"] = digest(header, tensors)
    data = save(tensors, metadata={"mlip": json.dumps(header, ensure_ascii=False)})
    write_atomically(path, data)


def digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) of a header, but for its entry `sha256`, and of the tensors."""
    rest = {key: value for key, value in header.items() if key != "sha256"}
    sha = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by a file of `data` in one step; a kill or a full disk leaves the old file whole.

    Of a symbolic link the file it points to is replaced. The permissions are those of any new file (umask).
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the file that was wanted, not the temporary one
        raise


def read_header(path: str | PathLike[str]) -> dict[str, Any]:
    """The JSON header of a weights file, in the present format's form.

    Raises:
        ModelFileError: not a weights file of ours, corrupt, or of a newer format.
    """
    stored = _stored_header(path)
    try:
        return upgrade_header(stored)
    except _MISFITS as error:
        raise ModelFileError(f"{path}: the header is damaged ({error}); restore the file from its source") from error


def _stored_header(path: str | PathLike[str]) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get("mlip")
    except SafetensorError as error:
        raise ModelFileError(
            f"{path} is not a readable weights file ({error}); expected a complete *.safetensors file saved by mlip. "
            "If it was copied or downloaded, do that again"
        ) from error
    if stored is None:
        raise ModelFileError(f"{path} is a safetensors file of another program; expected one saved by mlip")
    try:
        header = json.loads(stored)
        version = header["format_version"]
        known = header["format"] == FORMAT and isinstance(version, int) and version >= 1
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header is damaged ({error}); restore the file from its source") from error
    if not known:
        raise ModelFileError(
            f"{path}: format {header['format']!r} version {version!r} is not known; expected {FORMAT!r}"
        )
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} was written in format {version} by mlip {header.get('package_version')}; this is mlip "
            f"{mlip.__version__}, which reads formats up to {FORMAT_VERSION}. Upgrade mlip"
        )
    return header


def _check_numbers(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Weights of another precision would be rounded silently, weights that are not finite make every energy NaN."""
    for name, tensor in tensors.items():
        if name in expected and tensor.dtype != expected[name].dtype:
            raise ModelFileError(f"tensor {name} is {tensor.dtype}, the header says {expected[name].dtype}")
        if not bool(tensor.isfinite().all()):
            raise ModelFileError(f"tensor {name} holds numbers that are not finite")


def load_potential(
    path: str | PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    head: str | None = None,
) -> Potential:
    """Read a potential; `dtype` ("float64", torch.float32, ...) and `head` None keep those of the file.

    Raises:
        ModelFileError: as `read_header`, or the tensors do not fit the header.
        FileNotFoundError: there is no such file.
        InputError: a device that torch can't use, a dtype that is neither float32 nor float64, no such head.
    """
    wanted = DTYPES.get(str(dtype).removeprefix("torch."))
    if dtype is not None and wanted is None:
        raise InputError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    device, stored, header = usable_device(device), _stored_header(path), read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["sha256"] != digest(stored, tensors):
            raise ModelFileError("the checksum is that of another content")
        model = ARCHITECTURES[header["architecture"]](**header["hyperparameters"])
        model.to(DTYPES[header["dtype"]])
        tensors = upgrade_tensors(tensors, stored)
        _check_numbers(tensors, model.state_dict())
        model.load_state_dict(tensors)
        potential = Potential(
            model,
            references=[
                Reference({int(z): e for z, e in r["E0s"].items()}, r["scale"], r["shift"])
                for r in (header["references"][name] for name in model.heads)
            ],
            metadata=header["metadata"],
            head=header["head"],
        )
    except _MISFITS as error:
        raise ModelFileError(
            f"{path}: header and weights do not fit ({type(error).__name__}: {error}); "
            "the file is damaged or was edited. Take it from its source again"
        ) from error
    if head is not None and head != potential.head:
        potential = potential.with_head(head)
    potential.requires_grad_(False)
    return potential.to(device=device, dtype=wanted or potential.dtype)
