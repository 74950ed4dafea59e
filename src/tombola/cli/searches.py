"""find and study curve: search for tickets."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.effect import refuse
from tombola.cli.options import Group, listed, several, summary
from tombola.cli.screen import Screen, loading
from tombola.cli.values import import_from_here
from tombola.cli.verb import Verb
from tombola.data.config import DataSpec
from tombola.errors import TombolaError, in_short
from tombola.methods import METHODS, method_class
from tombola.methods.base import Method
from tombola.models.spec import ModelSpec
from tombola.search.presets import preset
from tombola.train.options import Options
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from tombola.results.record import Parameters
    from tombola.results.search import SearchResult
    from tombola.search.request import Request

NETWORK = Group("network", ModelSpec, {"name": "model", "args": "model_args"})
DATA = Group("data", DataSpec, {"name": "data", "root": "data_root", "args": "data_args"})
RECIPE = Group("training", Recipe)
MACHINE = Group("machine and display", Options)


def verbs() -> list[Verb]:
    """`find METHOD` for every method, `study curve METHOD` for those whose levels fall in density."""
    curves = [_curve(kind) for kind in METHODS.values() if kind.prunes_in_levels]
    return [*map(find_verb_of, METHODS.values()), *curves]


def verb_of_path(command: Sequence[str], path: str) -> Verb | None:
    """The verb of a method that lies at an import path; None if the command takes no method.

    Raises:
        TombolaError: nothing lies there, or no method that the command can do something with.
    """
    if tuple(command) not in (("find",), ("study", "curve")):
        return None
    import_from_here([path])
    kind = method_class(path)
    if command[0] != "find" and not kind.prunes_in_levels:
        raise TombolaError(f"method {path} does not prune level by level, so that it has no curve; use tombola find")
    verb = find_verb_of(kind) if command[0] == "find" else _curve(kind)
    try:
        verb.parser()
    except ArgumentError as error:
        raise TombolaError(f"{error.argument_name} of method {path} is an option of {verb.command} already") from None
    except ValueError as error:
        raise TombolaError(f"the fields of method {path} cannot be options: {in_short(error)}") from None
    return verb


def find_verb_of(kind: type[Method]) -> Verb:
    """`find METHOD`."""
    add, words = _options(kind, replicates=1, start=True), ("find", kind.name)
    run, presets = _run_find(kind), _presets(kind)
    return Verb(words, summary(kind), add, run, presets=presets, data_parallel=True, arms=lambda given: _arms())


def _curve(kind: type[Method]) -> Verb:
    line = f"Accuracy against density over several replicates, with controls at every level ({kind.name})."
    add, words = _options(kind, replicates=3, controls=True), ("study", "curve", kind.name)

    def arms(given: Namespace) -> Mapping[str, str]:
        return _arms(_controls(given))

    return Verb(words, line, add, _run_curve(kind), presets=_presets(kind), arms=arms)


def _arms(controls: Sequence[str] = ()) -> Mapping[str, str]:
    """The arms of a search, each with its series: itself."""
    return {name: name for name in ("ticket", *controls, "dense")}


def _controls(given: Namespace) -> list[str]:
    controls = given["controls"]
    return [controls] if isinstance(controls, str) else controls


def add_run(parser: ArgumentParser, *, replicates: int, meaning: str) -> None:
    """Seed, replicates, processes and where runs go."""
    run = parser.add_argument_group("run")
    run.add_argument("--seed", type=int, default=0, help="everything random derives from it")
    run.add_argument("--replicates", type=int, default=replicates, help=meaning)
    run.add_argument("--jobs", type=int, default=1, help="processes that share the replicates")
    run.add_argument("--out", type=str, default="runs", help="folder in which the run gets its own directory")


def add_room(parser: ArgumentParser) -> None:
    """How large a network a ticket may be of."""
    parser.add_argument(
        "--max_weights",
        type=int | None,
        default=None,
        help="the most weights that a ticket may claim (null: 16,777,216 plus 256 per byte of its file)",
    )


def _options(
    kind: type[Method], *, replicates: int, controls: bool = False, start: bool = False
) -> Callable[[ArgumentParser], None]:
    def add(parser: ArgumentParser) -> None:
        NETWORK.add(parser)
        if start:
            parser.add_argument_group("start").add_argument(
                "--start",
                type=str | None,
                default=None,
                metavar="TICKET",
                help="ticket file to start from: its weights, and its mask as the limit or the first mask (null: none)",
            )
            add_room(parser)
        DATA.add(parser)
        method_group(kind).add(parser)
        if controls:
            study = parser.add_argument_group("controls")
            study.add_argument(
                "--controls",
                type=list[str] | str,
                default=["random", "reinit"],
                help="trained at the search's levels: random (mask), reinit (weights); [] for none",
            )
            study.add_argument(
                "--control_levels",
                type=several(int) | None,
                default=None,
                help="levels at which they are trained, e.g. [3, 7, 9] (null: all)",
            )
        RECIPE.add(parser)
        add_run(parser, replicates=replicates, meaning="repetitions of the whole search, each with another seed")
        if start:
            parser.add_argument(
                "--dry_run",
                type=bool,
                nargs="?",
                const=True,
                default=False,
                help="try one step of everything, say what would be done and where, and train and write nothing",
            )
        MACHINE.add(parser)

    return add


def method_group(kind: type[Method]) -> Group:
    """The options of a method."""
    return Group(f"method {kind.name}", kind)


def _presets(kind: type[Method]) -> Callable[[Namespace], Mapping[str, Any]]:
    def defaults(given: Namespace) -> dict[str, Any]:
        named = preset(kind, given["model"], given["data"])
        return {**RECIPE.defaults(named.recipe), **method_group(kind).defaults(named.method)}

    return defaults


def request_of(kind: type[Method], given: Namespace, machine: Options | None = None) -> Request:
    """The search that the options of `find METHOD` ask for; `machine` replaces those of machine and display."""
    # the cheap checks first: a wrong value is reported before torch is loaded
    model, data = ModelSpec(**NETWORK.read(given)), DataSpec(**DATA.read(given))
    method, recipe = kind(**method_group(kind).read(given)), Recipe(**RECIPE.read(given))
    options = machine or Options(**MACHINE.read(given))
    with loading(options.progress):
        from tombola.search.request import make_request
        from tombola.ticket.ticket import Ticket

    start = given.get("start")
    if start is None and given.get("max_weights") is not None:
        refuse(["max_weights"], "it is of the ticket that --start names; leave it out, or name one")
    return make_request(
        model,
        data,
        method,
        recipe=recipe,
        seed=given["seed"],
        replicates=given["replicates"],
        options=options,
        start=None if start is None else Ticket.load(start, max_weights=given["max_weights"]),
    )


def _run_find(kind: type[Method]) -> Callable[[Namespace, Screen], Mapping[str, Any]]:
    def run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
        request = request_of(kind, given)
        if given["dry_run"]:
            return _show_planned(screen, request, Path(given["out"]))
        from tombola.search.find import run_find

        result = run_find(request, Path(given["out"]), jobs=given["jobs"])
        show_search(screen, result)
        return result.headed()

    return run


def _show_planned(screen: Screen, request: Request, out: Path) -> Mapping[str, Any]:
    from tombola.plain import as_plain
    from tombola.search.planned import plan_search

    found = plan_search(request, out)
    splits, recipe = found.splits, request.recipe
    parts = {"training": splits.train, "validation": splits.val, "test": splits.test}
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
    classes = "" if splits.classes is None else f", {splits.classes:,} classes"
    screen.line(f"{splits.name}: {sizes} examples of shape {splits.input_shape}{classes}")
    screen.line(str(found.coverage))
    screen.line(f"{request.method.name}: {_given(as_plain(request.method))}")
    screen.line(f"recipe: {_given(as_plain(recipe))}")
    screen.line(
        f"a training: {found.iterations:,} iterations of {recipe.batch_size:,} examples, {found.epoch:,} an epoch"
    )
    screen.line(f"run: {found.place.directory} ({found.state}); one step of everything works, and nothing was trained")
    return found.as_dict()


def _given(options: Mapping[str, Any]) -> str:
    """Options in one line, those left out that say nothing."""
    return ", ".join(f"{name} {value}" for name, value in options.items() if value not in (None, False, [], {}, "0it"))


def _run_curve(kind: type[Method]) -> Callable[[Namespace, Screen], Mapping[str, Any]]:
    def run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
        request = request_of(kind, given)
        from tombola.study.curve import run_curve

        result = run_curve(
            request,
            Path(given["out"]),
            controls=_controls(given),
            control_levels=listed(given["control_levels"]),
            jobs=given["jobs"],
        )
        show_search(screen, result)
        return result.headed()

    return run


def show_search(screen: Screen, result: SearchResult) -> None:
    """A search's levels, means over its replicates, and where the ticket lies."""
    from tombola.report.cost_tables import search_line
    from tombola.report.drawn import drawn_lines
    from tombola.report.looks import Looks
    from tombola.report.tables import levels_table

    screen.tables([levels_table(result, Looks({}))])
    show_denominator(screen, result.parameters)
    screen.line(search_line(result))
    for line in drawn_lines(result):
        screen.line(line)
    screen.line(f"ticket  {result.ticket}")
    screen.run(result.run, result.reused)


def show_denominator(screen: Screen, size: Parameters | None) -> None:
    """The denominator of a result's densities."""
    from tombola.coverage import denominator_in_words

    if size is not None:
        screen.line(f"density: kept / {denominator_in_words(size.prunable, size.total)}")
