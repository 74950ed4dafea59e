"""The command line: parse, call, print. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from tombola.cli.errors import one_line, unexpected
from tombola.cli.screen import Screen, brief, plain_warnings
from tombola.cli.signals import Ended, ending_signals_raised
from tombola.cli.verb import DEFAULT_METHOD, Verb
from tombola.errors import TombolaError, place_of
from tombola.machine.launch import launch, leave, speaks
from tombola.names import is_import_path, unknown
from tombola.runs.jobs import check_single_process

FAULT, USAGE, UNMET, INTERRUPTED = 1, 2, 3, 130
_RESUMED = ("find", "study", "sweep", "reproduce", "verify", "demo")
"""Commands that keep what they have done in a folder of runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit status: 0, 2 for a mistake (one line on stderr), 130 if interrupted.

    3: a budget could not be met, and the nearest that was reached is kept. 1 is a fault of Tombola's own; 128 and more,
    the signal that ended it. With TOMBOLA_TRACEBACK set in the environment errors are raised. Of several processes that
    torchrun started, the first one speaks, and a mistake is said once.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    started = launch()
    speaking = started is None or started.rank == 0
    try:
        with plain_warnings(muted=not speaking), ending_signals_raised(), _stdout(speaking):
            return _run(words, speaking)
    except Ended as end:
        how = "interrupted" if end.status == INTERRUPTED else f"ended by {end}"
        return _fail(f"{how}; run the same command to {_next(words)}", end.status)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:  # a user's own function may raise anything
        if os.environ.get("TOMBOLA_TRACEBACK"):
            raise
        if isinstance(error, KeyboardInterrupt) and not place_of(error):
            return _fail(f"interrupted; run the same command to {_next(words)}", INTERRUPTED)
        if isinstance(error, TombolaError | OSError):
            return _fail(one_line(error), USAGE)
        text, theirs = unexpected(error)
        return _fail(text, USAGE if theirs else FAULT)


def _next(words: Sequence[str]) -> str:
    """What the same command does after it was ended."""
    return "go on" if not words or words[0] in _RESUMED else "start anew"


def _fail(text: str, status: int) -> int:
    if speaks():
        print(f"tombola: error: {brief(text)}", file=sys.stderr)
    return status


@contextmanager
def _stdout(speaking: bool) -> Iterator[None]:
    """Stdout itself, or that of a process that says nothing."""
    if speaking:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def _run(words: list[str], speaking: bool) -> int:
    if words[:1] == ["--version"]:
        from tombola import __version__

        print(f"tombola {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        _print_help(all_verbs())
        return 0
    verb, rest = _find_verb(all_verbs(), words)
    if verb is None or not (speaking or verb.data_parallel):
        return 0
    try:
        given = verb.parse(rest)
    except SystemExit as end:  # help or the configuration was printed
        return end.code if isinstance(end.code, int) else 0
    if launch() is not None and not verb.data_parallel:
        check_single_process(verb.command)
    screen = Screen(bool(given["json"]), together=not speaking)
    found = verb.run(given, screen)
    screen.finish(found)
    leave()
    return UNMET if found.get("met") is False else 0


def all_verbs() -> list[Verb]:
    """Every command, in the order of the help."""
    from tombola.cli import (
        completion,
        deconstruct,
        deltas,
        deployment,
        double_descent,
        geometry,
        hub,
        overlap,
        packs,
        pruning,
        records,
        regime,
        reproduce,
        searches,
        sensitivity,
        studies,
        sweep,
        tickets,
    )

    groups = (
        searches,
        sweep,
        studies,
        deconstruct,
        overlap,
        geometry,
        double_descent,
        regime,
        reproduce,
        tickets,
        deployment,
        pruning,
        sensitivity,
        packs,
        deltas,
        hub,
        records,
    )
    verbs = [verb for group in groups for verb in group.verbs()]
    return [*verbs, completion.verb(verbs)]


def find_verb(words: list[str]) -> tuple[Verb | None, list[str]]:
    """The command that the words begin with, and the words after it.

    Raises:
        TombolaError: there is no such command.
    """
    return _find_verb(all_verbs(), words)


def _find_verb(verbs: list[Verb], words: list[str]) -> tuple[Verb | None, list[str]]:
    """The command that the words begin with, and the words after it; None where only help was asked for."""
    path: list[str] = []
    while True:
        depth = len(path)
        begun = [verb for verb in verbs if verb.words[:depth] == tuple(path)]
        if len(begun) == 1 and len(begun[0].words) == depth:
            return begun[0], words[depth:]
        nexts = {verb.words[depth]: verb for verb in begun}
        word = words[depth] if depth < len(words) else None
        if word in ("-h", "--help"):
            _print_help(begun)
            return None, []
        if word is not None and word.startswith("-") and DEFAULT_METHOD in nexts:
            return nexts[DEFAULT_METHOD], words[depth:]
        if word is None or word.startswith("-"):
            raise TombolaError(f"tombola {' '.join(path)} needs one more word: {', '.join(nexts)}")
        if path == ["study"] and word.endswith((".yaml", ".yml")):
            return _study_of_file(word), words[depth + 1 :]
        if word not in nexts and is_import_path(word):
            from tombola.cli.searches import verb_of_path

            if (own := verb_of_path(path, word)) is not None:
                return own, words[depth + 1 :]
        if word not in nexts:
            more = ", or a file of your own that ends in .yaml" if path == ["study"] else ""
            if path in (["find"], ["study", "curve"]):
                more = ", or an import path such as package.module.Class"
            raise TombolaError(unknown(f"command {' '.join(path)}".strip(), word, nexts, more))
        path.append(word)


def _study_of_file(word: str) -> Verb:
    """`study FILE.yaml`: a study that the user has defined."""
    from tombola.cli.studies import file_verb

    return file_verb(word, Path(word))


def _print_help(verbs: Sequence[Verb]) -> None:
    width = max(len(verb.command) for verb in verbs)
    print("Tombola draws winning tickets from neural networks: find, verify, deploy, report.\n")
    for verb in verbs:
        print(f"  {verb.command:{width}}  {verb.summary}")
    print("\nOptions of a command: tombola find imp --help. A first look: tombola demo.")
    print("A method of your own: tombola find package.module.Class. A study: tombola study FILE.yaml.")
