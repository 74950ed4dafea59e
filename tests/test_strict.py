"""JSON and YAML that no writer writes, in one line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_calls import call
from tombola.errors import TombolaError
from tombola.runs.atomic import read_json
from tombola.runs.integrity import read_record
from tombola.strict import DEPTH, VALUES, check_yaml, parse_json

JSON = {
    "[" * (DEPTH + 1) + "]" * (DEPTH + 1): "nested more",
    "[" * 100_000: "nested more",
    "[NaN]": "NaN is not",
    "[-Infinity]": "-Infinity is not",
    "1e999": "too large",
    "9" * 30: "64 bits",
    "-9223372036854775809": "64 bits",
    "1" * 5000: "limit",
    '["\\ud800"]': "surrogate",
    '{"x": [{"\\uDFFF": 1}]}': "surrogate",
    '{"a": 1, "b": {"c": 1, "c": 1}}': "'c' stands twice",
    "": "Expecting",
    "{": "Expecting",
}


@pytest.mark.parametrize("text", JSON, ids=lambda text: str(text)[:20])
def test_json_that_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=JSON[text]) as caught:
        parse_json(text)
    assert str(caught.value).isprintable()
    file = tmp_path / "result.json"
    file.write_text(text)
    for read in (read_json, read_record):
        with pytest.raises(TombolaError) as refused:
            read(file)
        assert str(refused.value).isprintable()


def test_json_that_is_read() -> None:
    assert parse_json('{"a": [18446744073709551615, -9223372036854775808, 1.5, null, true, "x"]}') == {
        "a": [2**64 - 1, -(2**63), 1.5, None, True, "x"]
    }
    assert parse_json(r'["\ud83d\ude00", "\\ud800"]') == ["\N{GRINNING FACE}", r"\ud800"]
    assert parse_json("[" * DEPTH + "]" * DEPTH)


BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n" + "".join(
    f"{name}: &{name} [{f'*{before}, ' * 10}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)
YAML = {
    BOMB: "aliases are written out",
    "a: &a {x: [*a]}": r"\*a stands within itself",
    "a: " + "[" * 100_000: "nested more",
    "a:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, DEPTH + 5)): "nested more",
    "lr: 1\nseed: 0\nlr: 2": "'lr' stands twice",
    "x: {a: {b: 1, b: 2}}": "'b' stands twice",
    "[" + "1, " * VALUES + "]": "more than",
    "a: [": "line 2",
    "a: *b": "line 1",
}


@pytest.mark.parametrize("text", YAML, ids=lambda text: str(text)[:20])
def test_yaml_that_is_refused(text: str, tmp_path: Path) -> None:
    if text != "a: *b":  # events do not know anchors that are missing; loading does
        with pytest.raises(ValueError, match=YAML[text]) as caught:
            check_yaml(text)
        assert str(caught.value).isprintable()
    file = tmp_path / "options.yaml"
    file.write_text(text)
    for command in (("find", "imp", "--config"), ("study", "compare", "--arms")):
        status, _, err = call(*command, str(file))
        assert (status, err.count("\n")) == (2, 1)


def test_yaml_that_is_read(tmp_path: Path) -> None:
    text = "model_args: &a {hidden: [4, &n 8]}\ninclude: [x, y]\nseed: *n\n"
    check_yaml(text + "b: {<<: *a, <<: *a, a: 1}\nc: [{a: 1}, {a: 1}]\n? [1, 2]\n: 3")
    file = tmp_path / "options.yaml"
    file.write_text(text)
    status, out, _ = call("find", "imp", "--config", str(file), "--print_config")
    assert (status, "seed: 8\n" in out, "  - 8\n" in out) == (0, True, True)
