"""A verb of the command line, and the parsing of its words into options."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.errors import parser_line
from tombola.cli.screen import Screen
from tombola.cli.values import import_from_here, new_parser
from tombola.errors import TombolaError

DEFAULT_METHOD = "imp"
"""The method of a command that names none."""


@dataclass(frozen=True)
class Verb:
    """One command: how its options are made, and the public function that they are handed to.

    `run` shows its result on the screen and returns it as JSON-able data. `presets` gives, from what the user
    named, the defaults of the options left open. `arms` gives the arms that its result will have, each with its series,
    where that is known before anything is run. `data_parallel`: whether all processes that torchrun starts take
    part; of others, the first does it, or refuses to.
    """

    words: tuple[str, ...]
    summary: str
    add: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Screen], Mapping[str, Any]]
    presets: Callable[[Namespace], Mapping[str, Any]] | None = None
    data_parallel: bool = False
    arms: Callable[[Namespace], Mapping[str, str]] | None = None

    @property
    def command(self) -> str:
        """As it is typed, e.g. "tombola find imp"."""
        return " ".join(("tombola", *self.words))

    def parser(self) -> ArgumentParser:
        """A fresh parser of this verb's options."""
        parser = new_parser(
            prog=self.command,
            usage=f"{self.command} [options]",
            description=self.summary,
            allow_abbrev=False,
        )
        parser.add_argument("--config", action="config", help="a YAML file of options; later options win")
        self.add(parser)
        parser.add_argument(
            "--json", type=bool, nargs="?", const=True, default=False, help="end stdout with one line of JSON"
        )
        return parser

    def parse(self, words: Sequence[str]) -> Namespace:
        """The options given by `words`, completed by the presets.

        Raises:
            TombolaError: an option is unknown or its value is not allowed, in one line.
            SystemExit: help or the configuration was asked for, and printed.
        """
        parser = self.parser()
        if self.presets is not None:
            self._set_presets(parser, self.presets, words)
        return self._parse(parser, words)

    def parse_mapping(self, parser: ArgumentParser, values: Mapping[str, Any]) -> Namespace:
        """The options that a mapping gives, read by one of this verb's parsers, as `parse` reads words.

        Raises:
            TombolaError: an option is unknown or its value is not allowed, in one line.
        """
        return self._checked(parser, lambda: parser.parse_object(dict(values)))

    def _set_presets(
        self,
        parser: ArgumentParser,
        presets: Callable[[Namespace], Mapping[str, Any]],
        words: Sequence[str],
    ) -> None:
        helps = {"-h", "--help"} & set(words)
        named = [word for word in words if word not in helps and not word.startswith("--print_config")]
        try:
            defaults = presets(self._parse(parser, named))
        except TombolaError:
            if helps:
                return  # help is shown even if other options are wrong
            raise
        parser.set_defaults(dict(defaults))

    def _parse(self, parser: ArgumentParser, words: Sequence[str]) -> Namespace:
        return self._checked(parser, lambda: parser.parse_args(list(words)))

    def _checked(self, parser: ArgumentParser, read: Callable[[], Namespace]) -> Namespace:
        try:
            given = read()
        except (ArgumentError, KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, TombolaError):
                raise
            raise TombolaError(parser_line(str(error), option_names(parser), self.command)) from error
        _check_paths(given)
        loggers = given.get("loggers") or ()
        import_from_here([*map(given.get, _COMPONENTS), *(loggers if isinstance(loggers, list) else [loggers])])
        return given


_PATHS = ("ticket", "runs", "out", "data_root", "start", "checkpoint", "plan", "arms", "tickets")
"""Options that name files or folders."""
_COMPONENTS = ("model", "ticket", "data", "criterion", "optimizer")
"""Options that may name a user's own by import path."""


def _check_paths(given: Namespace) -> None:
    """TombolaError for a value that cannot be the name of a file or folder."""
    for name in _PATHS:
        value = given.get(name)
        for path in value if isinstance(value, list) else [value]:
            if path == "" or (isinstance(path, str) and "\0" in path):
                problem = "is empty" if path == "" else f"is {path!r}, with a NUL character in it"
                raise TombolaError(f"{name} {problem}; name a file or folder")


def option_names(parser: ArgumentParser) -> list[str]:
    """Every option's name, without dashes."""
    return [text[2:] for action in parser._actions for text in action.option_strings if text.startswith("--")]
