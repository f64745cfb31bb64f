"""A potential of kind HDNNP as a folder of n2p2's files, for its programs and for `pair_style hdnnp` of LAMMPS."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

import mlip
from mlip.checkpoint import write_atomically
from mlip.errors import InputError
from mlip.importers.n2p2 import LETTERS
from mlip.importers.n2p2_settings import FUNCTION, order_key
from mlip.models.hdnnp import HDNNP
from mlip.nn.symmetry_functions import CUTOFFS, KINDS, RADIAL, SymmetryFunction
from mlip.potential import Potential
from mlip.units import BOHR, HARTREE


def save_n2p2(potential: Potential, folder: str | PathLike[str], length: float = BOHR, energy: float = HARTREE) -> None:
    """Write `input.nn`, `scaling.data` and `weights.ZZZ.data` into `folder`, which is made.

    Scale, shift and units go into the last layer and the atoms' energies; every scaling is written as n2p2's by sigma.

    Args:
        potential: of kind HDNNP.
        folder: where to.
        length: unit of length of the files in Å.
        energy: unit of energy of the files in eV.

    Raises:
        InputError: another kind of potential, or networks that n2p2's files can't say.
        OSError: the folder can't be written.
    """
    model = potential.model
    if not isinstance(model, HDNNP):
        raise InputError(
            f"only potentials of kind HDNNP can be written as a folder of n2p2; this is {type(model).__name__}, "
            "for a file that ends in .safetensors"
        )
    scale = float(potential.energy_scale.scale) / energy
    symbols = [chemical_symbols[z] for z in model.elements]
    offsets = [(float(E0) + float(potential.energy_scale.shift)) / energy for E0 in potential.energy_scale.E0s]
    functions = [SymmetryFunction.of(given) for given in model.hyperparameters["symmetry_functions"]]
    lines = [
        f"# written by mlip {mlip.__version__}",
        f"number_of_elements {len(symbols)}",
        f"elements {' '.join(symbols)}",
        *(f"atom_energy {symbol} {_text(offset)}" for symbol, offset in zip(symbols, offsets, strict=True)),
        *_of_networks(model, symbols),
    ]
    folder, scaling = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for k, z in enumerate(model.elements):
        own = [function for function in functions if function.center == z]
        order = sorted(range(len(own)), key=lambda place: order_key(own[place]))
        lines += [_line(own[place], length) for place in order]
        offset, factor, base, lowest, highest = (
            _array(model.of_element(name, k))[order] for name in ("offset", "factor", "base", "lowest", "highest")
        )
        rows = np.stack([lowest, highest, offset - base / factor, 1 / factor], axis=1)
        scaling += [f"{k + 1} {n + 1} " + " ".join(map(_text, row)) for n, row in enumerate(rows)]
        write_atomically(folder / f"weights.{z:03d}.data", _weights(model, k, order, scale).encode())
    write_atomically(folder / "scaling.data", ("\n".join(scaling) + "\n").encode())
    write_atomically(folder / "input.nn", ("\n".join(lines) + "\n").encode())


def _of_networks(model: HDNNP, symbols: Sequence[str]) -> list[str]:
    """The lines of cutoff, scaling, layers and activations."""
    given = model.hyperparameters
    letters = {name: letter for letter, name in LETTERS.items()}
    networks = [model.network(k) for k in range(len(symbols))]
    sizes = [[weight.shape[1] for weight in network.weights][:-1] for network in networks]
    kinds = [network.activations for network in networks]
    if any(activations[-1] != "identity" for activations in kinds) or given["normalized"]:
        raise InputError("n2p2's files can't hold the scale of networks whose output is not linear, or is normalized")
    if len({len(own) for own in sizes}) > 1 or len({own[-1] for own in sizes if own}) > 1:
        raise InputError("n2p2 knows one number of hidden layers and one size of the last of them, for all elements")
    lines = [f"cutoff_type {list(CUTOFFS).index(given['cutoff_function'])} {_text(given['inner_cutoff'])}"]
    lines += ["scale_symmetry_functions_sigma", "scale_min_short 0", "scale_max_short 1"]
    lines += [f"global_hidden_layers_short {len(sizes[0])}"]
    if sizes[0]:
        lines.append(f"global_nodes_short {' '.join(map(str, sizes[0]))}")
    lines.append(f"global_activation_short {' '.join(letters[name] for name in kinds[0])}")
    for symbol, own, activations in zip(symbols, sizes, kinds, strict=True):
        if own != sizes[0]:
            lines.append(f"element_nodes_short {symbol} {' '.join(map(str, own))}")
        if activations != kinds[0]:
            lines.append(f"element_activation_short {symbol} {' '.join(letters[name] for name in activations)}")
    return lines


def _line(function: SymmetryFunction, length: float) -> str:
    """The line of a symmetry function."""
    kind = KINDS[function.kind]
    cutoff, shift, lowest = (value / length for value in (function.cutoff, function.shift, function.lowest))
    eta = function.eta * length**2
    if kind.compact:
        numbers = [lowest, cutoff, *(function.angles if kind.shape != RADIAL else ())]
    elif kind.shape == RADIAL:
        numbers = [eta, shift, cutoff]
    elif kind.weighted:
        numbers = [eta, shift, function.lam, function.zeta, cutoff]
    else:
        numbers = [eta, function.lam, function.zeta, cutoff, shift]
    words = [FUNCTION, chemical_symbols[function.center], str(function.kind)]
    words += [chemical_symbols[z] for z in function.neighbors] + [_text(number) for number in numbers]
    return " ".join([*words, function.core] if kind.compact else words)


def _weights(model: HDNNP, k: int, order: Sequence[int], scale: float) -> str:
    """Text of the weights of the k-th element, its inputs in this order, its output times `scale`."""
    network = model.network(k)
    arrays = [(_array(w), _array(b)) for w, b in zip(network.weights, network.biases, strict=True)]
    arrays[0] = arrays[0][0][list(order)], arrays[0][1]
    arrays[-1] = arrays[-1][0] * scale, arrays[-1][1] * scale
    lines = [
        "# value, a (weight) or b (bias), number, layer and node it begins at (b: ends at), layer and node it ends at"
    ]
    index = 0
    for layer, (weight, bias) in enumerate(arrays):
        for (i, j), value in np.ndenumerate(weight):
            index += 1
            lines.append(f"{_text(value)} a {index} {layer} {i + 1} {layer + 1} {j + 1}")
        for j, value in enumerate(bias):
            index += 1
            lines.append(f"{_text(value)} b {index} {layer + 1} {j + 1}")
    return "\n".join(lines) + "\n"


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _text(number: float) -> str:
    return f"{float(number):.17g}"
