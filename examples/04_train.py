"""Train a small potential on 40 silicon cells labelled by DFT (data/README.md) and use it.

What runs here is the command `mlip train`, with a very small model and few epochs; more of both gives a better
potential. `mlip train --help` explains every option.
"""

import subprocess
import sys
from pathlib import Path

from ase.io import read

from mlip import MLIPCalculator

here = Path(__file__).parent
options = {
    "name": "small", "work_dir": here / "output",
    "train_file": here / "data/silicon_train.extxyz", "test_file": here / "data/silicon_test.extxyz",
    "r_max": 4.5, "hidden_irreps": "8x0e", "max_ell": 2, "correlation": 3, "radial_MLP": "[16, 16]",
    "loss": "stress", "energy_weight": 100, "forces_weight": 10, "stress_weight": 1000,
    "batch_size": 4, "lr": 0.02, "scheduler": "cosine", "ema_decay": 0.95, "max_num_epochs": 50,
}  # fmt: skip
arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
subprocess.run([sys.executable, "-m", "mlip", "train", "--overwrite", *arguments], check=True)

frame = read(here / "data/silicon_test.extxyz", 0)
frame.calc = MLIPCalculator(here / "output/small.safetensors")
print(f"first test structure: {frame.get_potential_energy():.3f} eV, DFT {frame.info['REF_energy']:.3f} eV")
