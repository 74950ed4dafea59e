"""The Python blocks of the documentation run as they stand, in order, and the shell commands in it parse."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / page
    for page in ("docs/guide.md", "docs/supermasks.md", "docs/multi-prize.md", "docs/deploy.md", "README.md")
]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|file: (?P<file>[\w.]+)) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block. `mark` is "not run" where the page says so; `file` the name it is to be saved under."""

    language: str
    code: str
    line: int
    mark: str
    file: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(found["language"], found["code"], line, found["mark"] or "", found["file"] or "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    written = []
    try:
        for block in blocks(page):
            if block.language != "python" or block.mark == "not run":
                continue
            if block.file:
                (tmp_path / block.file).write_text(block.code, encoding="utf-8")
                written.append(Path(block.file).stem)
                continue
            # as many empty lines as the page has before it, so that a traceback names the page's own line
            exec(compile("\n" * block.line + block.code, str(page), "exec"), vars(module))
    finally:
        for name in written:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_commands_are_known(page: Path) -> None:
    from tombola.cli import _find_verb, all_verbs

    for block in blocks(page):
        if block.language not in ("sh", "bash") or block.mark == "not run":
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["tombola"] and not {"--help", "--version", "--print_config"} & set(words):
                verb, rest = _find_verb(all_verbs(), words[1:])
                if verb is not None:
                    verb.parse(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_read(page: Path) -> None:
    fences = sum(line.startswith("```") for line in page.read_text(encoding="utf-8").splitlines())
    assert 2 * len(list(blocks(page))) == fences
