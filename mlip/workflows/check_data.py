"""Whether labelled structures are fit to be trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from mlip.data.checks.energies import judge_scaling
from mlip.data.checks.findings import Finding, Frames, Level, counted
from mlip.data.checks.joint import judge_energies
from mlip.data.checks.nearby import nearby_pairs
from mlip.data.checks.references import judge_isolated, judge_magnitude
from mlip.data.checks.stresses import judge_stress
from mlip.data.checks.structures import (
    judge_distances,
    judge_duplicates,
    judge_elements,
    judge_outliers,
    judge_zeros,
)
from mlip.data.files import Given, find_files
from mlip.data.labels import (
    KEYS,
    PROPERTIES,
    LabelKeys,
    LabelledData,
    LabelledStructure,
    check_all,
    key_counts,
    label_structures,
)
from mlip.data.n2p2 import Units
from mlip.data.reading import read_file
from mlip.data.vasp import is_vasp
from mlip.errors import DataError, InputError
from mlip.workflows.evaluation import Progress
from mlip.workflows.results import Result, hidden

#: Names that look like labels.
LOOKS_LIKE = re.compile(r"(?i)(^|_)(energy|energies|forces?|stress(es)?|virials?)(_|$)|^(E|F)$")
#: Names that look so and are none: ASE's, of other quantities, and weights of mace.
NO_LABELS = re.compile(r"(?i)free_energy|^(energies|stresses|magmoms?)$|^MLIP_|weight|_(key|unit)s?$")


@dataclass(frozen=True)
class FileSummary:
    """What one file holds: by label, the key it was found under and on how many structures."""

    file: str
    structures: int
    atoms: int
    keys: dict[str, str | None]
    counts: dict[str, int]


@dataclass(frozen=True)
class DataCheck(Result):
    """Outcome of `check_data`.

    Attributes:
        n: number of structures.
        passed: whether no finding is an error.
        errors: number of findings that are.
        warnings: number of warnings.
        files: what each file holds.
        findings: all of them, by topic.
    """

    n: int
    passed: bool
    errors: int
    warnings: int
    files: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    found: list[Finding] = hidden()


def check_data(
    files: Given,
    keys: LabelKeys = LabelKeys(),  # noqa: B008 (frozen)
    units: Units | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Judge the labels of files by physics where the set allows it, else by what is plausible.

    Args:
        files: one or several, patterns, folders; as in `mlip.data.files.find_files`.
        keys: names of the labels.
        units: of files of n2p2.
        progress: called with (done, total, note).

    Raises:
        DataError: nothing can be read at all.
        OSError: no such file.
    """
    paths = find_files(files)
    findings: list[Finding] = []
    summaries: list[FileSummary] = []
    structures: list[LabelledStructure] = []
    origins: list[str] = []
    for place, path in enumerate(paths):
        try:
            read = read_file(path, units)
            data, found = _labelled(read.structures, keys, str(path))
        except InputError as error:
            level: Level = "warning" if is_vasp(path) and len(paths) > 1 else "error"  # one of many calculations
            findings.append(Finding(level, "file", " ".join(str(error).split())))
            continue
        findings += [Finding("warning", "file", remark) for remark in read.remarks] + found
        summaries.append(_summary(data, str(path)))
        structures += data.structures
        origins += [str(path)] * len(data)
        if progress:
            progress(place + 1, len(paths), "read")
    frames = Frames(structures, origins)
    if structures:
        findings += _missing(frames) + judge(frames, progress)
    levels = Counter(f.level for f in findings)
    return DataCheck(
        n=len(structures),
        passed=not levels["error"],
        errors=levels["error"],
        warnings=levels["warning"],
        files=[vars(s) for s in summaries],
        findings=[f.as_dict() for f in findings],
        found=findings,
    )


