"""Records of torch and e3nn modules: children, tensors, irreps and weights by name."""

from __future__ import annotations

import math
from typing import Any

import torch
from e3nn import o3
from torch import Tensor

from mlip.errors import ModelFileError
from mlip.importers.torch_archive import Record

MulIr = tuple[int, o3.Irrep]


class ForeignModule:
    """An `nn.Module` of another program, as its record shows it.

    Attributes:
        name: where it is in the model, such as "interactions.0.linear_up".
        kind: name of its class, without the module.
    """

    def __init__(self, record: Any, name: str = "") -> None:
        state = record.state if isinstance(record, Record) else None
        parts = ("_modules", "_parameters", "_buffers")
        if not isinstance(state, dict) or not all(isinstance(state.get(part), dict) for part in parts):
            raise ModelFileError(f"{name or 'the archive'}: expected a torch module, found {_describe(record)}")
        self.name, self.kind, self._state = name, record.kind.rpartition(".")[2], state

    def __contains__(self, name: str) -> bool:
        return any(self._state[part].get(name) is not None for part in ("_modules", "_parameters", "_buffers"))

    def child(self, name: str) -> ForeignModule:
        if self._state["_modules"].get(name) is None:
            raise ModelFileError(f"{self.name or self.kind} has no part {name!r}")
        return ForeignModule(self._state["_modules"][name], f"{self.name}.{name}".lstrip("."))

    def expect_children(self, *known: str) -> None:
        """Refuse parts that were not thought of: they might change the energy."""
        unknown = [name for name, record in self._state["_modules"].items() if record is not None and name not in known]
        if unknown:
            raise ModelFileError(f"{self.name or self.kind} has parts that mlip does not know: {', '.join(unknown)}")

    def children(self) -> list[ForeignModule]:
        return [self.child(name) for name, record in self._state["_modules"].items() if record is not None]

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer."""
        for part in ("_parameters", "_buffers"):
            tensor = self._state[part].get(name)
            if isinstance(tensor, Tensor):
                return tensor
        raise ModelFileError(f"{self.name or self.kind} has no tensor {name!r}")

    def tensors(self) -> dict[str, Tensor]:
        """Its own parameters and buffers, without those of its children."""
        both = {**self._state["_parameters"], **self._state["_buffers"]}
        return {name: tensor for name, tensor in both.items() if isinstance(tensor, Tensor)}

    def count(self) -> int:
        """Numbers in its own tensors and those of all modules below, each tensor once."""
        found: dict[int, int] = {}
        stack, seen = [self._state], set()
        while stack:
            state = stack.pop()
            if id(state) in seen:
                continue
            seen.add(id(state))
            for part in ("_parameters", "_buffers"):
                tensors = [t for t in state.get(part, {}).values() if isinstance(t, Tensor)]
                found.update((t.data_ptr(), max(t.numel(), found.get(t.data_ptr(), 0))) for t in tensors)
            records = state.get("_modules", {}).values()
            stack += [r.state for r in records if isinstance(r, Record) and isinstance(r.state, dict)]
        return sum(found.values())

    def get(self, name: str, default: Any = None) -> Any:
        """A plain attribute."""
        return self._state.get(name, default)

    def plain(self, name: str) -> Any:
        """A buffer, or the attribute that early models have in its place."""
        return self.tensor(name) if name in self else self.get(name)

    def irreps(self, name: str) -> list[MulIr]:
        """An attribute that holds irreps."""
        if name not in self._state:
            raise ModelFileError(f"{self.name or self.kind} has no irreps {name!r}")
        return irreps(self._state[name])


def _describe(value: Any) -> str:
    return value.kind if isinstance(value, Record) else type(value).__name__


def irreps(value: Any) -> list[MulIr]:
    """Irreps written as text or as e3nn's objects, with multiplicities."""
    try:
        if isinstance(value, str):
            return [(mul, ir) for mul, ir in o3.Irreps(value)]
        (entries,) = value.args
        pairs = [entry.args[0] for entry in entries]
        return [(int(mul), o3.Irrep(*map(int, ir.args[0]))) for mul, ir in pairs]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise ModelFileError(f"expected irreps, found {_describe(value)} ({error})") from error


def linear(module: ForeignModule, biased: bool = False) -> dict[o3.Irrep, Tensor]:
    """Matrices (fan_in, fan_out) of an e3nn `Linear`, with biases or not, for the irreps it has on both sides.

    e3nn stores one flat weight, a block per pair of equal irreps, inputs in the outer loop, and scales each by
    1/sqrt(fan_in), where the fan-in counts all inputs of an irrep.
    """
    if module.kind != "Linear":
        raise ModelFileError(f"{module.name} is a {module.kind}; expected a Linear of e3nn")
    if biased != bool("bias" in module and module.tensor("bias").numel()):
        raise ModelFileError(f"{module.name}: expected {'biases' if biased else 'no biases'}")
    inputs, outputs = module.irreps("irreps_in"), module.irreps("irreps_out")
    flat, start = module.tensor("weight").flatten(), 0
    blocks: dict[o3.Irrep, list[Tensor]] = {}
    for mul_in, ir in inputs:
        for mul_out in (mul for mul, out in outputs if out == ir):
            blocks.setdefault(ir, []).append(flat[start : start + mul_in * mul_out].view(mul_in, mul_out))
            start += mul_in * mul_out
    repeated = {ir for ir in blocks if sum(out == ir for _, out in outputs) > 1}
    fan_in = {ir: sum(mul for mul, other in inputs if other == ir) for ir in blocks}
    for i_in, _, _, scale in (instruction.args for instruction in module.get("instructions") or []):
        if i_in >= 0 and not math.isclose(scale, fan_in[inputs[i_in][1]] ** -0.5, rel_tol=1e-6):  # -1 is the bias
            raise ModelFileError(f"{module.name}: weights are scaled by {scale}, expected 1/sqrt(fan-in)")
    if repeated or start != flat.numel():
        raise ModelFileError(f"{module.name}: {flat.numel()} weights do not fit its irreps")
    return {ir: torch.cat(parts) for ir, parts in blocks.items()}


def element_linear(module: ForeignModule, elements: Tensor) -> dict[o3.Irrep, Tensor]:
    """Matrices (elements, fan_in, fan_out) of a `FullyConnectedTensorProduct` with one scalar per element.

    `elements` (Z,) are the positions of the elements in the file in the order wanted.
    """
    if module.kind != "FullyConnectedTensorProduct":
        raise ModelFileError(f"{module.name} is a {module.kind}; expected a FullyConnectedTensorProduct of e3nn")
    inputs, outputs = module.irreps("irreps_in1"), dict((ir, mul) for mul, ir in module.irreps("irreps_out"))
    flat, start, blocks = module.tensor("weight").flatten(), 0, {}
    for mul_in, ir in inputs:
        if ir not in outputs:
            continue
        shape = (mul_in, len(elements), outputs[ir])
        size = math.prod(shape)
        if ir in blocks or start + size > flat.numel():
            raise ModelFileError(f"{module.name}: {flat.numel()} weights do not fit its irreps")
        blocks[ir] = flat[start : start + size].view(shape).transpose(0, 1)[elements]
        start += size
    if start != flat.numel():
        raise ModelFileError(f"{module.name}: {flat.numel()} weights do not fit its irreps")
    return blocks
