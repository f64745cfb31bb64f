"""Numbers and arrays of numpy as they lie in pickles: plain numeric kinds, computed here, never by unpickling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mlip.errors import ModelFileError

_CODES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
_STATE = (None, None, None, -1, -1, 0)


def _dtype(code: Any, *_: Any) -> np.dtype[Any]:
    if type(code) is not str or code not in _CODES:
        raise ModelFileError("a numpy array of something that is not plain numbers")
    return np.dtype(f"<{code}")


def _check(dtype: Any, data: Any, count: int) -> None:
    if not isinstance(dtype, np.dtype) or type(data) is not bytes or len(data) != count * dtype.itemsize:
        raise ModelFileError("a numpy array whose bytes are not those of its shape")
    if dtype.kind == "b" and data.translate(None, b"\0\1"):
        raise ModelFileError("a numpy array with truth values that are neither 0 nor 1")


def _scalar(dtype: Any, data: Any) -> bool | int | float | complex:
    """The Python number of a numpy scalar."""
    _check(dtype, data, 1)
    number: bool | int | float | complex = np.frombuffer(data, dtype)[0].item()
    return number


def _empty_array(*_: Any) -> np.ndarray[Any, Any]:
    """An array to which `build` gives shape and numbers."""
    return np.empty(0)


def functions() -> dict[str, Callable[..., Any]]:
    """What pickles of numpy numbers and arrays call, by name: those of numpy 1 and 2."""
    known: dict[str, Callable[..., Any]] = {"numpy.dtype": _dtype, "numpy.ndarray": _empty_array}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known |= {f"{module}.scalar": _scalar, f"{module}._reconstruct": _empty_array}
    return known


def build(target: Any, state: Any, spend: Callable[[int], None]) -> None:
    """Give `state` to an array or a dtype; `spend` is told the bytes of an array and may refuse them.

    Raises:
        ModelFileError: a state that does not fit, or a target of another kind.
    """
    if isinstance(target, np.dtype):
        known = type(state) is tuple and all(type(part) in (int, str, type(None)) for part in state[:9])
        if not known or state[2:] != _STATE or state[:2] not in ((3, "<"), (3, "|")):
            raise ModelFileError("a numpy array in another byte order, or of more than plain numbers")
    elif type(target) is np.ndarray and type(state) is tuple and len(state) == 5:
        _, shape, dtype, fortran, data = state
        if type(shape) is not tuple or len(shape) > 16 or any(type(n) is not int or n < 0 for n in shape):
            raise ModelFileError("a numpy array without a usable shape")
        if type(fortran) is not bool or math.prod(n or 1 for n in shape) >= 2**48:
            raise ModelFileError("a numpy array of an unknown order or of a shape out of bounds")
        _check(dtype, data, math.prod(shape))
        spend(len(data))
        array: Any = target
        array.__setstate__((1, shape, dtype, fortran, data))
    else:
        raise ModelFileError(f"the pickle gives a state to a {type(target).__name__}")
