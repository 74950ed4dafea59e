"""study compare, and every named comparison: arms over the same seeds, in one table."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.effect import check_effect
from tombola.cli.errors import parser_line
from tombola.cli.options import Group
from tombola.cli.screen import Screen, loading
from tombola.cli.searches import DATA, MACHINE, NETWORK, add_run, show_denominator
from tombola.cli.values import import_from_here, new_parser
from tombola.cli.verb import Verb, option_names
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.formats import plural
from tombola.methods import method_class
from tombola.models.spec import ModelSpec
from tombola.names import unknown
from tombola.study.definition import FIXED, UNTITLED, Definition, read_definition, read_yaml
from tombola.study.setting import Arm, Setting, check_arms
from tombola.train.options import Options
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from tombola.results.comparison import ComparisonResult

_RECIPE = Group("training, of every arm", Recipe, unset="as the arm or its preset says")


@dataclass(frozen=True)
class Comparison:
    """A comparison as a command.

    Args:
        name: the word after `study`, and what its runs are called
        summary: one line of help
        arms: makes the arms, the first being what the others are compared with; it gets the options in the setting
        options: frozen dataclass of the study's own options; its fields are on the command line
        model: network by default
        data: data set by default
        note: whether every arm has its own tuned learning rate (None: that they have not been tuned)
        question: what the study asks, for its result and page
    """

    name: str
    summary: str
    arms: Callable[[Setting], Sequence[Arm]]
    options: type | None = None
    model: str | None = None
    data: str | None = None
    note: str | None = None
    question: str = ""


@dataclass(frozen=True)
class ArmsFile:
    """Arms that the user writes down.

    Args:
        arms: YAML or JSON file, a list of {name, method, options, recipe, family, density, against, dense}; each arm is
            compared with the one that against names, else with the first; dense names one whose dense network it prunes
    """

    arms: str | None = None


def verbs() -> list[Verb]:
    """`study compare`, and the studies that come with Tombola."""
    line = "Compare methods, each with its own options and recipe, over the same seeds."
    compare = comparison_verb(Comparison("compare", line, arms_of_file, ArmsFile))
    return [compare, *(file_verb(name, FIXED / f"{name}.yaml") for name in _NAMES)]


_NAMES = (
    "mask-init",
    "mask-init-steps",
    "joint",
    "regularisation",
    "binary",
    "rewind-schedule",
    "stop-when-stable",
    "early-bird",
    "mask-rules",
    "at-init",
    "search-budget",
)


def file_verb(word: str, file: Path) -> Verb:
    """`study WORD`: what a file defines, its parameters being options; its runs are called by the file's name."""
    return definition_verb(read_definition(file), ("study", word), file.stem, str(file))


def definition_verb(definition: Definition, words: tuple[str, ...], name: str, where: str) -> Verb:
    """The verb of a study that is written down. `name`: what its runs are called; `where`: it stands, for errors."""
    arms = partial(arms_of_definition, definition, where)
    summary = " ".join(definition.summary.split())
    verb = comparison_verb(
        Comparison(
            name,
            summary or UNTITLED,
            arms,
            definition.options(),
            model=definition.model,
            data=definition.data,
            note=definition.note,
            question=summary,
        )
    )

    def add(parser: ArgumentParser) -> None:
        try:
            verb.add(parser)
            taken = "json" in definition.parameters  # added behind these
        except ArgumentError:
            taken = True
        if taken:
            names = ", ".join(definition.parameters)
            raise TombolaError(f"{where}: one of {names} is the name of an option that all studies have; rename it")

    return replace(verb, words=words, add=add)


def arms_of_definition(definition: Definition, where: str, setting: Setting) -> list[Arm]:
    """The arms that a definition has where its parameters are `setting.options`."""

    def norms() -> bool:
        from tombola.models.registry import has_norms

        return has_norms(setting.model.name)

    entries = definition.filled(vars(setting.options), norms, where)
    return [_arm(setting, entry, f"{where}, arm {index}") for index, entry in enumerate(entries, start=1)]


