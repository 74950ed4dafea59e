"""A reproduction carried out: its commands one after the other, then the verdicts, in a run directory of its own.

The commands' own runs lie beside it, named by their content as always: what a user, or another reproduction, has run
already is found finished, and what was interrupted goes on.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tombola.errors import TombolaError
from tombola.results.codec import typed
from tombola.results.reproduction import Finding, ReproducedRun, ReproductionResult
from tombola.runs.carry import Order, check_out
from tombola.runs.stage import RESULT
from tombola.study.definition import Definition
from tombola.study.reproduce.definition import Claim, Form, Reproduction
from tombola.study.reproduce.judging import estimate, judge, rule
from tombola.study.reproduce.reading import Sample, check_place, sample

REPEATED = 1_000
"""Seeds of the repeats of one run lie so far apart: its replicates have those between."""
_PLAIN = re.compile(r"[\w.+%/-]+")


@dataclass(frozen=True)
class Asked:
    """What is asked of a reproduction beside its name.

    Args:
        form: quick or full.
        replicates: instead of those that the file says; None: as there.
        shorten: options that replace those of the file wherever a command has them, e.g. {"length": "2it"}: the result
            then says that it was shortened.
        place: options that change nothing in the result: folders, processes, the machine.
    """

    form: Form = "quick"
    seed: int = 0
    replicates: int | None = None
    shorten: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shortened(self) -> bool:
        """Whether this is less than the form says."""
        return bool(self.shorten)


@dataclass(frozen=True)
class Step:
    """One command: its words (of a `study`, the options), and what replaces them where the command has such options."""

    name: str
    words: tuple[str, ...]
    study: Definition | None
    overrides: Mapping[str, Any]

    @property
    def shown(self) -> str:
        """As it is typed into a shell; of a study of the file's own, its name."""
        return shlex.join(("tombola", *(("study", f"{self.name}.yaml") if self.study else ()), *self.words))


Perform = Callable[[Step], Mapping[str, Any]]
"""Carries out one command and gives what it prints as JSON."""
ArmsOf = Callable[[Step], Mapping[str, str] | None]
"""The arms of a command's result, each with its family; None where they are not known before it is carried out."""


def steps_of(reproduction: Reproduction, asked: Asked) -> Iterator[tuple[str, Step]]:
    """Every command with the name of its run, those that are repeated as often as they are."""
    for name, command in reproduction.runs.items():
        options, repeated = command.options(asked.form), command.repeats > 1
        replicates = {} if asked.replicates is None or repeated else {"replicates": asked.replicates}
        instead = {**replicates, **asked.shorten}
        for repeat in range((asked.replicates or command.repeats) if repeated else 1):
            seed = {"seed": asked.seed + REPEATED * repeat}
            words = tuple(written({**_replaced(options, instead), **seed}))
            overrides = {**instead, **asked.place}
            yield name, Step(name, (*(command.command or "").split(), *words), command.study, overrides)


def _replaced(options: Mapping[str, Any], instead: Mapping[str, Any]) -> dict[str, Any]:
    """Options with other values for those that they have, in a mapping such as `recipe` too."""
    return {
        key: instead[key] if key in instead else _replaced(value, instead) if isinstance(value, Mapping) else value
        for key, value in options.items()
    }


def written(options: Mapping[str, Any]) -> Iterator[str]:
    """Options as words of a command line."""
    for key, value in options.items():
        text = value if isinstance(value, str) else _flow(value)
        yield from (f"--{key}={text}",) if text.startswith("-") else (f"--{key}", text)  # -4it is no option


