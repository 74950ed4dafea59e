"""The documentation's site: `python docs/make/website.py [FOLDER]`; broken links and all warnings are errors.

The pages of docs/ are copied as they are, and those of methods, examples and the reference are made here from the code,
so that they say what it says. Links that leave docs/ lead to the page that stands for the file, or are taken out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import site_api
import site_examples
import site_methods
from pages import ROOT

DOCS = ROOT / "docs"
BUILD = ROOT / "build" / "site"
ELSEWHERE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""Files outside of docs/ -> the pages that they are, or that stand for them."""
MADE: Mapping[str, Any] = {
    "EXAMPLES": site_examples.pages,
    "METHODS": site_methods.pages,
    "API": site_api.pages,
}
"""Places in the navigation -> what makes the pages that stand there."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def copied() -> Iterator[tuple[str, Path]]:
    """The pages that stand in the repository: their place on the site, and their file."""
    for file in sorted(DOCS.rglob("*.md")):
        yield str(file.relative_to(DOCS)), file
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        yield ELSEWHERE[name], ROOT / name


def assemble(folder: Path) -> Path:
    """Everything that the generator reads, under `folder`; gives its configuration."""
    source = folder / "pages"
    made = {place: dict(pages(source)) for place, pages in MADE.items()}
    texts = {name: relinked(file.read_text(encoding="utf-8"), name, file) for name, file in copied()}
    texts["methods.md"] = re.sub(r"(?m)^\| `([\w-]+)`", r"| [`\1`](methods/\1.md)", texts["methods.md"])
    for pages in made.values():
        texts |= pages
    for name, text in texts.items():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    shutil.copytree(DOCS / "figures", source / "figures", dirs_exist_ok=True)
    shutil.copy(Path(__file__).with_name("site.css"), source)
    settings = yaml.safe_load(Path(__file__).with_name("site.yml").read_text(encoding="utf-8"))
    rest = dict.fromkeys(sorted(set(texts) - set(listed(navigation(settings["nav"], made)))), "")
    made["MORE-GUIDE"] = {name: "" for name in rest if name.startswith("guide/")}
    made["MORE"] = {name: "" for name in rest if name not in made["MORE-GUIDE"]}
    settings |= {"docs_dir": "pages", "site_dir": "html", "nav": navigation(settings["nav"], made)}
    file = folder / "mkdocs.yml"
    fences = str(Path(__file__).with_name("site_fences.py"))
    file.write_text(yaml.safe_dump(settings, sort_keys=False).replace("FENCES", fences), encoding="utf-8")
    return file


def navigation(entries: list[Any], made: Mapping[str, Mapping[str, str]]) -> list[Any]:
    """The navigation with the pages that were made where their names in capitals stand."""
    found: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            found += [{title: navigation(below, made)} for title, below in entry.items()]
        else:
            found += list(made.get(entry, {entry: ""}))
    return found


def listed(entries: list[Any]) -> Iterator[str]:
    """Every page of a navigation."""
    for entry in entries:
        if isinstance(entry, dict):
            for below in entry.values():
                yield from listed(below)
        else:
            yield entry


def relinked(text: str, page: str, file: Path) -> str:
    """A page whose links lead to pages of the site, or are their words alone where the site has no such page."""

    def link(found: re.Match[str]) -> str:
        image, words, target, heading = found.groups()
        path = (file.parent / target).resolve()
        if path.is_relative_to(DOCS) and (image or path.suffix == ".md"):
            place = str(path.relative_to(DOCS))
        else:
            place = ELSEWHERE.get(str(path.relative_to(ROOT)), "")
        if path == ROOT / "examples":
            place = "examples/index.md"
        return f"{image}[{words}]({os.path.relpath(place, Path(page).parent)}{heading or ''})" if place else words

    parts, at = [], 0
    for code in _CODE.finditer(text):
        if not code.group().startswith("```") and "](" not in code.group():
            continue  # a link may have code in its words
        parts += [_LINK.sub(link, text[at : code.start()]), code.group()]
        at = code.end()
    return "".join([*parts, _LINK.sub(link, text[at:])])


def build(folder: Path = BUILD) -> Path:
    """Build the site under `folder`; gives the folder of its pages.

    Raises:
        SystemExit: a link leads nowhere, or anything else that the generator warns of.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = assemble(folder)
    said = said_by_generator(file)
    if is_faulty(said):
        raise SystemExit(f"the site has faults:\n{said}")
    return folder / "html"


def said_by_generator(file: Path) -> str:
    """What Zensical prints as it builds from a configuration, in its strict mode."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=file.parent, env=environment, capture_output=True, text=True, check=False)
    return _COLOUR.sub("", done.stdout + done.stderr)


def is_faulty(said: str) -> bool:
    """Whether it warned, or ended early; griffe's warnings are of docstrings, and do not end it."""
    return re.search(r"warning|griffe:|traceback", said, re.IGNORECASE) is not None or "Build finished" not in said


if __name__ == "__main__":
    print(f"{build(Path(sys.argv[1]) if len(sys.argv) > 1 else BUILD)}/index.html")
