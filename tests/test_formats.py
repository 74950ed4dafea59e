"""One way to print numbers."""

from __future__ import annotations

import math
import re

from hypothesis import example, given
from hypothesis import strategies as st

from tombola import formats
from tombola.formats import ITERATIONS, MINUS, Unit

ACCURACY, LOSS = Unit("accuracy"), Unit("rmse")


def test_by_hand() -> None:
    assert formats.percent(0.98123) == "98.12 %"
    assert formats.percent(-0.5, 1) == f"{MINUS}50.0 %"
    densities = (1.0, 0.5, 0.0513, 0.0001, 0.99991, 0.999999, 0.0)
    shown = ["100.00 %", "50.00 %", "5.13 %", "0.010 %", "99.99 %", "99.9999 %", "0.00 %"]
    assert [formats.density(d) for d in densities] == shown
    assert [formats.count(c) for c in (266200.0, 213.3, None)] == ["266,200", "213", formats.MISSING]
    assert [formats.significant(v) for v in (0.5, 35012.3, -1234567.0, 1.2341e-9, 0.0)] == [
        "0.5000",
        "35,012",
        f"{MINUS}1,234,567",
        f"1.234e{MINUS}09",
        "0",
    ]
    assert ACCURACY.interval(0.981, (0.9805, 0.9815)) == "98.10 ± 0.05 %"
    assert LOSS.interval(0.4813, (0.48, 0.4826)) == "0.4813 ± 0.0013"
    assert ACCURACY.difference(-0.002) == f"{MINUS}0.20"
    assert [ACCURACY.difference(d) for d in (1e-5, 0.0, -0.0, 0.3 - 0.1 * 3)] == ["+0.001", "0.00", "0.00", "0.00"]
    assert ACCURACY.half(0.995, (0.98, 1.0)) == "98.00 to 100.00 %"
    assert ACCURACY.interval(0.995, (0.98, 1.0)) == "99.50 % (98.00 to 100.00 %)"
    assert ACCURACY.interval(0.995, None) == "99.50 %"
    assert ITERATIONS.interval(12345.0, (12000.0, 12690.0)) == "12,345 ± 345"
    assert ACCURACY.differences.interval(0.0347, (0.0242, 0.0452)) == "+3.47 ± 1.05"
    assert ACCURACY.differences.ends(-0.01, 0.02) == f"{MINUS}1.00 to +2.00"
    assert ACCURACY.axis("Test") == "Test accuracy (%)"
    assert LOSS.axis_of_differences("Difference in test") == "Difference in test rmse"
    assert [formats.multiple(r) for r in (1.0, 2.756, 1761.9, None)] == [
        "1.00 ×",
        "2.76 ×",
        "1,761.90 ×",
        formats.MISSING,
    ]
    assert (formats.plural(1, "replicate"), formats.plural(1200, "level")) == ("1 replicate", "1,200 levels")


def test_rounding_hides_no_side() -> None:
    """A bound of -0.003 points must not read as one of 0, nor one just below the margin as one on it."""
    assert ACCURACY.difference(-0.00003) == f"{MINUS}0.003"
    assert ACCURACY.difference(-0.0000004) == f"{MINUS}0.00004"
    assert ACCURACY.difference(-0.002004, -0.002) == f"{MINUS}0.2004"
    assert ACCURACY.difference(-0.001996, -0.002) == f"{MINUS}0.1996"
    assert ACCURACY.difference(-0.002, -0.002) == ACCURACY.difference(-0.0021 + 0.0001, -0.002) == f"{MINUS}0.20"
    assert ACCURACY.differences.ends(-0.00003, 0.02) == f"{MINUS}0.003 to +2.00"
    assert LOSS.difference(-0.300004, -0.3) == f"{MINUS}0.300004"
    assert ITERATIONS.difference(-0.4) == ITERATIONS.differences.bare(-0.4) == f"{MINUS}0.4"
    assert [formats.p_value(p) for p in (0.05, 0.0502, 0.04996, 0.0004, 0.1)] == [
        *("0.050", "0.0502", "0.04996", "< 0.001", "0.100")
    ]


@given(st.floats(-1, 1), st.sampled_from([0.0, -0.002, -0.01]))
def test_differences_are_read_on_their_side(value: float, threshold: float) -> None:
    for unit in (ACCURACY, LOSS, ITERATIONS):
        read = float(unit.difference(value, threshold).replace(MINUS, "-")) / unit.factor
        for limit in (0.0, threshold):
            if abs(value - limit) > 1e-10:
                assert (read > limit) == (value > limit)
                assert (read < limit) == (value < limit)


finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)


@given(finite)
@example(-0.0)
@example(-1e-9)
@example(999.99996)
def test_every_form_reads_back_and_has_no_hyphen(value: float) -> None:
    for text in (
        formats.number(value, 2),
        formats.significant(value),
        formats.significant(value, sign=True),
        formats.percent(value),
        ACCURACY.difference(value),
        LOSS.show(value),
        ITERATIONS.bare(value),
    ):
        assert "-" not in text
        assert not re.match(rf"[+{MINUS}]0(\.0*)?( %)?$", text), "zero has no sign"
        assert math.isfinite(float(text.replace(MINUS, "-").replace(",", "").removesuffix(" %")))
    back = float(formats.significant(value).replace(MINUS, "-").replace(",", ""))
    assert math.isclose(back, value, rel_tol=5.1e-4, abs_tol=1e-300)


@given(st.floats(0, 1))
def test_only_all_and_nothing_are_printed_as_such(density: float) -> None:
    text = formats.density(density).removesuffix(" %")
    shown = float(text.replace(MINUS, "-"))
    assert (shown == 100) == (density == 1) or 1 - density < 1e-14
    assert (shown == 0) == (density == 0)
    assert re.fullmatch(r"\d+\.\d{2,}", text) or "e" in text


def test_what_is_not_finite_is_said_in_words() -> None:
    assert LOSS.show(math.nan) == "not a number"
