"""A user's mistake as one line: the value given, the values allowed, how to fix it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

from tombola.errors import in_short, place_of
from tombola.names import closest

_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "dict": "a mapping such as {name: value}",
    "Mapping": "a mapping such as {name: value}",
    "list": "a list such as [a, b]",
    "tuple": "a list such as [a, b]",
}

_WHOLE = "TOMBOLA_TRACEBACK=1 shows the traceback"

_KEY = r'Parser key "([^"]+)"'

_SOURCE = ' in "<unicode string>",'


def one_line(error: BaseException) -> str:
    """Any error's message on one line; a missing or unreadable file is named first.

    An error raised in a user's own function is reported with its location.
    """
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
        return f"the output cannot be written: {error.strerror}; free some space and run again"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    place = place_of(error)
    return f"{text} ({place}; {_WHOLE})" if place else text


def unexpected(error: BaseException) -> tuple[str, bool]:
    """The line about an uncaught error, and whether the user caused it: own code, or too little memory."""
    place, text = place_of(error), in_short(error)
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return f"memory ran out ({text}); take a smaller network or batch, or fewer jobs", True
    if place or isinstance(error, SystemExit):  # whose own frame is no file's where sys.exit itself was named
        return f"{text} ({place}; {_WHOLE})" if place else f"a function that was named ended the program: {text}", True
    return f"{text}; this is a fault of Tombola's, please report it ({_WHOLE})", False


def parser_line(message: str, options: Iterable[str], command: str) -> str:
    """The parser's message, often many lines, as one line.

    `options`: the known options without dashes. `command`: e.g. "tombola find imp", to point at its help.
    """
    names = list(options)
    text = " ".join(message.split())
    if match := re.match(r"unrecognized arguments: (.+)", text):
        return _unrecognised(match[1].split(), names, command)
    if match := re.match(r"argument (--[\w.+-]+).*: expected (?:one|at least one) argument", text):
        return f"{match[1]} needs a value; see {command} --help"
    if match := re.match(r"the following arguments are required: (.+)", text):
        return f"{match[1]} is missing; see {command} --help"
    if text == "int too large to convert to float":
        return "an option is a number of hundreds of digits; give a number of at most 64 bits"
    if "integer string conversion" in text:
        name = ".".join(re.findall(_KEY, message)) or "a number"
        return f"{name} has thousands of digits; give a number of at most 64 bits"
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        return _unknown_key(match[1], text, names, command)
    if match := re.search(r"File does not exist: '?([^']+)'?", text):
        return f"file {match[1]} is not there"
    if match := re.match(r"Unexpected config: (.+)", text):
        return f"the configuration is {match[1][:60]!r}, but it must be a mapping of options to values"
    if match := re.search(r"Path is not a file: '?([^']+)'?", text):
        return f"{match[1]} is no file; a YAML file of options is needed"
    if match := re.search(r'Parser key "([^"]+)": Unable to load config "(.*)"', text):
        return f"{match[1]} is {match[2]!r}, but it must be {_TYPES['dict']}"
    if text == "Unexpected config:" or "codec can't decode" in text:
        return "the configuration is empty or no UTF-8 text, but it must be a YAML mapping of options to values"
    if text.startswith("Problems parsing config"):
        return f"the configuration is not readable YAML: {text.partition(': ')[2].replace(_SOURCE, '')}"
    return _wrong_type(message) or text


def _unrecognised(words: list[str], names: list[str], command: str) -> str:
    option = next((word for word in words if word.startswith("-")), None)
    if option is None:
        return f"argument {words[0]!r} is one too many; see {command} --help"
    given = option.partition("=")[0]
    if given == "--length" and (instead := [f"--{name}" for name in ("epochs", "recipe") if name in names]):
        return f"option --length is not known; {' or '.join(instead)} says how long is trained; see {command} --help"
    return f"option {given} is not known{closest(given, [f'--{name}' for name in names])}; see {command} --help"


def _unknown_key(key: str, text: str, names: list[str], command: str) -> str:
    owner = re.match(r'Parser key "([^"]+)"', text)
    name = f"{owner[1]}.{key}" if owner else key
    near = "" if owner else closest(key, names)
    return f"option {name} is not known{near}; see {command} --help"


def _wrong_type(message: str) -> str | None:
    keys = re.findall(_KEY, message)
    value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    wanted = dict.fromkeys(re.findall(r"Expected (?:a )?<class '(?:\w+\.)*(\w+)'>", message))
    if "Expected a dot import path string" in message:  # what the parser wants of a nested dataclass
        wanted = {"dict": None, **wanted}
    if not keys or value is None or not wanted:
        return None
    if len(keys) > 1:  # a nested option: its own parser's message comes first, null belongs to the outer one
        wanted.pop("NoneType", None)
    allowed = _or([_TYPES.get(name, name) for name in wanted])
    return f"{'.'.join(dict.fromkeys(keys))} is {value[1]!r}, but it must be {allowed}"


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