def comparison_verb(comparison: Comparison) -> Verb:
    """`study NAME` of a comparison; an option of its own replaces the recipe's of that name."""
    own = None if comparison.options is None else Group("study", comparison.options)
    taken = [] if own is None else [field.name for field in fields(own.source)]
    shared = replace(_RECIPE, skip=taken)

    def add(parser: ArgumentParser) -> None:
        if own is not None:
            own.add(parser)
        NETWORK.add(parser)
        DATA.add(parser)
        shared.add(parser)
        add_run(parser, replicates=3, meaning="times every arm is searched with, with other seeds; intervals need 3")
        _add_tuning(parser)
        parser.add_argument_group("remark").add_argument(
            "--note",
            type=str | None,
            default=comparison.note,
            help="remark on how the learning rates were chosen (null: that they were not tuned for each arm)",
        )
        MACHINE.add(parser)
        named = {"model": comparison.model, "data": comparison.data}
        parser.set_defaults({key: value for key, value in named.items() if value is not None})

    def asked(given: Namespace) -> tuple[Setting, Sequence[Arm]]:
        # the cheap checks first: a wrong value is reported before torch is loaded
        model, data = ModelSpec(**NETWORK.read(given)), DataSpec(**DATA.read(given))
        options = None if own is None else own.source(**own.read(given))
        setting = Setting(model, data, shared.read(given), options)
        arms = comparison.arms(setting)
        check_arms(arms)
        return setting, arms

    def series(given: Namespace) -> Mapping[str, str]:
        return {arm.name: arm.family or arm.name for arm in asked(given)[1]}

    def run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
        setting, arms = asked(given)
        check_effect(comparison.arms, setting, arms)
        machine = Options(**MACHINE.read(given))
        note = given["note"]
        if given["tune"] is not None:
            arms, note = _tuned(given, arms, setting.model, setting.data, machine)
        with loading(machine.progress):
            from tombola.study.compare import UNTUNED, run_comparison

        result = run_comparison(
            comparison.name,
            arms,
            setting.model,
            setting.data,
            Path(given["out"]),
            seed=given["seed"],
            replicates=given["replicates"],
            options=machine,
            jobs=given["jobs"],
            note=note or UNTUNED,
            summary=comparison.question,
        )
        show_comparison(screen, result)
        return result.as_dict()

    return Verb(("study", comparison.name), comparison.summary, add, run, arms=series)


