"""`--committee N`: members trained one after the other, then one file with their calibrated deviations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mlip.committee import Calibration, Committee
from mlip.data.batches import batches
from mlip.data.calibration import calibrate, deviations_of, reliability
from mlip.data.metrics import errors_of
from mlip.data.predict import predict
from mlip.errors import InputError
from mlip.potential import Potential
from mlip.training import report
from mlip.training.committee_report import calibration_table, members_table, write_committee_report
from mlip.training.config import TrainingConfig
from mlip.training.data import TrainingData, load_data
from mlip.training.deviation_plots import plot_deviations
from mlip.training.display import work_shown
from mlip.training.processes import refuse_several
from mlip.training.setup import device_of
from mlip.training.task import Errors, Pairs
from mlip.training.train import TrainingResult, run_provenance, train

#: Of fewer numbers a factor is uncertain by more than a tenth.
_FEW = 50


@dataclass(frozen=True)
class CommitteeResult:
    """Outcome of `train_committee`."""

    committee: Committee
    path: Path
    members: list[TrainingResult]
    calibration: Calibration
    errors: Errors  # of the committee's mean, by set
    deviations: dict[str, dict[str, dict[str, Any]]]  # `Reliability.as_dict` by set and property
    report: Path

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": str(self.path),
            "report": str(self.report),
            "calibration": self.calibration.as_dict(),
            "errors": self.errors,
            "deviations": self.deviations,
            "members": [member.as_dict() for member in self.members],
        }


def member_configs(config: TrainingConfig) -> list[TrainingConfig]:
    """The configuration of each member, in a folder of its own: NAME_member-1 and so on in the work folder.

    The seeds count up from that of the run; the validation split is that of the run for all.
    """
    assert config.committee is not None
    folder = Path(config.work_dir)
    return [
        dataclasses.replace(
            config,
            committee=None,
            seed=config.seed + k,
            valid_seed=None if config.valid_file else config.split_seed,
            work_dir=str(folder / f"{config.name}_member-{k + 1}"),
            wandb_name=f"{config.wandb_name or config.name}-{k + 1}" if config.wandb else None,
        )
        for k in range(config.committee)
    ]


def train_committee(config: TrainingConfig, console: Console | None = None) -> CommitteeResult:
    """Train the members, calibrate their deviations on the validation set, write the committee.

    A run that was killed is continued with `restart_latest`: members that are complete are not trained again, the one
    under way goes on from its checkpoint.

    Args:
        config: with `committee`.
        console: where to report; nowhere by default.

    Raises:
        InputError: no `committee`; earlier members in the work folder, without `restart_latest` and `overwrite`.
        As `train`.
    """
    if config.committee is None:
        raise InputError("train_committee needs a committee; expected TrainingConfig(committee=N)")
    refuse_several("--committee", config.processes)
    console = console or report.quiet_console()
    configs = member_configs(config)
    _keep_earlier_members(config, configs)
    results = []
    for k, member in enumerate(configs, start=1):
        console.rule(f"member {k} of {len(configs)}, seed {member.seed}")
        results.append(train(member, console))
    console.rule(f"the committee of {len(configs)}")
    return _finish(config, configs[0], results, console)


def _keep_earlier_members(config: TrainingConfig, configs: list[TrainingConfig]) -> None:
    """Refuse before the first member is trained what a later one would refuse."""
    if config.restart_latest or config.overwrite:
        return
    for member in configs:
        checkpoint = member.file("_checkpoint.pt")
        if checkpoint.exists():
            raise InputError(
                f"{checkpoint} is of an earlier run; continue it with --restart_latest, replace it with --overwrite, "
                "or take another --name or --work_dir"
            )
    if config.file(".safetensors").exists() or config.file("_checkpoint.pt").exists():
        raise InputError(
            f"{config.file('.safetensors')} is of an earlier run, of one potential or of a committee whose members are "
            "gone; replace it with --overwrite, or take another --name or --work_dir"
        )


def _finish(
    config: TrainingConfig, first: TrainingConfig, results: list[TrainingResult], console: Console
) -> CommitteeResult:
    """Calibration, the file, table and report."""
    data = load_data(first, shown=partial(work_shown, console))
    potentials = [result.potential for result in results]
    members = [potential for potential in potentials if isinstance(potential, Potential)]
    committee = Committee(members, [f"{config.name}_member-{k}" for k in range(1, len(members) + 1)])
    committee.requires_grad_(False).to(device_of(config))
    with torch.no_grad():
        pairs = _predictions(committee, data, config)
    calibration = calibrate(pairs["valid"])
    deviations = {name: reliability(deviations_of(part), calibration) for name, part in pairs.items()}
    errors = {name: errors_of([s for s, _ in part], [p for _, p in part]).as_dict() for name, part in pairs.items()}
    committee = committee.calibrated(calibration)
    committee.metadata = _provenance(config, data, results, errors, deviations)
    path = config.file(".safetensors")
    committee.save(path)
    console.print(members_table(results, errors))
    console.print(calibration_table(deviations))
    for line in _doubts(deviations["valid"]):
        console.print(line)
    if config.plot:
        shown = {name: part for name, part in pairs.items() if name != "train"}
        plot_deviations(shown, calibration, config.file("_calibration.png"))
    page = write_committee_report(config, results, pairs, calibration, errors, deviations)
    console.print(f"{path}: the committee of {len(results)}\n{page}: the report")
    return CommitteeResult(committee, path, results, calibration, errors, deviations, page)


def _doubts(valid: dict[str, dict[str, Any]]) -> list[str]:
    """What to know of factors that are missing, or come from few numbers: their relative error is 1/√(2n) at least."""
    lines = []
    for name, found in valid.items():
        if found["factor"] is None:
            lines.append(
                f"the {name} is not calibrated: errors or deviations on the validation set are zero but for rounding"
            )
        elif found["n"] < _FEW:
            lines.append(
                f"the factor of the {name} comes from {found['n']} numbers and is uncertain by at least "
                f"{50 * (2 / found['n']) ** 0.5:.0f} %; take a larger --valid_fraction or a --valid_file"
            )
    return lines


def _predictions(committee: Committee, data: TrainingData, config: TrainingConfig) -> Pairs:
    """Of all sets, with stresses wherever there are labels."""
    pairs: Pairs = {}
    for name, part in data.sets.items():
        whole = batches(part.samples, config.valid_batch_size)
        pairs[name] = list(zip(part.structures, predict(committee, whole, part.count("stress") > 0), strict=True))
    return pairs


def _provenance(
    config: TrainingConfig,
    data: TrainingData,
    results: list[TrainingResult],
    errors: Errors,
    deviations: dict[str, dict[str, dict[str, Any]]],
) -> dict[str, Any]:
    """What a reader of the file needs to know; the members' own is with each of them."""
    return run_provenance(config, data) | {
        "errors": errors,
        "deviations": deviations,
        "training_seconds": round(sum(result.seconds for result in results), 1),
    }
