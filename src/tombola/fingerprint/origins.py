"""Where code comes from: installed packages count by name and version, the user's own code by its source."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType

_UNVERSIONED = frozenset({"tombola", "torch", "torchvision", "numpy"})
"""Packages whose versions every run records, and which a finished run may differ in."""


def package_of(module: str | None) -> str | None:
    """The identity of an installed module: its package, with the version; None for the user's own code.

    Python's own modules and those whose versions every run records anyway have no version here.
    """
    top = (module or "__main__").partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is None or top == "__main__":
        return None
    if top in _UNVERSIONED or _is_python_s_own(top, loaded):
        return top
    return f"{top} {_version(top)}" if _is_installed(loaded) else None


def _paths(module: ModuleType) -> list[Path]:
    return [Path(path) for path in (getattr(module, "__file__", None), *getattr(module, "__path__", ())) if path]


def _is_python_s_own(top: str, module: ModuleType) -> bool:
    """By its path too: users' files may be called test or code."""
    if top not in sys.stdlib_module_names:
        return False
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    return all(folders & set(path.parents) for path in _paths(module)) and not _is_installed(module)


def _is_installed(module: ModuleType) -> bool:
    return any({"site-packages", "dist-packages"} & set(path.parts) for path in _paths(module))


@cache
def _version(top: str) -> str:
    """Of the distribution that a package belongs to; by the package's name first, since reading all is slow."""
    for known in (lambda: (top,), lambda: packages_distributions().get(top, ())):
        for name in known():
            try:
                return version(name)
            except PackageNotFoundError:
                continue
    return str(getattr(sys.modules[top], "__version__", "-"))


def file_digest(module: ModuleType | None) -> str | None:
    """sha256 of a module's file, source or compiled; None where it has none."""
    file = getattr(module, "__file__", None)
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
    except OSError:
        return None
