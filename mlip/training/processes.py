"""Several processes that train one model: each takes its share of every batch, and all take the same steps.

`torchrun`, SLURM's `srun` or `mlip train --processes N` start them. Gradients are those of the whole batch, up to
rounding whatever the number of processes; then every process takes the same step by itself, bit for bit. Only the first
one writes and reports.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlip.data.loading import Share
from mlip.errors import InputError, MLIPError
from mlip.training.sums import Fraction

T = TypeVar("T")
#: How long processes wait for all to be there, and then for each other: the first one may write for long. One that ends
#: is noticed at once, by the connections to it.
TO_MEET, TO_WAIT = timedelta(minutes=5), timedelta(days=7)
_ENDED = "mlip/ended"


@dataclass(frozen=True)
class Launched:
    """What the environment says of the processes that were started together."""

    rank: int
    count: int
    local_rank: int
    step: str = ""  # of a job, of which several may meet at one place

    def store(self) -> dist.Store:
        """Where they meet."""
        store, *_ = next(iter(dist.rendezvous("env://", self.rank, self.count, timeout=TO_MEET)))
        return dist.PrefixStore(f"mlip {self.step}", store)


class OthersEnded(MLIPError):
    """An error of another process, or one that all have: the first process tells of it."""


def launched(wanted: int | None = None) -> Launched | None:
    """The processes this one belongs to; None if it is alone.

    Args:
        wanted: number of processes (`--processes`); 1 keeps apart what was started together.

    Raises:
        InputError: an environment that is no one's.
    """
    environment = os.environ
    try:
        if wanted == 1 or environment.get("WORLD_SIZE") == "1":
            return None
        if "RANK" in environment and "WORLD_SIZE" in environment:  # torchrun, or mlip train --processes
            found = Launched(int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment["LOCAL_RANK"]))
        elif int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # srun; a batch job of several tasks is not enough
            found = _by_slurm(environment)
        else:
            return None
    except (KeyError, ValueError) as error:
        raise InputError(
            f"the environment says that several processes were started together, but not how ({error}); start them "
            "with torchrun, srun or mlip train --processes N, or unset RANK and WORLD_SIZE"
        ) from error
    if not 0 <= found.rank < found.count:
        raise InputError(f"RANK is {found.rank} of WORLD_SIZE {found.count}; expected less")
    return found if found.count > 1 else None


def _by_slurm(environment: MutableMapping[str, str]) -> Launched:
    """The tasks of a step; they meet at the first node of it, at a port of its own, unless MASTER_* say otherwise."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_NODELIST"]
    job, step = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_STEP_ID", 0))
    environment.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    environment.setdefault("MASTER_PORT", str(15_000 + (31 * job + step) % 10_000))
    rank, count, local = (int(environment[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
    return Launched(rank, count, local, f"{job}.{step}")


class Group:
    """The processes of a run; by default one, for which nothing is ever done.

    Attributes:
        rank: of this process, from 0.
        count: of processes.
    """

    def __init__(self, rank: int = 0, count: int = 1, store: dist.Store | None = None) -> None:
        self.rank, self.count, self._store = rank, count, store

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.count == 1

    @property
    def share(self) -> Share:
        return Share(self.rank, self.count)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in place; the same bits everywhere.

        Raises:
            MLIPError, KeyboardInterrupt: another process has ended.
        """
        if not self.is_alone:
            with self._together():
                dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all processes; one that is None everywhere, as of an absent element, stays so."""
        if self.is_alone:
            return
        trained = [p for p in parameters if p.requires_grad]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        there = torch.tensor([p.grad is not None for p in trained]).to(parts[0])
        flat = self.sum(torch.cat([there, *(part.reshape(-1) for part in parts)]))
        present, *sums = flat.split([len(trained), *(part.numel() for part in parts)])
        for parameter, n, summed in zip(trained, present.tolist(), sums, strict=True):
            parameter.grad = summed.view_as(parameter) if n else None

    def gathered(self, thing: T) -> list[T]:
        """What each process has, by rank; plain data. Errors as of `sum`."""
        if self.is_alone:
            return [thing]
        things: list[Any] = [None] * self.count
        with self._together():
            dist.all_gather_object(things, thing)
        return things

    def from_first(self, thing: T) -> T:
        """What the first process has. Errors as of `sum`."""
        if self.is_alone:
            return thing
        things = [thing]
        with self._together():
            dist.broadcast_object_list(things, src=0)
        return things[0]

    def check_same(self, what: Mapping[str, Any]) -> None:
        """Raise for what should be the same in all processes and is not, by its name.

        Raises:
            MLIPError: in all processes.
        """
        found = self.gathered(dict(what))
        for rank, theirs in enumerate(found):
            differing = [name for name in theirs if theirs[name] != found[0].get(name)]
            if differing:
                kind = MLIPError if self.is_first else OthersEnded
                raise kind(
                    f"process {rank} has another {', '.join(differing)} than process 0; give all processes the same "
                    "options, files and versions"
                )

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """An expected error in one process becomes one in all of them, at the end of the context."""
        error: Exception | None = None
        try:
            yield
        except (MLIPError, OSError) as found:
            if self.is_alone:
                raise
            error = found
        if self.is_alone:
            return
        try:
            told = self.gathered(None if error is None else f"{error}")
        except MLIPError:
            if error is not None:
                raise error from None
            raise
        first = next((rank for rank, text in enumerate(told) if text is not None), None)
        if first is not None:
            raise error if error is not None and first == self.rank else OthersEnded(f"process {first}: {told[first]}")

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._why(error) from error

    def _why(self, error: RuntimeError) -> BaseException:
        """Why another process is gone, as far as it could tell."""
        told: dict[str, Any] = {}
        with suppress(Exception):  # the store may have gone with the first process
            assert self._store is not None
            if self._store.check([_ENDED]):
                told = json.loads(self._store.get(_ENDED))
        if told.get("interrupted"):
            return KeyboardInterrupt()
        if told:
            return OthersEnded(f"process {told['rank']} of {self.count} ended: {told['why']}")
        return OthersEnded(
            f"another of the {self.count} processes ended without a word, as if killed; the last checkpoint is good, "
            f"and --restart_latest continues from it ({error})"
        )

    def ended_by(self, error: BaseException) -> None:
        """Tell the others why this process leaves; the first one to do so is heard."""
        if self._store is None:
            return
        why = f"{error}" or type(error).__name__
        told = {"rank": self.rank, "why": why, "interrupted": isinstance(error, KeyboardInterrupt)}
        with suppress(Exception):
            self._store.compare_set(_ENDED, "", json.dumps(told))


def digest(model: nn.Module) -> int:
    """Of the bits of all weights and constants."""
    found = 0
    for tensor in (*model.parameters(), *model.buffers()):
        found = zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes(), found)
    return found


def refuse_several(what: str, wanted: int | None) -> None:
    """Raise where several processes were started for what one does; `wanted` as of `launched`.

    Raises:
        InputError: naming `what`.
    """
    found = launched(wanted)
    if found is not None:
        raise InputError(f"{what} is done by one process; {found.count} were started together")


class _Whole(torch.autograd.Function):
    """The whole in place of a share, with the share's gradient; the same bits in all processes."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, whole: Tensor) -> Tensor:
        return whole.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def parts_of_all(
    group: Group, parts: Mapping[str, Fraction], counts: bool, *others: float
) -> tuple[dict[str, Fraction], list[float]]:
    """Parts of the loss of a whole batch, from those of this process's share.

    Their gradients are those of the share, so that gradients of the whole are sums over the processes.

    Args:
        group: the processes.
        parts: of the loss of the share.
        counts: False where the share is a stand-in for nothing.
        others: numbers to be summed on the way.
    """
    if group.is_alone:
        return dict(parts), list(others)
    own = [part.sum * float(counts) for part in parts.values()]
    numbers = [x.detach() for x in own] + [own[0].new_tensor([part.n * counts for part in parts.values()])]
    numbers.append(own[0].new_tensor(others))
    flat = torch.cat([x.reshape(-1) for x in numbers])
    # By the network of the processors, also with GPUs: there the end of a process is noticed at once.
    summed = group.sum(flat.cpu()).to(flat)
    sums, n, rest = summed.split([len(own), len(own), len(others)])
    found = {
        name: Fraction(_Whole.apply(x, whole), float(count))
        for name, x, whole, count in zip(parts, own, sums, n.tolist(), strict=True)
    }
    return found, rest.tolist()


@contextmanager
def process_group(device: str, wanted: int | None = None) -> Iterator[Group]:
    """The processes that were started together, until the end of the context; of one that was not, itself.

    Args:
        device: "cpu" or "cuda"; each process of a machine takes a GPU of its own.
        wanted: as of `launched`.

    Raises:
        MLIPError: they do not find each other.
        InputError: `torch.distributed` is in use already; fewer GPUs than processes.
    """
    found = launched(wanted)
    if found is None:
        yield Group()
        return
    if dist.is_initialized():
        raise InputError("torch.distributed is initialized already; a run of several processes does that itself")
    if device == "cuda":
        n = torch.cuda.device_count()
        if found.local_rank >= n > 1:
            raise InputError(f"process {found.local_rank} of this machine has no GPU of its own: there are {n}")
        torch.cuda.set_device(found.local_rank if n > 1 else 0)
    try:
        store = found.store()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=found.rank,
            world_size=found.count,
            timeout=TO_WAIT,
        )
    except (RuntimeError, ValueError) as error:
        raise MLIPError(f"the {found.count} processes did not find each other: {error}") from error
    group = Group(found.rank, found.count, store)
    try:
        yield group
    except BaseException as error:
        group.ended_by(error)
        raise
    finally:
        dist.destroy_process_group()
