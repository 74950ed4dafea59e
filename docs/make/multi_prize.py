"""docs/multi-prize.md: binary and masked binary networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from statistics import fmean

from pages import Claim, Table
from results import arm, behind, difference, difference_sign, ends, number, points, spread

PAGE = "docs/multi-prize.md"
STUDY = "mnist-binary"
ROWS = (
    ("float weights", "float", "float weights 1/1"),
    ("binary weights", "binary weights", "binary weights 1/1"),
    ("multi-prize", "multi-prize 20", "multi-prize 1/1 20"),
    ("multi-prize", "multi-prize 50", "multi-prize 1/1 50"),
    ("multi-prize, trained norms", None, "multi-prize 1/1 50, trained norms"),
    ("joint binary", "joint binary 20", None),
    ("joint binary", "joint binary 50", "joint binary 1/1 50"),
)
"""What a row is called, its arm with float activations, and with binary ones."""

_arm = partial(arm, STUDY)


def tables() -> Iterator[Table]:
    rows = [("", "kept", "bits per weight", "float activations", "binary activations (1/1)")]
    for name, real, binary in ROWS:
        one = real or binary
        assert one is not None
        kept, bits = fmean(_arm(one, "density")), stored(one)
        cells = ["" if found is None else spread(_arm(found)) for found in (real, binary)]
        rows.append((name, f"{number(100 * kept, 0)} %", bits, *cells))
    yield Table("mnist-binary", rows)


def stored(name: str) -> str:
    """Bits per weight as the page defines them: the mask's entropy, a bit for each trained sign, 32 for each float.

    All layers keep the same share, so that the density gives the entropy.
    """
    kept = fmean(_arm(name, "density"))
    mask = 0.0 if kept == 1 else -kept * math.log2(kept) - (1 - kept) * math.log2(1 - kept)
    value = 32.0 if name.startswith("float") else 0.0 if name.startswith("multi-prize") else 1.0
    bits = mask + value * kept
    return number(bits, 0) if bits == round(bits) else number(bits, 2 if bits < 1 else 1)


def claims() -> Iterator[Claim]:
    real, binary = _arm("float"), _arm("binary weights")
    at20, at50 = _arm("multi-prize 20"), _arm("multi-prize 50")
    yield Claim(
        PAGE,
        "a multi-prize ticket is {at20} points behind weight-trained float networks at 20 % of the weights and "
        "{at50} at 50 %, not 10 to 20",
        {"at20": behind(at20, real), "at50": behind(at50, real)},
        difference_sign(at20, real) < 0 and difference_sign(at50, real) < 0,
    )
    yield Claim(
        PAGE,
        "Against weight-trained binary networks it is {at20} and {at50} points behind",
        {"at20": behind(at20, binary), "at50": behind(at50, binary)},
        difference_sign(at20, binary) < 0 and difference_sign(at50, binary) < 0,
    )
    wide = {name: _arm(f"multi-prize 1/1 {name}") for name in ("20", "50", "50, trained norms")}
    low = _arm("binary weights 1/1")
    yield Claim(
        PAGE,
        "with binary activations {at20} and {at50}, and {normed} with trained norms",
        {
            "at20": behind(wide["20"], low),
            "at50": behind(wide["50"], low),
            "normed": behind(wide["50, trained norms"], low),
        },
        all(difference_sign(one, low) < 0 for one in wide.values()),
    )
    yield Claim(
        PAGE,
        "Joint binary training does not beat multi-prize: at 20 % the difference is not significant ({at20}), at 50 % "
        "it is {at50} points behind, and with binary activations the difference is not significant ({wide}).",
        {
            "at20": ends(difference(_arm("joint binary 20"), at20)),
            "at50": behind(_arm("joint binary 50"), at50),
            "wide": ends(difference(_arm("joint binary 1/1 50"), wide["50"])),
        },
        difference_sign(_arm("joint binary 20"), at20) == 0
        and difference_sign(_arm("joint binary 50"), at50) < 0
        and difference_sign(_arm("joint binary 1/1 50"), wide["50"]) == 0,
    )
    yield Claim(
        PAGE,
        "Trained norms add {gain} points ({interval})",
        {
            "gain": points(wide["50, trained norms"], wide["50"], sign=False),
            "interval": ends(difference(wide["50, trained norms"], wide["50"])),
        },
        difference_sign(wide["50, trained norms"], wide["50"]) > 0,
    )
