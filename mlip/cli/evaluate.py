"""``mlip evaluate``: errors of a potential on labelled data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlip.cli.output import check_output, check_plot, console, print_json, progress, table, writing
from mlip.errors import InputError

if TYPE_CHECKING:
    from mlip.data.labels import LabelledData
    from mlip.workflows.evaluate import EvaluationResult

ALIASES = {"-o": "--output"}
COLUMNS = {
    "E rmse": "energy_rmse_meV_per_atom",
    "E mae": "energy_mae_meV_per_atom",
    "E total rmse": "energy_rmse_meV",
    "F rmse": "forces_rmse_meV_per_A",
    "F mae": "forces_mae_meV_per_A",
    "S rmse": "stress_rmse_GPa",
    "S mae": "stress_mae_GPa",
}


def command(
    data: list[str],
    model: str | None = None,
    head: str | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    virials_key: str | None = None,
    length_unit: str | None = None,
    energy_unit: str | None = None,
    batch_size: int | None = None,
    output: Path | None = None,
    plot: Path | None = None,
    plot_deviation: Path | None = None,
    device: str = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    json: bool = False,
) -> None:
    """Compare energies, forces and stresses of a potential with those of a file of labelled structures.

    Of a model that mlip train --target made, its property is compared instead. Of a committee, errors are compared with
    the deviations of its members, too.

    Args:
        data: labelled structures in any format that mlip train reads; one or several files, patterns, folders of VASP
        model: {MODEL}; default: the bundled model that covers the elements
        head: which head of a model that has several, by name
        energy_key: name of the energies (eV); default REF_energy, else energy
        forces_key: name of the forces (eV/Å); default REF_forces, else forces
        stress_key: name of the stresses (eV/Å³, positive under tension); default REF_stress, else stress
        virials_key: name of the virials (eV, -volume times the stress); default REF_virials, else virials; they become
            stresses
        length_unit: of a file of n2p2 (input.data), which does not name it: Bohr or Angstrom; default Bohr
        energy_unit: likewise Hartree or eV; default Hartree. One needs the other
        batch_size: most structures evaluated at once; default: what memory allows
        output: write the structures with labels (REF_*) and predictions (MLIP_*) here, extended xyz
        plot: draw parity plots into this file
        plot_deviation: of a committee, draw its errors against its deviations into this file
        device: cpu, cuda or auto
        dtype: arithmetic of the model
        json: print the result as JSON on stdout
    """
    from ase.io import write

    from mlip.cli.evaluate_property import evaluate_if_property
    from mlip.cli.structures import make_calculator
    from mlip.data.files import find_files
    from mlip.data.labels import LabelKeys, read_labelled
    from mlip.data.n2p2 import data_units
    from mlip.workflows.evaluate import evaluate, with_predictions

    if output:
        check_output(output)
    for picture in (plot, plot_deviation):
        if picture:
            check_plot(picture)
    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key, "virials_key": virials_key}
    units_given = {"length_unit": length_unit, "energy_unit": energy_unit}
    if model is not None and evaluate_if_property(
        model,
        data,
        batch_size,
        output,
        plot,
        device,
        dtype,
        json,
        refused={"head": head, "plot_deviation": plot_deviation, **keys, **units_given},
    ):
        return
    units = data_units(length_unit, energy_unit, find_files(data))
    labelled = read_labelled(data, LabelKeys(energy_key, forces_key, stress_key, virials_key), units=units)
    calculator = make_calculator(model, _all_elements(labelled), device=device, dtype=dtype, head=head)
    if plot_deviation and not calculator.has_deviations:
        raise InputError(
            f"--plot_deviation {plot_deviation} would do nothing: one model does not deviate from itself. Leave it "
            "out, or name a committee with --model"
        )
    with progress("evaluate") as update:
        result = evaluate(calculator, labelled, batch_size=batch_size, progress=update)
    if output:
        with writing(output):
            write(output, with_predictions(result), format="extxyz")
    if plot:
        from mlip.training.plots import plot_parity

        with writing(plot):
            plot_parity({"test": list(zip(result.structures, result.predictions, strict=True))}, plot)
    if plot_deviation:
        from mlip.training.deviation_plots import plot_deviations

        with writing(plot_deviation):
            pairs = list(zip(result.structures, result.predictions, strict=True))
            plot_deviations({"test": pairs}, result.calibration, plot_deviation)
    if json:
        print_json(result.as_dict())
    else:
        _show(result, labelled, [path for path in (output, plot, plot_deviation) if path])


def _all_elements(labelled: LabelledData) -> Any:
    """Atoms of every element in the data, to choose the bundled potential by."""
    from ase import Atoms

    return Atoms(numbers=sorted({int(z) for s in labelled.structures for z in s.atoms.numbers}))


def _show(result: EvaluationResult, data: LabelledData, written: list[Path]) -> None:
    """Print the errors, by group where there are several; no columns of what has no labels."""
    values = result.as_dict()
    groups = dict(values["groups"]) if len(values["groups"]) > 1 else {}
    columns = {heading: key for heading, key in COLUMNS.items() if values[key] is not None}
    rows = [_row(name, errors, columns.values()) for name, errors in (*groups.items(), ("all", values))]
    out = console()
    title = f"Errors on {Path(data.source).name} (E in meV/atom, total E in meV, F in meV/Å, S in GPa)"
    out.print(table(title, ("group", "structures", *columns), rows, right=range(1, 2 + len(columns))))
    if result.deviations:
        from mlip.training.committee_report import calibration_table

        out.print(calibration_table({"": result.deviations}))
    if result.n_extrapolating is not None:
        out.print(f"outside the range of the training set: {result.n_extrapolating} of {result.n} structures")
    for remark in data.remarks:
        out.print(remark)
    for path in written:
        out.print(f"written: {path}")


def _row(name: str, errors: dict[str, Any], keys: Iterable[str]) -> list[str]:
    from mlip.training.error_tables import printable

    cells = [errors[key] for key in keys]
    return [printable(name), str(errors["n"]), *["-" if cell is None else f"{cell:.4g}" for cell in cells]]
