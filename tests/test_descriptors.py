"""Descriptors: invariant, the same from model, calculator and command; frames read one by one; maps and their files."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from scipy.spatial.transform import Rotation
from toy_potentials import Toy

from mlip import MLIPCalculator, PropertyCalculator
from mlip.cli.main import main
from mlip.convert import atoms_to_graph
from mlip.data.frames import Frames
from mlip.data.reading import read_structures
from mlip.descriptors import descriptor_widths, descriptors
from mlip.errors import DataError, InputError, MissingDependencyError, UnknownElementError
from mlip.models import HDNNP, MACE, DimeNetPlusPlus
from mlip.nn.symmetry_functions import SymmetryFunction
from mlip.potential import Potential
from mlip.properties import Property
from mlip.property_model import PropertyModel
from mlip.workflows import descriptors as workflow
from mlip.workflows.descriptors import MapSettings, choose, describe
from mlip.workflows.map_labels import as_column
from mlip.workflows.maps import principal_components, umap_coordinates

CUTOFF = 4.0


def hdnnp() -> HDNNP:
    """Three functions for carbon, two for silicon."""
    made = [
        SymmetryFunction(2, z, (other,), CUTOFF, eta=0.2, shift=s)
        for z, other, s in ((6, 6, 0), (6, 14, 1), (6, 14, 2), (14, 6, 0), (14, 14, 1))
    ]
    return HDNNP((6, 14), CUTOFF, made, hidden=(3,), activations=("tanh", "identity"))


def networks() -> dict[str, Any]:
    torch.manual_seed(1)
    small = {"hidden_channels": 16, "num_blocks": 2, "int_emb_size": 16, "out_emb_channels": 24, "num_spherical": 3}
    return {
        "MACE": MACE((6, 14), CUTOFF, "6x0e+6x1o", l_max=2, correlation=2, radial_mlp=(8,), avg_num_neighbors=9.0),
        "DimeNet++": DimeNetPlusPlus((6, 14), CUTOFF, **small),
        "HDNNP": hdnnp(),
    }


@pytest.fixture(params=["MACE", "DimeNet++", "HDNNP"])
def potential(request: pytest.FixtureRequest) -> Potential:
    return Potential(networks()[request.param].double(), {6: 0.0, 14: 0.0})


def crystal(seed: int = 1, repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    atoms = bulk("SiC", "zincblende", a=4.36, cubic=True) * repeat
    atoms.rattle(0.1, seed=seed)
    return atoms


def of(potential: Potential, atoms: Atoms | list[Atoms], num_layers: int = -1) -> np.ndarray:
    return descriptors(potential, atoms_to_graph(atoms, CUTOFF), num_layers).numpy()


def close(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


# --- what they are


@pytest.mark.parametrize("seed", [0, 1])
def test_invariant(potential: Potential, seed: int) -> None:
    atoms, rng = crystal(), np.random.default_rng(seed)
    before = of(potential, atoms)
    assert before.dtype == np.float64 and np.ptp(before, axis=0).max() > 1e-3
    turn = Rotation.random(random_state=seed).as_matrix() * (-1) ** seed  # a mirror, too
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = atoms.positions @ turn.T + rng.normal(size=3) * 100
    close(of(potential, turned), before)
    order = rng.permutation(len(atoms))
    close(of(potential, atoms[order]), before[order])
    wrapped = atoms.copy()
    wrapped.positions += rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array
    close(of(potential, wrapped), before)
    repeated = atoms * (2, 1, 1)
    close(of(potential, repeated), np.concatenate([before, before]))


def test_batch_single_calculator_and_reference_agree(potential: Potential) -> None:
    structures = [crystal(1), crystal(2, (2, 1, 1)), molecule("CH4")[:1], crystal(3)]
    calculator = MLIPCalculator(potential)
    together = of(potential, structures)
    single = [calculator.get_descriptors(atoms) for atoms in structures]
    close(np.concatenate(single), together)
    for batch_atoms in (None, 1, 20):
        for a, b in zip(calculator.descriptors(iter(structures), batch_atoms=batch_atoms), single, strict=True):
            close(a, b)
    reference = MLIPCalculator(potential, backend="reference")
    close(reference.get_descriptors(structures[1]), single[1], 1e-9)
    rough = MLIPCalculator(potential, dtype="float32").get_descriptors(structures[1])
    assert rough.dtype == np.float32
    close(rough, single[1], 1e-4)
    structures[0].calc = calculator
    structures[0].get_potential_energy()
    close(calculator.get_descriptors(), single[0])
    close(pickle.loads(pickle.dumps(calculator)).get_descriptors(structures[3]), single[3])


def test_layers_of_mace_are_its_scalars() -> None:
    model = networks()["MACE"].double()
    potential, graph = Potential(model, {6: 0.0, 14: 0.0}), atoms_to_graph(crystal(), CUTOFF)
    features = model(graph).features.detach().numpy()
    assert descriptor_widths(model) == (6, 6) and features.shape == (8, 12)
    close(of(potential, crystal()), features)
    close(of(potential, crystal(), 1), features[:, :6])
    calculator = MLIPCalculator(potential)
    close(calculator.get_descriptors(crystal(), num_layers=1), features[:, :6])
    close(calculator.get_descriptors(crystal(), True, 2), features)


def test_the_energy_of_dimenet_is_linear_in_its_descriptors() -> None:
    model = networks()["DimeNet++"].double()
    for output in model.outputs:
        torch.nn.init.normal_(output.last.weight)
    potential = Potential(model, {6: 0.0, 14: 0.0})
    weights = torch.cat([output.last.weight[0] for output in model.outputs]).detach().numpy()
    assert descriptor_widths(model) == (24, 24, 24)
    close((of(potential, crystal()) @ weights).sum(), MLIPCalculator(potential).get_potential_energy(crystal()))


def test_symmetry_functions_of_each_element_have_their_columns() -> None:
    model = hdnnp().double()
    model.of_element("offset", 1).fill_(0.3)
    potential, atoms = Potential(model, {6: 0.0, 14: 0.0}), crystal()
    found = of(potential, atoms)
    assert found.shape == (8, 5) and descriptor_widths(model) == (5,)
    (carbon, a), (silicon, b) = model.symmetry_functions(atoms_to_graph(atoms, CUTOFF))
    close(found[carbon, :3], a.detach().numpy())
    close(found[silicon, 3:], b.detach().numpy() - 0.3)
    assert not found[carbon, 3:].any() and not found[silicon, :3].any()


def test_property_models_and_committees() -> None:
    network = networks()["MACE"].double()
    learned = PropertyModel(network, Property("alpha", "sum"), {6: 1.0, 14: 2.0})
    potential = Potential(network, {6: 0.0, 14: 0.0})
    close(PropertyCalculator(learned).get_descriptors(crystal()), of(potential, crystal()))
    other = Potential(networks()["HDNNP"].double(), {6: 0.0, 14: 0.0})
    committee = MLIPCalculator([potential, other])
    first, second = committee.get_descriptors(crystal())
    close(first, of(potential, crystal()))
    close(second, of(other, crystal()))
    with pytest.raises(InputError, match="committee of 2 .* name one"):
        committee.descriptors([crystal()])


def test_refused() -> None:
    potential = Potential(networks()["MACE"].double(), {6: 0.0, 14: 0.0})
    calculator = MLIPCalculator(potential)
    with pytest.raises(InputError, match="no structure given"):
        calculator.get_descriptors()
    with pytest.raises(InputError, match="invariants_only=False"):
        calculator.get_descriptors(crystal(), invariants_only=False)
    for number in (0, 3, -2):
        with pytest.raises(InputError, match=f"num_layers is {number}; expected from 1 to 2, or -1"):
            calculator.descriptors([crystal()], num_layers=number)
    with pytest.raises(InputError, match="one layer"):
        descriptor_widths(hdnnp(), 2)
    with pytest.raises(InputError, match="Toy has no descriptors"):
        MLIPCalculator(Potential(Toy(), {6: 0.0, 14: 0.0})).get_descriptors(crystal())
    with pytest.raises(UnknownElementError):
        calculator.get_descriptors(bulk("Ge"))
    with pytest.raises(InputError, match="structure 1: expected an ase.Atoms with at least one"):
        list(calculator.descriptors([crystal(), Atoms()]))
    with pytest.raises(InputError, match="takes|expected an AtomGraph"):
        descriptors(potential, crystal())


# --- frames of files


def labelled(n: int) -> list[Atoms]:
    structures = []
    for k in range(n):
        atoms = crystal(k, (1 + k % 2, 1, 1))
        atoms.info |= {"REF_energy": -7.0 * len(atoms) + k, "kind": "odd" if k % 2 else "even", "mark": k == 1}
        structures.append(atoms)
    return structures


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.json"])
def test_frames_are_those_of_the_whole_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, labelled(5))
    frames, whole = Frames(path), read_structures(path)
    assert len(frames) == 5
    for index, atoms in zip((3, 0, 4), frames.read([3, 0, 4]), strict=True):
        assert atoms == whole[index]
        if path.suffix != ".json":
            assert atoms.info == whole[index].info


def test_unusual_extended_xyz(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    plain = '1\nLattice="5 0 0 0 5 0 0 0 5" note="a \\"b\\""\r\nSi 0 0 0\r\n'
    path.write_bytes((plain + "1\n\nC 0 0 1\nVEC1 4 0 0\nVEC2 0 4 0\nVEC3 0 0 4\n" + plain + "\n\n").encode())
    frames = Frames(path)
    found = list(frames.read(range(3)))
    assert [str(atoms.symbols) for atoms in found] == ["Si", "C", "Si"]
    assert found[0].info == {"note": 'a "b"'}
    assert found[1].cell[0, 0] == read(path, 1).cell[0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("2\n\nSi 0 0 0\n", "ends inside of structure 0"),
        ("1\n\nSi 0 0 0\n\n1\n\nSi 0 0 0\n", "line 4 is empty, and structures come after"),
        ("1\n\nSi 0 0 0\nnonsense\n", "line 4 is 'nonsense'"),
        ("1\n\nXx 0 0\n", "structure 0 of .* can't be read"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(Frames(path).read([0]))
    (tmp_path / "a.traj").write_text("no trajectory")
    with pytest.raises(DataError, match="can't be read as a trajectory"):
        Frames(tmp_path / "a.traj")


def test_a_sample_is_random_repeatable_and_all_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.extxyz", labelled(6))
    write(tmp_path / "b.extxyz", labelled(4))
    files = [Frames(tmp_path / "a.extxyz"), Frames(tmp_path / "b.extxyz")]
    assert [tuple(place) for place in choose(files, None, 0)] == [(0, k) for k in range(6)] + [(1, k) for k in range(4)]
    assert choose(files, 4, 7) == choose(files, 4, 7) == sorted(set(choose(files, 4, 7)))
    counts = np.zeros((2, 6))
    for seed in range(400):
        for place in choose(files, 3, seed):
            counts[place] += 1
    assert counts[0].min() > 85 and counts[1, :4].min() > 85 and not counts[1, 4:].any()  # 120 expected
    with pytest.raises(InputError, match="--sample 11: the files hold 10 structures"):
        choose(files, 11, 0)
    seen = []
    from mlip.data import frames as module

    whole = module.read_frames
    monkeypatch.setattr(module, "read_frames", lambda text: seen.append(text) or whole(text))
    result = describe(MLIPCalculator(Potential(hdnnp().double(), {6: 0.0, 14: 0.0})), files, MapSettings(3, 5))
    assert len(seen) == result.n == 3 and result.available == 10 and result.places == choose(files, 3, 5)


# --- maps


def test_principal_components(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) + 100.0
    found = principal_components(x)
    centered = x - x.mean(axis=0)
    _, values, directions = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(found.explained, (values**2 / (values**2).sum())[:2], rtol=1e-10)
    np.testing.assert_allclose(np.abs((found.directions * directions[:2]).sum(axis=1)), 1, rtol=1e-10)
    assert (found.directions[np.arange(2), np.abs(found.directions).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose(found.project(x), centered @ found.directions.T, atol=1e-10)
    monkeypatch.setattr("mlip.workflows.maps._BLOCK", 7)
    blocks = principal_components(x[rng.permutation(50)])
    np.testing.assert_allclose(blocks.directions, found.directions, atol=1e-8)
    single = principal_components(np.float32(x[:, :1]))
    assert single.directions.tolist() == [[1.0], [0.0]] and single.explained.tolist() == pytest.approx([1.0, 0.0])
    for same in (np.full((9, 4), 0.1), np.zeros((5, 2)), np.float32(np.full((9, 4), 0.1))):
        with pytest.raises(InputError, match="all the same descriptors"):
            principal_components(same)
    with pytest.raises(InputError, match="at least 3 points; got 2"):
        principal_components(x[:2])


def test_umap_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="--method umap needs umap-learn: pip install umap-learn"):
        MapSettings(method="umap").check()
    given: dict[str, Any] = {}

    class UMAP:
        def __init__(self, **options: Any) -> None:
            given.update(options)

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            return x[:, :2]

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    x = rng.normal(size=(9, 4))
    np.testing.assert_allclose(umap_coordinates(x, 3), x[:, :2], rtol=1e-6)
    assert given["random_state"] == 3 and given["n_neighbors"] == 8 and given["n_components"] == 2


def test_columns_of_labels() -> None:
    assert np.array_equal(as_column([1, None, 2.5]), [1, np.nan, 2.5], equal_nan=True)
    assert as_column(["a", None, 3]).tolist() == ["a", "", "3"]
    assert as_column([True, False]).tolist() == ["True", "False"]


# --- the command


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    Potential(networks()["MACE"], {6: 0.0, 14: 0.0}).save(tmp_path / "m.safetensors")
    write(tmp_path / "data.extxyz", labelled(6))
    return tmp_path / "data.extxyz", tmp_path / "m.safetensors"


def run(data: Path, model: Path, *options: object) -> dict[str, np.ndarray]:
    out = data.with_name("out.npz")
    words = [str(word) for word in (data, *options, "--model", model, "-o", out)]
    assert main(["descriptors", *words]) == 0
    with np.load(out) as file:
        return dict(file)


def test_the_file_holds_what_it_says(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, model = files
    picture = data.with_name("map.png")
    found = run(data, model, "--plot", picture, "--color", "energy")
    capsys.readouterr()
    structures, calculator = read(data, ":"), MLIPCalculator(str(model))
    for k, atoms in enumerate(structures):
        rows = slice(found["offsets"][k], found["offsets"][k + 1])
        expected = calculator.get_descriptors(atoms)
        close(found["atom_descriptors"][rows], expected)
        close(found["structure_descriptors"][k], expected.mean(axis=0))
        assert found["numbers"][rows].tolist() == atoms.numbers.tolist()
    assert found["indices"].tolist() == list(range(6)) and found["files"].tolist() == ["data.extxyz"]
    assert found["file_indices"].tolist() == [0] * 6 and found["layers"].tolist() == [6, 6]
    close(found["labels"], [atoms.info["REF_energy"] / len(atoms) for atoms in structures])
    close(found["map"], (found["structure_descriptors"] - found["pca_mean"]) @ found["pca_directions"].T)
    provenance = json.loads(str(found["provenance"]))
    assert provenance["model"]["name"] == "m.safetensors" and len(provenance["model"]["sha256"]) == 64
    assert provenance["n"] == 6 and provenance["dtype"] == "float64" and provenance["color"] == "energy"
    assert picture.stat().st_size > 10_000
    assert not list(data.parent.glob(".*"))


def test_options_of_the_command(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, model = files
    atoms = run(data, model, "--per", "atom", "--color", "element", "--num_layers", 1, "--dtype", "float32")
    assert atoms["map"].shape == (len(atoms["numbers"]), 2) and set(atoms["labels"]) == {"C", "Si"}
    assert atoms["atom_descriptors"].dtype == np.float32 and atoms["atom_descriptors"].shape[1] == 6
    means = run(data, model, "--means_only", "--sample", 4, "--seed", 2, "--color", "kind")
    assert "atom_descriptors" not in means and len(means["indices"]) == 4 and set(means["labels"]) == {"even", "odd"}
    two = run(data, model, data, "--plot", data.with_name("two.svg"))
    assert two["file_indices"].tolist() == [0] * 6 + [1] * 6 and two["labels"].tolist() == ["data.extxyz"] * 12
    few = run(data, model, "--sample", 2)
    assert "map" not in few and "labels" not in few
    capsys.readouterr()
    run(data, model, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["n"] == 6 and shown["n_descriptors"] == 12 and len(shown["explained"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--seed 3", "--seed 3 would do nothing"),
        ("--sample 7", "--sample 7: the files hold 6 structures"),
        ("--sample 0", "--sample is 0"),
        ("--color element", "--color element is of atoms; take --per atom, or --color formula"),
        (
            "--color nothing",
            "--color nothing: no structure has it; expected file, formula or one of .*REF_energy, kind",
        ),
        ("--means_only --per atom", "no map --per atom"),
        ("--num_layers 3", "num_layers is 3; expected from 1 to 2"),
        ("--sample 2 --plot {}/a.png", "at least 3 points; got 2"),
        ("--plot {}/a.txt", "a plot ends in .png"),
        ("--plot {}/out.npz", "a plot ends in .png"),
        ("-o {}/none/out.npz", "there is no folder"),
        ("--method umap", "needs umap-learn"),
        ("--batch_atoms 0", "--batch_atoms is 0"),
        ("--head x", "no head 'x'"),
        ("--length_unit Bohr", "--length_unit"),
    ],
)
def test_refused_before_any_work(
    files: tuple[Path, Path],
    options: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.setattr("mlip.calculators.descriptors._in_batches", lambda *_: pytest.fail("work was begun"))
    data, model = files
    words = options.format(data.parent).split()
    arguments = ["descriptors", str(data), "--model", str(model), "-o", str(data.with_name("out.npz")), *words]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error
    assert not data.with_name("out.npz").exists()


def test_structures_that_are_wrong_are_named(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, model = files
    write(data, [*labelled(2), bulk("Ge")])
    assert main(["descriptors", str(data), "--model", str(model), "-o", str(data.with_name("o.npz"))]) == 1
    assert f"structure 2 of {data} holds Ge, which the model does not know" in capsys.readouterr().err
    assert workflow.PER == ("structure", "atom")


@pytest.mark.parametrize("color", ["many", "missing", "mark", "number"])
def test_pictures_of_all_kinds_of_labels(files: tuple[Path, Path], color: str) -> None:
    data, model = files
    structures = [crystal(k) for k in range(14)]
    for k, atoms in enumerate(structures):
        atoms.info |= {"many": f"${k}_x", "mark": k > 3}
        atoms.info |= {"missing": "a"} if k % 2 else {"number": 2.0}
    write(data, structures)
    picture = data.with_name("map.png")
    found = run(data, model, "--plot", picture, "--color", color)
    assert picture.stat().st_size > 10_000 and len(found["labels"]) == 14


def test_mace_mp_is_as_mace_torch_says(mlip_data: Path) -> None:
    """Two layers of 128 scalars."""
    calculator = MLIPCalculator(mlip_data / "mace" / "mace_mp_small.model", dtype="float32")
    found = calculator.get_descriptors(bulk("Si"))
    assert found.shape == (2, 256) and np.isfinite(found).all()
    close(found[0], found[1], 1e-5)
