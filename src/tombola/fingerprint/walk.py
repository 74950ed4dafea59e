"""One pass over everything that a value consists of, in an order that depends on its content alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tombola.fingerprint.source import Sources

Reader: TypeAlias = tuple[type | tuple[type, ...], Callable[["Walk", Any, str], None]]
"""Types, and what adds a value of them to a walk; the text is the value's location."""

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented)})
_DIGITS = 32
_MAX_DEPTH, _MAX_OBJECTS = 100, 100_000
"""Nesting levels and objects beyond which nothing is inspected."""


@dataclass(frozen=True)
class Fingerprint:
    """`digest`: 32 hex digits over all that was seen; `unseen`: what could not be inspected; its types count."""

    digest: str
    unseen: tuple[str, ...] = ()


class Walk:
    """A hash that values are added to; an object that comes again counts by its number."""

    def __init__(
        self, readers: Sequence[Reader], hashed_elsewhere: frozenset[int], within: frozenset[int] = frozenset()
    ) -> None:
        self.hashed_elsewhere = hashed_elsewhere
        self.sources = Sources()
        self._readers = readers
        self._sum = hashlib.sha256()
        self._unseen: list[str] = []
        self._met: dict[int, tuple[int, Any]] = {}  # keeps the objects alive: no address may come back
        self._within = within  # the sets and mappings whose elements are being put in order
        self._depth = 0

    def fingerprint(self) -> Fingerprint:
        """Of all that was added."""
        return Fingerprint(self._sum.hexdigest()[:_DIGITS], tuple(dict.fromkeys(self._unseen)))

    def put(self, *words: object) -> None:
        """Add words, so that no two sequences of words are the same."""
        for word in words:
            raw = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self._sum.update(b"%d:" % len(raw))
            self._sum.update(raw)

    def value(self, value: Any, location: str = "") -> None:
        """Add a value of any type; `location` is its location."""
        if type(value) in PLAIN:
            self.put(type(value).__name__, repr(value))
        elif type(value) is tuple:  # equal ones may be one object in one process and two in another
            self.items("tuple", value, location)
        elif id(value) in self._met:
            self.put("again", self._met[id(value)][0])
        elif self._depth >= _MAX_DEPTH or len(self._met) >= _MAX_OBJECTS:
            self.cannot("too deep or too many objects", location)
        else:
            self._met[id(value)] = (len(self._met), value)
            self._depth += 1
            next(read for kinds, read in self._readers if isinstance(value, kinds))(self, value, location)
            self._depth -= 1

    def items(self, kind: str, items: Iterable[Any], location: str) -> None:
        """Add several values in order."""
        listed = list(items)
        if all(type(item) in PLAIN for item in listed):
            self.put(kind, repr(listed))
            return
        self.put(kind, len(listed))
        for index, item in enumerate(listed):
            self.value(item, f"{location}[{index}]")

    def in_order(self, items: Iterable[Any], owner: object) -> list[tuple[str, Any]]:
        """The elements of a set, or keys of a mapping, sorted by their own fingerprints, each with it."""
        if id(owner) in self._within:
            return []
        return sorted(((self._alone(item, owner), item) for item in items), key=lambda pair: pair[0])

    def _alone(self, item: Any, owner: object) -> str:
        if type(item) in PLAIN:
            return f"{type(item).__name__} {item!r}"
        walk = Walk(self._readers, self.hashed_elsewhere, self._within | {id(owner)})
        walk.sources = self.sources
        walk.value(item)
        own = walk.fingerprint()
        self._unseen += own.unseen
        return own.digest

    def cannot(self, what: str, location: str) -> None:
        """Record that a value cannot be inspected: only its description counts."""
        self.put("unseen", what)
        self._unseen.append(f"{what} at {location}" if location else what)


def type_name(value: object) -> str:
    """What a value's type is called, without its module."""
    return type(value).__qualname__
