"""The searches of a sweep from what its file says: every field as `tombola find` reads it, presets included."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import Group
from tombola.cli.searches import DATA, NETWORK, RECIPE, find_verb_of, method_group, request_of
from tombola.cli.values import import_from_here
from tombola.cli.verb import DEFAULT_METHOD, Verb
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.fields import described
from tombola.methods import method_class
from tombola.methods.base import Method
from tombola.models.spec import ModelSpec
from tombola.names import unknown
from tombola.results.settings import as_key
from tombola.study.sweep.plan import Search
from tombola.study.sweep.settings import SEED, Cell, Fields, Sweep
from tombola.study.sweep.tuning import Tunable
from tombola.train.options import Options

if TYPE_CHECKING:
    from tombola.search.request import Request

Leaf: TypeAlias = tuple[str, ...]
"""An option of a search, and the keys of a value within its mapping."""

METHOD = "method"
_METHOD_KEYS = (METHOD, "method.name")
_RUN = ("seed", "replicates", "start", "max_weights")
"""Fields of a search that belong to no section."""


def searches_of(sweep: Sweep, machine: Options) -> list[Search]:
    """Every search of a sweep, all of its fields checked.

    Raises:
        TombolaError: a field is unknown or has a wrong value; the message names the setting.
    """
    maker = _Maker(sweep, machine)
    searches = [maker.search(cell) for cell in sweep.cells()]
    maker.check_names()
    return searches


def tunables_of(sweep: Sweep, machine: Options) -> list[Tunable]:
    """Every setting of a sweep that searches numbers, all of its fields checked at both ends of the ranges.

    Raises:
        TombolaError: as `searches_of`.
    """
    maker = _Maker(sweep, machine)

    def tunable(group: Sequence[Cell]) -> Tunable:
        def searches(values: Mapping[str, float]) -> list[Search]:
            return [maker.search(sweep.tried(cell, values)) for cell in group]

        ends = [{name: getattr(one, end) for name, one in sweep.ranges.items()} for end in ("low", "high")]
        first, _ = (searches(values)[0] for values in ends)
        return Tunable(group[0].unseeded, sweep.ranges, searches, first.request.seed)

    tunables = [tunable(group) for group in sweep.groups()]
    maker.check_names()
    return tunables


def alone(sweep: Sweep, group: Sequence[Cell]) -> Sweep:
    """A sweep with what the searches of one setting take of what all share."""
    return replace(sweep, shared=_Maker(sweep, Options()).shared(group[0]))


@dataclass(frozen=True)
class _Maker:
    """Makes the searches of a sweep; those that differ in their seed alone are read once."""

    sweep: Sweep
    machine: Options
    readers: dict[str, _Reader] = field(default_factory=dict)
    latest: dict[str, Request] = field(default_factory=dict)

    def search(self, cell: Cell) -> Search:
        """The search of a cell."""
        try:
            request = self._request(cell)
            seeded = replace(request, seed=cell.setting[SEED]) if SEED in cell.setting else request
            return Search(cell.setting, seeded, self.sweep.where)
        except TombolaError as error:
            raise TombolaError(f"{self.sweep.where}, {cell.name}: {error}{self._way(cell)}") from None

    def check_names(self) -> None:
        """TombolaError if two settings write one field under two names, and so would be told apart by it."""
        written: dict[Leaf, tuple[int, str]] = {}
        for number, setting in enumerate(self.sweep.settings, start=1):
            reader = self._reader({**self.sweep.shared, **setting})
            for leaf, key in reader.leaves(setting):
                before, other = written.setdefault(leaf, (number, key))
                if key != other:
                    raise TombolaError(
                        f"{self.sweep.where}: {other} in setting {before} of grid and {key} in setting {number} are "
                        "one field under two names; give it one"
                    )

    def _way(self, cell: Cell) -> str:
        """How a field of other methods is crossed with these alone, where a cell has one."""
        if len(self._every_method) == 1:
            return ""
        try:
            if all(map(self._reader(cell.fields).knows, cell.unseeded)):
                return ""
        except TombolaError:  # there is no such method
            return ""
        return "; give each method its own fields by a list of settings: grid: [{method: imp, rounds: 2}, {method: ..}]"

    def _request(self, cell: Cell) -> Request:
        key = as_key(cell.unseeded)
        if key not in self.latest:
            reader = self._reader(cell.fields)
            read = request_of(reader.kind, reader.read(self.shared(cell), cell.unseeded), self.machine)
            self.latest.clear()
            self.latest[key] = read
        return self.latest[key]

    def shared(self, cell: Cell) -> dict[str, Any]:
        """What all searches share, without the fields of other methods of the sweep that a cell's own has not."""
        reader, shared = self._reader(cell.fields), self.sweep.shared
        unknown_here = [key for key in shared if not reader.knows(key)]
        others = [self._reader(one) for one in self._every_method] if unknown_here else []
        foreign = {key for key in unknown_here if any(other.knows(key) for other in others)}
        return {key: value for key, value in shared.items() if key not in foreign}

    @cached_property
    def _every_method(self) -> list[Fields]:
        """The fields of one search by each method."""
        every = [{**self.sweep.shared, **setting} for setting in self.sweep.settings]
        return list({_method_of(fields): fields for fields in every}.values())

    def _reader(self, fields: Fields) -> _Reader:
        method = _method_of(fields)
        if method not in self.readers:
            import_from_here([method])
            self.readers[method] = _Reader(method_class(method))
        return self.readers[method]


