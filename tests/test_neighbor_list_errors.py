"""What the neighbor list refuses, at its boundary (InputError) and in the operator itself."""

import pytest
import torch

import mlip
from mlip.errors import InputError
from mlip.neighbors import neighbor_list

NAN, INF = float("nan"), float("inf")
GOOD = {
    "positions": torch.tensor([[0.0, 0.0, 0.0], [1.4, 1.4, 1.4]], dtype=torch.float64),
    "cell": torch.eye(3, dtype=torch.float64) * 3,
    "pbc": torch.tensor([True, True, True]),
    "cutoff": 3.5,
}
FLAT = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
TWO = torch.stack([GOOD["cell"]] * 2)

BAD = [
    ({"positions": GOOD["positions"] * NAN}, "positions: expected finite"),
    ({"positions": GOOD["positions"] + torch.tensor([0, 0, INF])}, "positions: expected finite"),
    ({"positions": torch.zeros(4)}, r"positions: expected shape \(N, 3\), got \(4,\)"),
    ({"positions": torch.zeros(4, 2)}, r"got \(4, 2\)"),
    ({"positions": torch.zeros(4, 3, dtype=torch.int64)}, "float32 or float64, got torch.int64"),
    ({"positions": torch.zeros(4, 3, dtype=torch.float16)}, "float32 or float64"),
    ({"cutoff": 0.0}, "cutoff: expected a positive"),
    ({"cutoff": -1.0}, "cutoff: expected a positive"),
    ({"cutoff": NAN}, "cutoff: expected a positive"),
    ({"cutoff": INF}, "cutoff: expected a positive"),
    ({"cell": FLAT}, "linearly independent"),
    ({"cell": torch.zeros(3, 3)}, "linearly independent"),
    ({"cell": GOOD["cell"] * NAN}, "linearly independent"),
    ({"cell": FLAT[[0, 0, 1]], "pbc": torch.tensor([True, True, False])}, "linearly independent"),
    ({"cell": torch.eye(2)}, r"cell: expected shape \(3, 3\)"),
    ({"pbc": torch.tensor([True, True])}, "pbc: expected shape"),
    ({"cell": TWO}, "batch: expected the structure of each atom since there are 2 cells"),
    ({"cell": TWO, "batch": torch.tensor([1, 0])}, "ascending"),
    ({"cell": TWO, "batch": torch.tensor([0, 2])}, "from 0 to 1"),
    ({"cell": TWO, "batch": torch.tensor([-1, 1])}, "from 0 to 1"),
    ({"cell": TWO, "batch": torch.tensor([0.0, 1.0])}, "batch: expected 2 integers"),
    ({"cell": TWO, "batch": torch.tensor([0])}, "batch: expected 2 integers"),
]


def test_good_input_is_good() -> None:
    assert neighbor_list(**GOOD)[0].shape[1] == 28
    batch = torch.tensor([0, 1])
    assert neighbor_list(**{**GOOD, "cell": TWO, "batch": batch})[0].shape[1] == 12


needs_extension = pytest.mark.skipif(not mlip.compiled, reason="the extension is not built")


@pytest.mark.parametrize("backend", [pytest.param("compiled", marks=needs_extension), "matscipy", "reference"])
@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_refused(backend: str, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        neighbor_list(**{**GOOD, **change}, backend=backend)


@needs_extension
@pytest.mark.parametrize(
    "change",
    [
        {"cutoff": 3000.0},
        {"cutoff": 1e30},
        {"cell": torch.eye(3) * 1e-3},
        {"cell": torch.diag(torch.tensor([3.0, 1e-4, 1e-4])), "pbc": torch.tensor([False, True, True])},
    ],
)
def test_more_pairs_than_memory_are_refused(change: dict) -> None:
    with pytest.raises(InputError, match="more pairs than memory can hold"):
        neighbor_list(**{**GOOD, **change})


@needs_extension
@pytest.mark.parametrize("positions", [GOOD["positions"] * 1e11, GOOD["positions"] * 1e200])
def test_positions_too_far_outside_the_cell_are_refused(positions: torch.Tensor) -> None:
    with pytest.raises(InputError, match="too far outside the cell|below 1e15"):
        neighbor_list(**{**GOOD, "positions": positions})


OPERATOR = {
    "positions": GOOD["positions"],
    "cell": GOOD["cell"][None],
    "pbc": GOOD["pbc"][None],
    "offsets": torch.tensor([0, 2]),
    "cutoff": 3.5,
}


@needs_extension
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": GOOD["positions"] * NAN}, "positions: expected finite"),
        ({"positions": torch.zeros(2, 2)}, "positions: expected a contiguous tensor"),
        ({"positions": torch.zeros(3, 2).double().T}, "positions: expected a contiguous tensor"),
        ({"positions": torch.zeros(2, 3).long()}, "expected float32 or float64"),
        ({"cell": GOOD["cell"]}, "cell: expected"),
        ({"cell": GOOD["cell"][None].float()}, "cell: expected"),
        ({"cell": FLAT[None]}, "linearly independent"),
        ({"cell": FLAT[None] * 0}, "linearly independent"),
        ({"cell": FLAT[None] * NAN}, "linearly independent"),
        ({"pbc": GOOD["pbc"]}, "pbc: expected"),
        ({"pbc": GOOD["pbc"][None].long()}, "pbc: expected"),
        ({"offsets": torch.tensor([0, 3])}, "offsets: expected ascending"),
        ({"offsets": torch.tensor([0, 1, 2])}, "offsets: expected a contiguous"),
        ({"offsets": torch.tensor([0, 2], dtype=torch.int32)}, "offsets: expected a contiguous"),
        ({"cutoff": 0.0}, "cutoff: expected a positive"),
        ({"cutoff": NAN}, "cutoff: expected a positive"),
    ],
)
def test_the_operator_defends_itself(change: dict, message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=f"neighbor_list: .*{message}"):
        torch.ops.mlip.neighbor_list(*{**OPERATOR, **change}.values())
