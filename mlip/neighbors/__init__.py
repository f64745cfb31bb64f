"""Neighbor lists under any periodic boundary conditions."""

from mlip.neighbors.dispatch import list_of, neighbor_list
from mlip.neighbors.pairs import furthest_move, pairs_within, shortest_pair
from mlip.neighbors.validation import ListInput

__all__ = ["ListInput", "furthest_move", "list_of", "neighbor_list", "pairs_within", "shortest_pair"]
