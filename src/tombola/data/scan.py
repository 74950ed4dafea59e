"""Which files of a folder are images of which class; what is skipped is named in one warning."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from tombola.data.listing import Samples
from tombola.errors import TombolaError

PARTS = ("train", "val", "test")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files with these endings are images (torchvision's list); case does not matter."""

_STRAY = {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
"""Directories that archivers, tools and disks create; hidden ones are skipped whatever their name."""
_LIKE_A_PART = ("val", "test", "dev", "eval", "train")
_NAMED = 4


class SkippedFilesWarning(UserWarning):
    """Directories or files of an image folder are not part of the data."""


def scan(root: Path) -> tuple[dict[str, Samples], list[str]]:
    """The images of train, val and test (where they exist), and the classes they share.

    A class is a directory with at least one image in it, at any depth. Left out, with one warning that names them:
    hidden files and directories, those that tools create, directories without images, and files that are no
    images. Classes and images are in the order of their names.

    Raises:
        TombolaError: `train` is missing, a part holds no class, or the parts' classes differ.
    """
    skipped = _Skipped(root)
    parts: dict[str, Samples] = {}
    classes: list[str] = []
    for where in PARTS:
        folder = root / where
        if not folder.is_dir():
            if where == "train":
                raise TombolaError(f"no folder {folder}; folder data is laid out as root/train/<class>/<image>")
            continue
        images = _classes(folder, skipped)
        if not images:
            raise TombolaError(
                f"{folder} has no class folder with images in it; folder data is laid out as root/{where}/<class>/"
                f"<image>, and images end in {', '.join(EXTENSIONS)}" + ("" if where == "train" else ", or remove it")
            )
        classes = classes or list(images)
        _check_same(root, where, list(images), classes)
        counts = [len(images[name]) for name in classes]
        start = "" if str(root) == "." else f"{root}{os.sep}"
        names = (os.fsencode(path[len(start) :]) for name in classes for path in images[name])
        parts[where] = Samples.of(start, names, np.repeat(np.arange(len(classes)), counts))
    for entry in _entries(root):
        if entry.is_dir() and entry.name not in PARTS and entry.name.lower().startswith(_LIKE_A_PART):
            skipped.note(entry.path, f"read are {', '.join(PARTS)}")
    skipped.warn()
    return parts, classes


def _check_same(root: Path, where: str, names: list[str], classes: list[str]) -> None:
    odd = sorted(set(classes) ^ set(names))
    if not odd:
        return
    lacking = [name for name in odd if name in classes]
    added = [name for name in odd if name not in classes]
    sides = [f"{where} lacks {_listed(lacking)}"] if lacking else []
    sides += [f"train lacks {_listed(added)}"] if added else []
    raise TombolaError(
        f"the class folders of {root / where} and {root / 'train'} differ in {_listed(odd)}; make them agree"
        f" ({', '.join(sides)})"
    )


def _classes(folder: Path, skipped: _Skipped) -> dict[str, list[str]]:
    """Class -> paths of its images, both in order; only classes that have any."""
    images_of: dict[str, list[str]] = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            skipped.file(entry.name, "beside the class folders" if _is_image(entry.name) else "")
        elif _is_stray(entry.name):
            skipped.note(entry.path)
        elif images := list(_images(entry.path, skipped)):
            images_of[entry.name] = images
        else:
            skipped.note(entry.path, "no images")
    return images_of


def _images(folder: str, skipped: _Skipped) -> Iterator[str]:
    """Every image below `folder`, links followed, each directory once; directories and files by name.

    A link to a directory above would add the other classes' images, and is left out.
    """
    top = Path(os.path.realpath(folder))
    seen: set[str] = set()
    kept: list[tuple[str, list[str]]] = []
    for folder_path, below, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(folder_path)
        stray = [name for name in below if _is_stray(name)]
        for name in stray:
            skipped.note(str(Path(folder_path) / name))
        above = [name for name in below if top.is_relative_to(os.path.realpath(Path(folder_path) / name))]
        for name in above:
            skipped.note(str(Path(folder_path) / name), "a link to a folder above")
        below[:] = [] if real in seen else [name for name in below if name not in (*stray, *above)]
        if real not in seen:
            kept.append((folder_path, files))
        seen.add(real)
    for folder_path, files in sorted(kept):
        for name in sorted(files):
            if _is_image(name) and not name.startswith("."):
                yield f"{folder_path}{os.sep}{name}"
            else:
                skipped.file(name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    raise TombolaError(f"cannot read folder {error.filename} ({error.strerror}); check its permissions") from None


def _is_stray(name: str) -> bool:
    return name.startswith(".") or name in _STRAY


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


class _Skipped:
    """What is left out, collected while folders are read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: list[str] = []
        self._files: Counter[str] = Counter()

    def note(self, path: str, why: str = "") -> None:
        """A directory is left out."""
        relative = os.path.relpath(path, self._root)
        self._folders.append(f"{relative} ({why})" if why else relative)

    def file(self, name: str, why: str = "") -> None:
        """A file is left out; files of a kind are counted together."""
        kind = name if name.startswith(".") and not _is_image(name) else Path(name).suffix.lower() or name
        kind = "hidden" if name.startswith(".") and _is_image(name) else kind
        self._files[f"{kind} {why}".strip()] += 1

    def warn(self) -> None:
        """One warning, or none."""
        folders = sorted(self._folders, key=lambda path: not path.endswith(")"))  # what may surprise comes first
        parts = [_listed(folders)] if folders else []
        if count := sum(self._files.values()):
            kinds = [kind for kind, _ in self._files.most_common()]
            parts.append(f"{count} {'file' if count == 1 else 'files'} ({_listed(kinds)})")
        if parts:
            message = f"image folder {self._root}: left out {' and '.join(parts)}"
            warnings.warn(message, SkippedFilesWarning, stacklevel=4)
