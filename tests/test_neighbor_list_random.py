"""A thousand random systems of every odd kind against the definition, with each instruction set of the kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlip

PROGRAM = "from neighbor_systems import differing; assert differing(range(1000)) == []"


@pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")
@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_a_thousand_random_systems(instructions: str) -> None:
    """The machine's best set is used where it lacks the one asked for."""
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "MLIP_SIMD": instructions, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)
