"""``mlip evaluate`` of a property model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlip.cli.output import console, print_json, progress, table, writing
from mlip.errors import InputError


def evaluate_if_property(
    model: str,
    data: Sequence[str],
    batch_size: int | None,
    output: Path | None,
    plot: Path | None,
    device: str,
    dtype: str,
    json: bool,
    refused: Mapping[str, str | Path | None],
) -> bool:
    """Evaluate and show `model` if it is a property model, whose options are those of ``mlip evaluate``.

    Args:
        model, data, batch_size, output, plot, device, dtype, json: as there.
        refused: options that mean nothing here, by name.

    Returns:
        Whether it is one.

    Raises:
        InputError: one of the refused options is given.
    """
    from mlip.zoo import is_property_model, model_path

    path = model_path(model)
    if not is_property_model(path):
        return False
    for option, value in refused.items():
        if value is not None:
            raise InputError(f"--{option} {value} would do nothing: {model} predicts no energies. Leave it out")

    from ase.io import write

    from mlip.calculators import PropertyCalculator
    from mlip.data.property_labels import read_property
    from mlip.training.plots import draw_panels, property_panels
    from mlip.workflows.evaluate_property import evaluate_property, with_values

    calculator = PropertyCalculator(path, device=device, dtype=dtype)
    labelled = read_property(data, calculator.learned.name, calculator.learned.readout, calculator.learned.unit or None)
    with progress("evaluate") as update:
        result = evaluate_property(calculator, labelled, batch_size=batch_size, progress=update)
    if output:
        with writing(output):
            write(output, with_values(result), format="extxyz")
    if plot:
        with writing(plot):
            draw_panels(property_panels(calculator.learned, {"test": result.pairs}), plot)
    if json:
        print_json(result.as_dict())
        return True
    out = console()
    values = result.as_dict()
    groups = result.groups if len(result.groups) > 1 else {}
    columns = ("mae", "rmse", "largest", "std")
    rows = [
        [name, str(errors["n"]), *(f"{errors[key]:.4g}" for key in columns)]
        for name, errors in (*groups.items(), ("all", values))
    ]
    headings = ("group", "structures", "MAE", "RMSE", "largest", "std of labels")
    title = f"Errors of {calculator.learned.label} on {Path(labelled.source).name}"
    out.print(table(title, headings, rows, right=range(1, len(headings))))
    for line in labelled.remarks():
        out.print(line)
    for file in (output, plot):
        if file:
            out.print(f"written: {file}")
    return True
