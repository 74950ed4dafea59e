"""JSON and YAML of files from untrusted sources (torch-free).

What no writer writes is refused, in time and memory proportional to the file.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

DEPTH = 100
"""Levels of nesting that are read."""
VALUES = 20_000
"""The most values of a YAML text with its aliases expanded."""


def parse_json(text: str, depth: int = DEPTH) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, nested deeper than `depth`, or holds a key twice in one object, NaN, an infinity, or
            a whole number of more than 64 bits, or half of a surrogate pair. The message is one line.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"nested more than {depth} levels deep") from None
    if _SURROGATE.search(text):
        _check_encodes(value)
    layer, deep = [value], 0
    while layer:  # breadth first, so that no nesting can exhaust the stack
        deep += 1
        if deep > depth:
            raise ValueError(f"nested more than {depth} levels deep")
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, float) and item in (float("inf"), float("-inf")):
                raise ValueError("a number too large for a float")
            elif isinstance(item, int) and not -(2**63) <= item < 2**64:
                raise ValueError("a whole number of more than 64 bits")
        layer = inner
    return value


def _check_encodes(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is no character") from None
    except RecursionError:  # refused by its depth later
        return


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key[:60]!r} stands twice in one object")
        values[key] = value
    return values


def check_yaml(text: str) -> None:
    """Check a YAML text before it is loaded: a few lines of aliases can expand to billions of values.

    Raises:
        ValueError: nested deeper than `DEPTH`, more than `VALUES` values when its aliases are expanded, an alias
            within its own anchor, a key twice in one mapping, or no YAML.
    """
    import yaml

    sizes: dict[str, int] = {}
    frames = [_Frame()]
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.CollectionStartEvent):
                frames.append(_Frame(isinstance(event, yaml.MappingStartEvent), event.anchor))
                if len(frames) > DEPTH:
                    raise ValueError(f"nested more than {DEPTH} levels deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                done = frames.pop()
                sizes |= {} if done.anchor is None else {done.anchor: done.size}
                frames[-1].take(done.size)
            elif isinstance(event, yaml.ScalarEvent):
                sizes |= {} if event.anchor is None else {event.anchor: 1}
                frames[-1].take(1, event.value)
            elif isinstance(event, yaml.AliasEvent):
                name = str(event.anchor)
                if any(frame.anchor == name for frame in frames):
                    raise ValueError(f"the alias *{name[:60]} stands within itself")
                frames[-1].take(sizes.get(name, 1))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


class _Frame:
    """A mapping or a list that is being read: its size so far, and a mapping's keys."""

    def __init__(self, mapping: bool = False, anchor: str | None = None) -> None:
        self.size, self.anchor = 1, anchor
        self._mapping, self._parts, self._keys = mapping, 0, set[str]()

    def take(self, size: int, key: str | None = None) -> None:
        """Count a part; a mapping's keys and values come in turn."""
        self.size += size
        if self.size > VALUES:
            raise ValueError(f"more than {VALUES:,} values when its aliases are written out")
        if self._mapping and self._parts % 2 == 0 and key is not None:
            if key in self._keys and key != "<<":
                raise ValueError(f"the key {key[:60]!r} stands twice in one mapping")
            self._keys.add(key)
        self._parts += 1
