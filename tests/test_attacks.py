"""Every attack of `attacks/` fails, and the fuzzers find nothing in a short time."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("attacks_main", Path(__file__).parent.parent / "attacks" / "__main__.py")
assert _spec is not None
assert _spec.loader is not None
attacks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(attacks)


@pytest.mark.parametrize("name", attacks.names())
def test_the_attack_fails(name: str, tmp_path: Path) -> None:
    attacks.run(name, tmp_path)
