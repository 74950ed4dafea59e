"""Options made from the fields of frozen dataclasses: their docstrings' `Args:` sections are the help."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from types import GenericAlias, NoneType
from typing import Any, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, Namespace


@dataclass(frozen=True)
class Group:
    """A titled group of options, one for each field of `source`.

    `names` gives the option of a field where it is not the field's own name; fields in `skip` get none.
    With `unset`, every option is null unless given: then the value that `unset` names holds.
    """

    title: str
    source: type
    names: Mapping[str, str] = field(default_factory=dict)
    skip: Collection[str] = ()
    unset: str | None = None

    def add(self, parser: ArgumentParser) -> None:
        """Add the options to a parser."""
        group = parser.add_argument_group(self.title)
        hints, helps = get_type_hints(self.source), field_help(self.source)
        for item in self._fields():
            kind = _accepted(hints[item.name])
            default = _default(item)
            text = helps[item.name].replace("%", "%%")
            if self.unset is not None:
                kind, default, text = kind | None, None, f"{text} (null: {self.unset})"
            flag: dict[str, Any] = {"nargs": "?", "const": True} if _is_flag(hints[item.name]) else {}
            group.add_argument(f"--{self.option(item.name)}", type=kind, default=default, help=text, **flag)

    def option(self, name: str) -> str:
        """The option of a field, without dashes."""
        return self.names.get(name, name)

    def defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by field as values by option."""
        return {self.option(name): _plain(value) for name, value in values.items()}

    def read(self, given: Namespace) -> dict[str, Any]:
        """Given values by field; in an `unset` group only those that are not null."""
        hints = get_type_hints(self.source)
        values = {item.name: given[self.option(item.name)] for item in self._fields()}
        return {
            name: _made(value, hints[name]) for name, value in values.items() if self.unset is None or value is not None
        }

    def _fields(self) -> list[Field[Any]]:
        return [item for item in fields(self.source) if item.init and item.name not in self.skip]


def field_help(source: type) -> dict[str, str]:
    """One line on every field, from the `Args:` section of the docstring, or of a base class for inherited fields."""
    params = [item for kind in reversed(source.__mro__) for item in parse_docstring(kind.__doc__ or "").params]
    described = {item.arg_name: item.description or "" for item in params}
    return {item.name: " ".join(described.get(item.name, "").split()) for item in fields(source)}


def summary(source: type) -> str:
    """The first line of a docstring."""
    return (source.__doc__ or "").strip().splitlines()[0]


def several(item: Any) -> Any:
    """The type of an option that takes a list, also as one item; `listed` reads it."""
    return GenericAlias(list, (item,)) | item


def listed(given: Any) -> Any:
    """What such an option was given, as a list; None stays."""
    return given if given is None else list(given) if isinstance(given, list | tuple) else [given]


def _accepted(hint: Any) -> Any:
    """The type as the parser takes it: sequences also as one item, mappings as dictionaries."""
    if (item := _item(hint)) is not None:
        return several(item) | None if NoneType in get_args(hint) else several(item)
    return dict[str, Any] if get_origin(hint) is Mapping else hint


def _item(hint: Any) -> Any:
    """The type of the items where the hint is a tuple, or a tuple or None; else None."""
    parts = [hint] if get_origin(hint) is tuple else [part for part in get_args(hint) if part is not NoneType]
    return get_args(parts[0])[0] if len(parts) == 1 and get_origin(parts[0]) is tuple else None


def _is_flag(hint: Any) -> bool:
    return hint is bool or (bool in get_args(hint) and set(get_args(hint)) <= {bool, NoneType})


def _default(item: Field[Any]) -> Any:
    if item.default is not MISSING:
        return _plain(item.default)
    return _plain(item.default_factory()) if item.default_factory is not MISSING else None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _made(value: Any, hint: Any) -> Any:
    """The parsed value as the dataclass wants it."""
    if value is not None and _item(hint) is not None:
        return tuple(listed(value))
    if isinstance(value, Namespace):
        kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)]
        return kinds[0](**value.as_dict()) if kinds else value.as_dict()
    return value
