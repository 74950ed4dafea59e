"""CITATION.cff: valid, and of this package."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml

import tombola as tb

ROOT = Path(__file__).parents[1]
REQUIRED = {"cff-version", "message", "title", "authors"}
KNOWN = REQUIRED | {"type", "abstract", "version", "license", "keywords", "references", "identifiers", "url", "doi"}


def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_it_has_the_fields_of_the_format() -> None:
    cited = citation()
    assert cited["cff-version"] == "1.2.0"
    assert set(cited) >= REQUIRED
    assert set(cited) <= KNOWN
    for authors in (cited["authors"], *(reference["authors"] for reference in cited["references"])):
        assert authors
        assert all(set(author) <= {"name", "family-names", "given-names"} for author in authors)
        assert all(isinstance(text, str) and text for author in authors for text in author.values())
    for reference in cited["references"]:
        assert {"type", "title", "authors"} <= set(reference)
        assert type(reference["year"]) is int


def test_it_is_of_this_package() -> None:
    cited, project = citation(), tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["version"] == tb.__version__
    assert cited["title"].lower() == project["name"]
    assert cited["license"] == project["license"]
    assert cited["abstract"] == project["description"]
    assert cited["keywords"] == project["keywords"]
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in project["authors"]]
