"""Masks of which a part is frozen at random: exactly drawn, never learned, and no bytes in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.methods.edge_popup import EdgePopup
from tombola.search.find import find
from tombola.ticket import frozen, masks
from tombola.ticket.bitcode import BitWriter
from tombola.ticket.frozen import FrozenPart
from tombola.ticket.origin import Origin
from tombola.ticket.storage import bits_per_weight, bound_bytes, entropy
from tombola.ticket.ticket import Ticket

RECIPE: Mapping[str, Any] = {"length": "6it", "batch_size": 16, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def mask_bytes(ticket: Ticket) -> float:
    return sum(row.bits * row.total / 8 for row in ticket.layers())


# ---- what is drawn


@given(st.integers(0, 2**64 - 1), st.integers(1, 400), st.data())
@settings(max_examples=60, deadline=None)
def test_the_smallest_words_are_frozen_and_the_smallest_of_these_kept(
    key: int, count: int, data: st.DataObject
) -> None:
    from tombola.rng import philox

    size = data.draw(st.integers(0, count))
    kept = data.draw(st.integers(0, size))
    drawn = FrozenPart(key, size, kept).drawn(count)
    order = sorted(range(count), key=lambda i: (int(philox.words(key, count)[i]), i))
    assert [int(drawn[i]) for i in order] == [1] * kept + [-1] * (size - kept) + [0] * (count - size)


def test_equal_words_go_to_the_lower_index() -> None:
    words = np.array([5, 3, 5, 5, 1], np.uint32)
    assert frozen._smallest(words, 3).tolist() == [True, True, False, False, True]
    assert frozen._smallest(words, 0).tolist() == [False] * 5
    assert frozen._smallest(words, 5).tolist() == [True] * 5


@given(st.integers(0, 2**64 - 1), st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_streams_give_the_mask_and_the_part_back(key: int, rows: int, columns: int, data: st.DataObject) -> None:
    count = rows * columns
    size = data.draw(st.integers(0, count))
    part = FrozenPart(key, size, data.draw(st.integers(0, size)))
    bits = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    drawn = part.drawn(count)
    keep = np.where(drawn == 0, bits, drawn == 1).reshape(rows, columns)
    stream = frozen.write(keep, part)
    assert stream is not None
    again, found = frozen.read(stream, keep.shape)
    assert np.array_equal(again, keep)
    assert found == part
    assert part.agrees(keep)
    if size:
        at = int(np.flatnonzero(drawn)[0])
        keep.reshape(-1)[at] ^= True
        assert frozen.write(keep, part) is None
        assert not part.agrees(keep)


def test_seventy_per_cent_frozen_take_seventy_per_cent_less() -> None:
    count = 40_000
    part = FrozenPart.of(0, "w", count, 0.7, 0.5)
    assert (part.size, part.kept) == (28_000, 14_000)
    draw = torch.Generator().manual_seed(0)
    keep = torch.from_numpy(part.drawn(count)).view(200, 200)
    keep = torch.where(keep == 0, torch.rand(200, 200, generator=draw) < 0.5, keep > 0)
    whole = Ticket(origin=Origin.stored({"w": torch.ones(200, 200)}), mask=Mask({"w": keep}))
    small = replace(whole, frozen={"w": part})
    assert small == whole
    assert small.layers()[0].coding == "frozen"
    assert mask_bytes(small) <= 0.3 * count / 8 + 40
    assert mask_bytes(whole) / mask_bytes(small) > 3.2
    free = int(keep.sum()) - part.kept
    assert bound_bytes(small) == pytest.approx(0.3 * count * entropy(free, 12_000) / 8 + 4 * count)
    again = Ticket.from_bytes(small.to_bytes())
    assert again == whole
    assert again.frozen == {"w": part}
    assert again.to_bytes() == small.to_bytes()


def test_a_part_that_the_mask_does_not_keep_changes_nothing() -> None:
    keep = torch.eye(80) > 0
    whole = Ticket(origin=Origin.stored({"w": torch.ones(80, 80)}), mask=Mask({"w": keep}))
    odd = replace(whole, frozen={"w": FrozenPart(1, 6_000, 3_000)})
    assert odd.to_bytes() == whole.to_bytes()
    with pytest.raises(TicketError, match="frozen part for 'v', which has no mask"):
        replace(whole, frozen={"v": FrozenPart(1, 2, 1)})


@pytest.mark.parametrize("numbers", [(-1, 2, 1), (2**64, 2, 1), (0, 2, 3), (0, 2**48, 3), (0, 2, -1), (0.0, 2, 1)])
def test_impossible_parts_are_refused(numbers: tuple[Any, Any, Any]) -> None:
    with pytest.raises(TicketError, match="a mask's frozen part has key"):
        FrozenPart(*numbers)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_a_mask_or_an_error(data: bytes) -> None:
    try:
        keep, part = frozen.read(data, (5, 7))
    except TicketError:
        return
    assert part.agrees(keep)


def test_more_frozen_than_there_are_is_an_error() -> None:
    writer = BitWriter()
    for value, width in ((3, 64), (36, 48), (0, 48)):
        writer.number(value, width)
    with pytest.raises(TicketError, match="36 weights of a coded mask are frozen, of 35"):
        frozen.read(writer.data(), (5, 7))


# ---- while it is learned


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_search_learns_the_free_part_alone(scope: str) -> None:
    method = EdgePopup(density=0.4, frozen=0.7, scope=scope)
    ticket = find(network(), "digits", method, recipe=RECIPE, seed=3)
    first = find(network(), "digits", method, recipe={**RECIPE, "lr": 0.0}, seed=3)
    assert ticket.mask.kept == round(0.4 * 6_400) + round(0.4 * 1_000)
    assert ticket.mask != first.mask
    for name, keep in ticket.mask.items():
        part = FrozenPart.of(3, name, keep.numel(), 0.7, 0.4)
        assert ticket.frozen[name] == part
        assert part.agrees(keep.numpy())
        assert part.agrees(first.mask[name].numpy())
    whole = find(network(), "digits", replace(method, frozen=0.0), recipe=RECIPE, seed=3)
    assert not whole.frozen
    assert not all(part.agrees(whole.mask[name].numpy()) for name, part in ticket.frozen.items())
    assert mask_bytes(ticket) < 0.37 * mask_bytes(whole)  # 30 %, and some 25 bytes for a layer
    assert bits_per_weight(ticket.on_base(network())) == pytest.approx(0.3 * entropy(4, 10), rel=0.02)


def test_whole_layers_are_not_frozen_and_adam_and_clipping_leave_the_rest_as_drawn() -> None:
    recipe = {"length": "6it", "batch_size": 16, "optimizer": "adamw", "lr": 0.1, "clip_norm": 0.1, "weight_decay": 0.1}
    ticket = find(network(), "digits", EdgePopup(density=0.5, frozen=0.5, whole=("3.*",)), recipe=recipe)
    assert list(ticket.frozen) == ["1.weight"]
    assert bool(ticket.mask["3.weight"].all())
    assert ticket.frozen["1.weight"].agrees(ticket.mask["1.weight"].numpy())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"frozen": 1.0}, r"frozen is 1.0.*\[0, 1\)"), ({"frozen": -0.1}, "frozen is -0.1"),
     ({"frozen": 0.5, "pattern": "block:4"}, "of single weights, but pattern is block:4")],
)  # fmt: skip
def test_wrong_shares_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TombolaError, match=words):
        EdgePopup(**options)


def test_old_codings_are_written_where_nothing_is_frozen() -> None:
    keep = np.eye(50, dtype=np.bool_)
    assert masks.encode(keep)[0] in masks.CODINGS
    assert frozen.CODING not in masks.CODINGS
