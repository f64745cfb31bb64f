"""Potentials of n2p2: a folder with `input.nn`, `scaling.data` and a `weights.ZZZ.data` for each element.

Units are not in the files: n2p2 takes the numbers as they are. Its examples, and most potentials, have Bohr and
Hartree.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from mlip.errors import ModelFileError
from mlip.importers.n2p2_settings import (
    FUNCTION,
    Line,
    Settings,
    order_key,
    read_scaling,
    read_weights,
    symmetry_function,
)
from mlip.models.hdnnp import ACTIVATIONS, HDNNP
from mlip.nn.symmetry_functions import CUTOFFS, WITHOUT_INNER
from mlip.potential import Potential
from mlip.units import BOHR, HARTREE

#: n2p2's letters of activation functions.
LETTERS = dict(zip("ltsprgcSeh", ACTIVATIONS, strict=True))
#: Keywords of RuNNer that change energies and are not known to n2p2 or not of the second generation.
REFUSED = (
    *("use_electrostatics", "electrostatic_type", "use_vdw", "cutoff_alpha"),
    *("global_symfunction_short", "element_symfunction_short"),
)


class Topology(NamedTuple):
    """A network's hidden layers and the activations of these and of the output."""

    hidden: list[int]
    activations: list[str]


def load_n2p2(folder: str | PathLike[str], length: float = BOHR, energy: float = HARTREE) -> Potential:
    """The potential in a folder of n2p2's, in float64.

    Args:
        folder: with `input.nn`, `scaling.data` and `weights.ZZZ.data`.
        length: unit of length of the files in Å.
        energy: unit of energy of the files in eV.

    Raises:
        ModelFileError: a missing, malformed or incomplete file, or a kind of potential that is not supported.
    """
    folder = Path(folder)
    settings = Settings(folder / "input.nn")
    _refuse_others(settings)
    elements = _elements(settings)
    functions = [symmetry_function(line, length) for line in settings.all(FUNCTION)]
    for line, function in zip(settings.all(FUNCTION), functions, strict=True):
        if not {function.center, *function.neighbors} <= set(elements):
            raise line.error("it names an element that is not among the elements of the potential")
    by_element = [sorted((f for f in functions if f.center == z), key=order_key) for z in elements]
    name, inner = _cutoff(settings)
    topologies = {chemical_symbols[z]: _topology(settings, z) for z in elements}
    if not functions:
        raise ModelFileError(f"{settings.path}: no {FUNCTION}; expected some for each element")
    model = HDNNP(
        elements,
        max(f.cutoff for f in functions),
        [f for own in by_element for f in own],
        hidden={symbol: t.hidden for symbol, t in topologies.items()},
        activations={symbol: t.activations for symbol, t in topologies.items()},
        cutoff_function=name,
        inner_cutoff=inner,
        normalized="normalize_nodes" in settings,
    ).to(torch.float64)
    ranges = read_scaling(folder / "scaling.data", [len(own) for own in by_element])
    for k, z in enumerate(elements):
        path = folder / f"weights.{z:03d}.data"
        sizes = [len(by_element[k]), *topologies[chemical_symbols[z]].hidden, 1]
        weights, biases = read_weights(path, sizes)
        network = model.networks[k]
        state = {f"weights.{n}": torch.from_numpy(w) for n, w in enumerate(weights)}
        network.load_state_dict(state | {f"biases.{n}": torch.from_numpy(b) for n, b in enumerate(biases)})
        for buffer, value in _scaling(settings, ranges[k]).items():
            model.of_element(buffer, k).copy_(value)
    E0s, scale = _energies(settings, elements, energy)
    return Potential(model, E0s, scale, metadata={"source": "n2p2"}).requires_grad_(False)


def _refuse_others(settings: Settings) -> None:
    for keyword in REFUSED:
        if keyword in settings:
            raise settings.all(keyword)[0].error(f"{keyword} is not supported: n2p2, which we follow, does not know it")
    for line in settings.all("nnp_type"):
        if line.words[1:2] not in (["2"], ["2G-HDNNP"]):
            raise line.error("only potentials of the second generation are supported")


def _elements(settings: Settings) -> list[int]:
    line = settings.one("elements")
    found = sorted({line.element_at(k) for k in range(1, len(line.words))})
    count = settings.one("number_of_elements").integer_at(1)
    if len(found) != count or not found:
        raise line.error(f"expected {count} different elements, as number_of_elements says")
    return found


def _cutoff(settings: Settings) -> tuple[str, float]:
    """Name of the cutoff function and where it begins to fall."""
    line = settings.one("cutoff_type")
    kind = line.integer_at(1)
    names = list(CUTOFFS)
    if not 0 <= kind < len(names):
        raise line.error(f"expected a type from 0 to {len(names) - 1}")
    inner = line.number_at(2) if len(line.words) > 2 else 0.0
    if not 0 <= inner < 1:
        raise line.error("expected an inner cutoff from 0 to below 1")
    return names[kind], 0.0 if names[kind] in WITHOUT_INNER else inner


