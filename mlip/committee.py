"""A committee: several potentials as one, whose answers are the means, with the spread between its members."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlip.errors import InputError, UnknownElementError
from mlip.graph import AtomGraph
from mlip.potential import Potential, Prediction


@dataclass(frozen=True)
class Calibration:
    """Factors from the deviations of a committee to errors that are expected of its mean, found on labelled data.

    None: there were no labels of this kind. docs/uncertainty.md tells how they are found.
    """

    energy: float | None = None
    forces: float | None = None
    stress: float | None = None
    structures: int = 0  # that they were found on

    def __post_init__(self) -> None:
        for name in ("energy", "forces", "stress"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"calibration of the {name} is {value!r}; expected a positive number or None")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class CommitteePrediction(NamedTuple):
    """What a committee says of a batch of B structures with N atoms: means, and standard deviations of each number.

    The deviation is that of the members about their mean, √(Σ(x_m - x̄)² / M): of the population, as numpy's and torch's
    `correction=0`.
    """

    energy: Tensor  # (B,) eV
    atom_energies: Tensor  # (N,) eV
    forces: Tensor | None  # (N, 3) eV/Å
    stress: Tensor | None  # (B, 3, 3) eV/Å³
    energy_std: Tensor  # (B,) eV, of the total energy
    forces_std: Tensor | None  # (N, 3) eV/Å
    stress_std: Tensor | None  # (B, 3, 3) eV/Å³
    extrapolations: Tensor | None = None  # (N,), the most that any member counts; None if none has a training range


class Committee(nn.Module):
    """Evaluates like a `Potential`; every member sees exactly the pairs within its own cutoff.

    Args:
        members: at least two potentials, on one device.
        names: what to call each in messages; default: member 1 and so on.
        calibration: of the deviations.
        metadata: JSON-able provenance that is saved with the weights.

    Raises:
        InputError: fewer than two members; the members have no element in common.
    """

    def __init__(
        self,
        members: Sequence[Potential],
        names: Sequence[str] | None = None,
        calibration: Calibration | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(members) < 2:
            raise InputError(f"a committee of {len(members)}; expected at least two members")
        names = [f"member {k}" for k in range(1, len(members) + 1)] if names is None else names
        self.calibration = calibration
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.members = nn.ModuleList(members)
        self.names = tuple(names)
        #: Å, the largest of the members'.
        self.cutoff = max(member.cutoff for member in members)
        #: Atomic numbers that every member knows.
        self.elements = tuple(sorted(set.intersection(*(set(member.elements) for member in members))))
        if not self.elements:
            raise InputError(f"the members of the committee ({', '.join(names)}) have no element in common")

    @property
    def potentials(self) -> tuple[Potential, ...]:
        """The members."""
        return tuple(self.members)  # type: ignore[arg-type]

    @property
    def has_training_range(self) -> bool:
        """Whether any member knows the range of its descriptors in the training set."""
        return any(member.has_training_range for member in self.potentials)

    @property
    def device(self) -> torch.device:
        return self.potentials[0].device

    def calibrated(self, calibration: Calibration | None) -> Committee:
        """The same committee with other factors."""
        return Committee(self.potentials, self.names, calibration, self.metadata)

    def with_head(self, name: str) -> Committee:
        """A copy whose members answer for another head; factors are those of the head in use, and are not taken along.

        Raises:
            InputError: a member has no head of that name.
        """
        members = [member.with_head(name) for member in self.potentials]
        same = all(member.head == name for member in self.potentials)
        return Committee(members, self.names, self.calibration if same else None, deepcopy(self.metadata))

    def save(self, path: str | PathLike[str]) -> None:
        """Write one safetensors file with all members and the calibration, atomically."""
        from mlip.committee_file import save_committee

        save_committee(self, path)

    def forward(self, graph: AtomGraph, forces: bool = True, stress: bool = True) -> CommitteePrediction:
        """Evaluate a batch with pairs up to the committee's cutoff at least.

        Raises:
            UnknownElementError: an element that a member does not know.
            InputError: stress of a structure without a three-dimensional cell.
        """
        self._require_known(graph)
        answers = [member(self._seen_by(member, graph), forces=forces, stress=stress) for member in self.potentials]
        return _statistics(answers)

    def hessian(
        self,
        graph: AtomGraph,
        indices: Sequence[int] | None = None,
        progress: Callable[[int, int, str], object] | None = None,
    ) -> Tensor:
        """Mean of the members' second derivatives, (n, 3, N, 3); see `Potential.hessian`."""
        self._require_known(graph)
        members = self.potentials
        total = members[0].hessian(self._seen_by(members[0], graph), indices, progress)
        for member in members[1:]:
            total += member.hessian(self._seen_by(member, graph), indices, progress)
        return total / len(members)

    def _require_known(self, graph: AtomGraph) -> None:
        for number, (name, member) in enumerate(zip(self.names, self.potentials, strict=True), start=1):
            try:
                member.model.species(graph.numbers)
            except UnknownElementError as error:
                raise UnknownElementError(f"member {number} of the committee ({name}): {error}") from error

    def _seen_by(self, member: Potential, graph: AtomGraph) -> AtomGraph:
        return graph if member.cutoff == self.cutoff else graph.within(member.cutoff)


def _statistics(answers: Sequence[Prediction]) -> CommitteePrediction:
    energy, energy_std = _mean_std([answer.energy for answer in answers])
    atom_energies, _ = _mean_std([answer.atom_energies for answer in answers])
    forces, forces_std = _mean_std_if_given([answer.forces for answer in answers])
    stress, stress_std = _mean_std_if_given([answer.stress for answer in answers])
    counts = [answer.extrapolations for answer in answers if answer.extrapolations is not None]
    most = torch.stack(counts).amax(dim=0) if counts else None
    return CommitteePrediction(energy, atom_energies, forces, stress, energy_std, forces_std, stress_std, most)


def _mean_std_if_given(values: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    given = [value for value in values if value is not None]
    return _mean_std(given) if given else (None, None)


def _mean_std(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in float64, by differences to the first: of equal values exactly it and zero."""
    first = values[0].to(torch.float64)
    offsets = torch.stack([value.to(torch.float64) - first for value in values])
    mean = offsets.mean(dim=0)
    return first + mean, (offsets - mean).square().mean(dim=0).sqrt()
