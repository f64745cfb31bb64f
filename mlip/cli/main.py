"""Entry point of the command line: finds the subcommand, parses, runs, reports errors in one line."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMMANDS: dict[str, str] = {
    "relax": "relax positions, and the cell with --cell",
    "md": "molecular dynamics: nve, nvt or npt, resumable",
    "phonon": "phonon bands, density of states, thermal properties",
    "vibrations": "vibrations of a molecule, or of a crystal at Γ",
    "elastic": "elastic constants and moduli of a crystal",
    "evaluate": "errors of a model on labelled data",
    "descriptors": "descriptors of structures by a model, and their map",
    "train": "train a potential",
    "data": "labelled structures: check, convert, split, augment",
    "check": "physics checks of a model or of any ASE calculator",
    "models": "the models that have a name: list, download",
    "info": "what a model file holds",
    "convert": "another program's model file to ours",
    "demo": "guided tour with the bundled silicon potential",
}
USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mlip`` with the given arguments (default: those of the process, which then is ours); returns the status."""
    if argv is None:
        # On a busy machine OpenMP threads that wait by spinning make a step of MD 80 times slower (measured: 64 atoms,
        # 2 cores, load 5: 6.5 s instead of 0.08 s), so they sleep; but only after a tenth of a millisecond, since
        # waking them between the operators of a small batch takes as long. Torch's OpenMP reads both when loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _close_stdout()
        return 1
    except OSError as error:  # stdout goes into a file on a full disk
        if error.filename:
            raise
        print(f"mlip: error: stdout: {_one_line(error)}", file=sys.stderr)
        _close_stdout()
        return 1


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else USAGE_ERROR
    if arguments[0] in ("-V", "--version"):
        from mlip import __version__

        print(f"mlip {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        from mlip.cli.parser import nearest

        print(f"mlip: error: no command {name!r}{nearest(name, COMMANDS)}; see mlip --help", file=sys.stderr)
        return USAGE_ERROR
    return _run(name, arguments[1:])


def _run(name: str, arguments: list[str]) -> int:
    """Parse the arguments of one subcommand and run it, turning expected errors into one line and a status."""
    from mlip.cli.parser import make_parser, parse

    module = importlib.import_module(f"mlip.cli.{name}")
    if hasattr(module, "SUBCOMMANDS"):
        if not arguments or arguments[0] not in module.SUBCOMMANDS:
            return _no_subcommand(name, module, arguments)
        module = importlib.import_module(f"mlip.cli.{name}_{arguments[0]}")
        name, arguments = f"{name} {arguments[0]}", arguments[1:]
    try:
        options = parse(make_parser(name, module), arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    show_traceback = options.pop("traceback")
    with _one_line_warnings(name):
        try:
            return module.command(**options) or 0
        except KeyboardInterrupt:
            print(f"\nmlip {name}: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            raise
        except Exception as error:
            if show_traceback or not _is_expected(error):
                raise
            print(f"mlip {name}: error: {_one_line(error)}", file=sys.stderr)
            return 1


def _no_subcommand(name: str, module: ModuleType, arguments: list[str]) -> int:
    """Print the subcommands of a command, on stderr with the reason if they were not asked for."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_subcommands(name, module))
        return 0
    if arguments:
        from mlip.cli.parser import nearest

        what = f"no command {arguments[0]!r}{nearest(arguments[0], module.SUBCOMMANDS)}"
        print(f"mlip {name}: error: {what}; see mlip {name} --help", file=sys.stderr)
    else:
        print(_subcommands(name, module), file=sys.stderr)
    return USAGE_ERROR


def _subcommands(name: str, module: ModuleType) -> str:
    usages = {f"{sub} {usage}": text for sub, (usage, text) in module.SUBCOMMANDS.items()}
    lines = [f"  {usage}\n      {text}" for usage, text in usages.items()]
    head = [f"usage: mlip {name} COMMAND ...", "", module.SUMMARY, "", "commands:"]
    return "\n".join([*head, *lines, "", f"mlip {name} COMMAND --help describes a command."])


def _is_expected(error: Exception) -> bool:
    """Whether the error is the user's to solve (input, files, memory); any other is a bug and shows its traceback."""
    from mlip.errors import MLIPError

    return isinstance(error, MLIPError | OSError | MemoryError)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _close_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _one_line_warnings(name: str) -> Iterator[None]:
    """Show warnings as ``mlip NAME: warning: ...`` on stderr; what is meant for developers stays silent."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"mlip {name}: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}s}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mlip COMMAND ...",
            "",
            "Machine-learning interatomic potentials: the energies, forces and stresses of a",
            "density-functional calculation at a millionth of its cost.",
            "",
            "commands:",
            *lines,
            "",
            "mlip COMMAND --help describes a command; mlip --version prints the version.",
        ]
    )
