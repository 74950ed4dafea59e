"""A study written down: YAML with parameters, which are options of the command line, and the arms that they fill in.

Nothing in such a file is evaluated. ``$name`` stands for a parameter's value, ``${name.half}`` and
``${name.three_quarters}`` for a part of a length, ``${name.per.other}`` for one whole number over another, rounded
down (``${name.per.other.half}``: over twice the other), ``$$`` for a dollar sign; a key whose value is a null parameter
is left out. An entry of `arms` is one arm, or the arms for each value of a list; either may stand under a condition,
``when: {name: value}``::

    parameters:
      densities: {type: densities, default: [0.3, 0.5], help: fractions of weights kept}
      mask_lr: {type: number, default: null, help: learning rate of the masks}
    arms:
      - {name: dense, method: dense}
      - each: {density: $densities}
        arms:
          - {name: mask $density, method: edge-popup, options: {density: $density}, recipe: {lr: $mask_lr}}
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from itertools import islice, product
from keyword import iskeyword
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from tombola.errors import TombolaError
from tombola.names import check_known, unknown
from tombola.strict import check_yaml
from tombola.train.length import Length

FIXED = Path(__file__).parent / "fixed"
"""Where the studies lie that come with Tombola, NAME.yaml each."""

_HINTS: dict[str, Any] = {
    "number": float,
    "integer": int,
    "text": str,
    "flag": bool,
    "length": str,
    "lengths": tuple[str, ...],
    "densities": tuple[float, ...],
    "numbers": tuple[float, ...],
    "names": tuple[str, ...],
}
Made = TypeVar("Made")
_PLACEHOLDER = re.compile(r"\$(?:(\$)|(\w+)|\{([\w.]+)\})")
_MOST_ARMS = 10_000
NORMS = "network.norms"
"""What `when` may ask besides parameters: whether the network has norm layers to train."""


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One option of a study; where its default is null, it may be left open. `min` and `max` are allowed themselves."""

    type: Literal["number", "integer", "text", "flag", "length", "lengths", "densities", "numbers", "names"]
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None

    @property
    def hint(self) -> Any:
        """The Python type."""
        return _HINTS[self.type] | None if self.value is None else _HINTS[self.type]

    @property
    def value(self) -> Any:
        """The default."""
        if self.default in ("", "null", None):
            return None
        return msgspec.convert(self.default, _HINTS[self.type], strict=False)

    def __post_init__(self) -> None:
        bounded = self.min is not None or self.max is not None
        if bounded and self.type not in ("number", "integer", "numbers"):
            raise ValueError(f"min and max are for numbers, not for a {self.type}")
        if self.choices and self.type not in ("text", "names"):
            raise ValueError(f"choices are for a text or for names, not for a {self.type}")
        try:
            msgspec.convert(self.value, self.hint)
        except msgspec.ValidationError as error:
            raise ValueError(f"default {self.default!r} is no {self.type}: {error}") from None

    def checked(self, name: str, value: Any) -> Any:
        """The value in its usual form; TombolaError if it is not allowed."""
        if value is None:
            return None
        if self.type == "densities":
            from tombola.select.checks import checked_densities  # which imports torch

            return checked_densities(value)
        if self.type == "length":
            Length.parse(value)
        if self.type == "lengths":
            return _lengths(name, value)
        if self.type == "names":
            return _names(name, value, self.choices)
        if self.type == "numbers":
            return _numbers(name, value, self.min)
        if self.choices:
            check_known(name, value, self.choices)
        if self.min is not None and value < self.min:
            raise TombolaError(f"{name} is {value:g}, but it must be at least {self.min:g}")
        if self.max is not None and value > self.max:
            raise TombolaError(f"{name} is {value:g}, but it must be at most {self.max:g}")
        return value


def _lengths(name: str, values: Any) -> tuple[str, ...]:
    """A list of lengths, each once, in the order given; it may be empty."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TombolaError(f"{name} is {values!r}; give a list such as [2ep, 500it]")
    found = [Length.parse(value) for value in values]
    if len(set(found)) < len(found):
        raise TombolaError(f"{name} is {list(values)}, but each length may be named once")
    return tuple(values)


def _numbers(name: str, values: Any, least: float | None) -> tuple[float, ...]:
    """A list of numbers, each once, none below `least`, in the order given; it may be empty."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TombolaError(f"{name} is {values!r}; give a list such as [1e-5, 1e-3]")
    if len(set(values)) < len(values):
        raise TombolaError(f"{name} is {list(values)}, but each number may be named once")
    for value in values:
        if not math.isfinite(value) or (least is not None and value < least):
            raise TombolaError(f"{name} names {value:g}, but each must be finite and at least {least or 0:g}")
    return tuple(values)


