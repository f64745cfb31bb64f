"""Builds the parser of a subcommand from the typed signature and docstring of its function ``command``.

Rules: a parameter without default is positional, and so is one that the module names in ``POSITIONAL``
(then it may be left out); all others are ``--name``. A ``bool`` is a bare flag, a list or tuple takes
several values (``--supercell 2 2 2``). The module's ``ALIASES = {"-o": "--output"}`` adds names, and its
``FOREIGN = {"--name": reason}`` says of options that users may expect why there are none, ``VALUES`` has other
spellings of values.

``{MODEL}`` in a help text stands for what `SHARED` has under that name.

A file of options (``--config``) is read as if its options stood before all others: the command line wins.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import jsonargparse

from mlip.cli.option_files import options_of_file

SHARED = {"MODEL": "name (mlip models lists them), weights file, .model file of MACE, or folder of n2p2"}
"""Parts of help texts that several commands have in common."""


class HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Help with defaults where they say something, without types: names and units are in the texts."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = action.default
        silent = default in (None, "", argparse.SUPPRESS) or default is False or "default" in text
        return text if silent or not action.option_strings else f"{text} (default: {default})"


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser with errors in one line."""

    aliases: Mapping[str, str] = types.MappingProxyType({})  # other long names -> names
    foreign: Mapping[str, str] = types.MappingProxyType({})  # options that are not there -> why
    values: Mapping[tuple[str, str], str] = types.MappingProxyType({})  # option, other spelling of a value -> value

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print ``mlip NAME: error: ...`` on stderr and exit with status 2."""
        text = " ".join(message.split())
        unknown = re.search(r"(?i)unrecognized arguments: (--?[\w-]+)", text)
        if unknown:
            text = self.missing(unknown[1])
        text = re.sub(r"Parser key \"(\w+)\": ", r"--\1: ", text)
        text = re.sub(r"<class '(\w+)'>", r"\1", text)
        self.exit(2, f"{self.prog}: error: {text}; see {self.prog} --help\n")

    def missing(self, option: str) -> str:
        """What to say about an option that is not there."""
        if option in self.foreign:
            return f"no option {option}: {self.foreign[option]}"
        return f"no option {option}{nearest(option, [*self._option_string_actions, *self.aliases])}"

    def flag(self, option: str, value: bool) -> list[str]:
        """The words that switch a boolean option on or off; none for one that is off anyway."""
        off = f"--no_{option.removeprefix('--')}"
        return [option] if value else [off] if off in self._option_string_actions else []

    def is_flag(self, option: str) -> bool:
        """Whether an option takes no value."""
        action = self._option_string_actions.get(option)
        return action is not None and (action.nargs == 0 or isinstance(action, jsonargparse.ActionYesNo))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean ...?" for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def make_parser(name: str, module: types.ModuleType) -> Parser:
    """Return the parser of the subcommand ``name`` implemented by ``module.command``."""
    summary, help_texts = split_docstring(inspect.getdoc(module.command) or "")
    parser = Parser(prog=f"mlip {name}", description=summary, allow_abbrev=False, formatter_class=HelpFormatter)
    aliases = getattr(module, "ALIASES", {})
    short = {long: alias for alias, long in aliases.items() if not alias.startswith("--")}
    parser.aliases = {alias: long for alias, long in aliases.items() if alias.startswith("--")}
    parser.foreign, parser.values = getattr(module, "FOREIGN", {}), getattr(module, "VALUES", {})
    hints = get_type_hints(module.command)
    for parameter in inspect.signature(module.command).parameters.values():
        options = _value_options(hints[parameter.name], parameter.default)
        options["help"] = re.sub(r"\{([A-Z]+)\}", lambda found: SHARED[found[1]], help_texts.get(parameter.name, ""))
        positional = parameter.default is parameter.empty
        if positional or parameter.name in getattr(module, "POSITIONAL", ()):
            if not positional:
                options.setdefault("nargs", "?")
            parser.add_argument(parameter.name, **options)
        else:
            flag = f"--{parameter.name}"
            parser.add_argument(*[f for f in (short.get(flag), flag) if f], **options)
    parser.add_argument("--config", help="YAML file with values for these options; those of the command line win")
    parser.add_argument("--traceback", action="store_true", help="on an error, show where it happened")
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the options by parameter name; ``--some-name`` is read as ``--some_name``."""
    spelled = [re.sub(r"^--[^=]*", lambda found: "--" + found[0][2:].replace("-", "_"), word) for word in arguments]
    given, files = _without_files(spelled)
    from_files = [word for file in files for word in options_of_file(file, parser)]
    options = parser.parse_args(_plain_flags([*from_files, *given], parser)).as_dict()
    options.pop("config", None)
    for name, value in options.items():
        if value is None and parser.get_default(name) is not None:
            parser.error(f"--{name}: expected a value, got null")
    return options


def _without_files(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without ``--config FILE``, and the files."""
    rest, files = [], []
    remaining = iter(words)
    for word in remaining:
        file = next(remaining, None) if word == "--config" else word.removeprefix("--config=")
        if file is None or file == word:
            rest.append(word)
        else:
            files.append(file)
    return rest, files


def _plain_flags(words: Sequence[str], parser: Parser) -> list[str]:
    """Other names replaced by ours, and ``--flag True``, ``--flag=False`` by ``--flag`` and ``--no_flag``."""
    plain: list[str] = []
    remaining = list(words)
    while remaining:
        option, equals, value = remaining.pop(0).partition("=")
        option = parser.aliases.get(option, option)
        if not parser.is_flag(option):
            plain.append(option + equals + parser.values.get((option, value), value))
            if not equals and remaining and (option, remaining[0]) in parser.values:
                remaining[0] = parser.values[option, remaining[0]]
            continue
        if not equals and remaining and remaining[0] in ("True", "False"):
            value = remaining.pop(0)
        elif not equals:
            value = "True"
        if value.lower() not in ("true", "false"):
            parser.error(f"{option}: expected True or False, got {value!r}")
        plain += parser.flag(option, value.lower() == "true")
    return plain


def _value_options(hint: Any, default: Any) -> dict[str, Any]:
    """Translate a type hint and default into arguments of ``add_argument``."""
    options: dict[str, Any] = {} if default is inspect.Parameter.empty else {"default": default}
    if hint == bool | None:
        return options | {"action": jsonargparse.ActionYesNo(yes_prefix="", no_prefix="no_")}
    if hint is bool:
        action = "store_true" if not default else jsonargparse.ActionYesNo(yes_prefix="", no_prefix="no_")
        return options | {"action": action}
    if get_origin(hint) in (Union, types.UnionType):
        inner = [kind for kind in get_args(hint) if kind is not type(None)]
        several = [kind for kind in inner if kind == list[str]]  # str | list[str]: one or several
        hint = several[0] if several and str in inner else inner[0] if len(inner) == 1 else hint
    if get_origin(hint) in (list, tuple):
        elements = get_args(hint)
        fixed = get_origin(hint) is tuple and Ellipsis not in elements
        return options | {"type": elements[0], "nargs": len(elements) if fixed else "+"}
    if get_origin(hint) is Literal:
        return options | {"type": str, "choices": list(get_args(hint))}
    return options | {"type": hint}


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return the description and the ``Args:`` entries by name of a Google-style docstring."""
    summary, _, rest = text.partition("\nArgs:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        entry = re.match(r"    (\w+)(?: \([^)]*\))?: (.*)", line)
        if entry:
            name = entry[1]
            entries[name] = entry[2].strip()
        elif name and line.strip():
            entries[name] += " " + line.strip()
    return summary.strip(), entries
