"""DFT phonons of silicon that the demo is compared with: prints frequencies (THz) and 300 K thermal properties.

Forces: phonopy's example Si-gruneisen/orig (BSD-3), VASP 5.2.12, PBE (PAW_PBE Si 05Jan2001), 300 eV, 64-atom supercell,
a = 5.46616 Å; found in $MLIP_DATA/phonons. Result with phonopy 4.8.6, per primitive cell:
Γ optical 15.099 THz, heat capacity 40.055 J/K/mol, entropy 39.299 J/K/mol, free energy 6.535 kJ/mol.
"""

import os
from pathlib import Path

import numpy as np
from phonopy import Phonopy
from phonopy.file_IO import parse_FORCE_SETS
from phonopy.interface.calculator import read_crystal_structure

folder = Path(os.environ["MLIP_DATA"]) / "phonons/Si-gruneisen/orig"
cell, _ = read_crystal_structure(str(folder / "POSCAR-unitcell"), "vasp")
phonon = Phonopy(cell, supercell_matrix=2 * np.eye(3), primitive_matrix="F")
phonon.dataset = parse_FORCE_SETS(filename=str(folder / "FORCE_SETS"))
phonon.produce_force_constants()
phonon.symmetrize_force_constants()
for name, q in {"Γ": [0, 0, 0], "X": [0.5, 0, 0.5], "L": [0.5, 0.5, 0.5]}.items():
    print(name, phonon.get_frequencies(q).round(3))
phonon.run_mesh([40, 40, 40])
phonon.run_thermal_properties(t_min=300, t_max=300)
for name, value in phonon.get_thermal_properties_dict().items():
    print(name, value)
