"""Files of mace-torch: published and others' models give the recorded numbers; damaged ones are refused in words."""

from __future__ import annotations

import copy
import json
import lzma
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import mlip
from mlip.cli import main
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, ModelFileError
from mlip.importers import mace
from mlip.importers.torch_archive import Record, read_archive
from mlip.potential import Potential
from mlip.testing.physics import PotentialPhysics
from mlip.units import full_3x3_to_voigt_6

REFERENCES = Path(__file__).parent / "fixtures" / "mace_references"
DATA = Path(os.environ["MLIP_DATA"]) if "MLIP_DATA" in os.environ else None
needs_data = pytest.mark.skipif(DATA is None, reason="MLIP_DATA does not name the folder of others' models")


def data(*parts: str) -> Path:
    assert DATA is not None
    return DATA.joinpath(*parts)


def compare(potential: Potential, atoms: Atoms, expected: dict[str, Any], energy: float, forces: float) -> None:
    """Energies to the relative tolerance `energy`, forces to `forces` eV/Å, stress to 1e-9 eV/Å³ (both x 1)."""
    got = potential(atoms_to_graph(atoms, potential.cutoff), stress="stress" in expected)
    assert got.energy.item() == pytest.approx(expected["energy"], rel=energy, abs=0)
    np.testing.assert_allclose(got.forces, expected["forces"], rtol=0, atol=forces)
    if "stress" in expected:
        np.testing.assert_allclose(full_3x3_to_voigt_6(got.stress[0].numpy()), expected["stress"], rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def mp_small() -> Potential:
    return mlip.load(data("mace", "mace_mp_small.model"))


@needs_data
def test_benzene(mp_small: Potential) -> None:
    graph = atoms_to_graph(molecule("C6H6"), mp_small.cutoff)
    assert mp_small(graph, stress=False).energy.item() == pytest.approx(-76.0605725422795, rel=1e-12)


@needs_data
def test_mace_mp_0_small_on_crystals(mp_small: Potential) -> None:
    structures = ase.io.read(data("reference_predictions", "structures_periodic.extxyz"), ":")
    recorded = json.loads(data("reference_predictions", "mace_mp0_small_f64.json").read_text())["results"]
    assert len(recorded) == len(structures) >= 7
    for atoms, expected in zip(structures, recorded, strict=True):
        compare(mp_small, atoms, expected, energy=1e-12, forces=1e-10)


@needs_data
class TestMaceMP0Small(PotentialPhysics):
    """The published potential passes every physics check."""

    @pytest.fixture
    def potential(self, mp_small: Potential) -> Potential:
        return mp_small


@needs_data
def test_vectors_in_single_precision() -> None:
    potential = mlip.load(data("mace", "autoplex_Si_L1.model"))
    assert potential.dtype == torch.float32
    recorded = json.loads(data("mace", "autoplex_Si_L1_predictions.json").read_text())["results"]
    for expected in recorded:
        atoms = Atoms(expected["numbers"], expected["positions"], cell=expected["cell"], pbc=True)
        # mace keeps Clebsch-Gordan tables that were rounded to float32; ours are exact.
        compare(potential.double(), atoms, expected, energy=1e-11, forces=2e-10)


@needs_data
def test_old_model_of_molecules() -> None:
    potential = mlip.load(data("mace", "tutorial_mace01_swa.model"))
    structures = ase.io.read(data("mace", "tutorial_mace01_swa_recorded.xyz"), ":")
    assert len(structures) == 19
    for atoms in structures:
        (energy,) = (value for key, value in atoms.info.items() if "energy" in key.lower() and "mace" in key.lower())
        (forces,) = (a for key, a in atoms.arrays.items() if "force" in key.lower() and "mace" in key.lower())
        compare(potential, atoms, {"energy": energy, "forces": forces}, energy=1e-12, forces=6e-9)  # 8 decimals


def reference(name: str, folder: Path) -> Path:
    """The file of a reference model as mace-torch wrote it."""
    path = folder / f"{name}.model"
    path.write_bytes(lzma.decompress((REFERENCES / f"{name}.model.xz").read_bytes()))
    return path


def with_heads(folder: Path) -> tuple[Path, list[str]]:
    """A model of several heads, none of them the default."""
    for npz in sorted(REFERENCES.glob("*.npz")):
        heads = json.loads(bytes(np.load(npz)["meta"]))["heads"]
        if len(heads) > 1 and "default" not in [head.lower() for head in heads]:
            return reference(npz.stem, folder), heads
    raise AssertionError("no reference of several heads")


def test_a_head_must_be_chosen_and_known(tmp_path: Path) -> None:
    file, heads = with_heads(tmp_path)
    with pytest.raises(InputError, match=f"several heads and none is chosen.*{heads[0]!r}.*{heads[-1]!r}"):
        mace.load_mace(file)
    with pytest.raises(InputError, match=f"no head 'nobody'; expected one of {heads[0]!r}"):
        mace.load_mace(file, head="nobody")
    first, last = (mace.load_mace(file, head=head) for head in (heads[0], heads[-1]))
    assert first.heads == tuple(heads) and first.head == heads[0]
    other = first.with_head(heads[-1])
    assert first.head == heads[0] and other.head == heads[-1]
    assert other.isolated_energies() == last.isolated_energies() != first.isolated_energies()


def test_heads_survive_our_format(tmp_path: Path) -> None:
    file, heads = with_heads(tmp_path)
    potential = mace.load_mace(file, head=heads[1])
    potential.save(tmp_path / "a.safetensors")
    loaded = mlip.load(tmp_path / "a.safetensors")
    assert (loaded.heads, loaded.head, loaded.metadata) == (potential.heads, heads[1], potential.metadata)
    for head in heads:
        chosen = mlip.load(tmp_path / "a.safetensors", head=head)
        assert chosen.isolated_energies() == potential.with_head(head).isolated_energies()
    with pytest.raises(InputError, match="no head 'nobody'"):
        mlip.load(tmp_path / "a.safetensors", head="nobody")


def test_provenance(tmp_path: Path) -> None:
    file = reference("float32_0", tmp_path)
    source = mace.load_mace(file).metadata["source"]
    assert source["file"] == file.name and source["program"] == "mace-torch"
    assert source["sha256"] == mace.sha256(file)


@pytest.mark.parametrize(
    ("value", "message"),
    [({"model": {}, "optimizer": {}}, "holds a dict.*checkpoint"), (torch.nn.Linear(2, 3), "Linear; expected a MACE")],
)
def test_other_archives(tmp_path: Path, value: object, message: str) -> None:
    torch.save(value, tmp_path / "x.model")
    with pytest.raises(ModelFileError, match=message):
        mlip.load(tmp_path / "x.model")


def altered(
    root: Record, change: Callable[[dict[str, Any]], None], tmp_path: Path, mp: pytest.MonkeyPatch
) -> Potential:
    """A model whose record was changed."""
    other = copy.deepcopy(root)
    change(other.state)
    mp.setattr(mace, "read_archive", lambda *_: other)
    return mace.load_mace(tmp_path / "any.model")


def test_unknown_parts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = read_archive(reference("float32_0", tmp_path), mace.ADMITTED)
    (tmp_path / "any.model").write_bytes(b"")
    embedding = root.state["_modules"]["node_embedding"]
    cases: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda s: s["_modules"].update(joint_embedding=embedding), "parts that mlip does not know: joint_embedding"),
        (lambda s: first_block(s)["_modules"].update(lora=embedding), "interactions.0 has parts .* know: lora"),
        (lambda s: s["_modules"]["spherical_harmonics"].state.update(normalize=False), "harmonics"),
        (lambda s: s["_modules"].pop("radial_embedding"), "has no part 'radial_embedding'"),
        (lambda s: part(s, "radial_embedding", "cutoff_fn")["_buffers"].update(r_max=torch.tensor(2.0)), "ends at 2.0"),
        (lambda s: part(s, "products", "1").update(use_sc=False), "products.1 does not add what interactions.1 keeps"),
        (lambda s: s["_buffers"].update(r_max=torch.tensor(-1.0)), "cutoff -1"),
        (lambda s: s["_buffers"].update(r_max=torch.tensor(float("nan"))), "cutoff nan"),
        (lambda s: s["_buffers"].update(atomic_numbers=torch.tensor([1.5])), "atomic numbers, each once"),
        (lambda s: embedding_of(s).mul_(float("nan")), "not finite"),
        (lambda s: first_block(s).update(avg_num_neighbors=0.0), "avg_num_neighbors"),
        (lambda s: part(s, "atomic_energies_fn")["_buffers"]["atomic_energies"].fill_(float("inf")), "not finite"),
        # A few bytes that declare tables of gigabytes.
        (lambda s: first_block(s).update(target_irreps=HIGH, edge_attrs_irreps=HIGH), "8 paths of interactions.0"),
        (lambda s: first_block(s).update(edge_attrs_irreps=HIGH), "messages .* of harmonics up to degree 7"),
        (lambda s: first_block(s).update(hidden_irreps="100000x0e"), "do not fit the"),
        (lambda s: s["_modules"]["radial_embedding"].state.update(out_dim=2_000_000), "do not fit the"),
        (lambda s: first_block(s).update(edge_irreps="4x0e+4x1o+4x2e+4x3o"), "paths of interactions.0"),
    ]
    for change, message in cases:
        with pytest.raises(ModelFileError, match=message):
            altered(root, change, tmp_path, monkeypatch)


