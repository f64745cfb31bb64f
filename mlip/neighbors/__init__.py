"""Neighbor lists under any periodic boundary conditions."""

from mlip.neighbors.dispatch import neighbor_list

__all__ = ["neighbor_list"]
