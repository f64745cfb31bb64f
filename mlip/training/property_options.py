"""Options of `--target`: what it needs, and what means nothing beside it. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mlip.errors import InputError

if TYPE_CHECKING:
    from mlip.training.config import TrainingConfig

#: What belongs to energies, forces and stresses.
OF_ENERGIES = (
    "energy_key forces_key stress_key virials_key E0s scaling loss huber_delta energy_weight forces_weight "
    "stress_weight virials_weight swa error_table pair_repulsion energy_unit"
)


def check_target(config: TrainingConfig) -> None:
    """Refuse options that do nothing with, or without, a target.

    Raises:
        InputError: naming the option.
    """
    if config.target is None:
        _refuse(config, "readout target_unit", "it needs --target")
        return
    if not config.target.strip():
        raise InputError("--target is empty; it names a property of the structures, such as mu or dipole")
    if config.target.removeprefix("REF_") in ("energy", "forces", "stress", "virials"):
        raise InputError(f"--target {config.target}: energies, forces and stresses are learned without --target")
    _refuse(config, OF_ENERGIES, f"--target {config.target} trains no energies")


def _refuse(config: TrainingConfig, options: str, why: str) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for option in options.split():
        value = getattr(config, option)
        if value != defaults[option]:
            raise InputError(f"--{option} {value} would do nothing: {why}. Leave it out")
