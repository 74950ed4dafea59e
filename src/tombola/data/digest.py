"""The content of a map-style dataset as one hash: of every example, or of every byte of its files."""

from __future__ import annotations

import hashlib
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from tombola.data.files import files_digest
from tombola.errors import TombolaError
from tombola.fingerprint import fingerprint
from tombola.rng.seeds import derive

Fetch: TypeAlias = Callable[[Dataset[Any], int, int], tuple[Tensor, Tensor]]
Track: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""A progress bar of that name and length; it gives a function that is called with the number done."""

_TRANSFORMS = ("transform", "target_transform", "transforms", "loader")
_PROBED = 4
_BATCH = 64


@contextmanager
def silently(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """No bar."""
    yield lambda done: None


@dataclass(frozen=True)
class Files:
    """The files whose bytes, with labels and the way of reading, determine a dataset's content."""

    samples: Sequence[tuple[str, int]]
    root: Path
    reading: str


class OfFiles(Dataset[tuple[Tensor, int]]):
    """A dataset of one file per example, whose random changes draw from torch's global generator alone."""

    @abstractmethod
    def files(self) -> Files:
        """The files, in the order of the examples."""


def dataset_digest(
    dataset: Dataset[Any],
    fetch: Fetch,
    digest: Callable[..., str],
    workers: int,
    track: Track,
    contents: dict[int, str],
) -> str:
    """sha256 (hex) over every example of a dataset, or, where each is a known file, over the bytes of these.

    Every example is fetched once, as in one epoch without training, its random transforms drawing from a fixed seed.
    The transforms themselves count too, as far as they can be read.

    Args:
        fetch: gives example `index` of a dataset, its random changes drawn from a seed.
        digest: of tensors.
        workers: processes that fetch.
        contents: of lists of files, by the identity of the list, what was read in this call's company; added to.
    """
    base, indices = _base(dataset)
    files = _files(base)
    if files is None:
        about = (fingerprint(getattr(base, name, None)).digest for name in _TRANSFORMS)
        return _sum(*about, *_examples(dataset, fetch, digest, workers, track))
    samples = files.samples if indices is None else [files.samples[i] for i in indices]
    if (content := contents.get(id(samples))) is None:
        with track("reading files", len(samples)) as update:
            content = files_digest([path for path, _ in samples], files.root, update)
        if indices is None:
            contents[id(samples)] = content
    return _sum(files.reading, content, *(str(label) for _, label in samples))


def _base(dataset: Any) -> tuple[Any, list[int] | None]:
    """The dataset beneath nested subsets, and which of its examples they are (None: all)."""
    indices: list[int] | None = None
    while type(dataset) is Subset:
        own = [int(index) for index in dataset.indices]
        indices = own if indices is None else [own[index] for index in indices]
        dataset = dataset.dataset
    return dataset, indices


def _files(dataset: Any) -> Files | None:
    """The files of a dataset of Tombola's, or of one of torchvision's that reads them as torchvision does."""
    if isinstance(dataset, OfFiles):
        return dataset.files()
    folders = getattr(sys.modules.get("torchvision.datasets"), "DatasetFolder", None)
    if folders is None or not isinstance(dataset, folders) or type(dataset).__getitem__ is not folders.__getitem__:
        return None
    about = [fingerprint(getattr(dataset, name, None)) for name in _TRANSFORMS]
    if any(part.unseen for part in about):
        return None
    return Files(dataset.samples, Path(dataset.root), " ".join(part.digest for part in about))


def _examples(dataset: Any, fetch: Fetch, digest: Callable[..., str], workers: int, track: Track) -> list[str]:
    keyed = _Digests(dataset, fetch, digest)
    if any(keyed[index] != keyed[index] for index in range(min(_PROBED, len(dataset)))):
        warnings.warn(
            "an example differs each time that it is fetched, whatever torch, numpy and random are seeded with: runs "
            "on this data are not found again and do not resume; let it draw from these, or name the data: "
            "Streamed(dataset, source='v1')",
            stacklevel=2,
        )
    loader = DataLoader(keyed, batch_size=_BATCH, num_workers=workers, collate_fn=list, generator=Generator())
    digests: list[str] = []
    with track("reading examples", len(dataset)) as update:
        try:
            for batch in loader:
                digests += batch
                update(len(digests))
        except TombolaError as error:  # a worker's arrives with its traceback as the message
            raise TombolaError(str(error).strip().splitlines()[-1].rpartition("TombolaError: ")[2]) from None
    return digests


class _Digests(Dataset[str]):
    """The digests of a dataset's examples."""

    def __init__(self, dataset: Any, fetch: Fetch, digest: Callable[..., str]) -> None:
        self._dataset, self._fetch, self._digest = dataset, fetch, digest

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> str:
        return self._digest(*self._fetch(self._dataset, index, derive(0, "digest", index)))


def _sum(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
