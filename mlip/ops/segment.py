"""Sums over the pairs of a center and over the atoms of a structure."""

from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """out[s] = sum of values[k] with index[k] = s; (K, ...) to (size, ...). Right to any derivative order."""
    return values.new_zeros(size, *values.shape[1:]).index_add(0, index, values)
