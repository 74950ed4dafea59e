"""The command line as text: every command, option, type, default and help. `python tests/freeze_cli.py` writes it."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tombola.cli import all_verbs
from tombola.cli.options import field_help
from tombola.cli.verb import Verb

FILE = Path(__file__).parent / "data" / "cli.txt"
_OF_EVERY_COMMAND = ("help", "config", "print_config")

Option = tuple[str, str, str]
"""Name, "type = default", help."""


def text() -> str:
    """Commands with their options first; then what the options' help says, once for all commands that say the same."""
    shown: list[str] = []
    helps: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for verb in all_verbs():
        shown += [verb.command, f"  {verb.summary}"]
        for name, value, words in options(verb):
            shown.append(f"    {name}: {value}")
            helps[name][words].append(verb.command.removeprefix("tombola "))
        shown.append("")
    for name, said in sorted(helps.items()):
        shown.append(name)
        for words, commands in sorted(said.items()):
            shown += [f"  {words}", *([f"    {', '.join(commands)}"] if len(said) > 1 else [])]
    return "\n".join(shown) + "\n"


def options(verb: Verb) -> Iterator[Option]:
    """What a parser accepts, the fields of nested dataclasses too."""
    for action in verb.parser()._actions:
        if action.default == SUPPRESS or action.dest in _OF_EVERY_COMMAND:
            continue
        name = next((text for text in action.option_strings if not text.endswith("+")), action.dest)
        kind = getattr(action, "_typehint", None) or action.type
        yield name, f"{_type(kind)}{_count(action)}{_default(action)}", (action.help or "").replace("%%", "%")
        for part in (kind, *get_args(kind)):
            if isinstance(part, type) and is_dataclass(part):
                hints, helps = get_type_hints(part), field_help(part)
                for item in fields(part):
                    yield f"{name}.{item.name}", f"{_type(hints[item.name])}{_value(item)}", helps[item.name]


def _type(kind: Any) -> str:
    plain = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    return plain.replace("typing.", "").replace("None", "null")


def _count(action: Action) -> str:
    flag = action.nargs == "?" and bool(action.option_strings)
    return "" if action.nargs is None or flag else f" ({action.nargs})"


def _default(action: Action) -> str:
    required = action.required or (not action.option_strings and action.nargs not in ("?", "*"))
    return ", required" if required else f" = {_shown(action.default)}"


def _value(item: Field[Any]) -> str:
    if item.default_factory is not MISSING:
        return f" = {_shown(item.default_factory())}"
    return ", required" if item.default is MISSING else f" = {_shown(item.default)}"


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
