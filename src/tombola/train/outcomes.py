"""The test metric of every example, kept beside a trained network's log: bits where it is 0 or 1, else float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from tombola.errors import TombolaError
from tombola.runs.atomic import make_folder, write_bytes
from tombola.runs.stage import OUTCOMES


def write_outcomes(folder: Path, values: Tensor) -> None:
    """Write `values`, float32 (N,), into `folder`, which is made if it is not there."""
    array = values.numpy()
    bits = bool(((array == 0) | (array == 1)).all())
    stored = {"bits": np.packbits(array.astype(bool))} if bits else {"values": array}
    make_folder(folder)
    write_bytes(folder / OUTCOMES, save({**stored, "examples": np.array([len(array)], np.int64)}))


def read_outcomes(folder: Path) -> Tensor | None:
    """The values that `write_outcomes` wrote into `folder`, float32 (N,); None where there are none.

    Raises:
        TombolaError: the file holds anything else.
    """
    file = folder / OUTCOMES
    if not file.exists():
        return None
    try:
        stored = load(file.read_bytes())
        count = int(stored["examples"][0])
        array = np.unpackbits(stored["bits"], count=count) if "bits" in stored else stored["values"]
        if array.shape != (count,) or count < 1:
            raise ValueError
        return torch.from_numpy(array.astype(np.float32))
    except (SafetensorError, OSError, KeyError, IndexError, ValueError, TypeError):
        raise TombolaError(
            f"{file} does not hold the results of test examples; remove {folder}, which is then trained again"
        ) from None
