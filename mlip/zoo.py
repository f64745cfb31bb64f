"""Potentials by name or by file: bundled, published, of the user's own folder, or any weights file at hand."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.downloads import find_or_fetch, in_own_folder, license_notice
from mlip.errors import InputError, ModelFileError
from mlip.published import PUBLISHED, find
from mlip.units import BOHR, HARTREE

if TYPE_CHECKING:
    import torch

    from mlip.committee import Committee
    from mlip.potential import Potential
    from mlip.property_model import PropertyModel

#: What a folder of n2p2 is known by.
INPUT = "input.nn"
#: Characters that texts do not hold.
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
EXPECTED = (
    "expected a complete weights file of mlip (*.safetensors), a MACE model (*.model), "
    "or a folder of n2p2 with an input.nn"
)


def bundled_models() -> dict[str, Path]:
    """Potentials shipped in the package: name -> weights file."""
    folder = Path(str(resources.files("mlip.pretrained")))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def model_path(name_or_path: str | PathLike[str]) -> Path:
    """The weights file, or the folder of n2p2, of a name or a path.

    A name is looked for among the bundled models, then among the published ones (`mlip models` lists both): in the
    folder MLIP_MODELS, in the cache, and last on the network. What is neither is a path, or NAME.model or
    NAME.safetensors in MLIP_MODELS. A published model that is not free for every use is warned about.

    Raises:
        ModelFileError: no such model, or the file is not the published one.
        DownloadError: a published model that can't be had (a `ModelFileError` too).
        InputError: neither a name nor a path; MLIP_MODELS names no folder.
        OSError: the cache can't be written.
    """
    if not isinstance(name_or_path, str | PathLike):
        raise InputError(f"model {name_or_path!r}: expected a name or the path of a weights file")
    name = os.fspath(name_or_path)
    if name == "":
        raise InputError(f"the name of the model is empty; {EXPECTED}, or a name that mlip models lists")
    bundled = bundled_models()
    if name in bundled:
        return bundled[name]
    published = find(name)
    if published is not None:
        path = find_or_fetch(published)
        if published.license.notice:
            warnings.warn(license_notice(published), stacklevel=2)
        return path
    path = Path(name)
    if path.is_dir():
        if (path / INPUT).is_file():
            return path
        raise ModelFileError(f"{path} is a folder; {EXPECTED}")
    if path.is_file():
        return path
    if path.exists():  # opening a pipe would wait for ever
        raise ModelFileError(f"{path} is a device or a pipe, not a file; {EXPECTED}")
    own = in_own_folder(name) if path.name == name else None
    if own is None:
        raise ModelFileError(
            f"there is no model {name!r}: neither a file nor a bundled name ({', '.join(bundled) or 'none'}) "
            f"nor a published one (mlip models lists them){_did_you_mean(name, [*bundled, *PUBLISHED])}"
        )
    return own


def _did_you_mean(name: str, known: list[str]) -> str:
    close = get_close_matches(name.lower(), known, n=1) or [other for other in known if name and name.lower() in other]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def load(
    name_or_path: str | PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    head: str | None = None,
    units: tuple[float, float] | None = None,
    elements: str | Sequence[str | int] | None = None,
    E0s: Mapping[int, float] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Potential | PropertyModel | Committee:
    """A potential by name or from a file, of ours, of MACE or of PyTorch Geometric, or from a folder of n2p2.

    Files are told apart by what is in them.

    A file that `mlip train --target` has written gives its property model, one of `--committee` its `Committee`.

    Args:
        name_or_path: a name such as "silicon" or "mace-mpa-0-medium", a file, or a folder with an input.nn.
        device: where the weights go.
        dtype: "float32" or "float64" (or torch's); None keeps that of the file.
        head: one of a model's several heads; None takes the file's choice.
        units: of a folder of n2p2, whose files do not name them: length in Å and energy in eV; None: Bohr and Hartree.
        elements: of a DimeNet or DimeNet++ of PyTorch Geometric, whose state dict does not name them: symbols or atomic
            numbers, such as "H C O".
        E0s: likewise, reference energies in eV by atomic number; None: zero.
        kwargs: likewise, arguments of the constructor that the file does not tell, such as the cutoff.

    Raises:
        ModelFileError: no such model, or a file that is corrupt, foreign or written by a newer version.
        InputError: units, elements, E0s or kwargs of a file that has its own, no elements of one that has none, a
            device that torch can't use, a dtype that is neither float32 nor float64, no such head.
    """
    from mlip.checkpoint import DTYPES, load_model
    from mlip.importers.torch_archive import is_torch_archive
    from mlip.importers.torch_files import refuse_told
    from mlip.potential import usable_device

    path = model_path(name_or_path)
    wanted = DTYPES.get(str(dtype).removeprefix("torch."))
    if dtype is not None and wanted is None:
        raise InputError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    device = usable_device(device)
    try:
        archive = not path.is_dir() and is_torch_archive(path)
        if not archive:
            refuse_told(elements=elements, E0s=E0s, kwargs=kwargs)
        if path.is_dir():
            from mlip.importers.n2p2 import load_n2p2

            potential = load_n2p2(path, *(units or (BOHR, HARTREE)))
            potential = potential if head is None else potential.with_head(head)
            return potential.to(device=device, dtype=wanted or potential.dtype)
        if units is not None:
            raise InputError("units are those of a folder of n2p2 alone; a weights file has its own")
        if not archive:
            _refuse_foreign(path)
            return load_model(path, device, dtype, head)
        from mlip.importers.torch_files import load_torch_file

        potential = load_torch_file(path, head, elements, E0s, kwargs)
    except InputError as error:  # about heads; of a committee's models one must be told which
        raise InputError(f"{path}: {error}") from error
    potential.requires_grad_(False)
    return potential.to(device=device, dtype=wanted or potential.dtype)


def load_potential(
    name_or_path: str | PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    head: str | None = None,
    units: tuple[float, float] | None = None,
    elements: str | Sequence[str | int] | None = None,
    E0s: Mapping[int, float] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Potential:
    """As `load`, where only a potential will do.

    Raises:
        ModelFileError: a property model or a committee, too.
    """
    from mlip.checkpoint import no_potential
    from mlip.potential import Potential

    model = load(name_or_path, device, dtype, head, units, elements, E0s, kwargs)
    if not isinstance(model, Potential):
        raise ModelFileError(f"{os.fspath(name_or_path)} is {no_potential(model)}")
    return model


def is_property_model(path: Path) -> bool:
    """Whether a file is the weights of a property model; what can't be read is not."""
    from mlip.checkpoint import PROPERTY_FORMAT, read_header

    try:
        return path.is_file() and read_header(path)["format"] == PROPERTY_FORMAT
    except ModelFileError:
        return False


def _refuse_foreign(path: Path) -> None:
    """Raise `ModelFileError` that says what a file is, if it is known to be something else than weights."""
    with open(path, "rb") as file:
        begin = file.read(512)
    kind = ""
    if begin[8:9] == b"{":  # a safetensors file, whose first bytes, a length, can be any
        return
    if not begin:
        kind = "an empty file"
    elif begin.startswith(b"version https://git-lfs"):
        kind = "only the pointer to a file in git LFS (git lfs pull brings the file)"
    elif begin.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        kind = "a zip archive, but not a complete one of torch.save"
    elif begin.startswith(b"\x89HDF"):
        kind = "an HDF5 file"
    elif begin[:1] == b"\x80" and begin[1] in range(2, 6):
        kind = "a Python pickle, which can run any code and is never opened"
    elif not _CONTROL.search(begin):
        kind = f"a text file (it begins with {begin.decode(errors='replace')[:20]!r})"
    if kind:
        raise ModelFileError(f"{path} is not a readable weights file but {kind}; {EXPECTED}")