def _flow(value: Any) -> str:
    """A value as YAML in one line, quoted only where it must be."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_flow(item)}' for key, item in value.items())}}}"
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_flow, value))}]"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else f'"{text}"'


def run_reproduction(
    name: str,
    reproduction: Reproduction,
    asked: Asked,
    out: Path,
    perform: Perform,
    machine: Mapping[str, Any],
    *,
    arms: ArmsOf = lambda step: None,
    force: bool = False,
) -> ReproductionResult:
    """The verdict on every claim, in a run directory under `out`, beside the runs of the commands.

    `arms`: what a claim may name is known before anything is run.

    Raises:
        TombolaError: a command cannot be carried out, or a claim names what is not in its result.
    """
    check_out(out)
    steps = list(steps_of(reproduction, asked))
    check_claims(reproduction, asked.form, dict(steps), arms)  # repeats have the same arms
    order = Order(out, f"reproduce-{Path(name).stem}-{asked.form}", "reproduce", machine, force)
    config = {
        "reproduction": Path(name).stem,
        "form": asked.form,
        "runs": [{"name": run, "words": list(step.words), "study": _plain(step.study)} for run, step in steps],
        "replicates": asked.replicates,
        "shorten": dict(asked.shorten),
        "seed": asked.seed,
    }
    given: dict[str, list[Mapping[str, Any]]] = {run: [] for run in reproduction.runs}
    for run, step in steps:  # a run is opened after what it is made of: a mistake in a command leaves nothing behind
        given[run].append(perform(step))
    result = ReproductionResult(
        name=Path(name).stem,
        title=reproduction.title,
        paper=reproduction.paper,
        claimed=" ".join(reproduction.claimed.split()),
        form=asked.form,
        shortened=asked.shortened,
        seed=asked.seed,
        commands=tuple(_described(run, steps, results) for run, results in given.items()),
        findings=tuple(finding(reproduction, claim, given, asked) for claim in reproduction.claims_in(asked.form)),
    )
    with order.open(config) as opened:
        content = opened.recovered()
        before = None if content is None else typed(ReproductionResult, content, opened.directory / RESULT)
        if before != result:
            opened.finish(result.as_dict())
        return result.replace(run=str(opened.directory), reused=before == result)


def check_claims(reproduction: Reproduction, form: Form, steps: Mapping[str, Step], arms: ArmsOf) -> None:
    """TombolaError if a claim names an arm that the command of its run, one of `steps`, does not have."""
    known = {run: arms(step) for run, step in steps.items()}
    for claim in reproduction.claims_in(form):
        for place in claim.places:
            there = known[reproduction.run_of(place)]
            if there is not None:
                with _of(claim):
                    check_place(place, there)


@contextmanager
def _of(claim: Claim) -> Iterator[None]:
    """Errors say which claim they are of."""
    try:
        yield
    except TombolaError as error:
        raise TombolaError(f"claim {claim.what!r}: {error}") from None


def _plain(study: Definition | None) -> Any:
    return None if study is None else msgspec.to_builtins(study)


def _described(name: str, steps: Sequence[tuple[str, Step]], results: Sequence[Mapping[str, Any]]) -> ReproducedRun:
    first = results[0]
    counted = first.get("replicates")
    each = counted if isinstance(counted, int) else len(counted) if counted else 1
    return ReproducedRun(
        name=name,
        command=next(step.shown for run, step in steps if run == name),
        runs=tuple(Path(str(result["run"])).name for result in results if result.get("run")),
        model=first.get("model"),
        data=first.get("data"),
        replicates=each * len(results),
    )


def finding(
    reproduction: Reproduction, claim: Claim, given: Mapping[str, Sequence[Mapping[str, Any]]], asked: Asked
) -> Finding:
    """What was found of one claim, and whether it agrees.

    Raises:
        TombolaError: the claim names what is not there.
    """
    with _of(claim):
        own, *others = [sample(given[reproduction.run_of(place)], place) for place in claim.places]
    other: Sample | None = others[0] if others else None
    return judged(claim, own, other, whole=asked.form == "full" and not asked.shortened)


def judged(claim: Claim, own: Sample, other: Sample | None, *, whole: bool) -> Finding:
    """The verdict on a claim, given the values that it is of. `whole`: of the full form, at its full length."""
    paired = other is not None and own.paired_with(other)
    values = None if other is None else other.values
    found = estimate(own.values, values, paired=paired, ratio=claim.ratio)
    return Finding(
        what=claim.what,
        published=claim.published,
        measured=claim.measured,
        rule=rule(claim),
        unit=claim.scale,
        own=own.values,
        other=values,
        paired=paired,
        ratio=claim.ratio,
        found=found,
        verdict=judge(claim, found.interval, whole=whole),
    )
