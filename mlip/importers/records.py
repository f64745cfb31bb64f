"""Foreign objects without their classes, and a limit on what was read for whoever walks through it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from mlip.errors import ModelFileError

MAX_DEPTH = 200
MAX_NODES = 4_000_000
_PLAIN = {type(None), bool, int, float, complex, str, bytes}


class Record:
    """A foreign class, function or object, inert: what the file says about it and nothing else.

    Attributes:
        kind: module and name, such as ``mace.modules.blocks.RadialEmbeddingBlock``.
        args: what the class or function was to be called with.
        state: what was to become of the object's attributes (``__dict__``), None if nothing.
        called: False where the class or function itself is meant, not what it returns.
    """

    __slots__ = ("args", "called", "kind", "state")

    def __init__(self, kind: str, args: tuple[Any, ...] = (), state: Any = None, called: bool = False) -> None:
        self.kind, self.args, self.state, self.called = kind, args, state, called

    def __repr__(self) -> str:
        return f"<Record {self.kind}{f' of {len(self.args)} arguments' if self.called else ''}>"


def _children(node: Any) -> Collection[Any] | None:
    """Members of a container, None for what is no container."""
    kind = type(node)
    if kind is Record:
        return node.args, node.state
    if kind is dict or kind is OrderedDict:
        return [*node.keys(), *node.values()]
    return node if kind in (list, tuple, set, frozenset) else None


def check_tree(root: Any, leaves: Collection[type]) -> None:
    """Make sure that a plain recursive walk over `root` is short: no cycles, not deep, not large even unfolded.

    A few bytes of pickle can describe a list that holds itself, or lists of twice the same list a hundred levels deep:
    small in memory, endless for a walk.

    Args:
        root: lists, tuples, sets, dictionaries, records, plain Python values.
        leaves: types that may occur besides.

    Raises:
        ModelFileError: too deep, too large, a cycle, or an object of another type.
    """
    allowed = _PLAIN | set(leaves)
    too_large = ModelFileError(f"objects nested deeper than {MAX_DEPTH} levels, or more than {MAX_NODES} of them")
    measured: dict[int, tuple[int, int]] = {}  # id of a container -> depth and number of nodes below, unfolded
    active: set[int] = set()
    stack = [root]
    while stack:
        node = stack[-1]
        children = _children(node)
        if children is None and type(node) not in allowed:
            raise ModelFileError(f"the pickle leaves a {type(node).__name__} where data were expected")
        if children is None or id(node) in measured:
            stack.pop()
        elif id(node) not in active:
            active.add(id(node))
            if len(active) > MAX_DEPTH:
                raise too_large
            if any(id(child) in active for child in children):
                raise ModelFileError("the pickle holds an object that contains itself")
            stack.extend(child for child in children if type(child) not in _PLAIN)
        else:
            stack.pop()
            active.remove(id(node))
            below = [measured.get(id(child), (0, 1)) for child in children]
            depth, nodes = 1 + max((d for d, _ in below), default=0), 1 + sum(n for _, n in below)
            if depth > MAX_DEPTH or nodes > MAX_NODES:
                raise too_large
            measured[id(node)] = depth, nodes
