"""The documentation's Python and shell blocks run as they stand, in order; long commands are parsed."""

from __future__ import annotations

import glob
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from cli_calls import call

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WHOLE = ("README", "index", "guide", "supermasks", "multi-prize", "deploy")
RUN = [page for page in PAGES if page.stem in WHOLE or page.parent.name == "guide"]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|long|file: (?P<file>[\w.]+)) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block. `mark`: "not run", or "long" for commands that are only parsed; `file`: its name if saved."""

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


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each of its commands, without comments."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def run_shell(block: Block) -> None:
    """What a shell would do with `tombola` commands; any other command may not stand in a block that is run."""
    for program, *words in commands(block):
        assert program == "tombola", f"line {block.line}: mark the block as long, or leave {program} out"
        expanded = [found for word in words for found in (sorted(glob.glob(word)) or [word])]  # noqa: PTH207
        status, _, errors = call(*expanded)
        assert status == 0, f"line {block.line}: tombola {shlex.join(words)}\n{errors}"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    written = []
    try:
        for block in blocks(page):
            if block.mark in ("not run", "long"):
                continue
            if block.file:
                (tmp_path / block.file).write_text(block.code, encoding="utf-8")
                written.append(Path(block.file).stem)
            elif block.language == "python":
                # as many empty lines as the page has before it, so that a traceback names the page's own line
                exec(compile("\n" * block.line + block.code, str(page), "exec"), vars(module))
            elif block.language == "sh":
                run_shell(block)
    finally:
        for name in written:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_long_commands_are_known(page: Path) -> None:
    from tombola.cli import _find_verb, all_verbs

    for block in blocks(page):
        if block.mark != "long":
            continue
        for words in commands(block):
            if words[0] == "tombola":
                verb, rest = _find_verb(all_verbs(), words[1:])
                assert verb is not None, words
                verb.parse(rest)


def inline_commands(page: Path) -> Iterator[list[str]]:
    """The words of every command in running text or a table, where `tombola` may stand in the heading instead."""
    for found in re.findall(r"`((?:tombola|find|study) [^`\n.]+[^`\n]*)`", page.read_text(encoding="utf-8")):
        words = shlex.split(found.partition(" | ")[0])  # as a shell would pass it on
        words = words[1:] if words[0] == "tombola" else words
        if not any(word.isupper() for word in words):  # a placeholder
            yield words


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_commands_in_the_text_are_known(page: Path) -> None:
    from tombola.cli import _find_verb, all_verbs

    for words in inline_commands(page):
        verb, rest = _find_verb(all_verbs(), words)
        assert verb is not None, words
        if rest and rest != ["--help"]:
            verb.parse(rest)


def test_every_method_has_its_command_in_the_table() -> None:
    from tombola.methods import METHODS

    named = {words[1] for words in inline_commands(ROOT / "docs" / "methods.md") if words[0] == "find"}
    assert named == set(METHODS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_run_or_parsed(page: Path) -> None:
    for block in blocks(page):
        if re.search(r"^(\.\.\. )?tombola ", block.code, re.MULTILINE):
            assert block.language == "sh", f"line {block.line}"
            assert block.mark != "not run", f"line {block.line}"
        assert "..." not in block.code or block.language != "sh" or block.mark == "long", f"line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_read(page: Path) -> None:
    fences = sum(line.startswith("```") for line in page.read_text(encoding="utf-8").splitlines())
    assert 2 * len(list(blocks(page))) == fences


def test_the_readme_masks_networks_that_nothing_was_pruned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tombola as tb

    monkeypatch.chdir(tmp_path)
    masked = []

    def watched(name: str) -> None:
        original = getattr(tb, name)

        def call_it(network: nn.Module, *rest: object, **options: object) -> object:
            masked.append((name, tb.Mask.from_zeros(network).density))
            return original(network, *rest, **options)

        monkeypatch.setattr(tb, name, call_it)

    watched("attach")
    watched("hold")
    names: dict[str, object] = {"tb": tb}
    for block in blocks(ROOT / "README.md"):
        if block.language == "python" and not re.search(r"tb\.(find|deploy)\(", block.code):
            exec(compile(block.code, "README.md", "exec"), names)
    assert sorted(masked) == [("attach", 1.0), ("hold", 1.0)]
