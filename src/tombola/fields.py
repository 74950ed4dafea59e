"""Types of a dataclass's fields, checked where Python's own call would let anything through (torch-free)."""

from __future__ import annotations

import operator
from dataclasses import fields
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

from tombola.errors import TombolaError

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
    NoneType: "None",
}


def check_fields(options: object) -> None:
    """TombolaError if a field of this dataclass is not of its type; types that are not plain ones are left alone.

    NumPy's numbers count as numbers, whole numbers as numbers, True as neither; any list but a text will do.
    """
    for name, allowed in _plain_types(type(options)).items():
        value = getattr(options, name)
        if not any(_is(value, kind) for kind in allowed):
            words = " or ".join(_WORDS[kind] for kind in allowed)
            raise TombolaError(f"{name} is {repr(value)[:80]}, but it must be {words}")


def _is(value: object, kind: type) -> bool:
    if kind is tuple:
        return not isinstance(value, str)
    if kind in (int, float):
        try:
            operator.index(value) if kind is int else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            return False
        return not isinstance(value, bool | str)
    return isinstance(value, kind)


def _plain_types(kind: type) -> dict[str, tuple[type, ...]]:
    hints, found = get_type_hints(kind), dict[str, tuple[type, ...]]()
    for field in fields(kind):
        hint = hints[field.name]
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        types = tuple(get_origin(part) or part for part in parts)
        if all(part in _WORDS for part in types):
            found[field.name] = types
    return found
