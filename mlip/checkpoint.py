"""Our weights file: one safetensors file, tensors plus a JSON header. Never pickle.

The header holds the architecture, its hyperparameters, E0s, scale and shift, units, dtype, provenance, and a SHA-256 of
all that and the tensors, so that a flipped bit or an edited number is noticed. `mlip.committee_file` has several
potentials in one file.
`FORMAT_VERSION` grows with each change of the format; `mlip.upgrades` brings older files to the present form, and files
of every version stay in the tests. A property model has a format of its own, so that no one takes it for a potential.
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
from mlip.committee import Committee
from mlip.energy_scale import Reference
from mlip.errors import InputError, MLIPError, ModelFileError
from mlip.models import ARCHITECTURES, EnergyModel
from mlip.potential import Potential, usable_device
from mlip.properties import Property
from mlip.property_model import PropertyModel
from mlip.upgrades import upgrade_header, upgrade_tensors

FORMAT = "mlip-potential"
FORMAT_VERSION = 2
PROPERTY_FORMAT = "mlip-property"
COMMITTEE_FORMAT = "mlip-committee"
VERSIONS = {FORMAT: FORMAT_VERSION, PROPERTY_FORMAT: 1, COMMITTEE_FORMAT: 1}
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
    write_file(potential_header(potential), network_tensors(potential), Path(path))


def potential_header(potential: Potential) -> dict[str, Any]:
    """What the file of a potential says beside its tensors.

    Raises:
        InputError: a model that is not in `mlip.models.ARCHITECTURES`.
    """
    return {
        **_header(FORMAT, potential),
        "head": potential.head,
        "references": {
            head: {"E0s": {str(z): e for z, e in r.E0s.items()}, "scale": r.scale, "shift": r.shift}
            for head, r in zip(potential.heads, potential.energy_scale.references(), strict=True)
        },
        "units": {"energy": "eV", "length": "Å"},
        "metadata": potential.metadata,
    }


def network_tensors(model: Potential | PropertyModel) -> dict[str, Tensor]:
    """The tensors that a file holds, by name."""
    return {name: t.detach().cpu().contiguous() for name, t in model.model.state_dict().items()}


def save_property_model(model: PropertyModel, path: str | PathLike[str]) -> None:
    """Write a property model; errors as in `save_potential`."""
    header = {
        **_header(PROPERTY_FORMAT, model),
        "property": {"name": model.learned.name, "readout": model.learned.readout, "unit": model.learned.unit},
        "shifts": {str(z): shift for z, shift in model.shifts.items()},
        "scale": model.scale,
        "units": {"length": "Å"},
        "metadata": model.metadata,
    }
    write_file(header, network_tensors(model), Path(path))


def _header(format: str, model: Potential | PropertyModel) -> dict[str, Any]:
    """What the files of both formats begin with."""
    network = model.model
    architecture = next((name for name, cls in ARCHITECTURES.items() if cls is type(network)), None)
    if architecture is None:
        raise InputError(
            f"{type(network).__name__} is no architecture that a weights file can name; "
            f"expected one of {', '.join(ARCHITECTURES)}"
        )
    return {
        "format": format,
        "format_version": VERSIONS[format],
        "package_version": mlip.__version__,
        "architecture": architecture,
        "hyperparameters": network.hyperparameters,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def write_file(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> None:
    """Write header and tensors with their checksum, atomically."""
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
        return upgrade_header(stored) if stored["format"] == FORMAT else stored
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
        known = header["format"] in VERSIONS and isinstance(version, int) and version >= 1
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header is damaged ({error}); restore the file from its source") from error
    if not known:
        raise ModelFileError(
            f"{path}: format {header['format']!r} version {version!r} is not known; expected "
            f"{' or '.join(map(repr, VERSIONS))}"
        )
    if version > VERSIONS[header["format"]]:
        raise ModelFileError(
            f"{path} was written in format {version} by mlip {header.get('package_version')}; this is mlip "
            f"{mlip.__version__}, which reads formats up to {VERSIONS[header['format']]}. Upgrade mlip"
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
        ModelFileError: as `read_header`, or the tensors do not fit the header; a property model.
        FileNotFoundError: there is no such file.
        InputError: a device that torch can't use, a dtype that is neither float32 nor float64, no such head.
    """
    potential = load_model(path, device, dtype, head)
    if not isinstance(potential, Potential):
        raise ModelFileError(f"{path} is {no_potential(potential)}")
    return potential


def no_potential(model: PropertyModel | Committee) -> str:
    """What to say of a property model or a committee where a potential was expected."""
    if isinstance(model, Committee):
        return (
            f"a committee of {len(model.potentials)} potentials, not one; take the file of one of its members. "
            "mlip.MLIPCalculator, mlip evaluate, mlip md and mlip info take it"
        )
    return (
        f"a model of {model.learned.label}, not a potential: it has no energies and forces. "
        "mlip.PropertyCalculator and mlip evaluate take it"
    )


def load_model(
    path: str | PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    head: str | None = None,
) -> Potential | PropertyModel | Committee:
    """Read a potential, a property model or a committee; arguments and errors as in `load_potential`.

    Raises:
        InputError: a head of a property model, which has none, too.
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
        whole = _whole(header, stored, tensors)
    except _MISFITS as error:
        raise ModelFileError(
            f"{path}: header and weights do not fit ({type(error).__name__}: {error}); "
            "the file is damaged or was edited. Take it from its source again"
        ) from error
    if head is not None and isinstance(whole, PropertyModel):
        raise InputError(f"head {head!r}: a model of {whole.learned.name} has no heads")
    if isinstance(whole, Committee) and head is not None:
        whole = whole.with_head(head)
    if isinstance(whole, Potential) and head not in (None, whole.head):
        whole = whole.with_head(str(head))
    whole.requires_grad_(False)
    if isinstance(whole, Committee):  # whose members may differ in their precision
        return whole.to(device=device) if wanted is None else whole.to(device=device, dtype=wanted)
    return whole.to(device=device, dtype=wanted or whole.dtype)


def _whole(
    header: dict[str, Any], stored: dict[str, Any], tensors: dict[str, Tensor]
) -> Potential | PropertyModel | Committee:
    if header["format"] == COMMITTEE_FORMAT:
        from mlip.committee_file import committee_of

        return committee_of(header, tensors)
    if header["format"] == FORMAT:
        return potential_of(stored, tensors)
    return _property_model(_network(header, tensors), header)


def potential_of(stored: dict[str, Any], tensors: dict[str, Tensor]) -> Potential:
    """A potential of the header and tensors of a file of any version."""
    header = upgrade_header(stored)
    return _potential(_network(header, upgrade_tensors(tensors, stored)), header)


def _network(header: dict[str, Any], tensors: dict[str, Tensor]) -> EnergyModel:
    model = ARCHITECTURES[header["architecture"]](**header["hyperparameters"])
    model.to(DTYPES[header["dtype"]])
    _check_numbers(tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model


def _potential(model: EnergyModel, header: dict[str, Any]) -> Potential:
    return Potential(
        model,
        references=[
            Reference({int(z): e for z, e in r["E0s"].items()}, r["scale"], r["shift"])
            for r in (header["references"][name] for name in model.heads)
        ],
        metadata=header["metadata"],
        head=header["head"],
    )


def _property_model(model: EnergyModel, header: dict[str, Any]) -> PropertyModel:
    shifts = {int(z): shift for z, shift in header["shifts"].items()}
    return PropertyModel(model, Property(**header["property"]), shifts, header["scale"], header["metadata"])
