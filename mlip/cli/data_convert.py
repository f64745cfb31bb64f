"""``mlip data convert``: labelled structures from any format to ours."""

from __future__ import annotations

from pathlib import Path

from mlip.cli.data_output import show_written
from mlip.cli.output import check_output, progress

ALIASES = {"-o": "--output"}


def command(
    files: list[str],
    output: Path = Path("data.extxyz"),
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    virials_key: str | None = None,
    length_unit: str | None = None,
    energy_unit: str | None = None,
    json: bool = False,
) -> None:
    """Write labelled structures as extended xyz, HDF5, LMDB or ASE data base, in eV and Å under REF_energy and so on.

    Args:
        files: labelled structures in any format that mlip train reads, several, patterns, folders of VASP
        output: file to write: .extxyz, .h5, .lmdb or .db
        energy_key: name of the energies; default REF_energy, else energy
        forces_key: name of the forces; default REF_forces, else forces
        stress_key: name of the stresses; default REF_stress, else stress
        virials_key: name of the virials; default REF_virials, else virials
        length_unit: of a file of n2p2 (input.data): Bohr or Angstrom; default Bohr
        energy_unit: likewise Hartree or eV; default Hartree. One needs the other
        json: print all as JSON on stdout
    """
    from mlip.data.files import find_files
    from mlip.data.labels import LabelKeys
    from mlip.data.n2p2 import data_units
    from mlip.workflows.data_sets import convert_data

    check_output(output)
    units = data_units(length_unit, energy_unit, find_files(files))
    keys = LabelKeys(energy_key, forces_key, stress_key, virials_key)
    with progress("convert") as update:
        written = convert_data(files, output, keys, units, progress=update)
    show_written(written, json)
