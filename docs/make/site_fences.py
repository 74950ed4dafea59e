"""An extension of griffe: examples in docstrings (`>>>`) become blocks of code, whatever section they stand in."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?m)^(?P<indent> *)>>> .*\n?(?:(?P=indent)\S.*(?:\n|\Z))*")


class Fences(griffe.Extension):
    """Rewrites every docstring when it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of every class, function and module."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with a fence around each example."""

    def fence(found: re.Match[str]) -> str:
        indent = found["indent"]
        return f"{indent}```pycon\n{found.group().rstrip()}\n{indent}```\n"

    return _EXAMPLE.sub(fence, text)
