"""Which versions computed a result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("tombola", "torch", "torchvision", "numpy")


def versions() -> dict[str, str]:
    """The versions that a result's bits depend on: packages and Python."""
    versions_used = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions_used[package] = version(package)
        except PackageNotFoundError:
            versions_used[package] = "not installed" if package != "tombola" else _own()
    return versions_used


def _own() -> str:
    from tombola import __version__

    return __version__
