"""``mlip data``: what can be done with labelled structures before training; each subcommand is a file of its own."""

from __future__ import annotations

SUMMARY = "Look at labelled structures before training on them, convert, split and augment them."

#: Subcommands: what follows the name, and what it does. `mlip.cli.data_NAME` implements it.
SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "check": ("FILES", "find what would spoil a fit: units, signs, missing labels, duplicates, outliers"),
    "convert": ("FILES -o OUT", "to extended xyz, HDF5, LMDB or ASE data base"),
    "split": ("FILES -o DIR [--fractions 0.8 0.1 0.1] [--method random]", "parts for training, validation and test"),
    "augment": ("FILES -o OUT [--rattle SIGMA] [--strain MAX] [--copies N]", "rattled and strained copies"),
}