def part(state: dict[str, Any], *names: str) -> dict[str, Any]:
    """State of a module below."""
    for name in names:
        state = state["_modules"][name].state
    return state


HIGH = "+".join(f"4x{degree}{'eo'[degree % 2]}" for degree in range(8))


def embedding_of(state: dict[str, Any]) -> torch.Tensor:
    return part(state, "node_embedding", "linear")["_parameters"]["weight"]


def first_block(state: dict[str, Any]) -> dict[str, Any]:
    return part(state, "interactions", "0")


def test_radial_constants_are_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 models mace rounds the cutoff of the envelope, not the width of gaussians or an old file's r_max."""
    root = read_archive(reference("00_residual_gaussian", tmp_path), mace.ADMITTED)
    (tmp_path / "any.model").write_bytes(b"")

    def change(state: dict[str, Any]) -> None:
        part(state, "radial_embedding", "bessel_fn")["coeff"] = -0.5 / 0.3**2
        state["_buffers"]["r_max"] *= 1 + 1e-8

    model = altered(root, change, tmp_path, monkeypatch).model
    assert model.get_buffer("radial.basis.width").item() == pytest.approx(0.3, rel=1e-15)
    assert model.cutoff == part(root.state, "radial_embedding", "cutoff_fn")["_buffers"]["r_max"].item()


