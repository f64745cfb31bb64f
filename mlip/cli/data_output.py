"""What the subcommands of ``mlip data`` print about files that they wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.cli.output import console, print_json, table

if TYPE_CHECKING:
    from mlip.workflows.data_sets import Written


def show_written(written: Written, json: bool) -> None:
    """A table of files and labels, and the remarks."""
    if json:
        print_json(written.as_dict())
        return
    out = console()
    columns = ("structures", "energy", "forces", "stress")
    rows = [[file, *(counts[column] for column in columns)] for file, counts in written.files.items()]
    out.print(table("written", ("file", *columns), rows, right=range(1, 5)))
    for remark in written.remarks:
        out.print(remark)
