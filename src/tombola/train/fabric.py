"""Lightning Fabric on one device: where the loop gets its device and precision from."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import torch

from tombola.errors import TombolaError
from tombola.names import unknown

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISIONS = {"32": "32-true", "bfp8": "32-true"}
"""A recipe's precision -> Fabric's, where the name is another; bfp8 is simulated in float32."""
_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


def make_fabric(device: str, precision: str = "32") -> Fabric:
    """A Fabric on one device: "auto", "cpu", "cuda" or "cuda:1"; a device that is not there is a TombolaError."""
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
    devices: Any = [int(index)] if index else 1
    of_fabric: Any = _PRECISIONS.get(precision, precision)
    return _fabric()(accelerator=kind, devices=devices, precision=of_fabric)


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
