"""Frames that occur twice, atoms too close to each other, labels far from all others, elements that are rare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from mlip.convert import atoms_to_graph
from mlip.data.batches import ATOMS_AT_ONCE
from mlip.data.checks.energies import composition_counts, robust_fit
from mlip.data.checks.findings import Finding, Frames, counted
from mlip.data.labels import PROPERTIES, LabelledStructure
from mlip.data.summary import OUTLYING, exactly_zero, outliers
from mlip.data.symmetry import forces_vanish
from mlip.errors import InputError

#: Atoms are too close below this times the sum of their covalent radii.
CLOSE = 0.6
#: An energy is far off by so many times the usual deviation and so many eV per atom.
FAR_OFF, FAR_OFF_ENERGY = 30.0, 2.0
#: Forces whose mean over the atoms (eV/Å) is this large do not belong to one energy.
NET_FORCE = 0.05
#: Elements on fewer frames are remarked on.
RARE = 5


def judge_duplicates(frames: Frames) -> list[Finding]:
    """Frames with the same atoms, cell and positions to 1e-5 Å."""
    groups = [g for g in _equal(frames.structures) if len(g) > 1]
    if not groups:
        return [Finding("ok", "duplicates", "no frame occurs twice")]
    findings = []
    contradicting = [g for g in groups if _contradict([frames.structures[k] for k in g])]
    if contradicting:
        first = contradicting[0]
        energies = [e for k in first if (e := frames.structures[k].energy) is not None]
        spread = (max(energies) - min(energies)) / len(frames.structures[first[0]].atoms) if energies else 0.0
        text = (
            f"{counted(len(contradicting), 'structure')} with several, different labels: {frames.named(first)} differ "
            f"by {1000 * spread:.3g} meV/atom in energy, or in forces. Keep one calculation of each"
        )
        findings.append(Finding("error", "duplicates", text, frames.places([k for g in contradicting for k in g])))
    again = [k for g in groups if g not in contradicting for k in g[1:]]
    if again:
        first = next(g for g in groups if g not in contradicting)
        text = (
            f"{counted(len(again), 'frame')} of {len(frames.structures)} repeat others ({frames.named(again)}; "
            f"{frames.named(first)} are the same). They weigh double, and make a validation set that shares them "
            "look good: remove them"
        )
        findings.append(Finding("warning", "duplicates", text, frames.places(again)))
    return findings


def _equal(structures: Sequence[LabelledStructure]) -> list[list[int]]:
    """Groups of equal structures; two roundings, so that none falls between two."""
    parent = list(range(len(structures)))

    def root(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    for shift in (0.0, 0.5):
        seen: dict[tuple[bytes, ...], int] = {}
        for k, s in enumerate(structures):
            numbers = [np.floor(a / 1e-5 + shift + 0.25).tobytes() for a in (s.atoms.positions, s.atoms.cell.array)]
            key = (s.atoms.numbers.tobytes(), s.atoms.pbc.tobytes(), *numbers)
            parent[root(k)] = root(seen.setdefault(key, k))
    groups: dict[int, list[int]] = {}
    for k in range(len(structures)):
        groups.setdefault(root(k), []).append(k)
    return [sorted(g) for g in groups.values()]


def _contradict(same: Sequence[LabelledStructure]) -> bool:
    energies = [s.energy for s in same if s.energy is not None]
    if energies and max(energies) - min(energies) > 1e-3 * len(same[0].atoms):
        return True
    forces = [s.forces for s in same if s.forces is not None]
    return any(float(np.abs(f - forces[0]).max()) > 0.05 for f in forces[1:])


def judge_distances(frames: Frames) -> list[Finding]:
    """Atoms closer than `CLOSE` times the sum of their covalent radii."""
    close: dict[int, tuple[float, str]] = {}
    try:
        for start, found in _shortest(frames.structures):
            close |= {start + k: what for k, what in found.items()}
    except InputError as error:
        return [Finding("error", "distances", str(error))]
    if not close:
        return [Finding("ok", "distances", f"no atoms closer than {CLOSE} of the sum of their covalent radii")]
    worst = min(close, key=lambda k: close[k][0])
    text = (
        f"{counted(len(close), 'frame')} with atoms closer than {CLOSE} of the sum of their covalent radii "
        f"({frames.named(sorted(close, key=lambda k: close[k][0]))}; {close[worst][1]} at {close[worst][0]:.2f} of it)"
        ". Right for close collisions; else wrong units of length, cell or element"
    )
    return [Finding("warning", "distances", text, frames.places(sorted(close)))]


def _shortest(structures: Sequence[LabelledStructure]) -> Iterator[tuple[int, dict[int, tuple[float, str]]]]:
    """By the first structure of a part: those with atoms that are too close, how close, which."""
    start = 0
    while start < len(structures):
        stop, atoms = start, 0
        while stop < len(structures) and (stop == start or atoms + len(structures[stop].atoms) <= ATOMS_AT_ONCE):
            atoms += len(structures[stop].atoms)
            stop += 1
        part = [s.atoms for s in structures[start:stop]]
        radii = covalent_radii[np.concatenate([a.numbers for a in part])]
        graph = atoms_to_graph(part, 2 * CLOSE * float(radii.max()))
        center, neighbor = graph.edge_index.numpy()
        lengths = graph.edge_vectors().norm(dim=1).numpy()
        relative = lengths / (radii[center] + radii[neighbor])
        found: dict[int, tuple[float, str]] = {}
        owner, numbers = graph.batch.numpy(), graph.numbers.numpy()
        for k in np.flatnonzero(relative < CLOSE):
            frame = int(owner[center[k]])
            pair = "-".join(chemical_symbols[int(numbers[i])] for i in (center[k], neighbor[k]))
            if frame not in found or relative[k] < found[frame][0]:
                found[frame] = (float(relative[k]), f"{pair} {lengths[k]:.3f} Å,")
        yield start, found
        start = stop


def _indices(frames: Frames, some: Sequence[LabelledStructure]) -> list[int]:
    """Places of structures among the frames."""
    wanted = {id(s) for s in some}
    return [k for k, s in enumerate(frames.structures) if id(s) in wanted]


def judge_outliers(frames: Frames) -> list[Finding]:
    """Energies far from what the composition gives, forces far above the usual, forces that do not sum to zero."""
    findings = [*_energies(frames), *_net_forces(frames)]
    wild, largest = outliers(frames.structures)
    if wild:
        indices = _indices(frames, wild)
        text = (
            f"forces up to {largest:.3g} eV/Å on {counted(len(indices), 'frame')} ({frames.named(indices)}), over "
            f"{OUTLYING} times the usual; a few such numbers rule the loss: remove what did not converge"
        )
        findings.append(Finding("warning", "outliers", text, frames.places(indices)))
    return findings or [Finding("ok", "outliers", "no energies or forces far from all others")]


def _energies(frames: Frames) -> list[Finding]:
    chosen = [k for k, s in enumerate(frames.structures) if s.energy is not None and not s.is_isolated_atom]
    if len(chosen) < 5:
        return []
    structures = [frames.structures[k] for k in chosen]
    sizes = np.array([len(s.atoms) for s in structures], dtype=float)
    energies = np.array([s.energy for s in structures]) / sizes
    features = composition_counts([s.atoms.numbers for s in structures]) / sizes[:, None]
    rest = energies - features @ robust_fit(features, energies)
    rest -= np.median(rest)
    usual = max(1.4826 * float(np.median(np.abs(rest))), 1e-3)
    off = np.flatnonzero((np.abs(rest) > FAR_OFF * usual) & (np.abs(rest) > FAR_OFF_ENERGY))
    if not len(off):
        return []
    indices = [chosen[int(k)] for k in off[np.argsort(-np.abs(rest[off]))]]
    text = (
        f"energies of {counted(len(indices), 'frame')} ({frames.named(indices)}) are up to "
        f"{float(np.abs(rest).max()):.4g} eV/atom from what their composition gives, where {usual:.2g} is usual: "
        "another unit, another calculation, or not converged; remove or correct them"
    )
    return [Finding("error" if len(off) < len(chosen) / 4 else "warning", "outliers", text, frames.places(indices))]


def _net_forces(frames: Frames) -> list[Finding]:
    nets = [
        0.0 if s.forces is None or len(s.atoms) < 2 else float(np.abs(s.forces.mean(axis=0)).max())
        for s in frames.structures
    ]
    off = sorted((k for k, net in enumerate(nets) if net > NET_FORCE), key=lambda k: -nets[k])
    if not off:
        return []
    text = (
        f"forces of {counted(len(off), 'frame')} ({frames.named(off)}) do not sum to zero: up to {nets[off[0]]:.3g} "
        "eV/Å per atom. Fixed atoms with their forces set to zero, an external field, or forces of another structure"
    )
    return [Finding("warning", "net force", text, frames.places(off))]


def judge_zeros(frames: Frames) -> list[Finding]:
    """Labels that are zero in every bit."""
    findings = []
    for name in PROPERTIES:
        zeros, could = exactly_zero(frames.structures, name)
        everything = bool(zeros) and len(zeros) == could
        if name == "forces" and not everything:
            zeros = [s for s in zeros if not forces_vanish(s.atoms)]
        if zeros and not (name == "energy" and all(s.is_isolated_atom for s in zeros)):
            indices = _indices(frames, zeros)
            text = (
                f"{name} exactly zero on {len(indices)} of {counted(could, 'frame')} ({frames.named(indices)}): a "
                "placeholder? Remove the label if nothing was computed: a missing one is left out, a zero is learned"
            )
            findings.append(Finding("error" if everything else "warning", "zeros", text, frames.places(indices)))
    return findings


def judge_elements(frames: Frames) -> list[Finding]:
    """Elements, and those on few frames."""
    counts: dict[int, int] = {}
    for s in frames.structures:
        if not s.is_isolated_atom:
            for z in set(s.atoms.numbers.tolist()):
                counts[z] = counts.get(z, 0) + 1
    rare = [f"{chemical_symbols[z]} ({n})" for z, n in sorted(counts.items()) if n < min(RARE, len(frames.structures))]
    text = ", ".join(f"{chemical_symbols[z]} on {counted(n, 'frame')}" for z, n in sorted(counts.items()))
    if rare and len(frames.structures) >= 4 * RARE:
        few = f"few frames hold {', '.join(rare)}: their energies and forces will hardly be learned; add some"
        return [Finding("warning", "elements", few)]
    return [Finding("ok", "elements", text or "isolated atoms only")]
