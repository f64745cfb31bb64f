"""`mlip check`: physics checks of a model or of any ASE calculator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlip.cli.callables import load_callable
from mlip.cli.output import console, print_json, progress, table
from mlip.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from mlip.testing.physics import CheckResult

POSITIONAL = ("model",)


def command(
    model: str | None = None,
    head: str | None = None,
    calculator: str | None = None,
    structure: Path | None = None,
    tolerance: float | None = None,
    json: bool = False,
) -> int:
    """Check the physics of a model, or of any ASE calculator: derivatives, symmetries, extensivity, cutoff.

    The exit status is 0 only if every check passes.

    Args:
        model: {MODEL}; its ASE calculator is checked too
        head: which head of a model that has several, by name
        calculator: instead of a model, an ASE calculator as module:callable, such as ase.calculators.emt:EMT
        structure: with --calculator, a file with the structure to test on; without it, elements are tried
        tolerance: with --calculator, largest relative error in place of those fitted to its precision
        json: print the results as JSON
    """
    if (model is None) == (calculator is None):
        raise InputError("give either a MODEL or --calculator module:callable")
    if model is None and head is not None:
        raise InputError("--head goes with a MODEL")
    if model is not None and (structure is not None or tolerance is not None):
        raise InputError("--structure and --tolerance go with --calculator; a model makes its own structures")
    out = console(json)
    title = f"physics checks of {model or calculator}"
    with _one_thread():
        results = (
            _check_calculator(str(calculator), structure, tolerance) if model is None else _check_model(model, head)
        )
    if json:
        checks = [r.as_dict() for r in results]
        print_json({"subject": model or calculator, "passed": all(r.passed for r in results), "checks": checks})
    _report(out, title, results)
    return 0 if all(r.passed for r in results) else 1


@contextmanager
def _one_thread() -> Iterator[None]:
    """Structures of eight atoms gain nothing from threads; on a busy machine they lose a factor of ten by them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_model(model: str, head: str | None) -> list[CheckResult]:
    import torch

    from mlip.calculators import MLIPCalculator
    from mlip.testing.physics import check_calculator, check_potential
    from mlip.zoo import load_potential

    potential = load_potential(model, dtype=torch.float64, head=head)
    with progress("checks of the model") as update:
        results = check_potential(potential, progress=update)
    with progress("checks of its ASE calculator") as update:
        outer = check_calculator(lambda: MLIPCalculator(potential, device="cpu"), progress=update)
    return results + [replace(r, name=f"ase-{r.name}") for r in outer]


def _check_calculator(name: str, structure: Path | None, tolerance: float | None) -> list[CheckResult]:
    from mlip.testing.physics import check_calculator

    factory = load_callable(name)
    atoms = None
    if structure is not None:
        from mlip.cli.structures import read_structure

        atoms = read_structure(structure)
    with progress("checks of the calculator") as update:
        return check_calculator(factory, atoms, tolerance, progress=update)


def _report(out: Console, title: str, results: list[CheckResult]) -> None:
    """Print one row per check and a line that sums up."""
    rows = [
        [
            "[dim]skip[/]" if r.skipped else "[green]pass[/]" if r.passed else "[bold red]FAIL[/]",
            r.name,
            "" if r.skipped else f"{r.value:.2g}",
            "" if r.skipped else f"{r.tolerance:.2g}",
            r.law + (f"\n[dim]{_escaped(r.detail)}[/]" if r.detail and (r.skipped or not r.passed) else ""),
        ]
        for r in results
    ]
    out.print(table(title, ["", "check", "value", "tolerance", "what it means"], rows, right=(2, 3)), markup=True)
    failed = [r.name for r in results if not r.passed]
    skipped = sum(r.skipped for r in results)
    ran = f"{len(results) - skipped} checks" + (f", {skipped} skipped" if skipped else "")
    summary = f"[bold red]{len(failed)} of {ran} failed:[/] {', '.join(failed)}" if failed else f"{ran}, all passed"
    out.print(summary, markup=True)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
