"""How the words and files of the command line become values: YAML that is checked before it is loaded."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader

from tombola.errors import TombolaError
from tombola.names import is_import_path
from tombola.strict import check_yaml

_MODE = "tombola"  # a name of our own: the library's modes are left unchanged
_SHORT = 200  # characters that hold no deep nesting
_NUMBERS = re.compile(r"[0-9.]+(,[0-9.]+)+")
"""A list as people write it on a command line: 0.3,0.5."""


class _Refused(yaml.YAMLError):
    """Refused by `check_yaml`; the class that the parser takes for invalid YAML."""


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
    if _NUMBERS.fullmatch(text):
        text = f"[{text}]"
    return get_loader("yaml")(text)


def load_file(file: Path) -> Any:
    """The content of a YAML file, its values read as those of `--config` are."""
    try:
        return _load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TombolaError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from None


def import_from_here(names: Iterable[object]) -> None:
    """If one of the names that the user gave is an import path, what lies in this folder can be imported too.

    Last of all, so that nothing here takes the place of an installed package. Worker processes take it over.
    """
    here = str(Path.cwd())
    if here not in sys.path and any(isinstance(name, str) and is_import_path(name) for name in names):
        sys.path.append(here)
