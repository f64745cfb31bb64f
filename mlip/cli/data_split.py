"""``mlip data split``: parts for training, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mlip.cli.data_output import show_written
from mlip.cli.output import progress

ALIASES = {"-o": "--output"}


def command(
    files: list[str],
    output: Path = Path("split"),
    fractions: list[float] = [0.8, 0.1, 0.1],  # noqa: B006
    method: Literal["random", "composition", "trajectory", "farthest"] = "random",
    gap: int = 5,
    seed: int = 0,
    suffix: str = ".extxyz",
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    virials_key: str | None = None,
    json: bool = False,
) -> None:
    """Split labelled structures into train, valid and test.

    Isolated atoms go to train.

    Args:
        files: labelled structures in any format that mlip train reads, several, patterns, folders of VASP
        output: folder for train.extxyz, valid.extxyz and test.extxyz
        fractions: of train and valid, or of train, valid and test
        method: random; composition (all structures of one to one part); trajectory (contiguous blocks of each file);
            farthest (train covers as much as it can, by farthest-point sampling)
        gap: with trajectory, frames left out between two blocks
        seed: of what is random
        suffix: of the files: .extxyz, .h5, .lmdb or .db
        energy_key: name of the energies; default REF_energy, else energy
        forces_key: name of the forces; default REF_forces, else forces
        stress_key: name of the stresses; default REF_stress, else stress
        virials_key: name of the virials; default REF_virials, else virials
        json: print all as JSON on stdout
    """
    from mlip.data.labels import LabelKeys
    from mlip.workflows.data_sets import split_data

    keys = LabelKeys(energy_key, forces_key, stress_key, virials_key)
    with progress("split") as update:
        written = split_data(files, output, fractions, method, seed, gap, suffix, keys, progress=update)
    show_written(written, json)