def places(node: Any) -> list[tuple[Any, Any]]:
    """All entries of containers below `node` that can be replaced."""
    found = []
    children = node.state if isinstance(node, Record) else node
    keys = children.keys() if isinstance(children, dict) else range(len(children)) if isinstance(children, list) else ()
    for key in keys:
        found.append((children, key))
        found += places(children[key])
    return found


@pytest.mark.parametrize("name", ["00_*", "01_*", "float32_0"])
def test_random_damage_is_refused_in_words(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (packed,) = REFERENCES.glob(f"{name}.model.xz")
    root = read_archive(reference(packed.name.removesuffix(".model.xz"), tmp_path), mace.ADMITTED)
    (tmp_path / "any.model").write_bytes(b"")
    junk = [
        None,
        -1,
        0,
        2**40,
        1e300,
        float("nan"),
        "x",
        b"",
        [],
        {},
        (),
        torch.zeros(0),
        torch.ones(3),
        torch.tensor(7),
    ]
    rng, refused = random.Random(0), 0
    for _ in range(120):
        other = copy.deepcopy(root)
        container, key = rng.choice(places(other))
        if rng.random() < 0.2 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = rng.choice(junk)
        monkeypatch.setattr(mace, "read_archive", lambda *_, other=other: other)
        try:
            mace.load_mace(tmp_path / "any.model", head=None)
        except (ModelFileError, InputError):
            refused += 1
    assert refused > 10


def test_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    file, heads = with_heads(tmp_path)
    assert main(["convert", str(file)]) == 1
    assert "several heads and none is chosen" in capsys.readouterr().err
    assert main(["convert", str(file), "--head", heads[0], "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["head"], facts["heads"]) == (heads[0], heads) and facts["source"]["sha256"] == mace.sha256(file)
    converted, original = mlip.load(facts["output"]), mace.load_mace(file, head=heads[0])
    assert converted.dtype == original.dtype and converted.isolated_energies() == original.isolated_energies()
    for name, tensor in original.model.state_dict().items():
        assert torch.equal(tensor, converted.model.state_dict()[name]), name
    assert main(["convert", str(file), "--head", heads[1]]) == 1
    assert "is already there; name the file to write with -o" in capsys.readouterr().err
    assert main(["convert", facts["output"], "-o", facts["output"]]) == 1
    assert "is the model itself" in capsys.readouterr().err
    assert main(["convert", facts["output"], "-o", "b.safetensors", "--head", heads[1], "--dtype", "float32"]) == 0
    other = mlip.load("b.safetensors")
    assert other.head == heads[1] and other.dtype == torch.float32 and other.metadata == original.metadata
    assert main(["convert", str(file), "-o", "c.model"]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err
