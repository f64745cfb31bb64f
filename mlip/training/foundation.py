"""The foundation model of a run that fine-tunes one: read, checked against the options, made the start of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from mlip.checkpoint import DTYPES
from mlip.data.batches import batches, make_samples
from mlip.data.labels import LabelledStructure
from mlip.data.reference_energies import ReferenceEnergies, least_squares
from mlip.energy_scale import Reference
from mlip.errors import DataError, InputError
from mlip.models.mace import MACE
from mlip.models.mace_layer import INTERACTIONS
from mlip.models.reshaped_mace import parts, reshaped
from mlip.nn.irreps import parse_irreps
from mlip.potential import Potential
from mlip.published import PUBLISHED, find
from mlip.training.config import TrainingConfig
from mlip.training.hashes import file_hash
from mlip.training.lora import LowRank
from mlip.zoo import load_potential, model_path

#: Names of the heads of a model that is fine-tuned with replay data: mace's of the old one, and the new one.
REPLAY_HEAD, NEW_HEAD = "pt_head", "default"


@dataclass(frozen=True)
class Foundation:
    """A foundation model, which stays as it is, with the head that is fine-tuned chosen."""

    potential: Potential
    name: str
    sha256: str

    @property
    def reference(self) -> Reference:
        """E0s, scale and shift of its head."""
        return self.potential.energy_scale.references()[self.potential.energy_scale.head]

    @property
    def model(self) -> MACE:
        assert isinstance(self.potential.model, MACE)
        return self.potential.model

    def provenance(self) -> dict[str, Any]:
        """What a file of weights says of where it comes from."""
        metadata = self.potential.metadata
        source = metadata.get("source") or metadata.get("command")
        found = {"name": self.name, "sha256": self.sha256, "head": self.potential.head, "source": source}
        return found if self.license is None else found | {"license": self.license}

    @property
    def license(self) -> str | None:
        """Of a published model, or of one that was tuned from it; None if that is not known."""
        of_file = (m for m in PUBLISHED.values() if self.sha256 == m.sha256 or self.name == m.file_name)
        published = find(self.name) or next(of_file, None)
        if published is not None:
            return published.license.name
        name = self.potential.metadata.get("foundation", {}).get("license")
        return None if name is None else str(name)


def load_foundation(config: TrainingConfig) -> Foundation | None:
    """The foundation model of a run, if it has one.

    Raises:
        InputError: several heads and none chosen, no such head, a model that is no MACE, options that contradict it.
        ModelFileError: no such model.
    """
    if config.foundation_model is None:
        return None
    path = model_path(config.foundation_model)
    if path.is_dir():
        raise InputError(f"--foundation_model {path}: a folder of n2p2; expected a MACE")
    try:
        potential = load_potential(path, head=config.foundation_head)
    except InputError as error:
        raise InputError(f"--foundation_model {error} (--foundation_head)") from error
    if not isinstance(potential.model, MACE):
        raise InputError(f"--foundation_model {path.name}: a {type(potential.model).__name__}; expected a MACE")
    check_architecture(config, potential.model)
    return Foundation(potential, Path(config.foundation_model).name, file_hash(str(path)))


def check_architecture(config: TrainingConfig, model: MACE) -> None:
    """Refuse options that contradict the model; those that say what it is change nothing.

    Raises:
        InputError: naming the option.
    """
    is_of = model.hyperparameters
    irreps = is_of["hidden_irreps"]
    channels, names = parse_irreps(irreps if isinstance(irreps, str) else irreps[0])
    radial = [int(n) for n in is_of["radial_mlp"]]
    values: dict[str, Any] = {
        "r_max": model.cutoff,
        "radial_type": is_of["radial_basis"],
        "num_radial_basis": is_of["num_bessel"],
        "num_cutoff_basis": is_of["num_polynomial_cutoff"],
        "distance_transform": is_of["distance_transform"] or "None",
        "pair_repulsion": is_of["pair_repulsion"],
        "num_channels": channels,
        "max_L": max(ir.l for ir in names),
        "max_ell": is_of["l_max"],
        "correlation": is_of["correlation"],
        "num_interactions": is_of["num_interactions"],
        "interaction": INTERACTIONS[is_of["interaction"]],
        "interaction_first": INTERACTIONS[is_of["interaction_first"]],
        "MLP_irreps": is_of["mlp_irreps"],
        "gate": is_of["gate"],
        "radial_MLP": radial,
        "avg_num_neighbors": is_of["avg_num_neighbors"],
    }
    defaults = {name: field.default for name, field in type(config).__dataclass_fields__.items()}
    for name, value in values.items():
        given = getattr(config, name)
        if given != defaults[name] and given != value:
            raise InputError(
                f"--{name} {given}: the foundation model has {value}, which its weights are of; leave it out"
            )
    if config.hidden_irreps is not None and parse_irreps(config.hidden_irreps) != (channels, names):
        has = " + ".join(f"{channels}x{name}" for name in names)
        raise InputError(
            f"--hidden_irreps {config.hidden_irreps!r}: the foundation model has {has}, which its weights are of; "
            "leave it out"
        )


def check_known(foundation: Foundation, structures: Sequence[LabelledStructure], source: str) -> None:
    """Raise `InputError` for a structure with an element that the foundation model does not know."""
    known = set(foundation.potential.elements)
    for structure in structures:
        unknown = sorted({int(z) for z in structure.atoms.numbers} - known)
        if unknown:
            symbols = ", ".join(chemical_symbols[z] for z in unknown)
            raise InputError(
                f"structure {structure.index} of {source} holds {symbols}, which the foundation model "
                f"{foundation.name} does not know; leave it out, or choose a model that does"
            )


def energies_of(potential: Potential, structures: Sequence[LabelledStructure]) -> np.ndarray:
    """What a potential says (n,), in eV."""
    samples = make_samples(structures, potential.cutoff)
    with torch.no_grad():
        found = [
            potential(batch.graph.to(potential.device), forces=False, stress=False).energy
            for batch in batches(samples, 10)
        ]
    return torch.cat(found).cpu().numpy()


def estimated_energies(foundation: Foundation, structures: Sequence[LabelledStructure]) -> ReferenceEnergies:
    """E0s of the foundation model, shifted by what brings its energies closest to the labels.

    The shifts are the least-squares solution over the compositions, of smallest norm where these do not determine it,
    as mace-torch has it.

    Args:
        foundation: the model, which is evaluated as it is.
        structures: that train, without isolated atoms.

    Raises:
        DataError: no energies to compare with, or none of some element.
    """
    elements = sorted({int(z) for s in structures for z in s.atoms.numbers})
    known = [s for s in structures if s.label_weight("energy") > 0]
    unseen = sorted(set(elements) - {int(z) for s in known for z in s.atoms.numbers})
    if not known or unseen:
        of = f" with {', '.join(chemical_symbols[z] for z in unseen)}" if known else ""
        raise DataError(f"--E0s estimated: no training structure{of} has an energy; take --E0s foundation")
    missed = np.array([s.energy for s in known]) - energies_of(foundation.potential, known)
    shifts, rank = least_squares(known, missed, elements)
    origin = f"those of {foundation.name}, shifted by least squares over {len(known)} energies"
    if rank < len(elements):
        origin += f" (the compositions fix only {rank} of {len(elements)} shifts: the solution of smallest norm)"
    own = foundation.reference.E0s
    return ReferenceEnergies({z: own[z] + shifts[z] for z in elements}, origin)


def foundation_energies(foundation: Foundation, structures: Sequence[LabelledStructure]) -> ReferenceEnergies:
    """E0s of the foundation model for the elements of the structures."""
    elements = sorted({int(z) for s in structures for z in s.atoms.numbers})
    return ReferenceEnergies({z: foundation.reference.E0s[z] for z in elements}, f"those of {foundation.name}")


def start_of_fine_tuning(config: TrainingConfig, foundation: Foundation, E0s: Mapping[int, float]) -> Potential:
    """The potential that is trained: the foundation model for the elements of `E0s`, with what trains set to.

    Scale and shift are the foundation model's. With replay data there are two heads that begin alike; the new one is
    in use.

    Args:
        config: of the run.
        foundation: the model, which stays as it is.
        E0s: of the new head, of all elements that the result is to know.
    """
    torch.manual_seed(config.seed)  # as all builders do: the state of the generator is part of a run
    heads = (REPLAY_HEAD, NEW_HEAD) if config.multiheads_finetuning else (NEW_HEAD,)
    own = foundation.reference
    references = [own._replace(E0s={z: own.E0s[z] for z in E0s})] * (len(heads) - 1) + [own._replace(E0s=E0s)]
    base = reshaped(foundation.model, list(E0s), heads, foundation.potential.energy_scale.head)
    base = base.to(DTYPES[config.default_dtype]).requires_grad_(True)
    model = LowRank(base, config.lora_rank, config.lora_alpha, config.seed) if config.lora else base
    _freeze(config.freeze or 0, base)
    return Potential(model, references=references, head=NEW_HEAD)


def _freeze(count: int, model: MACE) -> None:
    """Take the first parts of the network out of training, numbered as in mace: 5 are the interactions."""
    frozen = [name for name, last in (("embedding", 1), ("interactions", 5), ("products", 6)) if count >= last]
    for name in frozen:
        for parameter in parts(model)[name]:
            parameter.requires_grad_(False)
