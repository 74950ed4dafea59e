"""What the comparisons of two commits call different, and slower."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import compare_speed
from compare_commits import compare, differences


@pytest.mark.parametrize(
    ("old", "new", "differ", "added"),
    [
        ({"a": 0.1, "b": [1, {"c": None}]}, {"b": [1, {"c": None}], "a": 0.1}, [], []),
        ({"a": 0.1}, {"a": math.nextafter(0.1, 1)}, ["a: 0.1 -> 0.10000000000000002"], []),
        ({"loss": [math.nan, 1.0]}, {"loss": [math.nan, 1.0]}, [], []),
        ({"rows": [1, 2]}, {"rows": [1]}, ["rows[1]: 2 -> gone"], []),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": [2, 3]}, "d": 4}, [], ["a/c[]", "d"]),
        ({"a": "x" * 99 + "b"}, {"a": "x" * 99 + "c"}, [f'a: {"x" * 20}b" -> {"x" * 20}c"'], []),
        ({"a": 1}, {"a": 1.0}, ["a: 1 -> 1.0"], []),
        ({"a": []}, {"a": [1]}, ["a: [] -> gone"], ["a[]"]),
    ],
)
def test_values_that_changed_or_went_are_differences_and_new_ones_are_not(old, new, differ, added):
    assert differences(old, new) == (differ, added)


def test_a_search_that_is_missing_or_fails_in_both_is_no_success_and_what_is_expected_is_no_difference(capsys):
    assert compare({"imp": {"loss": 1.0}}, {"imp": {"loss": 1.0, "more": 2}})
    assert not compare({"imp": {"loss": 1.0}}, {})
    assert not compare({"imp": {"error": "status 2"}}, {"imp": {"error": "status 2"}})
    assert compare({"info": {"json": {"digest": "a"}}}, {"info": {"json": {"digest": "b"}}}, "info/json/digest")
    assert not compare({"info": {"json": {"bytes": 1}}}, {"info": {"json": {"bytes": 2}}}, "info/json/digest")
    assert "fails in both" in capsys.readouterr().out


def test_a_machine_that_slows_down_is_taken_out_by_the_baseline():
    old = [{"a": {"bare": 1.0, "ours": 2.0}}, {"a": {"bare": 4.0, "ours": 8.0}}, {"a": {"bare": 1.0, "ours": 2.0}}]
    new = [{"a": {"bare": 2.0, "ours": 4.2}}, {"a": {"bare": 2.0, "ours": 4.2}}, {"a": {"bare": 1.0, "ours": 2.1}}]
    (_, ours, before, after, steadied) = compare_speed.compare(old, new, "bare")[1]
    assert (ours, before, after) == ("ours", 2.0, 4.2)
    assert steadied == pytest.approx(1.05)
