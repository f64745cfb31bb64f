"""What the README says is so: its Python runs, its commands and options exist, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlip.cli import main
from mlip.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_example(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(compile(code, "README.md", "exec"), {})
    lattice_constant = float(capsys.readouterr().out.splitlines()[-1].split()[0])
    assert lattice_constant == pytest.approx(5.469, abs=0.015)  # PBE, Zuo et al. 2020


def test_every_command_is_listed_and_knows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| `mlip (\w+)(.*?)` \|", README, flags=re.M)
    assert {name for name, _ in rows} == set(COMMANDS)
    for name, usage in rows:
        assert main([name, "--help"]) == 0
        options = capsys.readouterr().out
        for option in re.findall(r"(?<![\w-])--?\w+", usage):
            assert re.search(rf"(?<![\w-]){option}\b", options), (name, option)


def test_make_targets_and_links() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
