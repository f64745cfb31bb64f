"""Magnitudes of energies: isolated atoms and all-electron energies."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols

from mlip.data.checks.energies import KCAL, KJ
from mlip.data.checks.findings import Finding, Frames, counted
from mlip.units import HARTREE

#: Energy of an atom in a bulk or molecule against the isolated atom, eV, from the strongest bound solid to far above a
#: minimum (tungsten: -8.9, graphite: -7.4 by experiment; density functionals overbind).
BOUND = -14.0, 2.0


def judge_isolated(frames: Frames) -> list[Finding]:
    """Isolated atoms that are there, their energies, and binding energies that follow."""
    isolated = [k for k, s in enumerate(frames.structures) if s.is_isolated_atom]
    whole = [k for k, s in enumerate(frames.structures) if not s.is_isolated_atom and s.energy is not None]
    elements = sorted({int(z) for k in whole for z in frames.structures[k].atoms.numbers})
    E0s: dict[int, list[float]] = {}
    for k in isolated:
        s = frames.structures[k]
        if s.energy is not None:
            E0s.setdefault(int(s.atoms.numbers[0]), []).append(s.energy)
    if not isolated:
        text = "none in the set: train with --E0s average, or add one of each element (config_type=IsolatedAtom)"
        return [Finding("note", "isolated atoms", text)] if whole else []
    names = ", ".join(f"{chemical_symbols[z]} {values[0]:.4f} eV" for z, values in sorted(E0s.items()))
    findings = [Finding("ok", "isolated atoms", f"{counted(len(isolated), 'frame')}: {names or 'without energies'}")]
    for z, values in E0s.items():
        if max(values) - min(values) > 1e-4:
            text = f"{chemical_symbols[z]} has energies from {min(values):.6f} to {max(values):.6f} eV; keep one"
            findings.append(Finding("error", "isolated atoms", text))
        if values[0] > 1.0:
            text = (
                f"{chemical_symbols[z]} has {values[0]:.4f} eV, above zero: no bound electrons? Check its calculation"
            )
            findings.append(Finding("warning", "isolated atoms", text))
    missing = [chemical_symbols[z] for z in elements if z not in E0s]
    if missing:
        text = f"none with an energy for {', '.join(missing)}, so that --E0s isolated is not possible; add them"
        findings.append(Finding("warning", "isolated atoms", text))
    elif elements:
        findings += _binding(frames, whole, {z: values[0] for z, values in E0s.items()})
    return findings


def _binding(frames: Frames, whole: list[int], E0s: dict[int, float]) -> list[Finding]:
    """Energies per atom against isolated atoms."""
    sizes = np.array([len(frames.structures[k].atoms) for k in whole], dtype=float)
    energies = np.array([frames.structures[k].energy for k in whole], dtype=float)
    apart = np.array([sum(E0s[int(z)] for z in frames.structures[k].atoms.numbers) for k in whole])
    binding = float(np.median((energies - apart) / sizes))
    if BOUND[0] <= binding <= BOUND[1]:
        return [Finding("ok", "binding energy", f"{binding:.2f} eV per atom against isolated atoms (median)")]
    readings = {
        "energies per atom (multiply by the number of atoms)": energies * sizes,
        "Hartree, unlike the isolated atoms": energies * HARTREE,
        "Rydberg, unlike the isolated atoms": energies * HARTREE / 2,
        "kcal/mol, unlike the isolated atoms": energies * KCAL,
        "kJ/mol, unlike the isolated atoms": energies * KJ,
        "binding energies already, while the isolated atoms are not at zero": energies + apart,
    }
    fits = [w for w, e in readings.items() if BOUND[0] <= float(np.median((e - apart) / sizes)) <= min(0.0, BOUND[1])]
    meaning = f"The frames' energies may be {' or '.join(fits)}" if fits else "Both are of different calculations"
    text = (
        f"{binding:.4g} eV per atom against isolated atoms (median; expected {BOUND[0]:g} to {BOUND[1]:g}). {meaning}; "
        "make them agree"
    )
    return [Finding("error", "binding energy", text)]


def all_electron_energy(number: int) -> float:
    """Total energy (eV) of a neutral atom: statistical model (Schwinger, Phys. Rev. A 24, 2353 (1981)).

    To 1 % beyond neon, to some per cent below.
    """
    z = float(number)
    return -HARTREE * (0.768745 * z ** (7 / 3) - z**2 / 2 + 0.269900 * z ** (5 / 3))


def judge_magnitude(frames: Frames) -> list[Finding]:
    """Energies that are all-electron ones in another unit; heavier elements can't tell, with pseudopotentials."""
    chosen = [s for s in frames.structures if s.energy is not None and s.energy and not s.is_isolated_atom]
    if not chosen:
        return []
    if max(int(s.atoms.numbers.max()) for s in chosen) > 18:
        return []
    ratios = [s.energy / sum(all_electron_energy(int(z)) for z in s.atoms.numbers) for s in chosen if s.energy]
    ratio = float(np.median(ratios))
    for unit, value in (("Hartree", 1 / HARTREE), ("Rydberg", 2 / HARTREE), ("kcal/mol", 1 / KCAL), ("kJ/mol", 1 / KJ)):
        if abs(ratio / value - 1) < 0.04:
            text = (
                f"energies are {ratio:.4g} times what all electrons of such atoms have in eV; it is {value:.4g} for "
                f"{unit}. If they are in {unit}, convert energies (and forces)"
            )
            return [Finding("warning", "unit of energy", text)]
    return []
