"""safetensors files read and written one tensor at a time, in the memory of the largest tensor.

This module itself imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from tombola.runs.atomic import write_atomically

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Spec(NamedTuple):
    """What a tensor is, without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFiles(Mapping[str, "Tensor"]):
    """Tensors by name in one or several files; each access reads one, which is kept by the caller alone.

    Args:
        places: name -> (file, name in the file).
    """

    def __init__(self, places: Mapping[str, tuple[Path, str]]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        file, held = self._places[name]
        with safe_open(file, "pt") as opened:  # one for each tensor: what is mapped goes with it
            tensor: Tensor = opened.get_tensor(held)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def names_in(file: Path) -> list[str]:
    """The names of a file's tensors, in its order."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def head_of(specs: Mapping[str, Spec], metadata: Mapping[str, str] | None = None) -> tuple[bytes, list[str]]:
    """What a file begins with, as safetensors itself writes it, and the names in the order of their values."""
    import safetensors.torch
    import torch

    empty = {name: torch.empty(0, dtype=spec.dtype, device="cpu") for name, spec in specs.items()}
    blank = safetensors.torch.save(empty, None if metadata is None else dict(metadata))
    entries = json.loads(blank[8 : 8 + int.from_bytes(blank[:8], "little")])
    order, at = [name for name in entries if name != "__metadata__"], 0
    for name in order:
        end = at + specs[name].nbytes
        entries[name] |= {"shape": list(specs[name].shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def write_tensors(path: Path, specs: Mapping[str, Spec], value_of: Callable[[str], Tensor]) -> int:
    """Write a file, whole or not at all, asking for one tensor at a time; its size in bytes.

    Args:
        specs: what will be asked for.
        value_of: gives a tensor by name, on the CPU, of that dtype and shape.
    """
    head, order = head_of(specs)
    with write_atomically(path) as file:
        file.write(head)
        for name in order:
            _write(file, value_of(name), specs[name])
        return file.tell()


def _write(file: IO[bytes], tensor: Tensor, spec: Spec) -> None:
    import torch

    assert (tensor.dtype, tuple(tensor.shape)) == spec
    file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
