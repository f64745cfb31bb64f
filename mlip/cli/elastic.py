"""``mlip elastic``: elastic constants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlip.cli.output import console, fixed, print_json, progress, table

if TYPE_CHECKING:
    from mlip.workflows.elastic import ElasticResult


def command(
    structure: Path,
    model: str | None = None,
    head: str | None = None,
    strain: float = 0.005,
    fmax: float = 5e-4,
    symprec: float = 0.01,
    device: str = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    json: bool = False,
) -> None:
    """Elastic constants and moduli of a relaxed crystal, in GPa.

    Args:
        structure: any file that ASE reads
        model: {MODEL}; default: the bundled model that covers the elements
        head: which head of a model that has several, by name
        strain: largest strain
        fmax: atoms of the strained crystals are relaxed to this force, eV/Å
        symprec: tolerance of the symmetry search, Å
        device: cpu, cuda or auto
        dtype: arithmetic of the model
        json: print the result as JSON on stdout
    """
    from mlip.cli.structures import make_calculator, read_structure
    from mlip.workflows.elastic import elastic

    atoms = read_structure(structure)
    calculator = make_calculator(model, atoms, device=device, dtype=dtype, head=head)
    with progress("strained crystals") as update:
        result = elastic(atoms, calculator, strain=strain, fmax=fmax, symprec=symprec, progress=update)
    if json:
        print_json(result.as_dict())
    else:
        _show(result)


def _show(result: ElasticResult) -> None:
    out = console()
    names = ("xx", "yy", "zz", "yz", "xz", "xy")
    rows = [(name, *[fixed([x], 2) for x in row]) for name, row in zip(names, result.C, strict=True)]
    out.print(table("stiffness (GPa), axes of the structure", ("", *names), rows, right=range(1, 7)))
    moduli = [
        ("bulk modulus", f"{result.bulk_modulus:.2f}"),
        ("shear modulus", f"{result.shear_modulus:.2f}"),
        ("Young's modulus", f"{result.youngs_modulus:.2f}"),
        ("Poisson's ratio", f"{result.poisson_ratio:.4f}"),
    ]
    if result.C11 is not None:
        moduli += [(name, f"{getattr(result, name):.2f}") for name in ("C11", "C12", "C44")]
    state = "mechanically stable" if result.stable else "NOT mechanically stable"
    title = f"polycrystal (GPa, Voigt-Reuss-Hill); {result.spacegroup}; {state}"
    out.print(table(title, ("", ""), moduli, right=(1,)))
