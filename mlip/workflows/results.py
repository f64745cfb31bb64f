"""What the results of all workflows share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


def hidden(**options: Any) -> Any:
    """Declare a result field that `Result.as_dict` leaves out (structures, long arrays, objects of other packages)."""
    return field(metadata={"hidden": True}, repr=False, **options)


@dataclass(frozen=True)
class Result:
    """Base of the frozen results: `as_dict` gives plain, JSON-able values."""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields but the hidden ones, arrays as nested lists."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if not f.metadata.get("hidden")}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
