"""``mlip data augment``: rattled and strained copies."""

from __future__ import annotations

from pathlib import Path

from mlip.cli.data_output import show_written
from mlip.cli.output import check_output, progress
from mlip.errors import InputError

ALIASES = {"-o": "--output"}


def command(
    files: list[str],
    output: Path = Path("augmented.extxyz"),
    rattle: float = 0.0,
    strain: float = 0.0,
    copies: int = 5,
    calculator: str | None = None,
    model: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Write rattled and strained copies of structures, to cover more than equilibrium.

    Labels of the originals are not kept. With --calculator or --model the copies are labelled, else they have none.

    Args:
        files: structures, in any format that mlip train reads
        output: file to write: .extxyz, .h5, .lmdb or .db
        rattle: standard deviation of each coordinate, Å
        strain: largest component of the strain of crystals, 0.05 for 5 %
        copies: of each structure
        calculator: an ASE calculator that labels, as module:callable, such as ase.calculators.emt:EMT
        model: one of ours that labels: {MODEL}
        seed: of the random numbers
        json: print all as JSON on stdout
    """
    from mlip.cli.callables import load_callable
    from mlip.workflows.data_sets import augment_data

    if calculator is not None and model is not None:
        raise InputError("--calculator and --model both label the copies; give one")
    check_output(output)
    labels = load_callable(calculator)() if calculator is not None else None
    if model is not None:
        from mlip.calculators import MLIPCalculator

        labels = MLIPCalculator(model)
    with progress("augment") as update:
        written = augment_data(files, output, rattle, strain, copies, seed, labels, progress=update)
    show_written(written, json)
