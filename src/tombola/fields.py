"""Checks of the types of fields and arguments, which Python itself does not check (torch-free)."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache, wraps
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from tombola.errors import TombolaError

Given = ParamSpec("Given")
Result = TypeVar("Result")
Part = tuple[Any, tuple[Any, ...]]
"""One type of a hint, and its arguments in brackets."""

_WORDS: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
    NoneType: "None",
}
_HUGE = 2**63
_LISTS = (Sequence, Collection, Iterable)
_MORE_WORDS: dict[Any, str] = {
    **_WORDS,
    **dict.fromkeys((Path, os.PathLike), "a path"),
    **dict.fromkeys(_LISTS, "a list"),
}


def check_fields(options: object) -> None:
    """TombolaError if a field of this dataclass is not of its type; types that are not plain ones are not checked.

    NumPy's numbers count as numbers, whole numbers as numbers, True as neither; any list but a string is accepted.
    Whole numbers have at most 64 bits.
    """
    for name, allowed in _plain_types(type(options)).items():
        value = getattr(options, name)
        if isinstance(value, int) and not -_HUGE <= value < _HUGE:
            raise TombolaError(f"{name} is {in_few_digits(value)}, but it must be a number of at most 64 bits")
        if not any(_is(value, kind) for kind in allowed):
            words = " or ".join(_WORDS[kind] for kind in allowed)
            shown = " ".join(repr(value)[:80].split())
            raise TombolaError(f"{name} is {shown}, but it must be {words}")


def check_texts(name: str, given: Iterable[object]) -> None:
    """TombolaError unless everything in a list is a text."""
    for one in given:
        if not isinstance(one, str):
            raise TombolaError(f"{name} has {described(one)}, but it must be a list of texts")


def check_counts(**options: int | None) -> None:
    """TombolaError for the first of the options that is below 1; None stands for one that is left open."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise TombolaError(f"{name} is {value}; give a whole number of at least 1")


def in_few_digits(value: int) -> str:
    """A whole number as text, however many digits it has (Python writes no more than 4300)."""
    return f"{value:,}" if abs(value) < _HUGE else f"a number of {value.bit_length():,} bits"


def checked(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, with a TombolaError of one line for arguments of other types than its hints.

    An argument whose hint has a part that cannot be checked (Any, a Literal, a plain Protocol), or a mapping, is left
    to the function. A string is accepted where strings are listed, since a pattern may stand alone.
    """

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        hints, order = _hints(function)
        for name, value in (*zip(order, args, strict=False), *kwargs.items()):
            parts = hints.get(name, ())
            if parts and not any(_fits(value, kind, inside) for kind, inside in parts):
                raise TombolaError(f"{name} is {described(value)}, but it must be {_any_of(parts)}")
        return function(*args, **kwargs)

    return call


def described(value: object) -> str:
    """A wrong value in words: "the class Linear itself", "'imp'", "a list"."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return repr(value)[:80] if isinstance(value, str | int | float | None) else _with_article(type(value).__name__)


@cache
def _hints(function: Callable[..., Any]) -> tuple[dict[str, tuple[Part, ...]], tuple[str, ...]]:
    """The allowed types of each argument, () where they cannot be checked; and the positional names in order."""
    hints, types_of, order = get_type_hints(function), {}, []
    for name, parameter in signature(function).parameters.items():
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            continue
        order += [] if parameter.kind is Parameter.KEYWORD_ONLY else [name]
        hint = hints.get(name, Any)
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        types = tuple((get_origin(part) or part, get_args(part)) for part in parts)
        types_of[name] = types if all(_is_checkable(kind) for kind, _ in types) else ()
    return types_of, tuple(order)


def _is_checkable(kind: Any) -> bool:
    unclear = getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False)
    return kind not in (Any, Mapping) and isinstance(kind, type) and (not unclear or kind in _MORE_WORDS)


def _fits(value: object, kind: Any, inside: tuple[Any, ...]) -> bool:
    if kind in _WORDS:
        return _is(value, kind)
    if kind in _LISTS:
        items = (get_args(inside[0]) or inside[:1]) if inside else ()
        if isinstance(value, str):
            return items == (str,)
        if not isinstance(value, Iterable) or isinstance(value, bytes | Mapping | type):
            return False
        known = {str: (str,), Path: (str, os.PathLike)}
        if not isinstance(value, Collection) or not items or not all(item in known for item in items):
            return True  # the items cannot be checked
        allowed = tuple(one for item in items for one in known[item])
        return all(isinstance(item, allowed) for item in value)
    return isinstance(value, os.PathLike if kind is Path else kind) and not isinstance(value, type)


def _any_of(parts: Iterable[Part]) -> str:
    """``a Ticket, a text or a path``."""
    *others, last = dict.fromkeys(_in_words(kind, inside) for kind, inside in parts)
    return f"{', '.join(others)} or {last}" if others else last


def _in_words(kind: Any, inside: tuple[Any, ...]) -> str:
    if kind in _LISTS and inside[:1] == (str,):
        return "a list of texts"
    return _MORE_WORDS.get(kind) or _with_article(kind.__name__)


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeio' else 'a'} {name}"


def _is(value: object, kind: type) -> bool:
    truth = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # NumPy's too
    if kind is bool:
        return truth
    if kind is tuple:
        return not isinstance(value, str)
    if kind in (int, float):
        try:
            operator.index(value) if kind is int else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            return False
        return not truth and not isinstance(value, str)
    return isinstance(value, kind)


def _plain_types(kind: type) -> dict[str, tuple[type, ...]]:
    hints, plain = get_type_hints(kind), dict[str, tuple[type, ...]]()
    for field in fields(kind):
        hint = hints[field.name]
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        types = tuple(get_origin(part) or part for part in parts)
        if all(part in _WORDS for part in types):
            plain[field.name] = types
    return plain
