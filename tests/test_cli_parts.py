"""What the commands share: structures read from files, values made ready for JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import write
from rich.console import Console
from stillinger_weber import silicon

from mlip.cli import main
from mlip.cli.output import table, to_json
from mlip.cli.structures import read_structure
from mlip.zoo import bundled_models


@pytest.mark.parametrize("name", ["POSCAR", "si.vasp", "si.gen", "si.res", "si.xsf", "si.cif", "si.json", "si.traj"])
def test_formats_of_one_and_of_many_structures(tmp_path, name):
    write(tmp_path / name, silicon())
    assert read_structure(tmp_path / name).get_volume() == pytest.approx(silicon().get_volume(), rel=1e-4)


def test_json_holds_no_nan():
    value = {"a": np.float64("nan"), "b": np.arange(2), "c": (1, float("inf")), "d": Path("x"), "e": True}
    assert (
        json.dumps(to_json(value), allow_nan=False) == '{"a": null, "b": [0, 1], "c": [1, null], "d": "x", "e": true}'
    )


@pytest.mark.parametrize("name", ["run[1]", "[bold]", "x[/x]"])
def test_brackets_in_names_are_no_markup(tmp_path, capsys, name):
    path = tmp_path / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bundled_models()["silicon"].read_bytes())
    assert main(["info", str(path)]) == 0
    assert name in capsys.readouterr().out


def test_no_digit_of_a_table_is_lost_on_a_narrow_terminal() -> None:
    console = Console(width=30, file=io.StringIO(), record=True)
    console.print(table("Errors", ["group", "E total rmse", "F rmse"], [["Gaps", "1.234e+04", "5.678e+09"]], (1, 2)))
    text = console.export_text()
    assert "\u2026" not in text
    assert sorted(c for c in text if c.isdigit()) == sorted("123404567809")


@pytest.mark.parametrize("command", ["check", "md", "evaluate", "elastic", "phonon", "relax", "vibrations", "demo"])
def test_help_tells_what_a_model_can_be(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "weights file, .model file of MACE, or folder of n2p2" in " ".join(capsys.readouterr().out.split())
