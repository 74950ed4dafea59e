"""What a sweep is asked for: what all its searches share, and the settings and seeds that they differ in (torch-free).

A file, or a mapping, of fields of a search by their dotted names or as options of `tombola find`::

    method: edge-popup
    model: lenet-300-100
    data: digits
    recipe: {length: 5ep}
    grid: {density: [0.1, 0.3, 0.5], recipe.lr: [0.1, 0.03]}
    seeds: 3

`grid` is a mapping of lists, which are crossed, or a list of settings; what a list holds may be a mapping of fields, as
in `recipe: [{lr: 0.1}, {lr: 0.03, momentum: 0}]`. `seeds`, a number or a list, cross either.
`against`, such as {recipe.lr: 0.1}, says which setting the others are compared with, instead of the first.
`search: {recipe.lr: {low: 1e-4, high: 1e-1, log: true}}` tries `trials` values (20) for every setting of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from tombola.errors import TombolaError
from tombola.fields import described
from tombola.formats import setting_in_words
from tombola.results.settings import as_key
from tombola.study.sweep.ranges import Range, read_ranges

SECTIONS = ("method", "model", "data", "recipe")
"""Parts of a search that may be mappings of their fields."""
OWN = ("grid", "seeds", "against", "search", "trials")
"""What is the sweep's own."""
MOST = 100_000
"""Searches of one sweep, at most."""
TRIALS = 20
"""Values that are tried for every setting, where a file does not say."""
SEED = "seed"

Fields = Mapping[str, Any]
"""Fields of a search by dotted name, such as recipe.lr."""


@dataclass(frozen=True)
class Cell:
    """One search of a sweep: all its fields, and of these the ones that the grid names."""

    fields: Fields
    setting: Fields

    @property
    def name(self) -> str:
        """The setting as it is written: "density 0.1, seed 0"."""
        return setting_in_words(self.setting)

    @property
    def unseeded(self) -> dict[str, Any]:
        """The setting without its seed."""
        return {key: value for key, value in self.setting.items() if key != SEED}


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is written down.

    Args:
        shared: what all searches have.
        settings: what they differ in, but for the seed.
        seeds: of every setting; () where they stand among the settings, or there is only the default.
        where: it stands, for errors.
        against: some settings of the one that the others are compared with; None: the first.
        ranges: of the numbers that are searched, by field; {}: nothing is.
        trials: values that are tried for every setting.
    """

    shared: Fields
    settings: tuple[Fields, ...]
    seeds: tuple[Any, ...]
    where: str
    against: Fields | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    trials: int = TRIALS

    def cells(self) -> Iterator[Cell]:
        """Every search, the seeds of one setting after each other."""
        for setting in self.settings:
            for seed in ({SEED: one} for one in self.seeds) if self.seeds else ({},):
                chosen = {**setting, **seed}
                yield Cell({**self.shared, **chosen}, chosen)

    def groups(self) -> list[list[Cell]]:
        """The searches of every setting, over its seeds."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells():
            found.setdefault(setting_in_words(cell.unseeded), []).append(cell)
        return list(found.values())

    def tried(self, cell: Cell, values: Fields) -> Cell:
        """A search with values for what is searched."""
        seed = {key: value for key, value in cell.setting.items() if key == SEED}
        return Cell({**cell.fields, **values}, {**cell.unseeded, **values, **seed})

    def runnable(self, group: Sequence[Cell], values: Fields) -> dict[str, Any]:
        """The sweep of one setting with these values alone, as a file holds it."""
        chosen = {**group[0].unseeded, **values}
        seeds = [cell.setting[SEED] for cell in group if SEED in cell.setting]
        return {
            **self.shared,
            "grid": {name: [value] for name, value in chosen.items()},
            **({"seeds": seeds} if seeds else {}),
        }


def read_sweep(content: Any, where: str) -> Sweep:
    """The sweep that the content of a YAML file, or a mapping, describes; `where` it stands, for errors.

    Raises:
        TombolaError: it is no description of one; fields of the searches themselves are not looked at.
    """
    if not isinstance(content, Mapping):
        raise TombolaError(f"{where} is {described(content)}, but it must be a mapping with a grid; see {_EXAMPLE}")
    shared = flattened({key: value for key, value in content.items() if key not in OWN}, where)
    settings = tuple(_settings(content.get("grid"), where))
    seeds = _seeds(content.get("seeds"), where)
    if seeds and any(SEED in setting for setting in (shared, *settings)):
        raise TombolaError(f"{where} names seed and seeds; name one of them")
    count = len(settings) * max(1, len(seeds))
    if count > MOST:
        raise TombolaError(f"{where} has {count:,} searches, and at most {MOST:,} are made; cross fewer values")
    against = content.get("against")
    if against is not None and not isinstance(against, Mapping):
        raise TombolaError(f"{where}: against is {described(against)}, but it must be a mapping such as {{lr: 0.1}}")
    searched = "search" in content
    if searched and against is not None:
        raise TombolaError(f"{where} has against and search, whose settings are not known before; leave against out")
    return Sweep(
        shared,
        settings,
        seeds,
        where,
        against=None if against is None else flattened(against, f"{where}, against"),
        ranges=read_ranges(content["search"], where) if searched else {},
        trials=_trials(content.get("trials"), searched, where),
    )


