"""All tables and claims of all pages."""

from __future__ import annotations

from collections.abc import Mapping

import mnist
from pages import Claim, Table

PAGES = ("README.md", "docs/mnist.md")
PARTS = (mnist,)


def tables() -> Mapping[str, Table]:
    return {table.name: table for part in PARTS for table in part.tables()}


def claims() -> list[Claim]:
    return [claim for part in PARTS for claim in part.claims()]
