"""A pickle reader that executes nothing.

Pickle is a language of a stack machine; Python's own interpreters of it import what a file names and call it. This one
is separate and small: it knows the instructions that describe data, keeps a table of the few functions that it
computes itself, and turns every other admitted class or function into an inert `Record`. No foreign name is ever
imported, looked up or called, and time and memory are bounded by the length of the data.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlip.errors import ModelFileError
from mlip.importers.records import Record

MAX_BYTES = 32 * 2**20
MAX_STEPS = 1_000_000
#: An empty container counts as more than a number: a set takes 200 bytes of memory for one of the file.
CONTAINER_STEPS = 3
MAX_NAME = 256
MAX_INTEGER = 2**128
#: Keys of dicts and members of sets that are no text: whoever chooses them can make their hashes collide.
MAX_OTHER_KEYS = 4096
MAX_KEY_ITEMS = 8
MAX_KEY_LENGTH = 4096
_NAME = re.compile(r"[A-Za-z_<][\w<>]*(\.[A-Za-z_<][\w<>]*)*", re.ASCII)

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_ARGUMENTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", *_TEXTS),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GETS, _PUTS = {"BINGET", "LONG_BINGET"}, {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_IGNORED = {"PROTO", "FRAME"}


class PickleReader:
    """Reads one pickle.

    Args:
        data: the pickle, of at most `MAX_BYTES`.
        admitted: names of modules; what is in them or below becomes a `Record`.
        constants: full name -> value that stands for it.
        functions: full name -> what computes its result from the arguments; safe with any arguments, and raises
            ModelFileError, ValueError or TypeError for wrong ones.
        persistent: what computes an object that is stored outside the pickle from its description.
        build: gives a state to an object made by one of `functions`.
    """

    def __init__(
        self,
        data: bytes,
        admitted: Sequence[str],
        constants: Mapping[str, Any],
        functions: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any],
        build: Callable[[Any, Any], None],
    ) -> None:
        self._data = data
        self._prefixes = tuple(f"{name}." for name in admitted)
        self._constants, self._functions = constants, functions
        self._persistent, self._build_other = persistent, build
        self._steps_left = MAX_STEPS
        self._bytes_left = 2 * len(data)
        self._other_keys_left = MAX_OTHER_KEYS
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: list[Any] = []

    def read(self) -> Any:
        """The object that the pickle describes.

        Raises:
            ModelFileError: damaged, of unreasonable size, or it names what is not admitted.
        """
        stream, name = io.BytesIO(self._data), ""
        try:
            while name != "STOP":
                self._spend(1)
                code = stream.read(1)
                instruction = _INSTRUCTIONS.get(code)
                if instruction is None:
                    raise self._unknown(code)
                name = instruction.name
                self._step(name, instruction.arg and instruction.arg.reader(stream))
        except (IndexError, ValueError, TypeError, OverflowError) as error:
            raise ModelFileError(
                f"the pickle is damaged near byte {stream.tell()} ({type(error).__name__}: {error!s:.200})"
            ) from error
        if len(self._stack) != 1 or self._below or stream.tell() != len(self._data):
            raise ModelFileError("the pickle is damaged: it does not end with one object")
        return self._stack[0]

    @staticmethod
    def _unknown(code: bytes) -> ModelFileError:
        if not code:
            return ModelFileError("the pickle is truncated")
        name = next((info.name for info in pickletools.opcodes if info.code.encode("latin1") == code), None)
        if name is None:
            return ModelFileError(f"the pickle is damaged: {code!r} is no instruction")
        return ModelFileError(f"the pickle has the instruction {name}, which no model file needs; nothing was executed")

    def _spend(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise ModelFileError(f"the pickle takes more than {MAX_STEPS} steps to read")

    def _step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        stack = self._stack
        if name in _GETS:
            stack.append(self._memo[argument])
        elif name in _PUTS:
            self._put(name, argument)
        elif name in _ARGUMENTS:
            self._check_value(name, argument)
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._spend(CONTAINER_STEPS)
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = tuple(stack[-count:])
            if len(items) < count:
                raise ValueError("the stack is empty")
            stack[-count:] = [items]
        elif name == "MARK":
            self._below.append(stack)
            self._stack = []
        elif name not in _IGNORED and name != "STOP":
            self._OTHERS[name](self, argument)

    def _put(self, name: str, index: Any) -> None:
        if name != "MEMOIZE" and index != len(self._memo):
            raise ValueError("objects are numbered out of order")
        self._memo.append(self._stack[-1])

    @staticmethod
    def _check_value(name: str, value: Any) -> None:
        if name in _TEXTS:
            value.encode()  # refuses lone surrogates
        elif isinstance(value, int) and not -MAX_INTEGER < value < MAX_INTEGER:
            raise ValueError("an integer of more than 128 bits")

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _check_keys(self, keys: Sequence[Any]) -> None:
        """Only keys whose hash and comparison are cheap, whatever they hold."""
        for key in keys:
            items = key if type(key) is tuple else (key,)
            if type(key) not in (str, bytes):
                self._other_keys_left -= 1
            if self._other_keys_left < 0:
                raise ModelFileError(f"dictionaries and sets of more than {MAX_OTHER_KEYS} keys that are not text")
            if len(items) > MAX_KEY_ITEMS or not all(self._is_simple(item) for item in items):
                raise ModelFileError(f"a dictionary or set holds a {type(key).__name__} as key, or a very long one")

    @staticmethod
    def _is_simple(item: Any) -> bool:
        if isinstance(item, str | bytes):
            return len(item) <= MAX_KEY_LENGTH
        return item is None or isinstance(item, int | float | Record)

    def _tuple(self, _: Any) -> None:
        items = tuple(self._pop_mark())
        self._stack.append(items)

    def _append(self, _: Any) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise TypeError(f"{type(target).__name__} is no list")
        target.extend(items)

    def _additems(self, _: Any) -> None:
        items, target = self._pop_mark(), self._stack[-1]
        if type(target) is not set:
            raise TypeError(f"{type(target).__name__} is no set")
        self._check_keys(items)
        target.update(items)

    def _frozenset(self, _: Any) -> None:
        items = self._pop_mark()
        self._check_keys(items)
        self._stack.append(frozenset(items))

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _setitems(self, _: Any) -> None:
        self._update(self._pop_mark())

    def _update(self, items: list[Any]) -> None:
        target, keys = self._stack[-1], items[::2]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise TypeError(f"{type(target).__name__} is no dictionary")
        self._check_keys(keys)
        target.update(zip(keys, items[1::2], strict=True))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._resolve(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("a name that is no text")
        self._stack.append(self._resolve(module, name))

    def _resolve(self, module: str, name: str) -> Any:
        """What stands for a class or function: a constant or an inert reference."""
        kind = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if len(kind) > MAX_NAME or not _NAME.fullmatch(kind):
            raise ModelFileError(f"the pickle names {kind[:MAX_NAME]!a}, which is no name of a class or function")
        if kind in self._constants:
            return self._constants[kind]
        known = kind in self._OWN or kind in self._functions
        if not known and not kind.startswith(self._prefixes):
            raise ModelFileError(
                f"the pickle names {kind}, which is not admitted; nothing was executed. Expected torch tensors, plain "
                f"Python data and classes of {', '.join(p[:-1] for p in self._prefixes) or 'no package'}"
            )
        return Record(kind)

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Record) or function.called or type(arguments) is not tuple:
            raise ModelFileError(f"the pickle calls a {type(function).__name__}; nothing was executed")
        own, other = self._OWN.get(function.kind), self._functions.get(function.kind)
        if own or other:
            self._spend(len(arguments))
        if own:
            self._stack.append(own(self, *arguments))
        elif other:
            self._stack.append(other(*arguments))
        else:
            self._stack.append(Record(function.kind, arguments, called=True))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Record):
            if not target.called or target.state is not None:
                raise ModelFileError(f"the pickle gives a state to {target.kind} itself, or twice")
            target.state = state
        elif type(target) is not OrderedDict:  # whose attributes, such as _metadata, are not kept
            self._build_other(target, state)

    def _binpersid(self, _: Any) -> None:
        self._stack.append(self._persistent(self._stack.pop()))

    _OTHERS: Mapping[str, Callable[[PickleReader, Any], None]] = {
        "TUPLE": _tuple,
        "APPEND": _append,
        "APPENDS": _appends,
        "ADDITEMS": _additems,
        "FROZENSET": _frozenset,
        "SETITEM": _setitem,
        "SETITEMS": _setitems,
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _reduce,
        "NEWOBJ": _reduce,
        "BUILD": _build,
        "BINPERSID": _binpersid,
    }

    def _ordered_dict(self) -> OrderedDict[Any, Any]:
        self._spend(CONTAINER_STEPS)
        return OrderedDict()

    def _set(self, items: Any = ()) -> set[Any]:
        if type(items) not in (list, tuple):
            raise TypeError("a set of something that is no list")
        self._spend(len(items))
        self._check_keys(items)
        return set(items)

    def _frozenset_of(self, items: Any = ()) -> frozenset[Any]:
        return frozenset(self._set(items))

    def _no_bytes(self) -> bytes:
        return b""

    def _getattr(self, owner: Any, name: Any) -> Record:
        """Nested classes, and functions such as torch.tanh, are pickled as an attribute: a longer name here."""
        if not isinstance(owner, Record) or owner.called or type(name) is not str or not _NAME.fullmatch(name):
            raise ModelFileError("the pickle takes an attribute of an object; nothing was executed")
        if len(owner.kind) + len(name) > MAX_NAME:
            raise ValueError("a name that is too long")
        return Record(f"{owner.kind}.{name}")

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """Bytes of text: how protocol 2 writes bytes."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise TypeError("text is encoded in another way than latin1")
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise ModelFileError("the pickle multiplies its bytes")
        return text.encode("latin1")

    _OWN: Mapping[str, Callable[..., Any]] = {
        "collections.OrderedDict": _ordered_dict,
        "builtins.set": _set,
        "builtins.frozenset": _frozenset_of,
        "builtins.bytes": _no_bytes,
        "builtins.getattr": _getattr,
        "_codecs.encode": _encode,
    }


#: The instructions that are carried out, by their code. Arguments of others are not even decoded.
_INSTRUCTIONS = {
    info.code.encode("latin1"): info
    for info in pickletools.opcodes
    if info.name
    in {*_CONSTANTS, *_EMPTY, *_ARGUMENTS, *_TUPLES, *_GETS, *_PUTS, *_IGNORED, *PickleReader._OTHERS, "MARK", "STOP"}
}
