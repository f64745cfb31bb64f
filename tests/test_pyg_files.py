"""Files of PyTorch Geometric's DimeNet where names and files are taken: load, convert, calculator, commands."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from ase.io import write
from pyg_references import Reference

import mlip
from mlip import MLIPCalculator
from mlip.cli.main import main
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, ModelFileError
from mlip.importers.pyg_dimenet import load_pyg_dimenet
from mlip.potential import Potential

E0S = {1: -13.6, 6: -1029.0, 8: -2042.0}


@pytest.fixture(params=["dimenet", "dimenet_plus_plus"])
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.param)


@pytest.fixture
def file(reference: Reference, tmp_path: Path) -> Path:
    """As torch.save(model.state_dict(), path) writes it."""
    state: Any = OrderedDict(reference.state)
    state._metadata = OrderedDict({"": {"version": 1}})
    torch.save(state, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def energy(potential: Potential) -> float:
    return float(potential(atoms_to_graph(molecule("CH3CHO"), potential.cutoff), stress=False).energy[0])


@pytest.mark.parametrize("elements", ["H C O", "C,H, O", ["H", "C", "O"], [1, 6, 8]], ids=str)
def test_load_with_elements(elements: Any, file: Path, reference: Reference) -> None:
    expected = energy(load_pyg_dimenet(file, [1, 6, 8], reference.kwargs, E0S))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        potential = mlip.load(file, elements=elements, kwargs=reference.kwargs, E0s=E0S)
    assert energy(potential) == expected and type(potential.model).__name__ == reference.kind
    assert mlip.load(file, "cpu", "float64", elements=elements, kwargs=reference.kwargs).dtype == torch.float64


def test_arguments_stored_in_the_file(tmp_path: Path, reference: Reference) -> None:
    torch.save({"state_dict": reference.state, "kwargs": reference.kwargs}, tmp_path / "both.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        potential = mlip.load(tmp_path / "both.pt", elements="H C O")
    assert potential.cutoff == reference.kwargs["cutoff"]


def test_defaults_are_said(file: Path) -> None:
    with pytest.warns(UserWarning, match=r"defaults are taken: cutoff = 5\.0, envelope_exponent = 5"):
        assert mlip.load(file, elements="H C O").cutoff == 5.0


@pytest.mark.parametrize("words", [["H", "C", "O"], ["H C O"]], ids=str)
def test_convert(words: list[str], file: Path, reference: Reference, capsys: pytest.CaptureFixture[str]) -> None:
    output = file.with_name("out.safetensors")
    options = ["--E0s", "{H: -13.6, C: -1029.0, O: -2042.0}", "--json"]
    told = {name: reference.kwargs[name] for name in ("cutoff", "envelope_exponent")}
    options += [word for name, value in told.items() for word in (f"--{name}", str(value))]
    assert main(["convert", str(file), "-o", str(output), "--elements", *words, *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["architecture"] == reference.kind and facts["source"]["program"] == "PyTorch Geometric"
    expected = load_pyg_dimenet(file, [1, 6, 8], reference.kwargs, E0S)
    found = mlip.load(output)
    assert found.elements == (1, 6, 8) and found.E0s == E0S
    assert energy(found) == pytest.approx(energy(expected), rel=1e-12)


def test_without_elements_one_is_told_what_to_do(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = r"weights\.pt: .*mlip convert weights\.pt -o weights\.safetensors --elements .*elements="
    with pytest.raises(InputError, match=message):
        mlip.load(file)
    with pytest.raises(InputError, match=message):
        MLIPCalculator(file)
    write(file.with_name("m.xyz"), molecule("CH3CHO"))
    for command in (["relax", str(file.with_name("m.xyz")), "--model"], ["info"], ["convert"]):
        assert main([*command, str(file)]) == 1
        assert '--elements "H C O"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"elements": "H Xx"}, InputError, "'Xx' is no element"),
        ({"elements": ""}, InputError, "'' is no element"),
        ({"elements": [0, 1]}, InputError, "0 is no element"),
        ({"elements": "H U Pu Am"}, InputError, "atomic numbers 1 to 94"),
        ({"elements": "H C", "E0s": {1: 0.0}}, InputError, "C"),
        ({"elements": "H C", "kwargs": {"num_blocks": 9}}, ModelFileError, "num_blocks = 9"),
        ({"elements": "H C", "head": "other"}, InputError, "no head 'other'"),
        ({"elements": "H C", "units": (1.0, 1.0)}, InputError, "n2p2"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], error: type[Exception], message: str, file: Path
) -> None:
    with pytest.raises(error, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlip.load(file, **options)


@pytest.mark.parametrize("name", ["elements", "E0s", "kwargs"])
def test_models_that_have_their_own(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} can be given for weights of PyTorch Geometric alone"):
        mlip.load("silicon", **{name: {14: 0.0}})


@pytest.mark.parametrize(
    "content",
    [{"a": torch.ones(3)}, {"rbf.freq": torch.ones(3)}, {"state_dict": {"a": torch.ones(3)}}, torch.ones(3)],
    ids=["dictionary", "one name alone", "state dict of another model", "tensor"],
)
def test_other_archives_are_neither(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ModelFileError, match=r"other\.pt holds a .*mace-torch.*PyTorch Geometric"):
        mlip.load(tmp_path / "other.pt", elements="H")


def test_names_of_dimenet_with_other_contents(tmp_path: Path) -> None:
    torch.save({"rbf.freq": torch.ones(3), "emb.emb.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(ModelFileError, match="no state dict of PyTorch Geometric"):
        mlip.load(tmp_path / "other.pt", elements="H", kwargs={"cutoff": 5.0, "envelope_exponent": 5})
