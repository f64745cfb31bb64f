"""``mlip phonon``: phonon bands, density of states, thermal properties."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlip.cli.output import console, fixed, print_json, progress, table, to_json, writing

if TYPE_CHECKING:
    from mlip.workflows.phonons import PhononResult

ALIASES = {"-o": "--output"}


def command(
    structure: Path,
    model: str | None = None,
    head: str | None = None,
    supercell: tuple[int, int, int] | None = None,
    displacement: float = 0.01,
    mesh_length: float = 80.0,
    symprec: float = 0.01,
    method: Literal["displacements", "hessian"] = "displacements",
    output: Path | None = None,
    device: str = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    json: bool = False,
) -> None:
    """Phonons of a relaxed crystal, by displacements or second derivatives; everything is per primitive cell.

    Args:
        structure: any file that ASE reads
        model: {MODEL}; default: the bundled model that covers the elements
        head: which head of a model that has several, by name
        supercell: repetitions of the cell; default: at least 10 Å between opposite faces
        displacement: of one atom, Å
        mesh_length: density of the q mesh, Å
        symprec: tolerance of the symmetry search, Å
        method: force constants from displacements, or hessian: from the exact second derivatives of the model
        output: folder for phonopy's files, data and plots
        device: cpu, cuda or auto
        dtype: arithmetic of the model
        json: print the result as JSON on stdout
    """
    from mlip.cli.structures import make_calculator, read_structure
    from mlip.workflows.phonons import phonons

    atoms = read_structure(structure)
    calculator = make_calculator(model, atoms, device=device, dtype=dtype, head=head)
    if output:
        output.mkdir(parents=True, exist_ok=True)
    with progress("displaced supercells" if method == "displacements" else "second derivatives") as update:
        result = phonons(
            atoms,
            calculator,
            supercell=supercell,
            displacement=displacement,
            mesh_length=mesh_length,
            symprec=symprec,
            method=method,
            progress=update,
        )
    if output:
        with writing(output):
            _write(result, output, atoms.get_chemical_formula(empirical=True))
    if json:
        print_json(result.as_dict())
    else:
        _show(result, output)


def _write(result: PhononResult, folder: Path, title: str) -> None:
    """Write phonopy's own files, the result as JSON and the plots."""
    import json

    from mlip.workflows.plots import plot_bands, plot_dos

    phonon = result.phonopy
    phonon.save(folder / "phonopy_params.yaml")
    phonon.write_yaml_band_structure(filename=folder / "band.yaml")
    phonon.write_total_dos(filename=folder / "total_dos.dat")
    phonon.write_yaml_thermal_properties(filename=folder / "thermal_properties.yaml")
    (folder / "phonon.json").write_text(json.dumps(to_json(result.as_dict()), indent=2))
    plot_bands(result, folder / "phonon_bands.png", title)
    plot_dos(result, folder / "phonon_dos.png", title)


def _show(result: PhononResult, output: Path | None) -> None:
    rows = [
        ("frequencies at Γ", f"{fixed(result.frequencies_gamma_THz, 3)} THz"),
        ("highest frequency", f"{result.frequency_max_THz:.3f} THz"),
        ("imaginary modes", str(result.imaginary)),
        ("heat capacity, 300 K", f"{result.heat_capacity_300K:.3f} J/K/mol"),
        ("entropy, 300 K", f"{result.entropy_300K:.3f} J/K/mol"),
        ("free energy, 300 K", f"{result.free_energy_300K:.3f} kJ/mol"),
        ("supercell, displacements", f"{' x '.join(map(str, result.supercell))}, {result.displacements}"),
    ]
    out = console()
    out.print(table("phonons", ("", f"per primitive cell (atoms: {result.n_atoms_primitive})"), rows))
    if output:
        out.print(f"written: {output}/ (phonopy_params.yaml, band.yaml, total_dos.dat, thermal_properties.yaml, plots)")
