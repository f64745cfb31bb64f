"""Weights files of older format versions in the present form.

Version 2: several heads, each with its reference energies; kinds of interactions by name; radial constants in float64.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mlip.nn.constants import double


def upgrade_header(header: dict[str, Any]) -> dict[str, Any]:
    """The header of a file of any version as the present version has it; `header` stays as it is."""
    if header["format_version"] >= 2:
        return header
    hyperparameters = dict(header["hyperparameters"])
    residual = hyperparameters.pop("residual_first")
    hyperparameters["interaction_first"] = "residual" if residual else "agnostic"
    reference = {key: header[key] for key in ("E0s", "scale", "shift")}
    rest = {key: value for key, value in header.items() if key not in reference}
    return rest | {"hyperparameters": hyperparameters, "head": "default", "references": {"default": reference}}


def upgrade_tensors(tensors: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file with this (not upgraded) header under their present names and in their present shapes."""
    if header["format_version"] >= 2:
        return tensors
    new = {}
    for name, tensor in tensors.items():
        if name == "bessel.frequencies":
            new["radial.basis.frequencies"] = tensor.double()
        elif name.startswith("readouts."):
            new[name] = tensor.unsqueeze(0)
        else:
            for part in ("up", "message"):
                name = name.replace(f".{part}.", f".interaction.{part}.")
            new[name] = tensor
    new["radial.basis.prefactor"] = double(math.sqrt(2 / header["hyperparameters"]["cutoff"]))
    return new
