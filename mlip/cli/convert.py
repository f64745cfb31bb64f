"""``mlip convert``: another program's model file to ours."""

from __future__ import annotations

from pathlib import Path

from mlip.cli.output import check_output, console, print_json, table
from mlip.errors import InputError

POSITIONAL = ("model",)
ALIASES = {"-o": "--output"}
SUFFIX = ".safetensors"


def command(
    model: str,
    output: Path | None = None,
    head: str | None = None,
    dtype: str | None = None,
    length_unit: str | None = None,
    energy_unit: str | None = None,
    json: bool = False,
) -> None:
    """Write a model, such as a .model file of mace-torch or a folder of n2p2, as a weights file of mlip.

    A potential of kind HDNNP can be written as a folder of n2p2, too, for its programs and LAMMPS (pair_style hdnnp).

    Nothing in the file is executed. The numbers stay as they are, and so do all heads of a model of several.

    Args:
        model: a .model file of mace-torch, a folder of n2p2 (with input.nn, scaling.data, weights.*.data), a weights
            file, or the name of a model (mlip models lists them)
        output: the file to write, or the folder of n2p2; default: the same name in this folder, ending in
            .safetensors, if it is not there
        head: the head that is used unless another is chosen, for a model of several
        dtype: float32 or float64; default: that of the file
        length_unit: of the folder of n2p2 that is read or written, whose files do not name it: Bohr (default) or
            Angstrom
        energy_unit: likewise: Hartree (default) or eV
        json: print everything as JSON on stdout
    """
    from mlip.importers.n2p2_export import save_n2p2
    from mlip.importers.n2p2_settings import files_of
    from mlip.zoo import load_potential, model_path

    source = model_path(model)
    if output is None:
        output = Path((source.resolve().name if source.is_dir() else source.stem) + SUFFIX)
        if output.exists():
            raise InputError(f"{output} is already there; name the file to write with -o")
    to_folder = output.suffix == "" or output.is_dir()
    if not to_folder and output.suffix != SUFFIX:
        raise InputError(
            f"a weights file of mlip ends in {SUFFIX}, a folder of n2p2 has no ending; got {output.name!r}"
        )
    if (length_unit or energy_unit) and source.is_dir() == to_folder:
        raise InputError("units can be chosen for a folder of n2p2 that is read or one that is written")
    if output.exists() and output.samefile(source):
        raise InputError(f"{output} is the model itself; choose another name with -o")
    units = _units(length_unit, energy_unit)
    potential = load_potential(source, dtype=dtype, head=head, units=units if source.is_dir() else None)
    if to_folder:
        save_n2p2(potential, output, *units)
    else:
        check_output(output)
        potential.save(output)
    facts = {
        "model": str(source),
        "output": str(output),
        "architecture": type(potential.model).__name__,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "heads": list(potential.heads),
        "head": potential.head,
        "elements": len(potential.elements),
        "parameters": sum(p.numel() for p in potential.parameters()),
        "size_bytes": sum(file.stat().st_size for file in (files_of(output) if to_folder else [output])),
        "source": potential.metadata.get("source"),
    }
    if json:
        print_json(facts)
        return
    shown = {name: value for name, value in facts.items() if name not in ("model", "source")}
    rows = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in shown.items()]
    console().print(table(source.name, ("", "converted"), rows))


def _units(length: str | None, energy: str | None) -> tuple[float, float]:
    """In Å and eV."""
    from mlip.units import BOHR, HARTREE

    known = {"length_unit": {"bohr": BOHR, "angstrom": 1.0}, "energy_unit": {"hartree": HARTREE, "ev": 1.0}}
    found = []
    for option, given, default in (("length_unit", length, "Bohr"), ("energy_unit", energy, "Hartree")):
        factor = known[option].get((given or default).lower())
        if factor is None:
            raise InputError(f"--{option} {given}: expected one of {', '.join(known[option])}")
        found.append(factor)
    return found[0], found[1]
