"""How the words and files of the command line become values: YAML that was looked through before it is loaded."""

from __future__ import annotations

from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader

from tombola.strict import check_yaml

_MODE = "tombola"  # a name of our own: the library's modes stay as they are
_SHORT = 200  # characters that hold no deep nesting


class _Refused(yaml.YAMLError):
    """What `check_yaml` found; the parser tells a configuration that is no YAML by this class."""


def new_parser(**settings: Any) -> ArgumentParser:
    """A parser that raises, and reads values and configurations as `_load` does."""
    set_loader(_MODE, _load, (yaml.YAMLError,))
    return ArgumentParser(exit_on_error=False, parser_mode=_MODE, **settings)


def _load(text: str) -> Any:
    if len(text) > _SHORT or "*" in text or "{" in text or "\n" in text:
        try:
            check_yaml(text)
        except ValueError as error:
            raise _Refused(str(error)) from None
    return get_loader("yaml")(text)
