"""JSON values that know where they were found, so that a wrong one is named in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tombola.errors import TombolaError
from tombola.strict import parse_json


@dataclass(frozen=True)
class Node:
    """A JSON value and its address (``run/result.json: replicates[0].seed``)."""

    value: object
    where: str

    def wrong(self, allowed: str) -> TombolaError:
        """The error for this value, which names what is allowed."""
        shown = json.dumps(self.value, default=str)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return TombolaError(f"{self.where} is {shown}; expected {allowed}; write the run again or leave it out")

    def get(self, key: str) -> Node | None:
        """The member ``key``, or None where it is absent or null."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        found = self.value.get(key)
        return None if found is None else Node(found, f"{self.where}.{key}")

    def members(self, key: str) -> Iterator[tuple[str, Node]]:
        """Named members of the object ``key`` (none where it is absent); nulls are left out."""
        node = self.get(key)
        if node is None:
            return
        if not isinstance(node.value, dict):
            raise node.wrong("an object")
        for name, value in node.value.items():
            if value is not None:
                yield str(name), Node(value, f"{node.where}.{name}")

    def elements(self, key: str) -> Iterator[Node]:
        """Elements of the list ``key`` (none where it is absent)."""
        node = self.get(key)
        if node is None:
            return
        yield from node.items()

    def items(self) -> Iterator[Node]:
        """Elements of this list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        for index, value in enumerate(self.value):
            yield Node(value, f"{self.where}[{index}]")

    def text(self, key: str, default: str = "") -> str:
        """The text ``key``; numbers as text."""
        node = self.get(key)
        if node is None:
            return default
        if not isinstance(node.value, str | int | float):
            raise node.wrong("a text")
        return str(node.value)

    def flag(self, key: str, default: bool) -> bool:
        """The truth value ``key``."""
        node = self.get(key)
        if node is None:
            return default
        if not isinstance(node.value, bool):
            raise node.wrong("true or false")
        return node.value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """The number ``key`` in [low, high]; None where it is absent, null or not finite."""
        node = self.get(key)
        return None if node is None else node.as_number(low, high)

    def integer(self, key: str, low: int = 0) -> int | None:
        """The whole number ``key``, at least ``low``; None where it is absent or null."""
        value = self.number(key, low)
        if value is None:
            return None
        if value != int(value):
            raise Node(value, f"{self.where}.{key}").wrong("a whole number")
        node = self.get(key)
        return node.value if node is not None and isinstance(node.value, int) else int(value)

    def as_number(self, low: float = -math.inf, high: float = math.inf) -> float | None:
        """This number in [low, high]; None where it is null or not finite."""
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number")
        if not math.isfinite(self.value):
            return None
        if not low <= self.value <= high:
            raise self.wrong(f"a number from {low:g} to {high:g}")
        return float(self.value)


def load(path: Path) -> Node | None:
    """The JSON object in ``path``; None where there is no such file.

    Raises:
        TombolaError: the file is not JSON, or not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise TombolaError(f"{path} cannot be read ({reason}); expected a JSON file; check the path") from error
    try:
        value = parse_json(text)
    except ValueError as error:
        raise TombolaError(f"{path} is not JSON ({error}); expected an object; write the run again") from error
    node = Node(value, f"{path}: $")
    if not isinstance(value, dict):
        raise Node(value, str(path)).wrong("an object")
    return node
