"""Property models: symmetries, readouts, units, files, the calculator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import write
from ase.units import Debye
from scipy.spatial.transform import Rotation

import mlip
from mlip.checkpoint import load_potential
from mlip.convert import atoms_to_graph
from mlip.errors import InputError, ModelFileError
from mlip.models import MACE, DimeNet, DimeNetPlusPlus
from mlip.potential import Potential
from mlip.properties import Property, property_of
from mlip.property_model import PropertyModel
from mlip.units import DEBYE

ELEMENTS = (1, 6, 8)
SMALL = {"hidden_channels": 6, "num_blocks": 2, "num_spherical": 3, "num_radial": 3, "num_output_layers": 1}
DIPOLE, NORM = Property("dipole", "dipole", "e·Å"), Property("mu", "dipole_norm", "D")
READOUTS = [Property("alpha"), Property("gap", "mean", "eV"), DIPOLE, NORM]


def network(kind: str = "DimeNet++", vectors: bool = True) -> torch.nn.Module:
    """Random in all its parameters, float64."""
    torch.manual_seed(1)
    if kind == "MACE":
        model = MACE(ELEMENTS, 4.0, hidden_irreps="4x0e", l_max=1, num_interactions=1, avg_num_neighbors=5.0)
    elif kind == "DimeNet":
        model = DimeNet(ELEMENTS, 4.0, num_bilinear=2, vectors=vectors, **SMALL)
    else:
        model = DimeNetPlusPlus(
            ELEMENTS, 4.0, int_emb_size=4, basis_emb_size=3, out_emb_channels=5, vectors=vectors, **SMALL
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def property_model(learned: Property, kind: str = "DimeNet++") -> PropertyModel:
    shifts = None if learned.is_dipole else {1: 1.5, 6: -2.0, 8: 0.5}
    return PropertyModel(network(kind, learned.is_dipole), learned, shifts, 0.7)


def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=2)
    return atoms


def value(model: PropertyModel, atoms: Atoms, charge: float = 0.0) -> np.ndarray:
    graph = atoms_to_graph(atoms, model.cutoff)
    return model(graph, charge=torch.tensor([charge], dtype=torch.float64)).value[0].numpy()


@pytest.mark.parametrize("kind", ["DimeNet", "DimeNet++", "MACE"])
@pytest.mark.parametrize("learned", READOUTS, ids=lambda p: p.readout)
def test_turns_with_the_structure_and_knows_no_origin_and_no_order(learned, kind):
    model, atoms = property_model(learned, kind), ethanol()
    before = value(model, atoms)
    assert np.abs(before).max() > 1e-3  # not zero by accident
    for improper in (1, -1):
        turned, rotation = atoms.copy(), improper * Rotation.random(random_state=3).as_matrix()
        order = np.random.default_rng(4).permutation(len(atoms))
        turned.positions = atoms.positions @ rotation.T + [1.0, -20.0, 300.0]
        expected = rotation @ before if learned.size == 3 else before
        assert np.allclose(value(model, turned[order]), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("learned", READOUTS, ids=lambda p: p.readout)
def test_batch_equals_single(learned):
    model, structures = property_model(learned), [ethanol(), molecule("H2O"), molecule("CO2")]
    charges = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    together = model(atoms_to_graph(structures, model.cutoff), charge=charges).value.numpy()
    single = [value(model, atoms, charge) for atoms, charge in zip(structures, charges.tolist(), strict=True)]
    assert np.allclose(together, single, rtol=1e-10, atol=1e-12)


def test_sum_is_extensive_and_mean_is_not():
    far = ethanol()
    far.translate([50, 0, 0])
    two = ethanol() + far
    for learned, factor in ((READOUTS[0], 2), (READOUTS[1], 1)):
        model = property_model(learned)
        assert np.allclose(value(model, two), factor * value(model, ethanol()), rtol=1e-10)


@pytest.mark.parametrize("charge", [0.0, -1.0])
def test_charges_add_up_and_shifting_an_ion_follows_its_center_of_mass(charge):
    model, atoms = property_model(DIPOLE), ethanol()
    graph = atoms_to_graph(atoms, model.cutoff)
    answer = model(graph, charge=torch.tensor([charge], dtype=torch.float64))
    charges = answer.atoms.numpy()
    assert np.isclose(charges.sum(), charge, atol=1e-12)
    # By hand: charges about the center of mass, and what the atomic dipoles add
    arms = atoms.positions - atoms.get_center_of_mass()
    vectors = 0.7 * model.model(graph).dipole.sum(dim=0).detach().numpy()
    assert np.allclose(answer.value[0].numpy(), charges @ arms + vectors, atol=1e-10)


def test_norm_is_the_length_of_the_vector_in_debye():
    network_ = network()
    vector = value(PropertyModel(network_, DIPOLE, scale=0.7), ethanol())
    length = value(PropertyModel(network_, NORM, scale=0.7), ethanol())
    assert np.isclose(length[0], np.linalg.norm(vector) / DEBYE, rtol=1e-12)
    assert np.isclose(DEBYE, Debye, rtol=1e-6)  # ASE's, of CODATA 2014


def test_dipole_is_smooth_at_the_cutoff():
    model = property_model(DIPOLE)
    dimers = [Atoms("OH", [[0, 0, 0], [0, 0, r]]) for r in (4.0 - 1e-4, 4.0 + 1e-4)]
    charges = [model(atoms_to_graph(a, 4.0)).atoms.numpy() for a in dimers]
    vectors = [model.model(atoms_to_graph(a, 4.0)).dipole.detach().numpy() for a in dimers]
    assert np.allclose(charges[0], charges[1], atol=1e-8) and np.allclose(vectors[0], 0, atol=1e-8)


def test_a_symmetric_molecule_has_a_gradient_without_nan():
    model = property_model(NORM)
    model.requires_grad_(True)
    answer = model(atoms_to_graph(molecule("CO2"), 4.0), training=True)
    assert answer.value.item() < 1e-12
    answer.value.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_wrong_input_is_refused():
    model = property_model(DIPOLE)
    with pytest.raises(InputError, match="periodic structure has no dipole"):
        model(atoms_to_graph(bulk("C"), 4.0))
    with pytest.raises(InputError, match="takes an AtomGraph"):
        model(ethanol())
    with pytest.raises(InputError, match="dipole has none"):
        PropertyModel(network(), DIPOLE, {1: 1.0, 6: 0.0, 8: 0.0})
    with pytest.raises(InputError, match="expected one of sum, mean"):
        Property("x", "max")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("mu", None, None, "D"), Property("mu", "dipole_norm", "D")),
        (("mu_D", None, None), Property("mu", "dipole_norm", "D")),
        (("mu", None, "eA"), Property("mu", "dipole_norm", "e·Å")),
        (("mu", "sum", None), Property("mu", "sum", "")),
        (("dipole", None, None), DIPOLE),
        (("gap_eV", "mean", None), Property("gap", "mean", "eV")),
        (("alpha", None, "a0³", ""), Property("alpha", "sum", "a0³")),
    ],
)
def test_names_and_units(arguments, expected):
    assert property_of(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("mu_D", None, "eA"), "mu is in D in the file, and not in eA"),
        (("x", "dipole", None), "unit of x is not known; a dipole is in e·Å, D, e·a0"),
    ],
)
def test_units_that_can_not_be(arguments, match):
    with pytest.raises(InputError, match=match):
        property_of(*arguments)


@pytest.mark.parametrize("learned", READOUTS, ids=lambda p: p.readout)
def test_a_file_brings_the_model_back(tmp_path, learned):
    model = property_model(learned)
    model.metadata = {"note": "a test"}
    model.save(tmp_path / "p.safetensors")
    loaded = mlip.load(tmp_path / "p.safetensors")
    assert isinstance(loaded, PropertyModel)
    assert (loaded.learned, loaded.shifts, loaded.scale, loaded.metadata) == (
        (learned, model.shifts, model.scale, model.metadata)
    )
    assert np.array_equal(value(loaded, ethanol()), value(model, ethanol()))
    for refuses in (load_potential, mlip.MLIPCalculator):
        with pytest.raises(ModelFileError, match=f"a model of {learned.name}.*no energies"):
            refuses(tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="has no heads"):
        mlip.load(tmp_path / "p.safetensors", head="x")


def test_a_file_of_the_first_format_is_read():
    """Written when the format was new: `property_model(NORM).save(...)`."""
    loaded = mlip.load(Path(__file__).parent / "fixtures" / "property_v1.safetensors")
    assert isinstance(loaded, PropertyModel) and loaded.learned == NORM
    assert np.isclose(value(loaded, molecule("CH3CH2OH"))[0], 17.872892240516755, rtol=1e-12)


def test_calculator_gives_dipole_moment_and_charges_in_ase_units():
    model, atoms = property_model(Property("dipole", "dipole", "D")), ethanol()
    atoms.calc = mlip.PropertyCalculator(model, device="cpu")
    expected = value(model, atoms)
    assert np.allclose(atoms.get_dipole_moment(), expected * DEBYE, rtol=1e-12)
    assert np.isclose(atoms.get_charges().sum(), 0, atol=1e-12)
    before = atoms.get_dipole_moment()
    atoms.rotate(90, "z")
    assert np.allclose(atoms.get_dipole_moment(), [-before[1], before[0], before[2]], atol=1e-10)
    with pytest.raises(PropertyNotImplementedError, match=r"no energy: this is a model of dipole / D, which gives"):
        atoms.get_potential_energy()


def test_calculator_gives_scalars_under_their_name_in_batches():
    model = property_model(NORM)
    calculator = mlip.PropertyCalculator(model, device="cpu")
    structures = [ethanol(), molecule("H2O"), molecule("H2O")]
    structures[2].info["charge"] = 1
    found = list(calculator.evaluate(structures, batch_size=2))
    for atoms, result in zip(structures, found, strict=True):
        assert np.isclose(result["mu"], value(model, atoms, atoms.info.get("charge", 0.0))[0], rtol=1e-9)
        assert np.isclose(calculator.get_property("mu", atoms), result["mu"], rtol=1e-9)
    assert "dipole" not in found[0] and not np.isclose(found[1]["mu"], found[2]["mu"])
    with pytest.raises(InputError, match="expected one number in e"):
        list(calculator.evaluate([Atoms("H", info={"charge": [1, 2]})]))


def test_calculators_take_their_own_kind_of_model(tmp_path):
    potential = Potential(network(vectors=False), dict.fromkeys(ELEMENTS, 0.0))
    potential.save(tmp_path / "e.safetensors")
    with pytest.raises(InputError, match="is a potential; mlip.MLIPCalculator takes it"):
        mlip.PropertyCalculator(tmp_path / "e.safetensors")
    with pytest.raises(InputError, match="not a potential"):
        mlip.MLIPCalculator(property_model(NORM))


def test_evaluation_needs_no_lightning(tmp_path: Path) -> None:
    """Which only training needs, and which the extra `train` brings."""
    model = property_model(Property("alpha"))
    model.save(tmp_path / "model.safetensors")
    atoms = ethanol()
    atoms.info["alpha"] = float(value(model, atoms)[0])
    write(tmp_path / "data.xyz", atoms)
    program = (
        "import sys; sys.modules['lightning'] = None\n"
        "from mlip.cli.main import main\n"
        "sys.exit(main(['evaluate', 'data.xyz', '--model', 'model.safetensors', '--plot', 'plot.png', '--json']))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(mlip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mae"] < 1e-6 and (tmp_path / "plot.png").stat().st_size > 1000
