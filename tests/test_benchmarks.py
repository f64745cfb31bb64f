"""The benchmarks run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlip

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not mlip.compiled, reason="the compiled operators are not there")
def test_quick_run_writes_results_of_all_cases(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"neighbor_list.json", "mace.json", "md.json", "stages.json", "report.md", "mace.png"}
    assert "| silicon, float32, " in (tmp_path / "report.md").read_text()
