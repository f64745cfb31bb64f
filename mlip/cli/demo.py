"""``mlip demo``: the guided tour with the bundled silicon potential."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlip.cli.output import console, print_json, progress, table
from mlip.errors import InputError

if TYPE_CHECKING:
    from mlip.workflows.tour import TourResult

ALIASES = {"-o": "--output"}


def command(
    model: str = "silicon",
    output: Path = Path("demo"),
    steps: int = 600,
    device: str = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    json: bool = False,
) -> None:
    """Relax a strained silicon crystal, then elastic constants, phonons and molecular dynamics, beside DFT.

    Args:
        model: {MODEL}, that knows silicon
        output: folder for structures, trajectory and plots
        steps: steps of molecular dynamics, 2 fs each
        device: cpu, cuda or auto
        dtype: arithmetic of the model
        json: print the result as JSON on stdout
    """
    from mlip.cli.structures import make_calculator
    from mlip.workflows.tour import silicon_tour, strained_silicon

    if steps < 0:
        raise InputError(f"steps must not be negative; got {steps}")
    calculator = make_calculator(model, strained_silicon(), device=device, dtype=dtype)
    result = silicon_tour(calculator, output, progress, steps)
    if json:
        print_json(result.as_dict())
    else:
        _show(result, model, output)


def _show(result: TourResult, model: str, folder: Path) -> None:
    from mlip.workflows.tour import REFERENCES

    rows = [
        (
            f"{line.name} ({line.unit})",
            f"{line.value:.4g}",
            f"{line.reference:.4g}",
            f"{100 * (line.value / line.reference - 1):+.1f} %",
            line.source,
        )
        for line in result.comparisons()
    ]
    out = console()
    out.print()
    title = f"silicon with the potential {model!r}, beside density-functional theory"
    out.print(table(title, ("property", "model", "DFT", "deviation", "DFT value from"), rows, right=(1, 2, 3)))
    for name, reference in REFERENCES.items():
        out.print(f"  {name}: {reference}")
    modes = "no imaginary phonon mode" if not result.imaginary else f"{result.imaginary} imaginary phonon modes"
    out.print(f"{modes}; mean temperature of the MD {result.md_temperature:.0f} K (thermostat at 300 K)")
    out.print(f"\nplots: {folder}/phonon_bands.png  {folder}/phonon_dos.png  {folder}/md.png\n")
    out.print("try next:")
    for arguments in (
        f"phonon {folder}/relaxed.extxyz --supercell 3 3 3 -o {folder}/phonon",
        f"relax {folder}/strained.extxyz --cell --pressure 5 -o {folder}/compressed.extxyz",
        f"md {folder}/relaxed.extxyz --ensemble npt --temperature 600 --steps 5000 -o {folder}/npt.traj",
    ):
        out.print(f"  {_program()} {arguments}")


def _program() -> str:
    """How the user calls us: `make demo` runs a script that is not on the search path."""
    script = Path(sys.argv[0])
    if shutil.which("mlip") is None and script.name == "mlip":
        return str(script)
    return "mlip"
