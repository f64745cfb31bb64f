"""Potentials by name or by file."""

from __future__ import annotations

from importlib import resources
from os import PathLike
from pathlib import Path

import torch

from mlip.checkpoint import load_potential
from mlip.errors import InputError, ModelFileError
from mlip.potential import Potential


def bundled_models() -> dict[str, Path]:
    """Potentials shipped in the package: name -> weights file."""
    folder = Path(str(resources.files("mlip.pretrained")))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def model_path(name_or_path: str | PathLike[str]) -> Path:
    """The weights file of a bundled name or a path.

    Raises:
        ModelFileError: neither a bundled name nor an existing file.
    """
    if not isinstance(name_or_path, str | PathLike):
        raise InputError(f"model {name_or_path!r}: expected a bundled name or the path of a weights file")
    bundled = bundled_models()
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; expected a weights file (*.safetensors)")
    if not path.exists():
        raise ModelFileError(
            f"there is no model {str(name_or_path)!r}: neither a file nor a bundled name "
            f"({', '.join(bundled) or 'none is bundled'})"
        )
    return path


def load(
    name_or_path: str | PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | str | None = None
) -> Potential:
    """A potential by bundled name, such as "silicon", or from a weights file; `dtype` None keeps that of the file.

    Raises:
        ModelFileError: no such model, or a file that is corrupt, foreign or written by a newer version.
        InputError: a device that torch can't use, a dtype that is neither float32 nor float64.
    """
    return load_potential(model_path(name_or_path), device, dtype)
