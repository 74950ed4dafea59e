"""Lightning Fabric: where the loop gets its device and precision from, and the processes that it shares."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from tombola.errors import TombolaError
from tombola.machine.launch import Launch, check_launched, launch
from tombola.machine.ranks import Ranks
from tombola.names import unknown

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISIONS = {"32": "32-true", "bfp8": "32-true"}
"""A recipe's precision -> Fabric's, where the name is another; bfp8 is simulated in float32."""
_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


_PATIENCE = timedelta(days=1)
"""How long a process waits for the others: while rank 0 reads data alone it may be long. One that ends is noticed."""
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def make_fabric(device: str, precision: str = "32", *, shared: bool = False) -> Fabric:
    """A Fabric on one device: "auto", "cpu", "cuda" or "cuda:1"; a device that is not there is a TombolaError.

    `shared`: where torchrun has started several processes, each has a device of its own and trains its part of every
    batch; the process group is made if there is none.
    """
    kind, _, index = device.partition(":")
    numbered = kind == "cuda" and re.fullmatch("[0-9]{1,4}", index)
    if kind not in ("auto", "cpu", "cuda") or not (numbered or device == kind):
        raise TombolaError(unknown("device", device, ("auto", "cpu", "cuda", "cuda:N")))
    if kind == "cuda" and not torch.cuda.is_available():
        raise TombolaError("device 'cuda' was asked for, but torch finds no CUDA device here; use device cpu")
    if numbered and int(index) >= torch.cuda.device_count():
        raise TombolaError(f"device is {device!r}, but there are {torch.cuda.device_count()}; they count from 0")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    of_fabric: Any = _PRECISIONS.get(precision, precision)
    if shared:
        check_launched()
        if (started := launch()) is not None:
            return _launched(started, kind, index, of_fabric)
    devices: Any = [int(index)] if index else 1
    return _fabric()(accelerator=kind, devices=devices, precision=of_fabric)


def _launched(started: Launch, kind: str, index: str, precision: Any) -> Fabric:
    """The Fabric of one of several processes."""
    if index:
        raise TombolaError(f"device is 'cuda:{index}', but {started.size} processes share the work; give device cuda")
    if kind == "cuda" and started.here > torch.cuda.device_count():
        raise TombolaError(
            f"{started.here} processes were started here, but there are {torch.cuda.device_count()} GPUs; start one "
            "for each GPU, or give device cpu"
        )
    if started.size % started.here:
        raise TombolaError(
            f"{started.here} of {started.size} processes were started here; start as many on every machine"
        )
    fabric_class = _fabric()
    from lightning_fabric.strategies.ddp import DDPStrategy

    with _quiet():
        fabric = fabric_class(
            accelerator=kind,
            devices=started.here,
            num_nodes=started.size // started.here,
            strategy=DDPStrategy(process_group_backend=_BACKENDS[kind], timeout=_PATIENCE),
            precision=precision,
        )
        fabric.launch()
    return fabric


def like(fabric: Fabric, precision: str) -> Fabric:
    """A Fabric on the same device, with the same processes, in another precision."""
    shared = fabric.world_size > 1
    device = fabric.device.type if shared else str(fabric.device)
    return make_fabric(device, precision, shared=shared)


def ranks_of(fabric: Fabric) -> Ranks:
    """The processes that this Fabric's network is trained by."""
    return Ranks(fabric.global_rank, fabric.world_size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that Fabric writes when processes meet."""
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _fabric() -> type[Fabric]:
    """The class, imported when something is to be trained: that takes as long as importing torch."""
    before = os.environ.get(_CHECK)
    from lightning_fabric import Fabric

    # Importing it switches torch to a CUDA check that opens a library at every optimiser step: a tenth of a small
    # network's step on a machine without a GPU. Put it back as it was.
    if before is None:
        os.environ.pop(_CHECK, None)
    else:
        os.environ[_CHECK] = before
    return Fabric
