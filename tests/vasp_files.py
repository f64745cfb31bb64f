"""OUTCAR and vasprun.xml as VASP writes them, as far as readers look, from steps of our own.

Layout: https://www.vasp.at/wiki/OUTCAR and https://www.vasp.at/wiki/Vasprun.xml.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk

NELM = 5


class Step(NamedTuple):
    atoms: Atoms
    free_energy: float
    zero_energy: float  # energy(sigma->0)
    forces: np.ndarray  # (N, 3)
    kbar: np.ndarray  # (3, 3), positive under pressure
    electronic: int = 3  # steps; NELM: not converged


def steps(n: int = 3, unconverged: tuple[int, ...] = ()) -> list[Step]:
    rng = np.random.default_rng(7)
    made = []
    for k in range(n):
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.01, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        atoms.wrap()
        forces, kbar = rng.normal(size=(2, 3)), rng.normal(scale=20, size=(3, 3))
        energy = -6.5 + 0.01 * k
        made.append(Step(atoms, energy, energy + 0.02, forces, kbar + kbar.T, NELM if k in unconverged else 3))
    return made


def outcar(made: list[Step]) -> str:
    head = [
        " vasp.6.3.2 27Jun22 (build Jul 14 2022) complex",
        " POTCAR:    PAW_PBE Na 08Apr2002",
        " POTCAR:    PAW_PBE Cl 06Sep2000",
        " POTCAR:    PAW_PBE Na 08Apr2002",
        "   VRHFIN =Na: s1p0",
        " POTCAR:    PAW_PBE Cl 06Sep2000",
        "   VRHFIN =Cl: s2p5",
        "   ISPIN  =      1    spin polarized calculation?",
        "   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      8",
        f"   NELM   =      {NELM};   NELMIN=  2; NELMDL= -5     # of ELM steps",
        "   ions per type =               1   1",
        "  k-points in reciprocal lattice and weights: Automatic mesh",
        "   0.00000000  0.00000000  0.00000000       1.000",
        "",
    ]
    return "\n".join(head) + "".join(_outcar_step(k, step) for k, step in enumerate(made, 1)) + FOOT


FOOT = "\n General timing and accounting informations for this job:\n"


def _outcar_step(number: int, step: Step) -> str:
    lines = []
    for k in range(1, step.electronic + 1):
        lines += [
            f"--------------------------------------- Iteration {number:6d}({k:4d})  " + "-" * 39,
            f"  free energy    TOTEN  = {step.free_energy + 10.0**-k:18.8f} eV",
        ]
    reached = step.electronic < NELM
    why = "because EDIFF is reached" if reached else "EDIFF was not reached (unconverged)"
    s = step.kbar
    shown = [s[0, 0], s[1, 1], s[2, 2], s[0, 1], s[1, 2], s[2, 0]]
    cell, inverse = step.atoms.cell.array, np.linalg.inv(step.atoms.cell.array).T
    table = np.concatenate([step.atoms.positions, step.forces], axis=1)
    lines += [
        f"------------------------ aborting loop {why} ----------------------------------------",
        "  FORCE on cell =-STRESS in cart. coord.  units (eV):",
        "  in kB   " + "".join(f"{x:12.5f}" for x in shown),
        "  external pressure =       -1.00 kB  Pullay stress =        0.00 kB",
        f"  volume of cell :  {step.atoms.get_volume():12.4f}",
        "      direct lattice vectors                 reciprocal lattice vectors",
        *("  " + "".join(f"{x:13.9f}" for x in [*a, *b]) for a, b in zip(cell, inverse, strict=True)),
        "",
        " POSITION                                       TOTAL-FORCE (eV/Angst)",
        " " + "-" * 83,
        *("  " + "".join(f"{x:13.5f}" if k < 3 else f"{x:14.6f}" for k, x in enumerate(row)) for row in table),
        " " + "-" * 83,
        "    total drift:                                0.000000      0.000000      0.000000",
        "",
        "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
        "  ---------------------------------------------------",
        f"  free  energy   TOTEN  = {step.free_energy:18.8f} eV",
        "",
        f"  energy  without entropy= {step.free_energy + 0.04:17.8f}  energy(sigma->0) = {step.zero_energy:17.8f}",
        "",
    ]
    return "\n".join(["", *lines])


def vasprun(made: list[Step]) -> str:
    types = "".join(f"<rc><c>{symbol} </c><c>   {k}</c></rc>" for k, symbol in enumerate(("Na", "Cl"), 1))
    head = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <kpoints><varray name="kpointlist"><v> 0.0 0.0 0.0 </v></varray><varray name="weights"><v> 1.0 </v></varray></kpoints>
 <parameters><separator name="electronic"><i type="int" name="NELM"> {NELM}</i>
  <i name="EDIFF">  0.00001</i></separator>
 </parameters>
 <atominfo><atoms> 2 </atoms><types> 2 </types>
  <array name="atoms" ><set>{types}</set></array>
 </atominfo>
 <structure name="initialpos">{_structure(made[0])}</structure>
"""
    return head + "".join(map(_vasprun_step, made)) + "</modeling>\n"


def _rows(values: np.ndarray) -> str:
    return "".join("<v> " + " ".join(f"{x:.8f}" for x in row) + " </v>" for row in values)


def _structure(step: Step) -> str:
    cell, scaled = step.atoms.cell.array, step.atoms.get_scaled_positions()
    basis = f'<crystal><varray name="basis">{_rows(cell)}</varray></crystal>'
    return f'{basis}<varray name="positions">{_rows(scaled)}</varray>'


def _energies(free: float, zero: float) -> str:
    return f'<energy><i name="e_fr_energy"> {free:.8f} </i><i name="e_0_energy"> {zero:.8f} </i></energy>'


def _vasprun_step(step: Step) -> str:
    last = 1e-6 if step.electronic < NELM else 1e-2  # EDIFF is 1e-5
    errors = [*(10.0**-k for k in range(1, step.electronic)), 0.0]
    errors[-2] = last
    scf = "".join(f"<scstep>{_energies(step.free_energy + e, step.zero_energy + e)}</scstep>" for e in errors)
    return f""" <calculation>
  {scf}
  <structure>{_structure(step)}</structure>
  <varray name="forces" >{_rows(step.forces)}</varray>
  <varray name="stress" >{_rows(step.kbar)}</varray>
  {_energies(step.free_energy, step.free_energy)}
 </calculation>
"""
