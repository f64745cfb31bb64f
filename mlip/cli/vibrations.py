"""``mlip vibrations``: vibrations of a molecule, an adsorbate, or a crystal at Γ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlip.cli.output import check_output, console, print_json, progress, table, writing

if TYPE_CHECKING:
    from mlip.workflows.vibrations import VibrationResult

ALIASES = {"-o": "--output"}


def command(
    structure: Path,
    model: str | None = None,
    head: str | None = None,
    method: Literal["hessian", "displacements"] = "hessian",
    displacement: float = 0.01,
    output: Path | None = None,
    device: str = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    json: bool = False,
) -> None:
    """Vibrations of a relaxed molecule, or of a crystal at Γ; atoms that the file holds fixed do not move.

    Args:
        structure: any file that ASE reads
        model: {MODEL}; default: the bundled model that covers the elements
        head: which head of a model that has several, by name
        method: second derivatives of the model, exact, or differences of forces
        displacement: of one atom for the differences, Å
        output: write the modes here, xyz as jmol and other viewers take it
        device: cpu, cuda or auto
        dtype: arithmetic of the model
        json: print the result as JSON on stdout
    """
    from mlip.cli.structures import make_calculator, read_structure
    from mlip.workflows.vibrations import vibrations

    atoms = read_structure(structure)
    if output:
        check_output(output)
    calculator = make_calculator(model, atoms, device=device, dtype=dtype, head=head)
    with progress("second derivatives") as update:
        result = vibrations(atoms, calculator, method=method, displacement=displacement, progress=update)
    if output:
        with writing(output):
            result.vibrations.write_jmol(str(output))
    if json:
        print_json(result.as_dict())
    else:
        _show(result, output)


def _show(result: VibrationResult, output: Path | None) -> None:
    modes = zip(result.frequencies_per_cm, result.frequencies_THz, strict=True)
    rows = [(str(n), f"{per_cm:.1f}", f"{thz:.3f}") for n, (per_cm, thz) in enumerate(modes, start=1)]
    out = console()
    title = f"vibrations (moving atoms: {result.n_atoms}; imaginary modes, shown as negative: {result.imaginary})"
    out.print(table(title, ("mode", "1/cm", "THz"), rows, right=range(3)))
    out.print(f"zero-point energy: {result.zero_point_energy:.4f} eV")
    if output:
        out.print(f"written: {output}")
