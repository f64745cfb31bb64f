"""``mlip data check``: what would spoil a fit, before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip.cli.output import console, print_json, progress, table

if TYPE_CHECKING:
    from rich.console import Console

    from mlip.workflows.check_data import DataCheck

COLORS = {"error": "[bold red]error[/]", "warning": "[yellow]warning[/]", "note": "[dim]note[/]", "ok": "[green]ok[/]"}


def command(
    files: list[str],
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    virials_key: str | None = None,
    length_unit: str | None = None,
    energy_unit: str | None = None,
    json: bool = False,
) -> int:
    """Find what would spoil a fit: wrong units, signs and orders, missing labels, duplicates, outliers.

    Units and signs are judged by the labels themselves: differences of energy against the work of forces and stresses
    between nearby frames. The exit status is 1 if there is an error, 0 if there are warnings only.

    Args:
        files: labelled structures in any format that mlip train reads, several, patterns, folders of VASP
        energy_key: name of the energies; default REF_energy, else energy
        forces_key: name of the forces; default REF_forces, else forces
        stress_key: name of the stresses; default REF_stress, else stress
        virials_key: name of the virials; default REF_virials, else virials
        length_unit: of a file of n2p2 (input.data): Bohr or Angstrom; default Bohr
        energy_unit: likewise Hartree or eV; default Hartree. One needs the other
        json: print all as JSON on stdout
    """
    from mlip.data.files import find_files
    from mlip.data.labels import LabelKeys
    from mlip.data.n2p2 import data_units
    from mlip.workflows.check_data import check_data

    units = data_units(length_unit, energy_unit, find_files(files))
    keys = LabelKeys(energy_key, forces_key, stress_key, virials_key)
    with progress("check") as update:
        result = check_data(files, keys, units, progress=update)
    if json:
        print_json(result.as_dict())
    else:
        _show(console(), result)
    return 0 if result.passed else 1


def _show(out: Console, result: DataCheck) -> None:
    from rich.markup import escape

    rows = []
    for file in result.files:
        keys, counts = file["keys"], file["counts"]
        cells = [_cell(keys[name], counts.get(name, 0)) for name in ("energy", "forces")]
        stress = _cell(" ".join(k for k in (keys["stress"], keys["virials"]) if k), counts["stress"])
        rows.append([file["file"], file["structures"], file["atoms"], *cells, stress])
    if rows:
        out.print(
            table("Labels: key (frames)", ("file", "frames", "atoms", "energy", "forces", "stress"), rows, (1, 2))
        )
    for level in ("ok", "note", "warning", "error"):
        for finding in result.found:
            if finding.level == level:
                out.print(f"{COLORS[level]} {finding.topic}: {escape(finding.text)}", markup=True)
    summary = f"{result.n} frames: {result.errors} errors, {result.warnings} warnings"
    out.print(f"[bold {'green' if result.passed else 'red'}]{summary}[/]", markup=True)


def _cell(key: str | None, count: int) -> str:
    return f"{key} ({count})" if key and count else "-"
