"""Feeds: batches in an order that depends only on (seed, epoch), cut on the device or streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tombola.data.augment import augment_batch, draws_needed
from tombola.data.config import ASPECT, Augment
from tombola.data.examples import Form, fetch_checked
from tombola.data.splits import Normalisation, Resident, Split, Streamed
from tombola.errors import TombolaError
from tombola.machine.ranks import ALONE, Ranks
from tombola.rng.philox import per_index_uniform
from tombola.rng.seeds import derive, generator

Batch: TypeAlias = tuple[Tensor, Tensor]
Whole = TypeVar("Whole")
"""A batch of a sweep, or what it is fetched by."""

_DRAW_CHUNK = 1 << 14
"""Examples whose augmentation is drawn in one call, which makes the cost of a call negligible."""
_SWEEP_NUMBERS = 1 << 20
"""Input numbers in one batch of a sweep where no size is given."""

_UNIT = Normalisation((0.0,), (1.0,))
_NAME = f"{TombolaError.__module__}.{TombolaError.__qualname__}"


class Feed(Protocol):
    """Batches of one split, on one device."""

    @property
    def examples(self) -> int:
        """How many examples the split holds."""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches `epoch` gives."""

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Shuffled and augmented batches, from batch number `start` on: the same ones whatever `start` is.

        Of every batch, the part of the ranks' one that the feed was made for.
        """

    def sweep(self) -> Iterator[Batch]:
        """Every example once, in order, unchanged; the last batch may be smaller.

        Of several ranks, each goes through whole batches: this one those of number rank, rank + size, ...
        """


def steps_per_epoch(examples: int, batch_size: int, drop_last: bool = True) -> int:
    """How many batches an epoch has; a last one that is not full counts only if it is kept, or the only one."""
    whole, rest = divmod(examples, batch_size)
    return max(1, whole if drop_last or rest == 0 else whole + 1)


def feed(
    split: Split,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    normalisation: Normalisation | None = None,
    channels_last: bool = False,
    drop_last: bool = True,
    sweep_batch: int | None = None,
    ranks: Ranks = ALONE,
) -> Feed:
    """A feed of `split`.

    Args:
        split: The examples.
        batch_size: Examples per training batch.
        device: Where batches are wanted; resident examples are moved there once.
        augment: Changes to the training batches (None: none).
        normalisation: That of the splits: applied to uint8 inputs, and the colour of padding.
        channels_last: Give images in channels-last memory order.
        drop_last: Leave out a last batch that is not full, unless it is the only one.
        sweep_batch: Examples per batch of a sweep (None: `batch_size`, or more where examples are small).
        ranks: Whose part of the batches it gives.
    """
    if batch_size < 1 or (sweep_batch is not None and sweep_batch < 1):
        raise TombolaError(f"batch_size is {min(batch_size, sweep_batch or batch_size)}; it must be at least 1")
    shape = split.shape
    if augment is not None and isinstance(split, Streamed) and split.crops:
        augment = replace(augment, zoom=0.0, aspect=ASPECT)
    if augment is not None and augment.active and len(shape) != 3:
        raise TombolaError(f"augmentation needs images (channels, height, width); the examples have shape {shape}")
    if augment is not None and augment.crop and augment.crop >= min(shape[1:]):
        raise TombolaError(
            f"augment.crop is {augment.crop}, but the images are {shape[1]} by {shape[2]} pixels: a window might hold "
            "nothing of them; make it smaller than a side"
        )
    if sweep_batch is None:
        sweep_batch = max(batch_size, _SWEEP_NUMBERS // max(1, torch.Size(shape).numel()))
    if ranks.size > 1 and not (drop_last or len(split) % batch_size == 0):
        raise TombolaError("the last batch of an epoch cannot be shared out over ranks; set drop_last")
    plan = _Plan(len(split), batch_size, sweep_batch, drop_last, ranks)
    finish = _Finish.of(torch.device(device), augment, normalisation, channels_last and len(shape) == 3)
    if isinstance(split, Streamed):
        return StreamedFeed(split, plan, finish)
    return ResidentFeed(split, plan, finish)


@dataclass(frozen=True)
class _Plan:
    """Which examples go into which batch."""

    examples: int
    batch_size: int
    sweep_batch: int
    drop_last: bool
    ranks: Ranks = ALONE

    @property
    def steps(self) -> int:
        return steps_per_epoch(self.examples, self.batch_size, self.drop_last)

    @property
    def part_size(self) -> int:
        """Examples of a batch that this rank gets."""
        return len(self._part) if self.ranks.size > 1 else self.batch_size

    @property
    def _part(self) -> range:
        """Of several ranks, where in a batch this one's examples lie; parts differ by one example at most."""
        whole, (rank, size) = min(self.batch_size, self.examples), (self.ranks.rank, self.ranks.size)
        return range(whole * rank // size, whole * (rank + 1) // size)

    def order(self, seed: int, epoch: int, start: int) -> Tensor:
        """The examples of batches `start` and on, int64 on the CPU; of several ranks, this one's."""
        if not 0 <= start <= self.steps:
            raise TombolaError(f"cannot start at batch {start} of an epoch; allowed are 0 to {self.steps}")
        order = torch.randperm(self.examples, generator=generator(seed, "order", epoch), device="cpu")
        order = order[start * self.batch_size : self.steps * self.batch_size]
        if self.ranks.size == 1:
            return order
        part = self._part
        batches = order.view(-1, min(self.batch_size, self.examples))  # all are full, or there is one
        return batches[:, part.start : part.stop].reshape(-1)

    def shared_out(self, batches: Iterable[Whole]) -> Iterator[Whole]:
        """The batches of a sweep that this rank goes through."""
        return islice(batches, self.ranks.rank, None, self.ranks.size)


@dataclass(frozen=True)
class _Finish:
    """What is done to a batch on its device: normalise, augment, set the memory format."""

    device: torch.device
    augment: Augment
    columns: int
    """Augmentation draws per example."""
    normalisation: Normalisation | None
    fill: Tensor | None
    channels_last: bool

    @classmethod
    def of(
        cls,
        device: torch.device,
        augment: Augment | None,
        normalisation: Normalisation | None,
        channels_last: bool,
    ) -> _Finish:
        augment = augment or Augment()
        fill = None if normalisation is None else normalisation.fill(device)
        return cls(device, augment, draws_needed(augment), normalisation, fill, channels_last)

    def draws(self, seed: int, epoch: int, order: Tensor) -> Tensor:
        """Augmentation draws of the examples in `order`, float32 (len(order), columns) on the device."""
        rows = per_index_uniform(derive(seed, "augment", epoch), order.numpy(), self.columns)
        return torch.from_numpy(rows).to(self.device)

    def __call__(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        if draws is not None and x.dtype == torch.uint8 and not self.augment.interpolates:
            # bytes are a quarter of the floats to move, and the result is the same
            x, draws = augment_batch(x, draws, self.augment), None
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if x.dtype == torch.uint8:
            x = (self.normalisation or _UNIT)(x)
        if draws is not None:
            x = augment_batch(x, draws, self.augment, self.fill)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


class ResidentFeed:
    """Batches cut by index from tensors that lie on the device."""

    def __init__(self, split: Resident, plan: _Plan, finish: _Finish) -> None:
        self._split, self._plan, self._finish = split, plan, finish
        self._x, self._y = split.x.to(finish.device), split.y.to(finish.device)

    @property
    def examples(self) -> int:
        return self._plan.examples

    @property
    def steps_per_epoch(self) -> int:
        return self._plan.steps

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        plan, finish, x, y = self._plan, self._finish, self._x, self._y
        order = plan.order(seed, epoch, start)
        if not finish.columns:
            for index in _cut(order.to(finish.device), plan.part_size):
                yield finish(x.index_select(0, index)), y.index_select(0, index)
            return
        size = plan.part_size
        for part in _cut(order, max(1, _DRAW_CHUNK // size) * size):
            indices = _cut(part.to(finish.device), size)
            rows = _cut(finish.draws(seed, epoch, part), size)
            for index, draws in zip(indices, rows, strict=True):
                yield finish(x.index_select(0, index), draws), y.index_select(0, index)

    def sweep(self) -> Iterator[Batch]:
        size = self._plan.sweep_batch
        batches = zip(_cut(self._x, size), _cut(self._y, size), strict=True)
        for x, y in self._plan.shared_out(batches):
            # Copies: a network or a loss that works in place must not write into the data.
            yield self._finish(x if x.dtype == torch.uint8 else x.clone()), y.clone()

    def cuts_as(self, other: Feed) -> bool:
        """Whether the other gives the same batches for the same seed, from the same examples in memory."""
        if not isinstance(other, ResidentFeed):
            return False
        mine, its = self._finish, other._finish
        return (
            self._split is other._split
            and self._plan == other._plan
            and (mine.device, mine.augment, mine.normalisation, mine.channels_last)
            == (its.device, its.augment, its.normalisation, its.channels_last)
        )

    def epochs(self, seeds: Sequence[int], epoch: int, start: int = 0) -> Iterator[Batch]:
        """What `epoch` gives for each of K seeds, cut at once: (K, batch, ...)."""
        plan, finish, size = self._plan, self._finish, self._plan.part_size
        order = torch.stack([plan.order(seed, epoch, start) for seed in seeds])
        chunk = max(1, _DRAW_CHUNK // (size * len(seeds))) * size if finish.columns else max(1, order.shape[1])
        for part in torch.split(order, chunk, 1) if order.shape[1] else ():
            indices = torch.split(part.to(finish.device), size, 1)
            rows: Sequence[Tensor | None] = [None] * len(indices)
            if finish.columns:
                drawn = [finish.draws(seed, epoch, one) for seed, one in zip(seeds, part, strict=True)]
                rows = torch.split(torch.stack(drawn), size, 1)
            for index, draws in zip(indices, rows, strict=True):
                flat = index.reshape(-1)
                x = finish(self._x.index_select(0, flat), None if draws is None else draws.flatten(0, 1))
                y = self._y.index_select(0, flat)
                yield x.view(*index.shape, *x.shape[1:]), y.view(*index.shape, *y.shape[1:])


def epochs_together(feeds: Sequence[Feed], seeds: Sequence[int], epoch: int, start: int = 0) -> Iterator[Batch]:
    """The batches that each feed's `epoch` gives for its seed, stacked: (K, batch, ...); of equal feeds cut at once."""
    first = feeds[0]
    if isinstance(first, ResidentFeed) and all(map(first.cuts_as, feeds)):
        yield from first.epochs(seeds, epoch, start)
        return
    each = (feed.epoch(seed, epoch, start) for feed, seed in zip(feeds, seeds, strict=True))
    for batches in zip(*each, strict=True):
        x, y = zip(*batches, strict=True)
        yield torch.stack(x), torch.stack(y)


class _Keyed(Dataset[Batch]):
    """A dataset whose keys are (index, seed): the seed decides the random transforms of that one example."""

    def __init__(self, dataset: Dataset[Any], form: Form | None) -> None:
        self.dataset, self.form = dataset, form

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return fetch_checked(self.dataset, *key, self.form)


class _Keys(Sampler[list[tuple[int, int]]]):
    """The keys of every batch, made as the workers are asked for it: those of a whole epoch would take seconds."""

    def __init__(self, orders: Sequence[Tensor], base: int) -> None:
        self.orders, self.base = orders, base

    def __len__(self) -> int:
        return len(self.orders)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for order in self.orders:
            yield [(index, derive(self.base, index)) for index in order.tolist()]


class StreamedFeed:
    """Batches fetched by worker processes; random transforms are seeded per (seed, epoch, index)."""

    def __init__(self, split: Streamed, plan: _Plan, finish: _Finish) -> None:
        self._split, self._plan, self._finish = split, plan, finish

    @property
    def examples(self) -> int:
        return self._plan.examples

    @property
    def steps_per_epoch(self) -> int:
        return self._plan.steps

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        finish = self._finish
        orders = _cut(self._plan.order(seed, epoch, start), self._plan.part_size)
        keys = _Keys(orders, derive(seed, "transform", epoch))
        for order, (x, y) in zip(orders, self._fetched(self._split.dataset, keys), strict=True):
            yield finish(x, finish.draws(seed, epoch, order) if finish.columns else None), y

    def sweep(self) -> Iterator[Batch]:
        orders = _cut(torch.arange(self._plan.examples, device="cpu"), self._plan.sweep_batch)
        keys = _Keys(list(self._plan.shared_out(orders)), 0)
        for x, y in self._fetched(self._split.plain or self._split.dataset, keys):
            yield self._finish(x), y

    def _fetched(self, dataset: Dataset[Any], keys: _Keys) -> Iterator[Batch]:
        loader = DataLoader(
            _Keyed(dataset, self._split.form),
            batch_sampler=keys,
            collate_fn=_stacked,
            num_workers=self._split.workers,
            pin_memory=self._finish.device.type == "cuda",
            generator=torch.Generator(),  # else the loader would draw from the global one
        )
        try:
            for x, y in loader:
                device = self._finish.device
                yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        except TombolaError as error:
            # A worker's error arrives with its traceback as the message: its last line is the error's own.
            raise TombolaError(str(error).strip().splitlines()[-1].removeprefix(f"{_NAME}: ")) from None


def _cut(values: Tensor, size: int) -> Sequence[Tensor]:
    """Consecutive parts of `size`; none of an empty tensor (torch would return it as one)."""
    return torch.split(values, size) if len(values) else ()


def _stacked(examples: Sequence[Batch]) -> Batch:
    for what, parts in zip(("inputs", "targets"), zip(*examples, strict=True), strict=True):
        for part in parts:
            if (part.shape, part.dtype) != (parts[0].shape, parts[0].dtype):
                forms = " and ".join(f"{one.dtype} {tuple(one.shape)}" for one in (parts[0], part))
                raise TombolaError(f"{what} of a batch differ: {forms}; a dataset must give all examples alike")
    x, y = zip(*examples, strict=True)
    return torch.stack(x), torch.stack(y)
