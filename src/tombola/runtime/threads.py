"""A number of torch threads for a while; one measurement at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tombola._locks import Lock

_SETTING = Lock()


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Set the number of torch's threads within the block.

    One Python thread enters at a time: the number is the whole process's, and two measurements at once would disturb
    each other.
    """
    with _SETTING.inner:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
