"""How much memory this process holds, as the system counts it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Resident:
    """Bytes in memory: `now`, and `peak`, the most so far. Where a system counts the peak alone, `now` is the peak."""

    now: int
    peak: int

    def rise(self, since: Resident) -> int | None:
        """How far the peak since an earlier count lies above what was held then; None if an earlier peak was higher.

        >>> Resident(40, 90).rise(since=Resident(30, 50)), Resident(40, 90).rise(since=Resident(30, 90))
        (60, None)
        """
        return self.peak - since.now if self.peak > since.peak else None


def resident(status: Path = _STATUS) -> Resident | None:
    """Of this process; None where the system does not say (Windows).

    Args:
        status: what Linux says of it; getrusage is asked where there is no such file.
    """
    try:
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status.read_text(), re.MULTILINE))
        return Resident(1024 * int(found["VmRSS"]), 1024 * int(found["VmHWM"]))
    except (OSError, KeyError):
        return _peak_alone()


def _peak_alone() -> Resident | None:
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Resident(peak, peak)
