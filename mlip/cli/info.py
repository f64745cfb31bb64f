"""``mlip info``: what a model file holds."""

from __future__ import annotations

from typing import Any

from mlip.cli.output import console, print_json, table


def command(model: str, json: bool = False) -> None:
    """Describe a model: architecture, elements, reference energies, provenance.

    Args:
        model: weights file or name of a bundled potential
        json: print everything as JSON on stdout
    """
    facts = _facts(model)
    if json:
        print_json(facts)
        return
    rows = [(name, _text(value)) for name, value in facts.items() if name not in ("hyperparameters", "metadata")]
    out = console()
    out.print(table(model, ("", "value"), rows))
    for part in ("hyperparameters", "metadata"):
        if facts[part]:
            out.print(table(part, ("", "value"), [(key, _text(value)) for key, value in facts[part].items()]))


def _facts(model: str) -> dict[str, Any]:
    from ase.data import chemical_symbols

    from mlip.checkpoint import read_header
    from mlip.zoo import load, model_path

    path = model_path(model)
    header = read_header(path)
    potential = load(path)
    return {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "architecture": header["architecture"],
        "elements": [chemical_symbols[z] for z in potential.elements],
        "cutoff": potential.cutoff,
        "parameters": sum(p.numel() for p in potential.parameters()),
        "dtype": header["dtype"],
        "E0s": {chemical_symbols[int(z)]: energy for z, energy in header["E0s"].items()},
        "isolated_energies": {chemical_symbols[z]: potential.isolated_energy(z) for z in potential.elements},
        "scale": header["scale"],
        "shift": header["shift"],
        "units": header["units"],
        "format_version": header["format_version"],
        "package_version": header["package_version"],
        "hyperparameters": header["hyperparameters"],
        "metadata": header["metadata"],
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return f"{value:.8g}" if isinstance(value, float) else str(value)
