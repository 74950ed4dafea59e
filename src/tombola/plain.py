"""Dataclasses as JSON-able values."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tombola.fingerprint import fingerprint


def as_plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON-able values; what JSON cannot hold becomes its fingerprint."""
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    return {field.name: _plain(getattr(value, field.name)) for field in fields}


def python_number(value: Any) -> Any:
    """A number of numpy, or a tensor without dimensions, as Python's; anything else as it is."""
    alone = hasattr(value, "item") and getattr(value, "shape", None) == ()
    return value.item() if alone and not getattr(value, "is_meta", False) else value


def _plain(item: Any) -> Any:
    item = python_number(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return as_plain(item)
    if isinstance(item, Mapping):
        return {str(key): _plain(part) for key, part in item.items()}
    if isinstance(item, tuple | list):
        return [_plain(part) for part in item]
    if isinstance(item, set | frozenset):
        return sorted((_plain(part) for part in item), key=repr)
    if isinstance(item, enum.Enum):
        return item.name
    if item is None or isinstance(item, bool | int | float | str):
        return item
    return str(item) if isinstance(item, Path) else {"fingerprint": fingerprint(item).digest}
