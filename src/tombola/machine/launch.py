"""What started this process: torchrun, another launcher of several processes, or none (torch-free)."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from tombola.errors import TombolaError

_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where torchrun, Open MPI, MPICH and srun store the number of processes they started."""
_TORCHRUN = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class Launch:
    """What torchrun says: this is process `rank` of `size`, number `local` of `here` on this machine."""

    rank: int
    size: int
    local: int
    here: int


def launch() -> Launch | None:
    """What torchrun says of this process; None where it started one alone, or did not start it."""
    if _TORCHRUN not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    if not all(value.isdecimal() for value in values) or int(values[1]) < 2:
        return None
    return Launch(*map(int, values))


def several_started() -> str | None:
    """What tells that a launcher started several processes, as "WORLD_SIZE is 2"; None where nothing does."""
    for name in _COUNTS:
        count = os.environ.get(name, "")
        if count.isdecimal() and int(count) > 1:
            return f"{name} is {count}"
    dist = _group()
    return None if dist is None or dist.get_world_size() < 2 else f"the process group has {dist.get_world_size()} ranks"


def check_launched() -> None:
    """TombolaError where several processes were started, but not by torchrun, which says which is which."""
    if launch() is None and (reason := several_started()) is not None:
        raise TombolaError(
            f"{reason}, but the processes were not started by torchrun; for a data-parallel run start them by torchrun "
            "(nproc_per_node says how many) as -m tombola find ..., else start one process"
        )


def speaks() -> bool:
    """Whether this process is the one to say that the run has failed: of several, whichever asks first.

    Without a process group, rank 0. No meeting: the others may be gone.
    """
    started = launch()
    if started is None:
        return True
    dist = _group()
    if dist is None:
        return started.rank == 0
    try:
        return bool(dist.distributed_c10d._get_default_store().add("tombola/failed", 1) == 1)
    except Exception:  # the store may be gone with the process that kept it
        return started.rank == 0


def leave() -> None:
    """Take leave of the other processes, at the end of a run; NCCL asks for it."""
    if launch() is not None and (dist := _group()) is not None:
        dist.destroy_process_group()


def _group() -> Any:
    """torch.distributed where it has a process group, else None; it is not imported for the question."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None
