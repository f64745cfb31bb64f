"""The code of docs/calculator.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_committee import mace
from toy_potentials import CUTOFF

from mlip.models import MACE
from mlip.properties import Property
from mlip.property_model import PropertyModel

DOCS = Path(__file__).parents[1] / "docs" / "calculator.md"


def test_the_code_in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.S)
    monkeypatch.chdir(tmp_path)
    for k in (1, 2, 3):
        mace(seed=k).save(f"run{k}.safetensors")
    for learned in (Property("dipole", "dipole", "e·Å"), Property("alpha")):
        PropertyModel(MACE((1, 8), CUTOFF, hidden_irreps="2x0e", l_max=1), learned).save(f"{learned.name}.safetensors")
    names: dict[str, Any] = {}
    exec(compile("".join(blocks), str(DOCS), "exec"), names)
    assert (
        len(blocks) == 4
        and names["water"].get_dipole_moment().shape == (3,)
        and names["committee"].stress_std.shape == (6,)
    )
