"""Files of options (`--config FILE`), read as the words of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip.cli.parser import Parser


def options_of_file(file: str, parser: Parser) -> list[str]:
    """The words that stand for a YAML file; a wrong file ends the program as a wrong word does.

    Args:
        file: mapping of names of options, with `_` or `-`, to values.
        parser: of the command.
    """
    words: list[str] = []
    for key, value in _read(file, parser).items():
        option = "--" + str(key).replace("-", "_")
        option = parser.aliases.get(option, option)
        known = option in parser._option_string_actions and option not in ("--config", "--help")
        if not known and not _is_positional(option[2:], parser):
            parser.error(f"{file}: {parser.missing(option)}")
        if value is None and parser.get_default(option[2:]) is not None:
            parser.error(f"{option}: expected a value, got null")
        if value is not None:
            words += _words(option, value, parser)
    return words


def _read(file: str, parser: Parser) -> dict[Any, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        parser.error(f"--config {file}: {error.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"--config {file} is not YAML: {error}")
    if content is None:
        return {}
    if not isinstance(content, dict):
        parser.error(f"--config {file}: expected lines 'option: value', got {type(content).__name__}")
    return content


def _is_positional(name: str, parser: Parser) -> bool:
    return any(action.dest == name and not action.option_strings for action in parser._actions)


def _words(option: str, value: Any, parser: Parser) -> list[str]:
    """One option as words; a positional one becomes the default of what the command line may leave out."""
    if _is_positional(option[2:], parser):
        parser.set_defaults({option[2:]: value})
        return []
    if parser.is_flag(option) and isinstance(value, bool):
        return parser.flag(option, value)
    action = parser._option_string_actions[option]
    if isinstance(value, list) and action.nargs is not None:
        return [option, *map(str, value)]
    return [f"{option}={value}"]
