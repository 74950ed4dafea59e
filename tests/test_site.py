"""The documentation's site: built without a warning, whole by itself, with every method and public name on it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "make"))
pytest.importorskip("zensical")
pytest.importorskip("mkdocstrings_handlers.python")

import site_api  # noqa: E402
import site_fences  # noqa: E402
import site_methods  # noqa: E402
import website  # noqa: E402
from tombola.methods import METHODS  # noqa: E402

FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?(https?:)?//[^\s>]*")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return website.build(tmp_path_factory.mktemp("site") / "build")


def test_the_site_builds_and_fetches_nothing_from_elsewhere(built: Path) -> None:
    pages = sorted(built.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        fetched = [found.group() for found in FETCHED.finditer(page.read_text(encoding="utf-8"))]
        assert [link for link in fetched if "canonical" not in link] == [], page
    for sheet in built.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?https?:", sheet.read_text(encoding="utf-8")), sheet


def test_every_page_of_the_repository_is_on_it(built: Path) -> None:
    for place, _ in website.copied():
        assert (built / place).with_suffix(".html").exists(), place


def test_every_method_has_a_page_with_a_figure(built: Path) -> None:
    for name in METHODS:
        text = (built / "methods" / f"{name}.html").read_text(encoding="utf-8")
        assert re.search(rf"<h1[^>]*>\s*{name}\b", text)
        assert "<img" in text, name
        for image in re.findall(r"<img[^>]* src=\"?([^\s\">]+)", text):
            assert (built / "methods" / image).exists(), image


def test_every_public_name_is_explained(built: Path) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (built / "api").glob("*.html"))
    for name, place in site_api.public().items():
        assert f'id="{place}"' in text or f"id={place}" in text, name
        assert f"tb.{name}" in text


def test_what_a_call_returns_is_one_sentence_however_many_lines_it_has(built: Path) -> None:
    texts = [page.read_text(encoding="utf-8") for page in (built / "api").glob("*.html")]
    lists = [found for text in texts for found in re.findall(r"Returns:</span>.*?</ul>", text, re.DOTALL)]
    assert len(lists) > 5
    assert all(len(re.findall("<li[ >]", found)) == 1 for found in lists)


@pytest.mark.parametrize("name", METHODS)
def test_the_commands_of_a_method_s_page_are_known(name: str, tmp_path: Path) -> None:
    from tombola.cli import _find_verb, all_verbs

    text = "\n\n".join(site_methods.parts(name, METHODS[name], tmp_path))
    shell = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert shell is not None
    inline = re.findall(r"with the authors' settings: `([^`]+)`", text)
    assert inline
    for line in (*shell[1].splitlines(), *inline):
        program, *words = shlex.split(line)
        verb, rest = _find_verb(all_verbs(), words)
        assert (program, verb is not None) == ("tombola", True)
        verb.parse(rest)


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text("# One\n\n[there](nowhere.md), [here](#no-such-heading)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\ndocs_dir: pages\nsite_dir: html\nuse_directory_urls: false\n")
    said = website.said_by_generator(tmp_path / "mkdocs.yml")
    assert "nowhere.md" in said
    assert "no-such-heading" in said
    assert website.is_faulty(said)


def test_links_out_of_the_documentation_lead_to_pages_or_are_their_words() -> None:
    page = ROOT / "docs" / "guide" / "own-methods.md"
    text = "[a](../methods.md#x) [b](../../CONTRIBUTING.md) [`c`](../../src/tombola) [d](../../examples) `[e](f.md)`\n"
    made = website.relinked(text, "guide/own-methods.md", page)
    assert made == "[a](../methods.md#x) [b](../contributing.md) `c` [d](../examples/index.md) `[e](f.md)`\n"


def test_examples_in_docstrings_become_code() -> None:
    text = "Says.\n\n>>> f(\n...     1)\n[1]\n>>> g()\n2\n\nMore."
    assert site_fences.fenced(text) == "Says.\n\n```pycon\n>>> f(\n...     1)\n[1]\n>>> g()\n2\n```\n\nMore."
    assert site_fences.fenced("No example.") == "No example."


def test_every_page_has_a_place_in_the_navigation(built: Path) -> None:
    settings = yaml.safe_load((built.parent / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {str(page.relative_to(built.parent / "pages")) for page in (built.parent / "pages").rglob("*.md")}
    assert sorted(website.listed(settings["nav"])) == sorted(pages)
    found = website.navigation([{"Guide": ["guide.md", "METHODS"]}], {"METHODS": {"methods/imp.md": ""}})
    assert list(website.listed(found)) == ["guide.md", "methods/imp.md"]


def test_make_knows_the_site() -> None:
    done = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "docs/make/website.py" in done.stdout
