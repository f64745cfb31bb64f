"""Weights of structures in the loss: of the structure, of each of its labels, of its `config_type`."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlip.errors import DataError, InputError

if TYPE_CHECKING:
    from mlip.data.labels import LabelledStructure

#: Name of the structures without `config_type` in `--config_type_weights`, as in mace.
DEFAULT_GROUP = "Default"


class LabelWeights(NamedTuple):
    """Weights of one structure's labels, to be multiplied with the structure's own."""

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0
    value: float = 1.0


def structure_weight(info: Mapping[str, Any], where: str) -> float:
    """`config_weight` in info; 1 without.

    Raises:
        DataError: not one finite number, zero or more.
    """
    return _weight(info, "config_weight", where)


def label_weights(info: Mapping[str, Any], where: str) -> LabelWeights:
    """`config_energy_weight`, `config_forces_weight`, `config_stress_weight` and `config_virials_weight` in info.

    Stress and virials are one label here, and so have one weight.

    Raises:
        DataError: not one finite number, zero or more; different weights for stress and virials.
    """
    stress, virials = "config_stress_weight", "config_virials_weight"
    if stress in info and virials in info and _weight(info, stress, where) != _weight(info, virials, where):
        raise DataError(
            f"{where}: {stress} and {virials} differ, but stress and virials are the same label here "
            "(stress = -virials / volume); keep one of them"
        )
    return LabelWeights(
        _weight(info, "config_energy_weight", where),
        _weight(info, "config_forces_weight", where),
        _weight(info, virials if virials in info else stress, where),
    )


def _weight(info: Mapping[str, Any], key: str, where: str) -> float:
    if key not in info:
        return 1.0
    try:
        value = np.asarray(info[key], dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {key} is {info[key]!r}; expected one number, zero or more") from error
    if value.size != 1 or not 0 <= value.item() < math.inf:
        raise DataError(f"{where}: {key} is {value.tolist()}; expected one number, zero or more")
    return float(value.item())


def parse_config_type_weights(option: str | Mapping[str, float]) -> dict[str, float]:
    """`{"Default": 1.0, "surface": 5}`, as text or as a mapping, to weights by `config_type`.

    Raises:
        InputError: not such a mapping, or a weight that is not a number, zero or more.
    """
    wanted = """expected a mapping of config_type to weight, such as '{"Default": 1.0, "surface": 5}'"""
    try:
        mapping = ast.literal_eval(option.strip()) if isinstance(option, str) else dict(option)
    except (ValueError, SyntaxError, TypeError) as error:
        raise InputError(f"--config_type_weights {option!r} can't be read; {wanted}") from error
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping):
        raise InputError(f"--config_type_weights {option!r}: {wanted}")
    for name, weight in mapping.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (number and 0 <= weight < math.inf):
            raise InputError(f"--config_type_weights: the weight of {name} is {weight!r}; expected zero or more")
    return {name: float(weight) for name, weight in mapping.items()}


def check_config_types(weights: Mapping[str, float], structures: Iterable[LabelledStructure], source: str) -> None:
    """Raise `InputError` when a name in `--config_type_weights` is on no structure; `Default` may be."""
    check_names(weights, Counter(s.group or DEFAULT_GROUP for s in structures), source)


def check_names(weights: Mapping[str, float], present: Counter[str], source: str) -> None:
    """Likewise, given on how many structures there is which `config_type`."""
    unknown = sorted(set(weights) - set(present) - {DEFAULT_GROUP})
    if unknown:
        found = ", ".join(f"{name} ({n})" for name, n in present.most_common(20))
        raise InputError(
            f"--config_type_weights: no structure of {source} has the config_type {', '.join(unknown)}; present are "
            f"{found} (Default: structures without)"
        )


def weighted(structures: Sequence[LabelledStructure], weights: Mapping[str, float]) -> list[LabelledStructure]:
    """The structures with their weight multiplied by that of their `config_type`, 1 where none is given."""
    factors = [weights.get(s.group or DEFAULT_GROUP, 1.0) for s in structures]
    return [s if f == 1.0 else replace(s, weight=s.weight * f) for s, f in zip(structures, factors, strict=True)]
