"""What all studies that compare no arms are called with, and print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from jsonargparse import Namespace

from tombola.cli.screen import Screen, loading
from tombola.cli.searches import MACHINE, show_denominator
from tombola.formats import plural
from tombola.study.setting import Setting
from tombola.train.options import Options

if TYPE_CHECKING:
    from tombola.results.measurement import Measurement


def show_measurement(screen: Screen, result: Measurement, title: str) -> None:
    """The tables of a result, and what it says in words."""
    from tombola.report import measured

    over = f"{'means over ' if result.replicates > 1 else ''}{plural(result.replicates, 'replicate')}"
    screen.line(f"{title}, {over}")
    screen.tables([table for table in measured.tables(result) if not table.folded])
    for line in filter(None, (result.sentence, result.intervals, result.note)):
        screen.line(line)


Load: TypeAlias = Callable[[], Callable[..., Any]]
"""Loads the function of a study, which takes what `measure` gives it."""


def measure(given: Namespace, screen: Screen, name: str, load: Load, setting: Setting) -> Mapping[str, Any]:
    """Carry out a study of one network: its options are those of the setting, its function what `load` gives."""
    machine = Options(**MACHINE.read(given))
    with loading(machine.progress):
        study = load()
    result = study(
        setting.model,
        setting.data,
        setting.options,
        recipe=setting.recipe,
        out=Path(given["out"]),
        seed=given["seed"],
        replicates=given["replicates"],
        options=machine,
        jobs=given["jobs"],
    )
    show_measurement(screen, result, f"{name} on {result.data} with {result.model}")
    show_denominator(screen, result.parameters)
    screen.run(result.run, result.reused)
    read: Mapping[str, Any] = result.as_dict()
    return read
