"""``mlip md``: molecular dynamics."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlip.cli.output import check_plot, console, print_json, progress, table, writing

if TYPE_CHECKING:
    from mlip.workflows.md import MDResult

ALIASES = {"-o": "--output"}
STOPPED = 3
"""Exit status of a run that ended early because the model extrapolates, or its members disagree."""


def command(
    structure: Path,
    model: str | None = None,
    head: str | None = None,
    ensemble: Literal["nve", "nvt", "npt"] = "nvt",
    temperature: float | None = None,
    pressure: float = 0.0,
    timestep: float = 1.0,
    steps: int = 1000,
    seed: int = 0,
    interval: int = 10,
    thermostat_time: float = 100.0,
    barostat_time: float = 1000.0,
    output: Path = Path("md.traj"),
    resume: bool = False,
    overwrite: bool = False,
    stop_on_extrapolation: int | None = None,
    stop_on_deviation: float | None = None,
    flag_deviation: float | None = None,
    flag_file: Path | None = None,
    plot: Path | None = None,
    device: str = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    json: bool = False,
) -> int:
    """Molecular dynamics. A killed run goes on exactly where it was with the same command and --resume.

    Beside the trajectory lie TRAJ.log (energies, temperature) and TRAJ.state (what a resume needs). The exit status is
    3 of a run that --stop_on_extrapolation or --stop_on_deviation ended.

    Args:
        structure: any file that ASE reads
        model: {MODEL}; default: the bundled model that covers the elements
        head: which head of a model that has several, by name
        ensemble: nve (Verlet), nvt (Bussi) or npt (isotropic Martyna-Tobias-Klein)
        temperature: K; default 300, in nve that of the velocities in the structure. Velocities are drawn where
            there are none; nvt and npt begin with those in the structure
        pressure: GPa, npt only
        timestep: fs
        steps: total number of steps
        seed: of initial velocities and thermostat
        interval: steps between two frames
        thermostat_time: relaxation time, fs
        barostat_time: relaxation time, fs
        output: trajectory, .traj or .xyz
        resume: go on from the state of an earlier run, if there is one
        overwrite: replace an existing trajectory
        stop_on_extrapolation: end the run at a step with this many symmetry functions or more, summed over the atoms,
            outside the range of the training set; for models that know it (HDNNP, n2p2)
        stop_on_deviation: end the run at a step where the deviation of the force on an atom between the members of a
            committee is so large or larger, eV/Å; calibrated if the committee is
        flag_deviation: write structures with such a deviation or a larger one to --flag_file, for labelling, at most
            one in --interval steps
        flag_file: .xyz, .extxyz or .traj
        plot: write temperature and energy against time to this PNG
        device: cpu, cuda or auto
        dtype: arithmetic of the model
        json: print the result as JSON on stdout
    """
    from mlip.cli.structures import make_calculator, read_structure
    from mlip.workflows.md import run_md
    from mlip.workflows.md_deviation import DeviationLimits
    from mlip.workflows.md_integrators import MDSettings

    settings = MDSettings(
        ensemble=ensemble,
        temperature=300.0 if temperature is None and ensemble != "nve" else temperature,
        pressure=pressure,
        timestep=timestep,
        seed=seed,
        interval=interval,
        thermostat_time=thermostat_time,
        barostat_time=barostat_time,
    )
    atoms = read_structure(structure)
    settings.check(atoms)
    if plot:
        check_plot(plot)
    if ensemble == "nve" and temperature is None and not (resume or atoms.get_kinetic_energy()):
        warnings.warn("the structure has no velocities: nve starts at rest; --temperature draws some", stacklevel=2)
    calculator = make_calculator(model, atoms, device=device, dtype=dtype, head=head)
    try:
        with progress(f"md {ensemble}") as update:
            result = run_md(
                atoms,
                calculator,
                settings,
                steps=steps,
                trajectory=output,
                resume=resume,
                overwrite=overwrite,
                stop_on_extrapolation=stop_on_extrapolation,
                limits=DeviationLimits(stop_on_deviation, flag_deviation, flag_file),
                progress=update,
            )
    except KeyboardInterrupt:
        print(f"\nstopped; the same command with --resume goes on from the last frame of {output}", file=sys.stderr)
        raise
    if plot:
        from mlip.workflows.plots import plot_md

        with writing(plot):
            plot_md(result, plot)
    if json:
        print_json(result.as_dict())
    else:
        _show(result)
    if result.stopped:
        print(
            f"mlip md: stopped at {result.stopped}; trajectory and log are kept; "
            "--resume goes on with a larger limit, or without it",
            file=sys.stderr,
        )
        return STOPPED
    return 0


def _show(result: MDResult) -> None:
    rows = [
        ("time", f"{result.time_ps:g} ps, {result.steps} steps"),
        ("temperature", f"{result.temperature_mean:.1f} ± {result.temperature_std:.1f} K"),
        ("total energy", f"{result.energy:.6f} eV"),
    ]
    if result.drift is not None:
        rows.append(("drift of the conserved energy", f"{result.drift:.1e} eV/atom/ps"))
    if result.pressure_mean is not None:
        rows.append(("pressure", f"{result.pressure_mean:.3f} GPa"))
    if result.volume_mean is not None:
        rows.append(("volume", f"{result.volume_mean:.2f} Å³"))
    if result.extrapolated_steps is not None:
        rows.append(("outside the training set", f"{result.extrapolated_steps} of {result.steps + 1} structures"))
    if result.max_deviation is not None:
        kind = "calibrated" if result.deviation_calibrated else "not calibrated"
        rows.append(("largest deviation of a force", f"{result.max_deviation:.4g} eV/Å, {kind}"))
    if result.flagged is not None:
        rows.append(("structures set aside", str(result.flagged)))
    out = console()
    out.print(table(f"{result.ensemble}, atoms: {result.n_atoms}", ("", "second half of the run"), rows))
    out.print(f"written: {result.trajectory} (frames: {result.frames}), {result.trajectory}.log")
