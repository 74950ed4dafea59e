"""The processes that train one network together: which of them this is, and what they say to each other.

torchrun starts them, and says so in the environment. All of them do the same, in step: they build the same network,
draw the same order of the data, and choose the same masks. They differ in the examples that they work through, and
rank 0 alone writes files and speaks. Every method below but `writes` is a meeting: all ranks must call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tombola.errors import TombolaError, in_short

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

BUCKET = 1 << 23
"""Numbers that are added up over the ranks in one message, at most: while one is under way the next is packed."""


@dataclass(frozen=True)
class Ranks:
    """`size` processes, of which this is number `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    def first(self, function: Callable[[], T]) -> T:
        """What `function` gives on rank 0, the only one that calls it; it must be possible to pickle it.

        Raises:
            TombolaError: on every rank, where it raises on rank 0 (which raises what it was).
        """
        if self.size == 1:
            return function()
        told: list[Any] = [None, None]
        failed: Exception | None = None
        if self.writes:
            try:
                told = [function(), None]
            except Exception as error:  # told to the others, who wait
                failed, told = error, [None, str(error) if isinstance(error, TombolaError) else in_short(error)]
        with _meeting() as dist:
            dist.broadcast_object_list(told, src=0)
        if failed is not None:
            raise failed
        if told[1] is not None:
            raise TombolaError(told[1])
        result: T = told[0]
        return result

    def in_turn(self, function: Callable[[], T]) -> T:
        """What `function` gives here: called on rank 0, and when that is done on the others."""
        own: list[T] = []
        self.first(lambda: own.append(function()))
        return own[0] if own else function()

    def gather(self, value: T) -> list[T]:
        """What each rank gave, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _meeting() as dist:
            dist.all_gather_object(values, value)
        return values

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in the form of `values`, which is left as it is."""
        if self.size == 1:
            return values
        summed = values.detach().clone()
        with _meeting() as dist:
            dist.all_reduce(summed)
        return summed

    def stacked(self, values: Tensor) -> Tensor:
        """The values of all ranks, (size, ...); of one form everywhere."""
        import torch

        parts = [torch.empty_like(values) for _ in range(self.size)]
        with _meeting() as dist:
            dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up each tensor over all ranks, in place; of one dtype and device, in the same order everywhere."""
        if self.size == 1 or not tensors:
            return
        import torch

        with _meeting() as dist:
            under_way = []
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                under_way.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
            for bucket, flat, work in under_way:
                work.wait()
                parts = torch.split(flat, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def agree(self, value: object, otherwise: str) -> None:
        """TombolaError on every rank, with the text `otherwise`, unless all give an equal value."""
        if any(other != value for other in self.gather(value)):
            raise TombolaError(otherwise)


ALONE = Ranks()
"""One process, as most are."""


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket


@contextmanager
def _meeting() -> Iterator[Any]:
    """torch.distributed, whose errors mostly are that another process has ended."""
    import torch.distributed as dist

    try:
        yield dist
    except RuntimeError as error:
        raise TombolaError(
            f"the processes of this run have lost each other ({in_short(error)}); run the same command to go on"
        ) from error