def _names(name: str, values: Any, choices: Sequence[str]) -> tuple[str, ...]:
    """A list of names, each once, in the order given; it may be empty."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(v, str) and v for v in values):
        raise TombolaError(f"{name} is {values!r}; give a list of names such as [snip, random]")
    if len(set(values)) < len(values):
        raise TombolaError(f"{name} is {list(values)}, but each may be named once")
    for value in values if choices else ():
        check_known(name, value, choices)
    return tuple(values)


UNTITLED = "A study that a file defines."
"""Help of a study whose file has no summary."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a study's file.

    Args:
        arms: entries as in the module's docstring; the first arm is what the others are compared with. An arm's
            `preset` is a recipe that the command line's goes before, its `recipe` goes before that.
        summary: what the study asks, one line; shown in its help, its result and on its page.
        parameters: options by name.
        preset: `preset` of every arm, before which its own goes.
        trained_as: the method whose preset recipe all arms begin with; None: each with its own method's.
        model, data, note: what the command line has by default.
    """

    arms: tuple[dict[str, Any], ...]
    summary: str = ""
    parameters: dict[str, Parameter] = {}
    preset: dict[str, Any] = {}
    trained_as: str | None = None
    model: str | None = None
    data: str | None = None
    note: str | None = None

    def options(self) -> type:
        """A frozen dataclass with a field for each parameter, whose values it checks."""

        def check(given: Any) -> None:
            for name, parameter in self.parameters.items():
                object.__setattr__(given, name, parameter.checked(name, vars(given)[name]))

        items = [(name, part.hint, field(default=part.value)) for name, part in self.parameters.items()]
        lines = [f"    {name}: {' '.join(part.help.split())}" for name, part in self.parameters.items()]
        methods = {"__post_init__": check, "__doc__": "\n".join([self.summary or UNTITLED, "", "Args:", *lines])}
        return make_dataclass("StudyOptions", items, frozen=True, namespace=methods)

    def filled(self, values: Mapping[str, Any], norms: Callable[[], bool], where: str) -> list[dict[str, Any]]:
        """The arms as mappings, nothing left open: name, method, family, density, options, preset and recipe.

        Args:
            values: of all parameters.
            norms: whether the network has norm layers to train; called where a `when` asks for it.
            where: the file, for errors.

        Raises:
            TombolaError: a placeholder stands for nothing, or an entry is no mapping.
        """
        lengths = frozenset(name for name, part in self.parameters.items() if part.type == "length")
        scope = _Scope(values, lengths, norms, where)
        shared = scope.fill(self.preset)
        arms = list(islice(scope.arms(self.arms), _MOST_ARMS + 1))
        if len(arms) > _MOST_ARMS:
            raise TombolaError(f"{where} defines more than {_MOST_ARMS:,} arms; cross fewer values in each")
        alike = {} if self.trained_as is None else {"trained_as": self.trained_as}
        return [
            {**alike, **arm, "preset": {**shared, **scope.mapping("preset", arm.get("preset", {}))}} for arm in arms
        ]


def read_definition(file: Path) -> Definition:
    """The study that a YAML file defines; a list is one of arms, without parameters.

    Raises:
        TombolaError: it is no YAML, or no study.
    """
    content = read_yaml(file)
    if isinstance(content, list):
        content = {"arms": content}
    parameters = content.get("parameters", {}) if isinstance(content, dict) else {}
    for name, given in parameters.items() if isinstance(parameters, dict) else ():
        if not name.isidentifier() or iskeyword(name) or name.startswith("_"):
            raise TombolaError(
                f"{file}: parameter {name!r} can be no option; name it by letters, digits and _, a letter first"
            )
        where = f"{file}, parameter {name}"  # so that an error names it
        if isinstance(given, dict) and "type" in given and given["type"] not in tuple(_HINTS):
            raise TombolaError(f"{where}: {unknown('type', given['type'], _HINTS)}")
        _converted(given, Parameter, where)
    return _converted(content, Definition, str(file))


def read_yaml(file: Path) -> Any:
    """The content of a YAML or JSON file. Scalars stay text, for the options' types to read: 2:4 is no number."""
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        check_yaml(text)
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise TombolaError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from None


