"""What the reference models of all versions of mace-torch share: structures, random weights, the model file."""

import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances
from e3nn.util.codegen import CodeGenMixin

OUT = Path(__file__).parent.parent / "fixtures" / "mace_references"
TUNABLE = ("bessel_weights", "gaussian_weights", "prefactor", "a", "q", "alpha", "covalent_radii", "c", "a_exp")
TUNABLE += ("a_prefactor", "b")


def place(
    rng: np.random.Generator, numbers: list[int], cell: np.ndarray, pbc: list[bool], reach: float
) -> Atoms | None:
    """Atoms at random places that are not too close; None when that fails."""
    positions: list[np.ndarray] = []
    for i, z in enumerate(numbers):
        for _ in range(200):
            trial = rng.random(3) @ cell
            near = [get_distances(trial, p, cell, pbc)[1].item() for p in positions]
            limits = [min(0.78 * (covalent_radii[z] + covalent_radii[y]), 0.6 * reach) for y in numbers[:i]]
            if all(d > limit for d, limit in zip(near, limits, strict=True)):
                positions.append(trial)
                break
        else:
            return None
    outside = rng.integers(-1, 2, (len(numbers), 3)) * np.asarray(pbc)  # some atoms outside the cell
    return Atoms(numbers, np.round(np.array(positions) + outside @ cell, 5), cell=cell, pbc=pbc)


def structures(elements: list[int], r_max: float, seed: int) -> dict[str, Atoms]:
    """A crystal of a cell smaller than the cutoff, a slab or chain, a molecule, and sometimes a lone atom."""
    rng = np.random.default_rng(seed)
    kinds = {
        "crystal": (rng.integers(2, 5), [True, True, True]),
        "slab": (rng.integers(3, 6), [True, True, False]),
        "chain": (rng.integers(3, 6), [True, False, False]),
        "molecule": (rng.integers(3, 7), [False, False, False]),
    }
    kinds.pop(str(rng.choice(["slab", "chain"])))
    found = {}
    for kind, (count, pbc) in kinds.items():
        atoms = None
        size = 1.0
        while atoms is None:
            numbers = [elements[k % len(elements)] for k in rng.permutation(max(int(count), len(elements)))]
            volume = sum((1.5 * np.clip(covalent_radii[z], 0.7, 0.35 * r_max)) ** 3 for z in numbers) * size
            cell = volume ** (1 / 3) * (np.eye(3) + 0.18 * rng.standard_normal((3, 3)))
            atoms = place(rng, numbers, np.round(cell, 5), pbc, r_max)
            size *= 1.05
        if kind == "molecule":
            atoms.cell = None
        found[kind] = atoms
    if rng.random() < 0.5:
        found["atom"] = Atoms([elements[-1]], positions=[[0.1, 0.2, 0.3]])
    return found


def short(values: torch.Tensor) -> torch.Tensor:
    """Values rounded to 12 significant bits."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 4096) / 4096, exponent)


def randomize(model: torch.nn.Module) -> None:
    """All parameters and tunable buffers away from where mace starts them, so that no one of them can be ignored."""
    for name, p in model.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if not p.requires_grad:  # mace's EmptyParam: the weights of U matrices that are zero
            continue
        p.data.normal_()
        if ".contractions." in name:  # mace starts them at 1/n, which hides the high orders
            p.data /= p.shape[1] ** 0.5
        elif ".net." in name and p.dim() == 2:
            p.data /= p.shape[1] ** 0.5
        elif ".net." in name:  # biases, weights of the layer norms
            p.data = 0.3 * p.data + (last == "weight")
        elif last == "bias":
            p.data *= 0.3
        elif last in ("alpha", "beta"):
            p.data = {"alpha": 3.0, "beta": 0.7}[last] * (1 + 0.3 * torch.rand(()))
    for name, b in model.named_buffers():
        part = name.rsplit(".", 1)[-1]
        if part in TUNABLE or (part == "p" and "distance_transform" in name):
            b *= 1 + 0.05 * torch.rand(b.shape)


def calibrate(model: torch.nn.Module, batches: list, run: Callable[[Any], dict]) -> None:
    """Rescale weights until inputs of the radial networks, messages, features and forces are of order one.

    `run` evaluates the model for one of the batches.
    """
    if type(model.radial_embedding.bessel_fn).__name__ == "ChebychevBasis":  # grows as r^n without a distance transform
        basis = model.radial_embedding.bessel_fn(torch.linspace(1.0, float(model.r_max), 50)[:, None])
        size = basis.pow(2).mean(0).sqrt()[:, None]
        for interaction in model.interactions:
            for net in (getattr(interaction, part, None) for part in ("conv_tp_weights", "density_fn")):
                if hasattr(net, "net"):
                    net.net[0].weight.data[:, : len(size)] /= size.T
                elif net is not None:
                    net.layer0.weight.data /= size
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> object:
        return lambda _m, _i, out: seen.setdefault(name, []).append(out[0] if isinstance(out, tuple) else out)

    def rms(name: str) -> float:
        seen.clear()
        for batch in batches:
            run(batch)
        return torch.cat([t.flatten() for t in seen[name]]).pow(2).mean().sqrt().item()

    hooks = []
    for i, (interaction, product) in enumerate(zip(model.interactions, model.products, strict=True)):
        hooks += [
            interaction.register_forward_hook(watch(f"m{i}")),
            product.linear.register_forward_hook(watch(f"p{i}")),
        ]
        last = interaction.linear_2 if hasattr(interaction, "linear_2") else interaction.linear
        last.weight.data /= rms(f"m{i}")
        product.linear.weight.data /= rms(f"p{i}")
    for hook in hooks:
        hook.remove()
    largest = max(run(batch)["forces"].abs().max().item() for batch in batches)
    for readout in model.readouts:
        end = readout.linear_2 if hasattr(readout, "linear_2") else readout.linear
        end.weight.data *= 3.0 / largest
    for p in model.parameters():
        p.data = short(p.data)
    for name, b in model.named_buffers():
        if name.rsplit(".", 1)[-1] in (*TUNABLE, "p", "scale", "shift", "atomic_energies") and b.is_floating_point():
            b.copy_(short(b))


def write_model(path: Path, model: torch.nn.Module) -> None:
    """What torch.save writes, without the TorchScript of e3nn, compressed."""
    original = CodeGenMixin.__getstate__

    def without_code(self: CodeGenMixin) -> dict:
        state = original(self)
        return state | {"__codegen__": {name: b"left out" for name in state.get("__codegen__", {})}}

    CodeGenMixin.__getstate__ = without_code
    try:
        buffer = io.BytesIO()
        torch.save(model, buffer)
    finally:
        CodeGenMixin.__getstate__ = original
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 3, "pb": 3}]
    path.write_bytes(lzma.compress(buffer.getvalue(), filters=filters))