def judge(frames: Frames, progress: Progress | None = None) -> list[Finding]:
    """All that needs no files: labels against each other, structures, elements."""
    if progress:
        progress(0, 0, "nearby frames")
    pairs = nearby_pairs(frames.structures)
    findings: list[Finding] = []
    if any(s.energy is not None for s in frames.structures):
        judged = judge_energies(pairs)
        findings += judged.findings if any(s.forces is not None for s in frames.structures) else []
        findings += judge_scaling(frames) + judge_stress(frames, pairs, judged.mistake)
        findings += judge_isolated(frames) + judge_magnitude(frames)
    if progress:
        progress(0, 0, "structures")
    findings += judge_duplicates(frames) + judge_distances(frames) + judge_outliers(frames)
    return findings + judge_zeros(frames) + judge_elements(frames)


def _labelled(structures: Sequence[Atoms], keys: LabelKeys, source: str) -> tuple[LabelledData, list[Finding]]:
    """Labels, and what is odd about their names; structures without any labels are checked as structures."""
    named = any(getattr(keys, name) is not None for name in KEYS)
    try:
        data = label_structures(structures, keys, source, strict=False)
    except DataError:
        if named or _lookalikes(structures, LabelKeys()) or _has_labels(structures):
            raise
        check_all(structures, source)
        bare = [LabelledStructure(atoms=atoms, index=k) for k, atoms in enumerate(structures)]
        others = ", ".join(key_counts(structures)) or "nothing"
        text = f"{source}: no energies, forces or stresses, only structures are checked; there are {others[:300]}"
        return LabelledData(bare, LabelKeys(), source, dict.fromkeys(PROPERTIES, 0)), [Finding("note", "labels", text)]
    findings = []
    for key, n in _lookalikes(structures, data.keys).items():
        text = f"{source}: {key} on {counted(n, 'frame')} looks like a label and is not read; name it if it is one"
        findings.append(Finding("warning" if _needed(key, data) else "note", "labels", text))
    if data.ignored_stresses:
        ignored = counted(data.ignored_stresses, "frame")
        text = f"{source}: the stress of {ignored} is ignored: not periodic in three dimensions"
        findings.append(Finding("note", "labels", text))
    return data, findings


def _has_labels(structures: Sequence[Atoms]) -> bool:
    return bool({*(f"REF_{name}" for name in KEYS), *KEYS} & set(key_counts(structures)))


def _lookalikes(structures: Sequence[Atoms], keys: LabelKeys) -> dict[str, int]:
    used = {getattr(keys, name) for name in KEYS} | {"energy", "forces", "stress", "virials"}
    names = key_counts(structures)
    return {
        key: n for key, n in names.items() if LOOKS_LIKE.search(key) and not NO_LABELS.search(key) and key not in used
    }


def _needed(key: str, data: LabelledData) -> bool:
    """Whether a label of that kind is not there under any other name."""
    kinds = {"energy": ("energ", "E"), "forces": ("force", "F"), "stress": ("stress", "virial")}
    return any(
        any(word in key.lower() or word == key for word in words) and not data.counts[name]
        for name, words in kinds.items()
    )


def _summary(data: LabelledData, file: str) -> FileSummary:
    atoms = sum(len(s.atoms) for s in data.structures)
    keys = {name: getattr(data.keys, name) for name in KEYS}
    return FileSummary(file, len(data), atoms, keys, dict(data.counts))


def _missing(frames: Frames) -> list[Finding]:
    """Labels that some frames have and others have not."""
    findings = []
    for name in PROPERTIES:
        could = [
            k
            for k, s in enumerate(frames.structures)
            if (name != "stress" or s.atoms.pbc.all()) and not (name != "energy" and s.is_isolated_atom)
        ]
        without = [k for k in could if getattr(frames.structures[k], name) is None]
        if without and len(without) < len(could):
            n = f"{len(without)} of {counted(len(could), 'frame')}"
            text = f"{n} lack {name} ({frames.named(without)}); they train the other labels only"
            findings.append(Finding("warning", "labels", text, frames.places(without)))
    return findings
