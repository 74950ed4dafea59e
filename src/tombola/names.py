"""Names that a user gives: the one line about one that is not known, and what lies at an import path (torch-free)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from tombola.errors import TombolaError, in_short, not_installed

_OFFERED = ("timm",)
"""Packages that come with none of Tombola's, but whose networks have short names here."""
_TENSORS = ("pt", "pth", "safetensors", "ckpt", "bin")
"""Endings of checkpoints, which are no names of functions."""


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
    if not near:  # a name cut short, or the module of a parameter
        start = word if len(word) > 2 else f"{word}."
        near = [name for name in by_lower if name.startswith(start)][:2]
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
            if error.name == parts[0] and error.name in _OFFERED:
                raise not_installed(error.name, error.name) from error
            if count > 1 and error.name is not None and f"{name}.".startswith(f"{error.name}."):
                continue  # the last words may be a class and its attribute
            raise _cannot(what, path, in_short(error)) from error
        except (Exception, SystemExit) as error:  # whatever the module does when it is imported
            raise _cannot(what, path, f"{name}: {in_short(error)}") from error
        for index, part in enumerate(parts[count:], start=count):
            if not hasattr(found, part):
                public = [known for known in dir(found) if not known.startswith("_")]
                owner = ".".join(parts[:index])
                raise _cannot(what, path, f"{owner} has no {part!r}{closest(part, public)}")
            found = getattr(found, part)
        return found
    raise _cannot(what, path, "it has no module")


def first_installed(modules: Iterable[str], package: str) -> Any:
    """The first of the modules that can be imported, or a TombolaError that says how to install the package."""
    for name in modules:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # it is installed, and lacks something itself
    raise not_installed(package, package)


def lies_under(path: str, trusted: Sequence[str]) -> bool:
    """Whether an import path is one of these prefixes, or lies below one ("torchvision.models." or without the dot)."""
    stems = [prefix.rstrip(".") for prefix in trusted]
    return any(stem and (path == stem or path.startswith(stem + ".")) for stem in stems)


def imported_if_trusted(what: str, path: object, trusted: Sequence[str], instead: str) -> Any:
    """What lies at an import path that a file names: imported only where the user trusts it.

    Args:
        trusted: import prefixes; the path, and the module that defines what lies there, must be under one of them, for
            a trusted package also holds what it imported itself, such as os.system.
        instead: what the user can do if he trusts the file, e.g. "pass model=".

    Raises:
        TombolaError: the path is not trusted, and nothing was imported; or it cannot be imported.
    """
    if isinstance(trusted, str):
        raise TombolaError(f"trusted={trusted!r} is one string; give a sequence of import prefixes")
    if not isinstance(path, str) or not is_import_path(path) or not lies_under(path.replace(":", "."), trusted):
        raise TombolaError(f"{what} {repr(path)[:80]} is not one of Tombola's own: {instead} if you trust the ticket")
    found = imported(what, path)
    home = str(getattr(found, "__module__", None))
    if path not in trusted and not lies_under(home, trusted):
        raise TombolaError(
            f"{what} {path[:80]!r} is defined in {home[:80]!r}, which is not under the trusted {tuple(trusted)}"
        )
    return found


def _cannot(what: str, path: str, why: str) -> TombolaError:
    stem, _, ending = path.rpartition(".")
    if ending == "py":
        return TombolaError(f"{what} {path!r} is a file; name what stands in it, as in {stem}.NAME")
    if ending in _TENSORS:
        way = "name a class or function by its import path, and the file as checkpoint"
        return TombolaError(f"{what} {path!r} is a file of tensors; {way}")
    place = "" if " has no " in why else ", and that its folder is on PYTHONPATH"
    return TombolaError(f"{what} {path!r} cannot be imported ({why}); check the spelling{place}")
