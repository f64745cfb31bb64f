"""What the commands share for talking to people: consoles, tables, progress, JSON."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mlip.errors import InputError

Update = Callable[[int, int, str], None]
"""``update(done, total, note)``, the progress callback that the workflows take."""

_PLAIN_INTERVAL = 10.0
"""Seconds between two plain progress lines where there is no terminal."""


def console(json_output: bool = False) -> Console:
    """Return the console for people: stdout, or stderr when stdout is reserved for JSON.

    Brackets are printed as they are: names of files and heads may hold them.
    """
    return Console(stderr=json_output, highlight=False, markup=False, soft_wrap=True)


def print_json(result: dict[str, Any]) -> None:
    """Print one strict JSON object on stdout; NaN and infinity become null, numpy values plain numbers."""
    print(json.dumps(to_json(result), indent=2, allow_nan=False))


def to_json(value: Any) -> Any:
    """Return ``value`` with numpy arrays and scalars as lists and numbers, non-finite numbers as None."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def fixed(values: Iterable[float], digits: int) -> str:
    """Numbers with so many digits after the point, separated by blanks; none is "-0.000"."""
    return " ".join(f"{round(float(value), digits) + 0.0:.{digits}f}" for value in values)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> Table:
    """Return a rich table; the columns numbered in ``right`` are right-aligned."""
    result = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        # what a narrow terminal has no room for goes on a second line: a number without its end is another number
        result.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        result.add_row(*[str(cell) for cell in row])
    return result


@contextmanager
def progress(title: str) -> Iterator[Update]:
    """Show progress on stderr: a bar on a terminal, else a plain line now and then.

    Yields ``update(done, total, note="")``; ``total`` 0 means unknown.
    """
    if not sys.stderr.isatty():
        yield _plain_updates(title)
        return
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(title, total=None, note="")

        def update(done: int, total: int = 0, note: str = "") -> None:
            bar.update(task, completed=done, total=total or None, note=note)

        yield update


def _plain_updates(title: str) -> Update:
    last = time.monotonic()

    def update(done: int, total: int = 0, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_INTERVAL:
            last = time.monotonic()
            print(f"{title}: {done}" + (f"/{total}" if total else "") + (f"  {note}" if note else ""), file=sys.stderr)

    return update


def check_output(path: Path) -> None:
    """Raise `OSError` now, not after hours of work, if no file can be written at ``path``."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {folder}", str(path))
    code = errno.EISDIR if path.is_dir() else errno.EACCES
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise OSError(code, os.strerror(code), str(path))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in errors of writing that do not (a full disk shows when a buffer is flushed)."""
    try:
        yield
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_plot(path: Path) -> None:
    """Likewise for a plot.

    Raises:
        InputError: matplotlib can't draw in this format.
        OSError: as `check_output`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    check_output(path)
    if path.suffix.lower().removeprefix(".") not in FigureCanvasAgg.filetypes:
        raise InputError(f"a plot ends in .png, .pdf or .svg; got {path.name!r}")
