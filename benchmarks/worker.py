"""One program under measurement, in a process and an environment of its own: mlip, or mace-torch's calculator.

    python benchmarks/worker.py mlip|mace

Reads requests from standard input, one JSON object a line, and answers each with one line on standard output. Only the
calls themselves are timed, here, so that neither the other programs nor the pipes count. `Client` is the other end.
This file must run where mlip is not installed, so it imports nothing of mlip's at its top.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

PROPERTIES = ["energy", "forces", "stress"]
PACKAGES = ("torch", "mace-torch", "e3nn", "ase", "numpy", "matscipy", "phonopy", "vesin")


class Client:
    """A worker process and the requests to it.

    Args:
        python: interpreter of its environment.
        program: "mlip" or "mace".
        environment: variables that it gets on top of ours.
        memory: bytes of address space it may have; an allocation beyond fails, and the request with it.
        threads: that it uses.
    """

    def __init__(
        self,
        python: str,
        program: str,
        environment: dict[str, str] | None = None,
        memory: int | None = None,
        threads: int = 1,
    ) -> None:
        root = Path(__file__).resolve().parent.parent
        variables = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
        variables |= {"MLIP_BENCHMARK_MEMORY": str(memory or 0)} | (environment or {})
        if program == "mlip":
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        else:  # our packages are not for the peer's environment
            variables.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, __file__, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )

    def ask(self, request: str, **arguments: Any) -> Any:
        """The answer to a request, a method of `Worker`.

        Raises:
            RuntimeError: the request failed, or the process is gone.
        """
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps({"request": request, **arguments}), file=self._process.stdin, flush=True)
            answer = json.loads(self._process.stdout.readline() or '{"error": "the process ended"}')
        except BrokenPipeError as error:
            raise RuntimeError("the process ended") from error
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


class Worker:
    """Answers requests; holds one calculator and one structure, and one model that is trained."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.calculator: Any = None
        self.atoms: Any = None
        self.trained: Any = None

    def versions(self) -> dict[str, str]:
        found = {}
        for name in PACKAGES:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return {"python": sys.version.split()[0], **found}

    def load(self, model: str, dtype: str, **options: Any) -> float:
        """Make the calculator of a model file; seconds taken."""
        self.calculator = None
        start = time.perf_counter()
        if self.program == "mace":
            import torch
            from mace.calculators import MACECalculator

            torch.set_default_dtype(getattr(torch, dtype))
            self.calculator = MACECalculator(model_paths=model, device="cpu", default_dtype=dtype)
        else:
            from mlip import MLIPCalculator

            self.calculator = MLIPCalculator(model, device="cpu", dtype=dtype, **options)
        return time.perf_counter() - start

    def structure(self, numbers: list[int], cell: list[list[float]], positions: list[list[float]]) -> None:
        """Take a periodic structure."""
        from ase import Atoms

        self.atoms = Atoms(numbers, positions=positions, cell=cell, pbc=True)

    def call(self, positions: list[list[list[float]]], results: bool = False) -> dict[str, Any]:
        """Energy, forces and stress at each of these positions in turn: seconds of each call, and the last results."""
        import numpy as np

        wall, processor = [], []
        for moved in positions:
            self.atoms.positions = np.array(moved)
            start, used = time.perf_counter(), time.process_time()
            self.calculator.calculate(self.atoms, PROPERTIES)
            wall.append(time.perf_counter() - start)
            processor.append(time.process_time() - used)
        found = self.calculator.results
        answer: dict[str, Any] = {"wall": wall, "processor": processor}
        if results:
            answer |= {"energy": float(found["energy"]), "stress": np.asarray(found["stress"]).tolist()}
            answer["forces"] = np.asarray(found["forces"], dtype=np.float64).tolist()
        return answer

    def forces(self, structures: list[dict[str, Any]]) -> dict[str, Any]:
        """Forces of structures one by one, and the seconds all took."""
        import numpy as np
        from ase import Atoms

        found, seconds = [], 0.0
        for structure in structures:
            atoms = Atoms(**structure, pbc=True)
            start = time.perf_counter()
            self.calculator.calculate(atoms, ["forces"])
            seconds += time.perf_counter() - start
            found.append(np.asarray(self.calculator.results["forces"], dtype=np.float64).tolist())
        return {"forces": found, "seconds": seconds}

    def md(self, momenta: list[list[float]], steps: int, timestep: float = 1.0) -> tuple[float, float]:
        """Seconds, of wall and of processor time, of molecular dynamics at constant energy from the present structure.

        mlip runs its own `run_md` without files, mace-torch ASE's velocity Verlet.
        """
        import numpy as np
        from ase import units

        atoms = self.atoms.copy()
        atoms.set_momenta(np.array(momenta))
        if self.program == "mlip":
            from mlip.workflows.md import run_md
            from mlip.workflows.md_integrators import MDSettings

            settings = MDSettings(ensemble="nve", temperature=None, timestep=timestep)
            start, used = time.perf_counter(), time.process_time()
            run_md(atoms, self.calculator, settings, steps=steps)
        else:
            from ase.md.verlet import VelocityVerlet

            atoms.calc = self.calculator
            start, used = time.perf_counter(), time.process_time()
            VelocityVerlet(atoms, timestep * units.fs).run(steps)
        return time.perf_counter() - start, time.process_time() - used

    def load_training(self, model: str, dtype: str, **options: Any) -> dict[str, Any]:
        """Make a model to be trained: seconds taken, parameters, and the radial functions that training uses."""
        from training_step import OursTrained, PeerTrained  # found beside this file

        self.trained = None
        start = time.perf_counter()
        self.trained = (PeerTrained if self.program == "mace" else OursTrained)(model, dtype, **options)
        count = sum(p.numel() for p in self.trained.parameters.values())
        return {"seconds": time.perf_counter() - start, "parameters": count, "radial": self.trained.radial}

    def batch(self, structures: list[dict[str, Any]]) -> int:
        """Take labelled structures as the batch to train on; the number of pairs."""
        return self.trained.take(structures)

    def train(self, steps: int) -> dict[str, Any]:
        """Seconds of training steps, and a digest of the parameters after them."""
        return self.trained.steps(steps)

    def gradients(self, path: str) -> float:
        """Write the gradients of the present parameters, under mace-torch's names, to a npz file; the loss."""
        import numpy as np

        loss = self.trained.backward()
        np.savez(path, **self.trained.gradients())
        return loss

    def neighbors(self, cutoff: float, repeats: int) -> dict[str, Any]:
        """Seconds of neighbor lists of the structure, number of pairs, and a digest of the list (mlip only)."""
        import torch

        from mlip import neighbor_list

        arrays = (self.atoms.positions, self.atoms.cell.array, self.atoms.pbc)
        wall = []
        for _ in range(repeats):
            start = time.perf_counter()
            pairs, shifts = neighbor_list(*map(torch.from_numpy, arrays), cutoff)
            wall.append(time.perf_counter() - start)
        digest = hashlib.sha256(pairs.numpy().tobytes() + shifts.numpy().tobytes()).hexdigest()
        return {"wall": wall, "pairs": pairs.shape[1], "digest": digest}

    def peak_memory(self, what: str) -> dict[str, int]:
        """Bytes of memory of a "call" at the present structure or a training "step": resident before, and the most.

        Memory that earlier work has freed is given back first.
        """
        if what == "call":
            return peak_memory(lambda: self.calculator.calculate(self.atoms, PROPERTIES))
        return peak_memory(lambda: self.trained.steps(1))

    def make_model(
        self,
        path: str,
        hidden: str,
        energies: dict[str, float] | None = None,
        cutoff: float = 6.0,
        num_bessel: int = 10,
        neighbors: float = 50.0,
    ) -> None:
        """Write a MACE with random weights, in float64 (mace-torch only).

        Args:
            path: of the file.
            hidden: irreps of the features.
            energies: of isolated atoms by atomic number; None: silicon, zero.
            cutoff: in Å.
            num_bessel: number of radial functions.
            neighbors: that messages are divided by.
        """
        import mace.calculators  # noqa: F401, I001 - first: with it torch loads the files of e3nn
        import numpy as np
        import torch
        from e3nn import o3
        from mace import modules

        energies = energies or {"14": 0.0}
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        blocks = modules.interaction_classes
        model = modules.ScaleShiftMACE(
            r_max=cutoff,
            num_bessel=num_bessel,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=blocks["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=blocks["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=len(energies),
            hidden_irreps=o3.Irreps(hidden),
            MLP_irreps=o3.Irreps("16x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.array([*energies.values()]),
            avg_num_neighbors=neighbors,
            atomic_numbers=[*map(int, energies)],
            correlation=3,
            radial_type="bessel",
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
        torch.save(model, path)


def peak_memory(function: Callable[[], object]) -> dict[str, int]:
    """Bytes resident before a call, what was freed given back, and the most during it. Linux with glibc only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before = _status("VmRSS")
    function()
    return {"before": before, "peak": _status("VmHWM")}


def _status(name: str) -> int:
    """Bytes that Linux says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def main() -> None:
    memory = int(os.environ.get("MLIP_BENCHMARK_MEMORY", "0"))
    if memory:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the programs print is no answer
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = {"result": getattr(worker, arguments.pop("request"))(**arguments)}
        except Exception as error:  # told to the other end, which decides
            last = (str(error).strip().splitlines() or [""])[0]
            traceback.print_exc(file=sys.stderr)
            answer = {"error": f"{type(error).__name__}: {last}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