@dataclass(frozen=True)
class _Reader:
    """Reads the fields of searches by one method."""

    kind: type[Method]
    parsers: dict[tuple[str, str], ArgumentParser] = field(default_factory=dict)

    @cached_property
    def verb(self) -> Verb:
        """`find METHOD`, whose options they are."""
        return find_verb_of(self.kind)

    @cached_property
    def groups(self) -> Mapping[str, Group]:
        """The section of a search that each group of options is."""
        return {METHOD: method_group(self.kind), "model": NETWORK, "data": DATA, "recipe": RECIPE}

    @cached_property
    def options(self) -> dict[str, str]:
        """Every name that a field has -> its option."""
        names = {name: name for name in _RUN}
        for section, group in self.groups.items():
            for item in fields(group.source):
                if item.init:
                    option = group.option(item.name)
                    names |= {option: option, f"{section}.{item.name}": option}
        return names

    def knows(self, key: str) -> bool:
        """Whether a search by this method has such a field."""
        return key in _METHOD_KEYS or _found(key, self.options) is not None

    def read(self, shared: Fields, setting: Fields) -> Namespace:
        """The options of one search; what its setting says goes before what all share."""
        values: dict[str, Any] = {}
        for layer in (shared, setting):
            self._take(layer, values)
        return self.verb.parse_mapping(self._parser(values), values)

    def leaves(self, layer: Fields) -> Iterator[tuple[Leaf, str]]:
        """Every value of a layer: the option that it is of and what within its mapping, and the name it is under."""
        for key, value in layer.items():
            if key in _METHOD_KEYS:
                yield (METHOD,), key
                continue
            for inside in _inside(value):
                yield (*_located(key, self.options, self.verb.command), *inside), key

    def _take(self, layer: Fields, values: dict[str, Any]) -> None:
        """Put the fields of a layer among the values by option, before those that are there."""
        taken = set[Leaf]()
        for leaf, key in self.leaves(layer):
            if leaf in taken:
                raise TombolaError(f"{key} is given twice, under two names; give it once")
            taken.add(leaf)
        located = {key: _located(key, self.options, self.verb.command) for key in layer if key not in _METHOD_KEYS}
        for key, (option, *inner) in sorted(located.items(), key=lambda item: len(item[1])):  # wholes before parts
            value = layer[key]
            place, last = values, option
            for part in inner:
                inside = place.setdefault(last, {})
                if not isinstance(inside, dict):
                    raise TombolaError(f"{key} lies in {last}, which is {described(inside)} and no mapping")
                place, last = inside, part
            place[last] = copy.deepcopy(dict(value) if isinstance(value, Mapping) else value)

    def _parser(self, values: Mapping[str, Any]) -> ArgumentParser:
        """A parser with the preset of the method, network and data; it is made once for each."""
        key = (str(values.get("model", ModelSpec.name)), str(values.get("data", DataSpec.name)))
        if key not in self.parsers:
            verb, parser = self.verb, self.verb.parser()
            if verb.presets is not None:
                parser.set_defaults(dict(verb.presets(_named(*key))))
            self.parsers[key] = parser
        return self.parsers[key]


def _named(model: str, data: str) -> Namespace:
    return Namespace(model=model, data=data)  # type: ignore[no-untyped-call]


def _method_of(fields: Fields) -> str:
    """The method's name: that which stands last, as settings come after what is shared."""
    named = [str(fields[key]) for key in reversed(dict(fields)) if key in _METHOD_KEYS]
    return named[0] if named else DEFAULT_METHOD


def _inside(value: Any) -> Iterator[Leaf]:
    """The paths of what a mapping holds, however deep; () of anything else."""
    if not isinstance(value, Mapping) or not value:
        yield ()
        return
    for key, item in value.items():
        yield from ((str(key), *inside) for inside in _inside(item))


def _found(key: str, options: Mapping[str, str]) -> Sequence[str] | None:
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        option = options.get(".".join(parts[:count]))
        if option is not None:
            return option, *parts[count:]
    return None


def _located(key: str, options: Mapping[str, str], command: str) -> Sequence[str]:
    """The option of a field, and what within its mapping is meant: model.args.width is width of model_args."""
    if found := _found(key, options):
        return found
    line = unknown("field", key, options).partition("; allowed: ")[0]
    here = [item.name for item in fields(Options) if item.name == key] + [key] * (
        key in ("out", "jobs", "config", "json")
    )
    if here:
        raise TombolaError(f"{line}; {here[0]} is no part of a search: give it to the sweep itself")
    raise TombolaError(f"{line}; see {command} --help for the fields, such as recipe.lr or density")
