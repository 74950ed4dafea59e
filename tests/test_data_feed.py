"""Feeds: the same batches for the same seed, from any start, resident or streamed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from tombola.data.config import Augment
from tombola.data.feed import Batch, Feed, feed
from tombola.data.splits import Normalisation, Resident, Streamed
from tombola.errors import TombolaError

COUNT = 23
PIXELS = torch.randint(0, 256, (COUNT, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(COUNT)
NORM = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
CHANGES = Augment(flip=True, crop=1)


class Images(Dataset[Any]):
    """The same images, one by one; `noise` stands for a random transform."""

    def __init__(self, noise: bool = False) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.noise:
            return torch.rand(3, 6, 6), index
        return PIXELS[index], index


class Faulty(Images):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        raise TombolaError(f"cannot read example {index}")


def make(kind: str, batch_size: int = 5, **options: Any) -> Feed:
    split: Resident | Streamed
    split = Streamed(Images()) if kind == "streamed" else Resident(PIXELS if kind == "bytes" else NORM(PIXELS), LABELS)
    return feed(split, batch_size=batch_size, normalisation=NORM, **options)


def same(a: list[Batch], b: list[Batch]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


KINDS = pytest.mark.parametrize("kind", ["floats", "bytes", "streamed"])


@KINDS
@pytest.mark.parametrize("augment", [None, CHANGES])
def test_same_seed_same_batches_and_any_start(kind: str, augment: Augment | None) -> None:
    source = make(kind, augment=augment)
    whole = list(source.epoch(3, 2))
    assert same(whole, list(source.epoch(3, 2)))
    for start in range(source.steps_per_epoch + 1):
        assert same(whole[start:], list(source.epoch(3, 2, start)))
    assert not same(whole, list(source.epoch(4, 2)))
    assert not same(whole, list(source.epoch(3, 1)))


@pytest.mark.parametrize("augment", [None, CHANGES, Augment(rotate=10.0)])
def test_all_kinds_give_the_same_batches(augment: Augment | None) -> None:
    floats, raw, streamed = (make(kind, augment=augment) for kind in ("floats", "bytes", "streamed"))
    assert same(list(floats.epoch(1, 0)), list(raw.epoch(1, 0)))
    assert same(list(floats.epoch(1, 0)), list(streamed.epoch(1, 0)))
    assert same(list(floats.sweep()), list(raw.sweep()))
    assert same(list(floats.sweep()), list(streamed.sweep()))


@KINDS
def test_an_example_changes_alike_in_any_batch_size(kind: str) -> None:
    small, large = make(kind, 1, augment=CHANGES), make(kind, COUNT, augment=CHANGES)
    (x, y), ones = next(large.epoch(9, 4)), list(small.epoch(9, 4))
    assert torch.equal(x, torch.cat([one for one, _ in ones]))
    assert torch.equal(y, torch.cat([label for _, label in ones]))


@KINDS
def test_sweep_gives_every_example_once_in_order(kind: str) -> None:
    source = make(kind, augment=CHANGES, sweep_batch=7)
    batches = list(source.sweep())
    assert [len(y) for _, y in batches] == [7, 7, 7, 2]
    assert torch.equal(torch.cat([y for _, y in batches]), LABELS)
    assert torch.equal(torch.cat([x for x, _ in batches]), NORM(PIXELS))
    assert source.examples == COUNT


@pytest.mark.parametrize("kind", ["floats", "bytes", "streamed"])
def test_what_works_in_place_does_not_write_into_the_data(kind: str) -> None:
    source = make(kind)
    before = [(x.clone(), y.clone()) for x, y in source.sweep()]
    for batches in (source.sweep(), source.epoch(0, 0)):
        for x, y in batches:
            x.zero_()
            y.zero_()
    assert same(before, list(source.sweep()))


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_steps_and_coverage(count: int, batch_size: int, drop_last: bool) -> None:
    data = Resident(torch.zeros(count, 2), torch.arange(count))
    source = feed(data, batch_size=batch_size, drop_last=drop_last)
    labels = [y for _, y in source.epoch(0, 0)]
    seen = torch.cat(labels).tolist()
    assert len(labels) == source.steps_per_epoch
    assert len(set(seen)) == len(seen)
    if drop_last and count >= batch_size:
        assert {len(y) for y in labels} == {batch_size}
        assert len(labels) == count // batch_size
    else:
        assert len(seen) == count


def test_random_transforms_are_seeded_per_example_whatever_the_workers() -> None:
    def batches(workers: int, start: int = 0) -> list[Batch]:
        return list(feed(Streamed(Images(noise=True), workers=workers), batch_size=5).epoch(2, 1, start))

    state = torch.get_rng_state()
    alone = batches(0)
    assert same(alone, batches(2))
    assert same(alone[2:], batches(2, 2))
    assert torch.equal(state, torch.get_rng_state())


def test_evaluation_uses_the_plain_dataset() -> None:
    source = feed(Streamed(Images(noise=True), Images()), batch_size=5)
    x = torch.cat([batch for batch, _ in source.sweep()])
    assert torch.equal(x, PIXELS.float() * torch.tensor(1 / 255))
    assert not torch.equal(next(source.epoch(0, 0))[0], x[:5])


def test_a_workers_error_is_one_line() -> None:
    for workers in (0, 1):
        source = feed(Streamed(Faulty(), Images(), workers), batch_size=5)
        with pytest.raises(TombolaError, match=r"^cannot read example \d+$"):
            next(source.epoch(0, 0))


@KINDS
def test_channels_last(kind: str) -> None:
    for augment in (None, CHANGES):
        x, _ = next(make(kind, augment=augment, channels_last=True).epoch(0, 0))
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, next(make(kind, augment=augment).epoch(0, 0))[0])


def test_padding_is_a_black_pixel() -> None:
    white = Resident(NORM(torch.full((8, 3, 4, 4), 255, dtype=torch.uint8)), torch.arange(8))
    source = feed(white, batch_size=8, augment=Augment(crop=2), normalisation=NORM)
    x, _ = next(source.epoch(0, 0))
    ends = torch.stack((NORM.fill(), NORM(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()))
    for channel in range(3):
        assert set(x[:, channel].flatten().tolist()) == set(ends[:, channel].tolist())


def test_what_is_refused() -> None:
    flat = Resident(torch.zeros(4, 2), torch.arange(4))
    with pytest.raises(TombolaError, match="batch_size is 0"):
        feed(flat, batch_size=0)
    with pytest.raises(TombolaError, match=r"augmentation needs images .* shape \(2,\)"):
        feed(flat, batch_size=2, augment=CHANGES)
    with pytest.raises(TombolaError, match="allowed are 0 to 2"):
        next(feed(flat, batch_size=2).epoch(0, 0, 3))
