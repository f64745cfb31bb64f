"""``mlip data``: what can be done with labelled structures before training; each subcommand is a file of its own."""

from __future__ import annotations

SUMMARY = "Look at labelled structures before training on them, convert, split and augment them."

#: Subcommands: what follows the name, and what it does. `mlip.cli.data_NAME` implements it.
SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "check": ("FILES", "find what would spoil a fit: units, signs, missing labels, duplicates, outliers"),
}
