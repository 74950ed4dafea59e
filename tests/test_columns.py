"""Tables on narrow terminals: lines break between words, and columns move closer before a word is cut."""

from __future__ import annotations

import pytest

from tombola.cli.columns import fitted
from tombola.cli.screen import Screen

NARROW = (("Mask", "IMP ticket", "supermask"), ("Found under", "kaiming_normal", "signed_constant"))
"""As they are: 10 and 15 characters wide; the longest words: 9 and 15."""


def test_what_fits_is_left_alone() -> None:
    assert fitted(NARROW, 28) is None


@pytest.mark.parametrize(("room", "gap"), [(27, 3), (26, 2), (25, 1)])
def test_columns_keep_their_longest_words_and_move_closer(room: int, gap: int) -> None:
    assert fitted(NARROW, room) == ([9, 15], gap)


def test_where_words_must_be_cut_nothing_is_set() -> None:
    assert fitted(NARROW, 24) is None


def test_spare_room_goes_to_the_column_that_lacks_most() -> None:
    assert fitted((("a b c d e f g h",), ("xx yy",), ("z",)), 3 * 2 + 10) == ([7, 2, 1], 3)


@pytest.mark.parametrize("room", [100, 80, 62, 55])
def test_no_word_is_cut_on_the_screen(
    room: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tombola.cli.screen.PLAIN_WIDTH", room)
    heads = ["Mask", "Found under", "On weights of", "Untrained", "Against own trained"]
    cells = ["random as IMP ticket", "kaiming_normal", "signed_constant", "34.26 %", "−22.84"]
    Screen(False).table(heads, [cells], left=(0, 1, 2))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= room
    whole = {"Untrained", "kaiming_normal", "signed_constant", "trained", "ticket", "−22.84"}
    assert whole <= set(" ".join(lines).split())