_EXAMPLE = "{method: imp, data: digits, grid: {density: [0.1, 0.3]}, seeds: 3}"


def flattened(given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The fields of sections by dotted name: {recipe: {lr: 0.1}} as {recipe.lr: 0.1}."""
    flat = _spread(given, where)
    if "recipe" in flat:
        raise TombolaError(
            f"{where}: recipe is {described(flat['recipe'])}, but it must be a mapping such as {{lr: 1}}"
        )
    return flat


def _spread(given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in given.items():
        inside = value if key in SECTIONS and isinstance(value, Mapping) else {}
        for name, item in (
            [(_of_section(key, part), item) for part, item in inside.items()] if inside else [(key, value)]
        ):
            if not isinstance(name, str):
                raise TombolaError(f"{where}: {name!r} is no name of a field; see {_EXAMPLE}")
            if name in flat:
                raise TombolaError(f"{where} names {name} twice; name it once")
            flat[name] = item
    return flat


def _of_section(section: str, part: Any) -> str:
    """The field of a section's part; a section's own name stands for its `name`, as it does without a mapping."""
    return section if part == "name" and section != "recipe" else f"{section}.{part}"


def _settings(grid: Any, where: str) -> Iterator[dict[str, Any]]:
    if grid is None:
        yield {}
        return
    if isinstance(grid, Mapping):
        yield from _product(grid, where)
        return
    if isinstance(grid, str) or not isinstance(grid, Sequence) or not grid:
        raise TombolaError(f"{where}: grid is {described(grid)}, but it must be a mapping of lists, or a list; {_HOW}")
    places: dict[object, int] = {}
    for number, setting in enumerate(grid, start=1):
        if not isinstance(setting, Mapping):
            raise TombolaError(f"{where}: setting {number} is {described(setting)}, but it must be a mapping; {_HOW}")
        flat = flattened(setting, f"{where}, setting {number}")
        first = places.setdefault(_alike(flat), number)
        if first != number:
            shown = setting_in_words(flat)
            raise TombolaError(f"{where}: settings {first} and {number} of grid are the same, {shown}; name it once")
        yield flat


def _alike(setting: Fields) -> object:
    """The same of two settings that are: 1 is 1.0."""
    plain = (bool, int, float, str, type(None))
    return frozenset((name, value if isinstance(value, plain) else as_key(value)) for name, value in setting.items())


_HOW = "{density: [0.1, 0.3]} crosses lists, [{density: 0.1}, {density: 0.3}] lists settings"


def _product(grid: Mapping[Any, Any], where: str) -> Iterator[dict[str, Any]]:
    lists = _spread(grid, f"{where}, grid")
    for name, values in lists.items():
        if isinstance(values, str | Mapping) or not isinstance(values, Sequence) or not values:
            raise TombolaError(
                f"{where}: grid has {name}: {values!r}, but it must be a list of at least one value; {_HOW}"
            )
        twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
        if twice is not None:
            raise TombolaError(f"{where}: grid names {twice!r} twice for {name}; name it once")
    axes = [[flattened({name: value}, f"{where}, grid") for value in values] for name, values in lists.items()]
    for chosen in product(*axes):
        names = [name for part in chosen for name in part]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise TombolaError(f"{where}, grid names {twice} twice; name it once")
        yield {name: value for part in chosen for name, value in part.items()}


def _trials(given: Any, searched: bool, where: str) -> int:
    if given is None:
        return TRIALS
    if not searched:
        raise TombolaError(f"{where} has trials, and nothing to search; add search, or leave trials out")
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= MOST:
        raise TombolaError(f"{where}: trials is {given!r}, but it must be a whole number from 1 to {MOST:,}")
    return given


def _seeds(given: Any, where: str) -> tuple[Any, ...]:
    """Seeds that are listed, or 0 to n - 1."""
    if given is None:
        return ()
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        if len(set(map(str, given))) < len(given):
            raise TombolaError(f"{where}: seeds names one twice; name each once")
        return tuple(given)
    text = str(given)
    if isinstance(given, bool) or not text.isdecimal() or not 0 < int(text) <= MOST:
        raise TombolaError(
            f"{where}: seeds is {given!r}, but it must be a number from 1 to {MOST:,}, or a list such as [0, 1, 2]"
        )
    return tuple(range(int(text)))