def _converted(content: Any, kind: type[Made], where: str) -> Made:
    try:
        return msgspec.convert(content, kind, strict=False)
    except msgspec.ValidationError as error:
        raise TombolaError(f"{where} defines no study: {error}") from None


_QUOTIENT = re.compile(r"per\.(?P<over>\w+)(?P<half>\.half)?")
_PARTS: Mapping[str, tuple[int, int]] = {"half": (1, 2), "three_quarters": (3, 4)}


def part_of(length: str, part: str) -> str:
    """Half or three quarters of a length; TombolaError if nothing would be left of it.

    Half of the iterations must be a whole number, so that both halves are as long; three quarters are rounded down.
    """
    whole, (times, over), words = Length.parse(length), _PARTS[part], part.replace("_", " ")
    if part == "half" and whole.iterations % 2:
        raise TombolaError(f"length is {length}; its iterations must be even, since the study needs half of them")
    if whole == Length():
        raise TombolaError(f"length is {length}, of which {words} is nothing; ask for more")
    return f"{times * whole.epochs / over:g}ep{times * whole.iterations // over}it"


@dataclass(frozen=True)
class _Scope:
    """What placeholders stand for."""

    values: Mapping[str, Any]
    lengths: frozenset[str]
    norms: Callable[[], bool]
    where: str

    def mapping(self, what: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise TombolaError(f"{self.where}: {what} is {value!r}, but it must be a mapping such as {{lr: 0.1}}")
        return value

    def arms(self, entries: Sequence[Any]) -> Iterator[dict[str, Any]]:
        for entry in entries:
            rest = dict(self.mapping("an arm", entry))
            if not self.holds(rest.pop("when", {})):
                continue
            if "each" not in rest:
                yield self.fill(rest)
                continue
            each = self.fill(self.mapping("each", rest.pop("each")))
            inner = rest.pop("arms", None)
            if rest or not isinstance(inner, list) or not all(isinstance(v, list | tuple) for v in each.values()):
                raise TombolaError(
                    f"{self.where}: each needs lists, and arms beside it: {{each: {{density: $densities}}, arms: [..]}}"
                )
            for chosen in product(*each.values()):
                values = {**self.values, **dict(zip(each, chosen, strict=True))}
                yield from replace(self, values=values).arms(inner)

    def holds(self, when: Any) -> bool:
        """Whether all of a mapping from parameters to values is so, or all of one in a list of such."""
        cases = when if isinstance(when, list) else [when]
        return any(
            all(_text(self.asked(key)) == text for key, text in self.mapping("when", case).items()) for case in cases
        )

    def asked(self, key: str) -> Any:
        return self.norms() if key == NORMS else self.value(key)

    def fill(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            filled = {key: self.fill(item) for key, item in value.items()}
            return {key: item for key, item in filled.items() if item is not None}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if not isinstance(value, str):
            return value
        whole = _PLACEHOLDER.fullmatch(value)
        if whole is not None and not whole[1]:
            return self.value(whole[2] or whole[3])
        return _PLACEHOLDER.sub(lambda found: found[1] or _text(self.value(found[2] or found[3])), value)

    def value(self, key: str) -> Any:
        name, _, part = key.partition(".")
        if name not in self.values:
            raise TombolaError(f"{self.where}: {unknown('parameter', name, self.values or ['none'])}")
        if not part:
            return self.values[name]
        if quotient := _QUOTIENT.fullmatch(part):
            return self.quotient(key, self.values[name], self.value(quotient["over"]), 2 if quotient["half"] else 1)
        if part not in _PARTS or name not in self.lengths:
            raise TombolaError(f"{self.where}: {key} stands for nothing; only a length has parts: {', '.join(_PARTS)}")
        return part_of(self.values[name], part)

    def quotient(self, key: str, value: Any, over: Any, times: int) -> int:
        """value / (times · over), rounded down."""
        if not (type(value) is int and type(over) is int):
            raise TombolaError(f"{self.where}: {key} is {value!r} over {over!r}; both must be whole numbers")
        if over < 1 or value < times * over:
            raise TombolaError(f"{self.where}: {key} is {value:,} / {times * over:,}, less than one; ask for more")
        return value // (times * over)


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