def _add_tuning(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("tuning (tombola[optuna])")
    group.add_argument(
        "--tune",
        type=str | None,
        default=None,
        help="a number of the recipe that each arm gets its own best of, by validation: lr (from a tenth of the arm's "
        "own to ten times it), or with a range, 'lr: 1e-3..1e-1' (null: nothing is tuned)",
    )
    group.add_argument("--trials", type=int, default=20, help="values that are tried for each arm")
    group.add_argument(
        "--tune_seeds", type=int, default=1, help="seeds of every trial, which are not those that are compared"
    )


def _tuned(
    given: Namespace, arms: Sequence[Arm], model: ModelSpec, data: DataSpec, machine: Options
) -> tuple[Sequence[Arm], str]:
    """The arms with their tuned number, and the remark on it."""
    with loading(machine.progress):
        from tombola.study.sweep.engine import processes
        from tombola.study.sweep.tuned_arms import Tuning, tune_arms

    tuning = Tuning(given["tune"], given["trials"], given["tune_seeds"])
    engine = processes(given["jobs"], machine)
    found = tune_arms(arms, model, data, tuning, given["out"], engine=engine, seed=given["seed"], options=machine)
    return found.arms, found.note


def arms_of_file(setting: Setting) -> list[Arm]:
    """The arms that `setting.options.arms`, a YAML or JSON file, lists."""
    if setting.options.arms is None:
        raise TombolaError("--arms is missing; name a YAML or JSON file that lists the arms")
    file = Path(setting.options.arms)
    entries = read_yaml(file)
    if not isinstance(entries, list):
        raise TombolaError(f"{file} holds no list; write one of entries such as {{name: dense, method: dense}}")
    return [_arm(setting, entry, f"{file}, arm {index}") for index, entry in enumerate(entries, start=1)]


def _arm(setting: Setting, entry: object, where: str) -> Arm:
    if not isinstance(entry, Mapping):
        raise TombolaError(f"{where} is {entry!r}, but it must be a mapping such as {{name: dense, method: dense}}")
    plain = {key: value for key, value in entry.items() if key not in _PARTS}
    about = typed(Group("arm", _Entry), plain, where, known=_PARTS)
    for key in ("name", "method"):
        if about.get(key) is None:
            raise TombolaError(f"{where} has no {key}; give it one")
    method = about.pop("method")
    import_from_here([method])
    try:
        kind = method_class(method)
    except TombolaError as error:
        raise TombolaError(f"{where}: {error}") from None
    options = typed(Group("method", kind), entry.get("options", {}), f"{where}, options")
    recipe, preset = (
        typed(Group("recipe", Recipe), entry.get(part, {}), f"{where}, {part}") for part in ("recipe", "preset")
    )
    return setting.arm(about.pop("name"), method, options, recipe, preset=preset, **about)


_PARTS = ("options", "recipe", "preset")


@dataclass(frozen=True)
class _Entry:
    """One arm in a file of arms, but for the fields of its method and recipes."""

    name: str | None = None
    method: str | None = None
    family: str | None = None
    density: float | None = None
    against: str | None = None
    dense: str | None = None
    trained_as: str | None = None


def typed(group: Group, given: object, where: str, known: Sequence[str] = ()) -> dict[str, Any]:
    """The fields given, of the types that the group's dataclass wants, checked as the command line's are.

    `known`: further keys to be named where one is not known.
    """
    if not isinstance(given, Mapping):
        raise TombolaError(f"{where} is {given!r}, but it must be a mapping such as {{lr: 0.1}}")
    parser = new_parser()
    group.add(parser)
    names = [*option_names(parser), *known]
    if unknown_keys := [key for key in given if key not in names]:
        raise TombolaError(f"{where}: {unknown('key', unknown_keys[0], names)}")
    try:
        read = group.read(parser.parse_object(dict(given)))
    except (ArgumentError, KeyError, TypeError, ValueError) as error:
        raise TombolaError(f"{where}: {parser_line(str(error), names, 'tombola study compare')}") from None
    return {name: read[name] for name in given}


def show_comparison(screen: Screen, result: ComparisonResult) -> None:
    """The arms with what they kept and reached, the remarks, and where the run lies."""
    from tombola.report.looks import Looks
    from tombola.report.study_tables import study_tables
    from tombola.report.words import recipes_sentence, unmasked_sentence

    over = f"{'means over ' if result.replicates > 1 else ''}{plural(result.replicates, 'replicate')}"
    screen.line(f"{result.study} on {result.data} with {result.model}, {over}")
    screen.tables([table for table in study_tables(result, Looks({})) if not table.folded])
    show_denominator(screen, result.parameters)
    shown = result.arms if not result.references else [arms[-1] for arms in result.families.values()]
    for arm in shown:  # of a curve its sparsest point
        level = arm.replicates[0][-1]
        if level.barred_kept:
            screen.line(
                f"{arm.name}: {level.barred_kept:,} of the {level.kept:,} kept weights are barred by its criterion, "
                "which leaves too few others"
            )
    screen.line(result.intervals)
    screen.line(result.note)
    for remark in (recipes_sentence(result), unmasked_sentence(result)):
        screen.line(remark.strip())
    screen.run(result.run, result.reused)
