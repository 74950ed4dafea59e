"""Names that a user gives: the one line about one that is not known, and what lies at an import path (torch-free)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from tombola.errors import TombolaError


def unknown(what: str, given: object, known: Iterable[object], more: str = "") -> str:
    """The line about a name that is not among those known, with the closest of them.

    Args:
        what: what is named, e.g. "criterion".
        more: what is allowed besides, e.g. ", or an import path such as package.module.function".
    """
    allowed = list(map(str, known))
    shown = repr(given[:80]) if isinstance(given, str) else repr(given)[:80]
    return f"unknown {what} {shown}{closest(given, allowed)}; allowed: {', '.join(allowed)}{more}"


def closest(given: object, known: Iterable[str]) -> str:
    """' (did you mean X?)', or nothing; case does not count."""
    if not isinstance(given, str):
        return ""
    from difflib import SequenceMatcher, get_close_matches

    word, by_lower = given[:80].lower(), {name.lower(): name for name in known}
    near = get_close_matches(word, by_lower, n=2)
    likeness = [SequenceMatcher(None, name, word).ratio() for name in near]
    if not near and len(word) > 2:  # a name cut short
        near = [name for name in by_lower if name.startswith(word)][:2]
        likeness = [1.0] * len(near)
    best = [by_lower[name] for name, ratio in zip(near, likeness, strict=True) if ratio == likeness[0]]
    return f" (did you mean {' or '.join(best)}?)" if best else ""


def check_known(what: str, given: object, known: Iterable[object]) -> None:
    """TombolaError unless the name is one of those known."""
    names = list(known)
    if given not in names:
        raise TombolaError(unknown(what, given, names))


def is_import_path(name: str) -> bool:
    """Whether the name has the form package.module.attribute, or package.module:attribute."""
    parts = name.replace(":", ".", 1).split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def imported(what: str, path: str) -> Any:
    """What lies at an import path.

    Raises:
        TombolaError: nothing does, or its module cannot be imported.
    """
    parts = path.replace(":", ".", 1).split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if count > 1 and error.name is not None and f"{name}.".startswith(f"{error.name}."):
                continue  # the last words may be a class and its attribute
            raise _cannot(what, path, _line(error)) from error
        except Exception as error:  # whatever the module does when it is imported
            raise _cannot(what, path, f"{name}: {_line(error)}") from error
        for index, part in enumerate(parts[count:], start=count):
            if not hasattr(found, part):
                public = [known for known in dir(found) if not known.startswith("_")]
                owner = ".".join(parts[:index])
                raise _cannot(what, path, f"{owner} has no {part!r}{closest(part, public)}")
            found = getattr(found, part)
        return found
    raise _cannot(what, path, "it has no module")


def _cannot(what: str, path: str, why: str) -> TombolaError:
    place = "" if " has no " in why else ", and that its folder is on PYTHONPATH"
    return TombolaError(f"{what} {path!r} cannot be imported ({why}); check the spelling{place}")


def _line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
