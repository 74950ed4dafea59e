"""The public functions refuse arguments of a wrong type at the door, in one line that names the argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.data.splits import make_splits
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.hold import release
from tombola.report.page import write_report
from tombola.supermask import Masked
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation

X, NET = torch.zeros(1, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
MASK = tb.Mask.full(NET)

DOORS: dict[str, tuple[Any, tuple[Any, ...], dict[str, tuple[Any, ...]]]] = {
    # function, what it is called with, and wrong values by argument
    "find": (
        tb.find,
        ("mlp", "digits"),
        {
            "out": (5, True, ["runs"]),
            "seed": ("1", 1.5),
            "start": (5, NET),
            "options": ({},),
        },
    ),
    "find a model": (tb.find, (), {"model": (5, nn.Linear, ["mlp"]), "data": ()}),
    "verify": (
        tb.verify,
        (),
        {"ticket": (NET, 5, None, b"x")},
    ),
    "verify more": (
        tb.verify,
        ("none.ticket",),
        {
            "replicates": ("3", 2.5, True),
            "margin": ("0.1", None),
            "seed": (None, "0"),
            "model": ("mlp", nn.Linear),
            "trusted": (5, [5]),
            "out": (5,),
            "jobs": ("2", None),
            "data_root": (5, None),
            "options": ({"device": "cpu"},),
        },
    ),
    "read": (tb.read, (), {"model": (MASK, "mlp", None, nn.Linear)}),
    "refresh": (tb.refresh, (NET,), {"sample": (5, "yes", None)}),
    "detach": (tb.detach, (), {"model": (MASK, "mlp", None)}),
    "make_permanent": (tb.make_permanent, (), {"model": (MASK, "mlp", None)}),
    "prunable": (tb.prunable, (NET,), {"include": (5, [5], b"x", {"a": 1}), "exclude": (None,)}),
    "prunable of": (tb.prunable, (), {"model": (MASK, nn.Linear)}),
    "attach": (
        tb.attach,
        (NET,),
        {
            "rule": (0.5, "topk", tb.TopK, nn.Linear),
            "weights": ("frozen", Masked),
            "represent": ("identity", 3),
            "scores": ([1.0], True),
            "seed": ("0", 1.5, None),
            "include": (5, [5]),
            "mask": (0.5, [MASK]),
            "outputs": (5, [5]),
        },
    ),
    "hold": (tb.hold, (NET, MASK), {"values": ([X], 5)}),
    "release": (release, (), {"model": (MASK, None)}),
    "select": (tb.select, ({"a": X},), {"scope": (5, None), "signed": ("yes", 1), "candidates": ({}, 5), "fill": (5,)}),
    "deploy": (
        tb.deploy,
        (NET, X),
        {"threads": ("2", 1.5, True), "plan": (5,), "keep_compacted": ("no", 1), "model": ("mlp",), "trusted": (5,)},
    ),
    "load": (tb.Ticket.load, (), {"path": (5, None, NET), "max_weights": ()}),
    "report": (write_report, (), {"runs": (5, "runs/one", [5], None), "out": ()}),
    "report to": (write_report, ([Path("run")],), {"out": (5, None)}),
}
CASES = [
    (name, argument, wrong) for name, door in DOORS.items() for argument, many in door[2].items() for wrong in many
]


@pytest.mark.parametrize(("name", "argument", "wrong"), CASES, ids=lambda part: f"{part!r:.30}")
def test_a_wrong_argument_is_named_in_one_short_line(name: str, argument: str, wrong: Any, tmp_path: Path) -> None:
    function, given, wrongs = DOORS[name]
    rest = dict.fromkeys(wrongs) if not given else {}
    before = {key: value.clone() for key, value in NET.state_dict().items()}
    with pytest.raises(TombolaError, match=rf"^{argument} is .*, but it must be ") as caught:
        function(*given, **{**rest, argument: wrong})
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 200
    assert all(torch.equal(value, before[key]) for key, value in NET.state_dict().items())
    assert not tb.prunable(NET).keys() ^ MASK.keys()


def test_what_was_given_and_what_is_allowed_are_said_in_words() -> None:
    for call, says in (
        (lambda: tb.find("mlp", "digits", out=5), "out is 5, but it must be a text, a path or None"),
        (lambda: tb.verify(NET), "ticket is a Sequential, but it must be a Ticket, a text or a path"),
        (lambda: tb.read(nn.Linear), "model is the class Linear itself, but it must be a Module"),
        (lambda: tb.refresh(NET, sample=2), "sample is 2, but it must be True or False"),
        (lambda: tb.prunable(NET, include=[3]), "include is a list, but it must be a list of texts"),
    ):
        with pytest.raises(TombolaError) as caught:
            call()  # type: ignore[no-untyped-call]
        assert str(caught.value) == says


@checked
def door(
    number: float,
    count: int | None = None,
    yes: bool = False,
    *rest: Any,
    names: Sequence[str] = (),
    parts: Mapping[str, Tensor] | None = None,
    place: Path | None = None,
    odd: Any = None,
) -> str:
    """The doc."""
    return f"{number} {count} {yes} {rest} {names} {place}"


def test_what_is_right_passes_as_it_is() -> None:
    assert door.__name__, door.__doc__ == ("door", "The doc.")
    assert door(1, 2, True, "x", names="fc.*") == "1 2 True ('x',) fc.* None"
    assert door(np.float32(1), np.int64(2), np.bool_(True)).startswith("1.0 2 True")
    assert door(torch.tensor(1.0), None, names=("a", "b"), parts={"a": X}, place=Path("x"), odd=door)
    assert door(1, names=(name for name in "ab"))
    with pytest.raises(TypeError, match="missing 1 required"):
        door()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword"):
        door(1, odds=2)  # type: ignore[call-arg]


def test_what_holds_tensors_is_printed_short() -> None:
    origin = Origin.stored(NET.state_dict())
    assert repr(origin) == "Origin(stored, 4 tensors)"
    ticket = tb.Ticket.from_models(origin=origin, mask=MASK, final_state=NET.state_dict(), provenance={})
    assert repr(ticket.without_origin().origin) == "Origin(omitted, weights left out)"
    splits = make_splits((torch.zeros(20, 3), torch.arange(20) % 2))
    assert "train=Resident(18 examples of shape (3,), float32)" in repr(splits)
    scaled = Representation("binary", {"0.weight": torch.ones(3)})
    assert repr(scaled) == "Representation(binary, scales of 1 layer)"


def test_an_origin_that_was_left_out_cannot_be_saved_again(tmp_path: Path) -> None:
    ticket = tb.Ticket.from_models(
        origin=Origin.stored(NET.state_dict()), mask=MASK, final_state=NET.state_dict(), provenance={}
    )
    whole, lean = tmp_path / "whole.ticket", tmp_path / "lean.ticket"
    assert ticket.save(whole, origin=True) == ticket.save(whole) == ticket.digest
    digest = ticket.save(lean, origin=False)
    without = tb.Ticket.load(lean)
    assert without.save(lean) == without.save(lean, origin=False) == digest
    with pytest.raises(TombolaError, match="origin was left out before, so it cannot be saved with it; save the whole"):
        without.save(tmp_path / "other.ticket", origin=True)
    assert not (tmp_path / "other.ticket").exists()
