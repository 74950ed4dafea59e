"""How many threads torch uses, for a while; and who measures, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tombola._locks import Lock

_SETTING = Lock()


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Within it torch uses so many threads.

    One thread of a process at a time is let in, the others wait: the number is the whole process's, and who measures
    beside another measures the other too.
    """
    with _SETTING.inner:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
