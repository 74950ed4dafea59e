"""The images of a folder, (path, label) each, held in three arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Samples(Sequence[tuple[str, int]]):
    """(path, label) of each image.

    1.3 million take about 70 MB. Worker processes share them, where the items of a list would be copied into each
    worker, for counting references writes into them.

    Args:
        folder: what each path begins with.
        names: the rest of all paths, one after the other, as the file system has them.
        ends: int64 (N,), where each name ends.
        labels: int64 (N,).
    """

    folder: str
    names: bytes
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, folder: str, names: Iterable[bytes], labels: Sequence[int] | NDArray[np.int64]) -> Samples:
        """Samples with these names."""
        names = list(names)
        ends = np.cumsum(np.fromiter(map(len, names), np.int64, len(names)))
        return cls(folder, b"".join(names), ends, np.asarray(labels, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> tuple[str, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> tuple[str, int] | Samples:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        row = range(len(self))[index]
        return self.folder + os.fsdecode(self._name(row)), int(self.labels[row])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        start = 0
        for end, label in zip(self.ends.tolist(), self.labels.tolist(), strict=True):
            yield self.folder + os.fsdecode(self.names[start:end]), label
            start = end

    def take(self, rows: Sequence[int]) -> Samples:
        """The samples at these rows, none of them negative, in this order."""
        return Samples.of(self.folder, map(self._name, rows), self.labels[np.asarray(rows, np.int64)])

    def _name(self, row: int) -> bytes:
        return self.names[self.ends[row - 1] if row else 0 : self.ends[row]]


def joined(parts: Sequence[Samples]) -> Samples:
    """The samples of all parts, which share a folder, one after the other."""
    lengths = np.cumsum([0, *(len(part.names) for part in parts)])
    ends = [part.ends + start for part, start in zip(parts, lengths[:-1], strict=True)]
    names, labels = b"".join(part.names for part in parts), [part.labels for part in parts]
    return Samples(parts[0].folder, names, np.concatenate(ends), np.concatenate(labels))
