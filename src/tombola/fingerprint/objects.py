"""Containers, arrays, and instances of any class."""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import io
import os
import sys
import threading
import types
import weakref
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from tombola.fingerprint.origins import file_digest, package_of
from tombola.fingerprint.walk import Reader, Walk, type_name

NAMESPACES = (Namespace, types.SimpleNamespace)

_STATELESS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.local,
    weakref.ReferenceType,
    weakref.WeakKeyDictionary,
    weakref.WeakValueDictionary,
    weakref.WeakSet,
    type(os.environ),
)
"""Objects that do not affect results, and differ from process to process: only their type counts."""


def read_list(walk: Walk, value: list[Any], location: str) -> None:
    """Items in order, and attributes of a class of its own."""
    walk.items(type_name(value), value, location)
    read_attributes(walk, value, location)


def read_tuple(walk: Walk, value: tuple[Any, ...], location: str) -> None:
    """Items in order; a named tuple by its class too."""
    walk.value(type(value), location)
    walk.items("tuple", value, location)


def read_mapping(walk: Walk, value: Mapping[Any, Any], location: str) -> None:
    """Pairs in the order of their keys; of an OrderedDict in its own order."""
    walk.put(type_name(value), len(value))
    keys = list(value) if isinstance(value, OrderedDict) else [key for _, key in walk.in_order(value, value)]
    for key in keys:
        walk.value(key, location)
        walk.value(value[key], f"{location}[{key!r}]" if isinstance(key, str | int) else location)
    walk.value(getattr(value, "default_factory", None), location)
    read_attributes(walk, value, location)


def read_set(walk: Walk, value: set[Any] | frozenset[Any], location: str) -> None:
    """Items in the order of their digests."""
    walk.put(type_name(value), len(value), *(own for own, _ in walk.in_order(value, value)))


def read_array(walk: Walk, value: np.ndarray[Any, Any], location: str) -> None:
    """Type, shape and bytes of an array; objects one by one."""
    walk.put("array", value.dtype.descr if value.dtype.names else value.dtype.str, value.shape)
    if value.dtype.hasobject:
        walk.items("objects", value.ravel().tolist(), location)
    else:
        walk.put(hashlib.sha256(value.tobytes()).digest())


def read_enum(walk: Walk, value: enum.Enum, location: str) -> None:
    """A member of an enum: its class and name."""
    walk.value(type(value), location)
    walk.put("member", value.name)


def read_derived(walk: Walk, value: int | float | complex | str | bytes, location: str) -> None:
    """A number or text of a class of its own."""
    base = next(base for base in (int, float, complex, str, bytes) if isinstance(value, base))
    walk.put(base.__repr__(value))
    walk.value(type(value), location)


def read_object(walk: Walk, value: Any, location: str) -> None:
    """An instance: its class, and its attributes or what it is pickled as."""
    kind = type(value)
    wrapped = getattr(value, "__wrapped__", getattr(value, "py_func", None))
    if callable(value) and wrapped is not None and package_of(kind.__module__) is not None:
        walk.put("wrapped", kind.__qualname__)  # a cache or a compiler around a function
        walk.value(wrapped, location)
        return
    if _is_compiled_function(value, kind):
        read_compiled(walk, value, location)
        return
    walk.value(kind, location)
    if isinstance(value, io.IOBase) and value not in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        walk.cannot(f"an open {type_name(value)}", location)
        return
    has_attributes = hasattr(value, "__dict__") or any(True for _ in _slots(kind))
    reduced = _reduced(value, kind) if _pickles_by_itself(kind) or not has_attributes else None
    if reduced is not None:
        walk.value(reduced, location)
    elif has_attributes:
        read_attributes(walk, value, location)
    else:
        walk.cannot(f"{kind.__module__}.{kind.__qualname__}", location)


def _is_compiled_function(value: Any, kind: type) -> bool:
    """Whether this is called by C, and has a name: a function of NumPy's or Cython's kind."""
    by_c = isinstance(getattr(kind, "__call__", None), types.WrapperDescriptorType)  # noqa: B004
    return by_c and isinstance(getattr(value, "__name__", None), str)


def _pickles_by_itself(kind: type) -> bool:
    methods = ("__reduce_ex__", "__reduce__", "__getstate__")
    own = any(getattr(kind, name, None) is not getattr(object, name, None) for name in methods)
    return own or kind in copyreg.dispatch_table


def _reduced(value: Any, kind: type) -> Any:
    """What the value is pickled as, its iterators read; None where it cannot be."""
    try:
        reduce = copyreg.dispatch_table.get(kind)
        reduced = value.__reduce_ex__(2) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            return reduced
        # beyond the callable, its arguments and the state come the items of a list and of a mapping
        return tuple(part if index < 3 or part is None else list(part) for index, part in enumerate(reduced[:5]))
    except Exception:  # a user's own code, or what cannot be pickled
        return None


def read_attributes(walk: Walk, value: Any, location: str) -> None:
    """The attributes of an instance, without what its class caches there."""
    kind = type(value)
    state = {**getattr(value, "__dict__", {}), **{n: getattr(value, n) for n in _slots(kind) if hasattr(value, n)}}
    for name, item in sorted(state.items()):
        if name != "__doc__" and not is_cache(kind, name):
            walk.put(name)
            walk.value(item, f"{location}.{name}")


def is_cache(kind: type, name: str) -> bool:
    """Whether an attribute is a computed property's value that is kept."""
    return isinstance(getattr(kind, name, None), functools.cached_property)


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                yield f"_{base.__name__.lstrip('_')}{name}" if private else name


def read_compiled(walk: Walk, value: Any, location: str) -> None:
    """A function that is not Python's: by its name, and by the version of its package or the digest of its file."""
    owner, home = getattr(value, "__self__", None), getattr(value, "__objclass__", None)
    named = getattr(value, "__module__", None)
    module = owner.__name__ if isinstance(owner, types.ModuleType) else named
    walk.put("compiled", getattr(value, "__qualname__", value.__name__))
    if home is not None:
        walk.value(home, location)
    elif owner is not None and not isinstance(owner, types.ModuleType):
        walk.value(owner, location)
    elif (package := package_of(module)) is not None and module is not None:
        walk.put(package, module)
    elif (digest := file_digest(sys.modules.get(str(module)))) is not None:
        walk.put(digest)
    else:
        walk.cannot(f"the compiled function {value.__name__}", location)


READERS: tuple[Reader, ...] = (
    (list, read_list),
    (tuple, read_tuple),
    ((dict, types.MappingProxyType), read_mapping),
    ((set, frozenset), read_set),
    (enum.Enum, read_enum),
    (np.ndarray, read_array),
    (np.generic, lambda walk, value, location: walk.put("number", value.dtype.str, value.tobytes())),
    (np.dtype, lambda walk, value, location: walk.put("dtype", value.descr)),
    ((int, float, complex, str, bytes), read_derived),
    (PurePath, lambda walk, value, location: walk.put("path", value)),
    ((bytearray, memoryview), lambda walk, value, location: walk.put("bytes", bytes(value))),
    (slice, lambda walk, value, location: walk.items("slice", (value.start, value.stop, value.step), location)),
    (
        functools.partial,
        lambda walk, value, location: walk.items("partial", (value.func, value.args, value.keywords), location),
    ),
    (_STATELESS, lambda walk, value, location: walk.put("stateless", type_name(value))),
    (object, read_object),
)
