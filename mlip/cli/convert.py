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
    elements: list[str] | None = None,
    E0s: str | None = None,
    cutoff: float | None = None,
    envelope_exponent: int | None = None,
    json: bool = False,
) -> None:
    """Write a model as a weights file of mlip: of mace-torch, of n2p2, or a DimeNet of PyTorch Geometric.

    A potential of kind HDNNP can be written as a folder of n2p2, too, for its programs and LAMMPS (pair_style hdnnp).

    Nothing in the file is executed. The numbers stay as they are, and so do all heads of a model of several.

    Args:
        model: a .model file of mace-torch, a folder of n2p2 (with input.nn, scaling.data, weights.*.data), the state
            dict of a DimeNet or DimeNetPlusPlus of PyTorch Geometric (torch.save), a weights file, or the name of a
            model (mlip models lists them)
        output: the file to write, or the folder of n2p2; default: the same name in this folder, ending in
            .safetensors, if it is not there
        head: the head that is used unless another is chosen, for a model of several
        dtype: float32 or float64; default: that of the file
        length_unit: of the folder of n2p2 that is read or written, whose files do not name it: Bohr (default) or
            Angstrom
        energy_unit: likewise: Hartree (default) or eV
        elements: which a state dict of PyTorch Geometric was trained for, such as H C O; it has numbers for all
        E0s: its reference energies, in eV, such as "{H: -13.6, C: -1027.6}"; default: zero
        cutoff: its cutoff in Å, if the file does not tell; default: PyTorch Geometric's, 5
        envelope_exponent: likewise; default: PyTorch Geometric's, 5
        json: print everything as JSON on stdout
    """
    from mlip.data.reference_energies import parse_E0s
    from mlip.importers.n2p2_export import save_n2p2
    from mlip.importers.n2p2_settings import files_of
    from mlip.units import atomic_units
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
    units = atomic_units(length_unit, energy_unit)
    given = {"cutoff": cutoff, "envelope_exponent": envelope_exponent}
    potential = load_potential(
        source,
        dtype=dtype,
        head=head,
        units=units if source.is_dir() else None,
        elements=" ".join(elements) if elements else None,
        E0s=None if E0s is None else parse_E0s(E0s),
        kwargs={name: value for name, value in given.items() if value is not None} or None,
    )
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
