"""Neighbor list by the compiled operator ``torch.ops.mlip.neighbor_list`` (CPU and CUDA)."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip import _extension
from mlip.errors import InputError
from mlip.neighbors.validation import ListInput, check_values

PREFIX = "neighbor_list: "  # of the operator's own messages


def compiled_list(data: ListInput) -> tuple[Tensor, Tensor]:
    """Neighbor list of a batch in one call; see :func:`mlip.neighbors.neighbor_list`."""
    try:
        return torch.ops.mlip.neighbor_list(data.positions, data.cell, data.pbc, data.offsets, data.cutoff)
    except (ValueError, RuntimeError) as error:  # which of them std::invalid_argument becomes depends on torch
        message = str(error)
        if PREFIX not in message:
            raise
        check_values(data)  # says which atom or structure it is, if it is one of them
        raise InputError(message[message.index(PREFIX) :].splitlines()[0]) from None


if _extension.compiled:

    @torch.library.register_fake("mlip::neighbor_list")
    def _fake(positions: Tensor, cell: Tensor, pbc: Tensor, offsets: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
        pairs = torch.library.get_ctx().new_dynamic_size()
        return (
            positions.new_empty((2, pairs), dtype=torch.int64),
            positions.new_empty((pairs, 3), dtype=torch.int32),
        )
