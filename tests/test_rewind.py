"""Where pruning rewinds to, as text and in iterations."""

from __future__ import annotations

import pytest

from tombola.errors import TombolaError
from tombola.levels.rewind import Rewind
from tombola.train.length import Length


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("init", Rewind()),
        ("0it", Rewind()),
        ("500it", Rewind(Length.parse("500it"))),
        ("2ep", Rewind(Length.parse("2ep"))),
        ("lr", Rewind(weights=False)),
        ("lr:500it", Rewind(Length.parse("500it"), weights=False)),
    ],
)
def test_rewinds_are_read(text: str, expected: Rewind) -> None:
    assert Rewind.parse(text) == expected


@pytest.mark.parametrize("text", ["", "start", "lr:", "lr:init", "init:2ep", "lr:lr:2ep", "500", "LR", "2ep:lr"])
def test_what_is_no_rewind_is_one_line_with_what_is_allowed(text: str) -> None:
    with pytest.raises(TombolaError, match=r'"init", a step such as "500it" or "2ep", or "lr"') as caught:
        Rewind.parse(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rewind_point_lies_before_the_end() -> None:
    assert Rewind().step(10, 1) == 0
    assert Rewind.parse("2ep").step(10, 21) == 20
    assert Rewind.parse("lr:19it").step(10, 20) == 19
    with pytest.raises(TombolaError, match="rewind is to iteration 20, but training has 20"):
        Rewind.parse("2ep").step(10, 20)
