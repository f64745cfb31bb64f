"""``mlip relax``: relax a structure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlip.cli.output import console, fixed, print_json, progress, table

if TYPE_CHECKING:
    from mlip.workflows.relax import RelaxResult

ALIASES = {"-o": "--output"}


def command(
    structure: Path,
    model: str | None = None,
    head: str | None = None,
    cell: bool = False,
    fmax: float = 0.01,
    pressure: float = 0.0,
    steps: int = 1000,
    optimizer: Literal["lbfgs", "bfgs", "fire"] = "lbfgs",
    output: Path | None = None,
    device: str = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    json: bool = False,
) -> int:
    """Relax the positions of a structure, and its cell with --cell. Exit status 1 if not converged.

    Args:
        structure: any file that ASE reads
        model: {MODEL}; default: the bundled model that covers the elements
        head: which head of a model that has several, by name
        cell: relax the lattice vectors too
        fmax: largest force when converged, eV/Å
        pressure: external pressure, GPa; needs --cell
        steps: at most this many steps
        optimizer: which of ASE's optimizers
        output: write the relaxed structure here; the suffix names the format
        device: cpu, cuda or auto
        dtype: arithmetic of the model
        json: print the result as JSON on stdout
    """
    from mlip.cli.structures import check_structure_output, make_calculator, read_structure, write_structure
    from mlip.workflows.relax import relax

    atoms = read_structure(structure)
    if output:
        check_structure_output(output)
    calculator = make_calculator(model, atoms, device=device, dtype=dtype, head=head)
    with progress("relax") as update:
        result = relax(
            atoms,
            calculator,
            cell=cell,
            pressure=pressure,
            fmax=fmax,
            steps=steps,
            optimizer=optimizer,
            progress=update,
        )
    if output:
        write_structure(output, result.atoms)
    if json:
        print_json(result.as_dict())
    else:
        _show(result, output)
    return 0 if result.converged else 1


def _show(result: RelaxResult, output: Path | None) -> None:
    """Print the result as a table."""
    from mlip.units import EV_PER_A3_TO_GPA

    cell = result.atoms.cell
    rows = [
        ("energy", f"{result.energy:.6f} eV  ({result.energy - result.initial_energy:+.6f})"),
        ("largest force", f"{result.forces_max:.2e} eV/Å"),
    ]
    if cell.rank:
        rows.append(("cell lengths", f"{fixed(cell.lengths(), 4)} Å"))
        rows.append(("cell angles", f"{fixed(cell.angles(), 3)}°"))
    if result.stress is not None and result.volume is not None:
        rows.append(("volume", f"{result.volume:.4f} Å³"))
        rows.append(("stress", f"{fixed(result.stress * EV_PER_A3_TO_GPA, 4)} GPa"))
    title = f"{result.atoms.get_chemical_formula()}: " + (
        f"converged in {result.steps} steps" if result.converged else f"NOT converged in {result.steps} steps"
    )
    out = console()
    out.print(table(title, ("", "relaxed"), rows))
    if not result.converged:
        out.print("allow more --steps, or try --optimizer fire, the sturdiest on rough landscapes")
    if output:
        out.print(f"written: {output}")
