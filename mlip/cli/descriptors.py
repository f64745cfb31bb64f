"""``mlip descriptors``: descriptors of structures by a model, and their map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlip.cli.output import check_output, check_plot, console, print_json, progress, table, writing
from mlip.errors import InputError

if TYPE_CHECKING:
    from mlip.calculators import MLIPCalculator, PropertyCalculator
    from mlip.data.frames import Frames
    from mlip.workflows.descriptors import DescriptorMap

ALIASES = {"-o": "--output"}


def command(
    data: list[Path],
    model: str | None = None,
    output: Path = Path("descriptors.npz"),
    plot: Path | None = None,
    color: str | None = None,
    method: Literal["pca", "umap"] = "pca",
    per: Literal["structure", "atom"] = "structure",
    sample: int | None = None,
    seed: int | None = None,
    num_layers: int = -1,
    means_only: bool = False,
    head: str | None = None,
    length_unit: str | None = None,
    energy_unit: str | None = None,
    batch_atoms: int | None = None,
    device: str = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    json: bool = False,
) -> None:
    """Invariant descriptors of the atoms and structures of files by a model, and a map of them.

    They are the scalar features of MACE and DimeNet, and the symmetry functions of HDNNP. A structure has the mean of
    its atoms. docs/descriptors.md tells what the file holds.

    Args:
        data: files of structures, extended xyz, .traj, npz, n2p2's input.data, or any other format that ASE reads
        model: {MODEL}; default: the bundled model that covers the elements of the first structure
        output: write the descriptors here, npz
        plot: draw the map into this file
        color: of the points of the map, energy (per atom), file, formula, element (of atoms), or any key of the
            structures, of atoms any of their arrays; default file where there are several, else one color
        method: of the map, pca (principal components) or umap, which needs umap-learn
        per: whether a point of the map is a structure or an atom
        sample: take so many structures, drawn at random from all files together
        seed: of that, and of umap; default 0
        num_layers: take the descriptors of so many layers, from the first; -1: of all
        means_only: leave out the descriptors of atoms, which are most of the file
        head: which head of a model that has several, by name
        length_unit: of a file of n2p2 (input.data), which does not name it: Bohr or Angstrom; default Bohr
        energy_unit: likewise Hartree or eV; default Hartree. One needs the other
        batch_atoms: most atoms evaluated at once; default: what memory allows
        device: cpu, cuda or auto
        dtype: arithmetic of the model, and precision of the descriptors of atoms
        json: print a summary as JSON on stdout
    """
    from mlip.data.files import without_part
    from mlip.data.frames import Frames
    from mlip.data.n2p2 import data_units
    from mlip.workflows.descriptors import MapSettings, describe, save_descriptors

    if seed is not None and sample is None and method != "umap":
        raise InputError(f"--seed {seed} would do nothing: it needs --sample or --method umap. Leave it out")
    settings = MapSettings(
        *(sample, 0 if seed is None else seed, num_layers, per, method, color, means_only, batch_atoms)
    )
    settings.check()
    check_output(output)
    if plot:
        check_plot(plot)
        if plot.absolute() == output.absolute():
            raise InputError(f"--plot and --output are both {plot}; take two names")
    units = data_units(length_unit, energy_unit, data)
    files = [Frames(path, units) for path in data]
    if color is None and len(files) > 1:
        settings = MapSettings(*(sample, settings.seed, num_layers, per, method, "file", means_only, batch_atoms))
    calculator, name = _calculator(model, files, device, dtype, head)
    with progress("descriptors") as update:
        result = describe(calculator, files, settings, map_needed=plot is not None, progress=update)
    provenance: dict[str, Any] = {
        "model": _identity(name),
        "head": head,
        "dtype": dtype,
        "sample": sample,
        "seed": settings.seed,
    }
    sizes = [without_part(path)[0].stat().st_size for path in data]
    provenance |= {"radial": calculator.parameters.get("radial"), "data_bytes": sizes}
    with writing(output):
        save_descriptors(result, output, provenance)
    if plot:
        from mlip.workflows.map_plot import plot_map

        with writing(plot):
            plot_map(result, plot, f"{', '.join(path.name for path in data)}, {Path(name).name}")
    written = [str(path) for path in (output, plot) if path]
    if json:
        print_json({**result.as_dict(), "model": name, "dtype": dtype, "written": written})
    else:
        _show(result, name, written)


def _calculator(
    model: str | None, files: list[Frames], device: str, dtype: str, head: str | None
) -> tuple[MLIPCalculator | PropertyCalculator, str]:
    """The calculator of a potential or of a property model, and the model's name."""
    from mlip.calculators import MLIPCalculator, PropertyCalculator
    from mlip.cli.structures import default_model
    from mlip.zoo import is_property_model, model_path

    name = default_model(next(files[0].read([0]))) if model is None else model
    if not is_property_model(model_path(name)):
        return MLIPCalculator(name, device=device, dtype=dtype, head=head), name
    if head is not None:
        raise InputError(f"--head {head} would do nothing: {name} predicts no energies. Leave it out")
    return PropertyCalculator(model_path(name), device=device, dtype=dtype), name


def _identity(name: str) -> dict[str, Any]:
    """Name and hash of a model, of a folder without hash."""
    from mlip.training.hashes import file_hash
    from mlip.zoo import model_path

    path = model_path(name)
    return {"name": path.name if path.exists() else name, "sha256": None if path.is_dir() else file_hash(str(path))}


def _show(result: DescriptorMap, model: str, written: list[str]) -> None:
    of_all = "" if result.n == result.available else f" of {result.available}"
    layers = f" ({' + '.join(map(str, result.layers))})" if len(result.layers) > 1 else ""
    rows = [
        ("model", model),
        ("structures", f"{result.n}{of_all}"),
        ("atoms", str(result.n_atoms)),
        ("descriptors", f"{result.n_descriptors}{layers}"),
    ]
    if result.explained is not None:
        parts = " and ".join(f"{100 * part:.1f} %" for part in result.explained)
        rows.append((f"map of {result.per}s", f"principal components with {parts} of the variance"))
    elif result.method is not None:
        rows.append((f"map of {result.per}s", "UMAP"))
    out = console()
    out.print(table("Descriptors", ("", ""), rows))
    for path in written:
        out.print(f"written: {path}")
