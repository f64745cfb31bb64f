"""What a set of structures holds: labels that are there, missing, or suspicious."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mlip.data.labels import KEYS, PROPERTIES, LabelKeys, LabelledData, LabelledStructure
from mlip.data.symmetry import forces_vanish
from mlip.data.weights import DEFAULT_GROUP

#: A force so many times the usual, and that many eV/Å at least, is remarked on.
OUTLYING = 50
#: Structures that a remark names.
NAMED = 5
#: Remarks on the files of one option that are printed.
REMARKS = 5


class Count(NamedTuple):
    """Structures of one `config_type`, or of a whole set (group "")."""

    group: str
    structures: int
    atoms: int
    labels: dict[str, int]  # structures with a label, by property

    def cell(self, name: str) -> str:
        """Number of labels, and of how many structures if some have none."""
        n = self.labels[name]
        return f"{n} of {self.structures}" if 0 < n < self.structures else str(n)


def count(structures: Sequence[LabelledStructure], group: str = "") -> Count:
    """Structures, atoms and labels."""
    labels = {name: sum(getattr(s, name) is not None for s in structures) for name in PROPERTIES}
    return Count(group, len(structures), sum(len(s.atoms) for s in structures), labels)


def count_by_group(structures: Iterable[LabelledStructure]) -> list[Count]:
    """Likewise by `config_type`, in the order of the names; Default holds the structures without."""
    groups: dict[str, list[LabelledStructure]] = {}
    for s in structures:
        groups.setdefault(s.group or DEFAULT_GROUP, []).append(s)
    return [count(members, group) for group, members in sorted(groups.items())]


def total(counts: Sequence[Count]) -> Count:
    """The whole set."""
    labels = {name: sum(c.labels[name] for c in counts) for name in PROPERTIES}
    return Count("", sum(c.structures for c in counts), sum(c.atoms for c in counts), labels)


def exactly_zero(structures: Iterable[LabelledStructure], name: str) -> tuple[list[LabelledStructure], int]:
    """Structures whose label `name` is zero in every bit, and how many could have another value.

    Such labels are mostly placeholders of something that was never computed. Forces on one atom in its cell are zero
    by symmetry and do not count; those of a perfect crystal may be zero too, which is why single ones are no error.
    """
    smallest = 2 if name == "forces" else 1
    could = [s for s in structures if s.label_weight(name) > 0 and len(s.atoms) >= smallest]
    return [s for s in could if not np.any(getattr(s, name))], len(could)


def remarks(name: str, structures: Sequence[LabelledStructure]) -> list[str]:
    """What to be warned of in the set `name`: labels that are exactly zero, but not by symmetry; outlying forces."""
    lines = []
    for label in PROPERTIES:
        zeros, _ = exactly_zero(structures, label)
        if label == "forces":
            zeros = [s for s in zeros if not forces_vanish(s.atoms)]
        if zeros:
            lines.append(zero_remark(name, label, len(zeros), _places(zeros)))
    wild, largest = outliers(structures)
    if wild:
        lines.append(outlier_remark(name, len(wild), largest, _places(wild)))
    return lines


def zero_remark(name: str, label: str, n: int, places: str) -> str:
    """On labels that are exactly zero, on `n` structures of the set `name`."""
    return (
        f"warning: the {label} of {n} structures of {name} {'are' if label == 'forces' else 'is'} exactly zero "
        f"(structures {places}). If nothing was computed there, remove the label: "
        "a missing one has weight zero, a zero is learned"
    )


def outlier_remark(name: str, n: int, largest: float, places: str) -> str:
    """On outlying forces, on `n` structures of the set `name`."""
    return (
        f"warning: forces up to {largest:.3g} eV/Å on {n} structures of {name} "
        f"(structures {places}), over {OUTLYING} times the usual. A few such numbers rule the "
        "loss: remove what did not converge"
    )


def outliers(structures: Sequence[LabelledStructure]) -> tuple[list[LabelledStructure], float]:
    """Structures with a force over `OUTLYING` times the lower median of their largest ones; the largest force."""
    largest = {
        k: float(np.abs(s.forces).max())
        for k, s in enumerate(structures)
        if s.forces is not None and s.label_weight("forces") > 0 and np.any(s.forces)
    }
    if not largest:
        return [], 0.0
    usual = max(sorted(largest.values())[(len(largest) - 1) // 2], 1.0)
    wild = [s for k, s in enumerate(structures) if largest.get(k, 0.0) > OUTLYING * usual]
    return wild, max(largest.values())


def _places(structures: Sequence[LabelledStructure]) -> str:
    return places([(s.file, s.index) for s in structures[: NAMED + 1]])


def places(found: Sequence[tuple[str, int]]) -> str:
    """The first of some structures, given by file, if there are several, and index."""
    named = ", ".join(f"{file}:" * bool(file) + str(index) for file, index in found[:NAMED])
    return named + (", ..." if len(found) > NAMED else "")


def file_remarks(option: str, data: LabelledData, training: LabelKeys) -> list[str]:
    """What to know about one file: stresses that do not count, labels under other keys than in the training file."""
    lines = [f"{option}: {remark}" for remark in data.remarks[:REMARKS]]
    if len(data.remarks) > REMARKS:
        lines.append(f"{option}: {len(data.remarks) - REMARKS} more such files; mlip data check lists them")
    if data.ignored_stresses:
        lines.append(
            f"{option}: the stress of {data.ignored_stresses} structures is ignored, since they are not periodic in "
            "three dimensions"
        )
    for name in KEYS:
        key, usual = getattr(data.keys, name), getattr(training, name)
        if key and usual and key != usual:
            lines.append(f"warning: {option} has its {name} under {key}, the training file under {usual}")
    return lines
