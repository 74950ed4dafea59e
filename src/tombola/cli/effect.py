"""Options that would be recorded and change nothing: they are refused, with what they need."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.errors import TombolaError
from tombola.study.setting import Arm, Setting


def changed(given: Namespace, add: Callable[[ArgumentParser], None], parser: ArgumentParser) -> list[str]:
    """The options of a verb that were given another value than their default, in the order of its help."""
    add(parser)
    return [name for name, default in vars(parser.get_defaults()).items() if vars(given)[name] != default]


def refuse(options: Collection[str], why: str) -> None:
    """TombolaError for the first of the options; `why`: what makes it idle, and what to do."""
    for option in options:
        raise TombolaError(f"--{option} has no effect here: {why}")


def check_effect(make: Callable[[Setting], Sequence[Arm]], setting: Setting, arms: Sequence[Arm]) -> None:
    """TombolaError for an option of a comparison that changes none of its arms.

    Of the training: every arm has a value of its own. Of the study: the same arms come of its default, or, where that
    is null, of half the number.
    """
    for name, value in setting.recipe.items():
        if all(getattr(arm.recipe, name) != value for arm in arms):
            raise TombolaError(f"--{name} has no effect here: every arm of this study has its own; leave it out")
    beside = f", or leave out --{' and --'.join(setting.recipe)}, which goes before it" if setting.recipe else ""
    for name, other in _others(setting.options).items():
        if _made(make, replace(setting, options=replace(setting.options, **{name: other}))) == list(arms):
            raise TombolaError(f"--{name} has no effect here: no arm of this study takes it; leave it out{beside}")


def _others(options: Any) -> Mapping[str, Any]:
    """For every option that has been given: what else it might have been."""
    if options is None:
        return {}
    given = {one.name: (getattr(options, one.name), one.default) for one in fields(options)}
    known = {name: pair for name, pair in given.items() if pair[0] != pair[1]}
    return {
        name: value / 2 if default is None else default
        for name, (value, default) in known.items()
        if default is not None or isinstance(value, float)
    }


def _made(make: Callable[[Setting], Sequence[Arm]], setting: Setting) -> list[Arm] | None:
    """The arms; None where there can be none."""
    try:
        return list(make(setting))
    except TombolaError:
        return None
