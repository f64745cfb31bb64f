"""``mlip info``: what a model file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlip.cli.output import console, print_json, table

if TYPE_CHECKING:
    from pathlib import Path

    from mlip.committee import Committee
    from mlip.potential import Potential
    from mlip.property_model import PropertyModel


def command(model: str, head: str | None = None, json: bool = False) -> None:
    """Describe a model: architecture, elements, reference energies, provenance.

    Args:
        model: weights file, .model file of mace-torch, folder of n2p2, or name of a model (mlip models lists them)
        head: which head of a model of several the energies are of
        json: print everything as JSON on stdout
    """
    from mlip.committee import Committee
    from mlip.property_model import PropertyModel
    from mlip.zoo import load, model_path

    path = model_path(model)
    loaded = load(path, head=head)
    if isinstance(loaded, Committee):
        _show_committee(model, describe_committee(loaded, path), json)
        return
    if isinstance(loaded, PropertyModel):
        _show_property(model, describe_property(loaded, path), json)
        return
    facts = describe(loaded, path)
    if json:
        print_json(facts)
        return
    parts = ("E0s", "isolated_energies", "hyperparameters", "metadata")
    out = console()
    out.print(table(model, ("", "value"), [(name, _text(value)) for name, value in facts.items() if name not in parts]))
    rows = [(name, _text(value)) for name, value in facts["hyperparameters"].items() if name not in facts]
    out.print(table("hyperparameters", ("", "value"), rows))
    if facts["metadata"]:
        out.print(table("metadata", ("", "value"), [(key, _text(value)) for key, value in facts["metadata"].items()]))
    alone = facts["isolated_energies"]
    energies = [(symbol, f"{E0:.6f}", f"{alone[symbol]:.6f}") for symbol, E0 in facts["E0s"].items()]
    out.print(table("energies in eV", ("element", "E0", "atom alone"), energies))


def describe(potential: Potential, path: Path) -> dict[str, Any]:
    """All that a weights file says."""
    from ase.data import chemical_symbols

    from mlip.importers.n2p2_settings import files_of

    reference = potential.energy_scale
    return {
        "file": str(path),
        "size_bytes": sum(file.stat().st_size for file in (files_of(path) if path.is_dir() else [path])),
        "architecture": type(potential.model).__name__,
        "heads": list(potential.heads),
        "head": potential.head,
        "elements": [chemical_symbols[z] for z in potential.elements],
        "cutoff": potential.cutoff,
        "parameters": sum(p.numel() for p in potential.parameters()),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "backend": "reference" if potential.acceleration.evaluator(potential.model) is potential.model else "compiled",
        "radial": potential.acceleration.radial_functions(potential.model),
        "scale": reference.scale.item(),
        "shift": reference.shift.item(),
        "units": {"energy": "eV", "length": "Å"},
        "E0s": {chemical_symbols[z]: energy for z, energy in potential.E0s.items()},
        "isolated_energies": {chemical_symbols[z]: energy for z, energy in potential.isolated_energies().items()},
        "hyperparameters": potential.model.hyperparameters,
        "metadata": potential.metadata,
    }


def describe_property(model: PropertyModel, path: Path) -> dict[str, Any]:
    """All that the weights file of a property model says."""
    from ase.data import chemical_symbols

    learned = model.learned
    return {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "predicts": learned.name,
        "unit": learned.unit,
        "readout": learned.readout,
        "architecture": type(model.model).__name__,
        "elements": [chemical_symbols[z] for z in model.elements],
        "cutoff": model.cutoff,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "scale": model.scale,
        "shifts": {chemical_symbols[z]: shift for z, shift in model.shifts.items()},
        "hyperparameters": model.model.hyperparameters,
        "metadata": model.metadata,
    }


def describe_committee(committee: Committee, path: Path) -> dict[str, Any]:
    """All that the file of a committee says, of its members in short."""
    from ase.data import chemical_symbols

    return {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "committee": len(committee.potentials),
        "elements": [chemical_symbols[z] for z in committee.elements],
        "cutoff": committee.cutoff,
        "calibration": None if committee.calibration is None else committee.calibration.as_dict(),
        "members": [
            {
                "name": name,
                "architecture": type(member.model).__name__,
                "parameters": sum(p.numel() for p in member.parameters()),
                "seed": member.metadata.get("config", {}).get("seed"),
                "best_epoch": member.metadata.get("best_epoch"),
            }
            for name, member in zip(committee.names, committee.potentials, strict=True)
        ],
        "metadata": committee.metadata,
    }


def _show_committee(model: str, facts: dict[str, Any], json: bool) -> None:
    if json:
        print_json(facts)
        return
    out = console()
    parts = ("members", "metadata")
    out.print(table(model, ("", "value"), [(name, _text(value)) for name, value in facts.items() if name not in parts]))
    rows = [[str(value) for value in member.values()] for member in facts["members"]]
    out.print(table("members", tuple(facts["members"][0]), rows))
    long = ("config", "errors", "deviations")  # all of it with --json
    shown = [(key, _text(value)) for key, value in facts["metadata"].items() if key not in long]
    if shown:
        out.print(table("metadata", ("", "value"), shown))


def _show_property(model: str, facts: dict[str, Any], json: bool) -> None:
    if json:
        print_json(facts)
        return
    out = console()
    shown = [(name, _text(value)) for name, value in facts.items() if name not in ("hyperparameters", "metadata")]
    out.print(table(model, ("", "value"), shown))
    for part in ("hyperparameters", "metadata"):
        rows = [(name, _text(value)) for name, value in facts[part].items() if name not in facts]
        if rows:
            out.print(table(part, ("", "value"), rows))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return f"{value:.8g}" if isinstance(value, float) else str(value)