def _topology(settings: Settings, z: int) -> Topology:
    """The network of an element as n2p2 makes it: what is set for all elements, then what is set for this one.

    Of the latter n2p2 leaves out the size of the last hidden layer and the activation of the output.
    """
    symbol = chemical_symbols[z]
    layers = _own(settings, "hidden_layers", symbol) or settings.one("global_hidden_layers_short")
    count = layers.integer_at(len(layers.words) - 1)
    if not 0 <= count <= 100:
        raise layers.error("expected a number of hidden layers")
    nodes = _listed(settings, "nodes", symbol, count)
    letters = _listed(settings, "activation", symbol, count + 1)
    hidden = [int(word) for word in nodes if word.isdigit() and int(word) > 0]
    if len(hidden) < count:
        raise ModelFileError(f"{settings.path}: expected the sizes of {count} hidden layers for {symbol}")
    if len(letters) < count + 1 or any(letter not in LETTERS for letter in letters):
        raise ModelFileError(
            f"{settings.path}: expected {count + 1} activation functions for {symbol} ({count} hidden layers and the "
            f"output), each one of {' '.join(LETTERS)}"
        )
    return Topology(hidden, [LETTERS[letter] for letter in letters])


def _own(settings: Settings, keyword: str, symbol: str) -> Line | None:
    """The line of a keyword that is for this element alone."""
    lines = [line for line in settings.all(f"element_{keyword}_short") if line.words[1:2] == [symbol]]
    if len(lines) > 1:
        raise lines[1].error(f"{symbol} has one in line {lines[0].number} already")
    return lines[0] if lines else None


def _listed(settings: Settings, keyword: str, symbol: str, count: int) -> list[str]:
    """What is set for `count` layers, one word each; none if nothing is."""
    own, words = _own(settings, keyword, symbol), []
    if f"global_{keyword}_short" in settings:
        line = settings.one(f"global_{keyword}_short")
        if len(line.words) - 1 == count:
            words = line.words[1:]
        elif own is None and not settings.all("element_hidden_layers_short"):
            raise line.error(f"expected {count} of them")
    if own is None:
        return words
    if len(own.words) - 2 != count:
        raise own.error(f"expected {count} of them behind the element")
    return own.words[2:-1] + words[-1:] if words else own.words[2:]


def _scaling(settings: Settings, ranges: NDArray[np.float64]) -> dict[str, Tensor]:
    """The buffers of `HDNNP` from smallest, largest, mean and standard deviation (K, 4)."""
    lowest, highest, mean, sigma = ranges.T
    scaled, centered = "scale_symmetry_functions" in settings, "center_symmetry_functions" in settings
    by_sigma = not scaled and not centered and "scale_symmetry_functions_sigma" in settings
    least, most = settings.number("scale_min_short", 0.0), settings.number("scale_max_short", 1.0)
    width = sigma if by_sigma else highest - lowest
    if by_sigma and np.isnan(sigma).any():
        raise ModelFileError("scaling.data has no standard deviations, which scale_symmetry_functions_sigma needs")
    if (scaled or by_sigma) and most == least:
        raise ModelFileError(f"{settings.path}: scale_min_short equals scale_max_short: all atoms would be the same")
    if (scaled or by_sigma) and not (width > 0).all():
        raise ModelFileError(
            f"symmetry function {int(np.argmin(width > 0)) + 1} of scaling.data is the same everywhere: it can't be "
            "scaled; the training set is too small, or the function reaches no neighbor"
        )
    offset = mean if centered or by_sigma else lowest if scaled else np.zeros_like(mean)
    factor = (most - least) / width if scaled or by_sigma else np.ones_like(mean)
    base = np.full_like(mean, least if scaled or by_sigma else 0.0)
    named = {"offset": offset, "factor": factor, "base": base, "lowest": lowest, "highest": highest}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in named.items()}


def _energies(settings: Settings, elements: list[int], energy: float) -> tuple[dict[int, float], float]:
    """E0s in eV, and the factor of the networks' energies."""
    keywords = ("mean_energy", "conv_energy", "conv_length")
    given = [keyword for keyword in keywords if keyword in settings]
    if given and len(given) < len(keywords):
        raise ModelFileError(f"{settings.path}: expected all of {', '.join(keywords)} or none of them")
    mean, conversion = settings.number("mean_energy", 0.0), settings.number("conv_energy", 1.0)
    if conversion == 0:
        raise settings.one("conv_energy").error("expected a number other than zero")
    E0s = dict.fromkeys(elements, mean * energy)
    for line in settings.all("atom_energy"):
        z = line.element_at(1)
        if z not in E0s:
            raise line.error("it names an element that is not among the elements of the potential")
        E0s[z] = (mean + line.number_at(2)) * energy
    return E0s, energy / conversion
