"""A library loaded into this process, to be checked."""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.machine.memory import address, made

_WORD = ctypes.c_uint64


class Loaded:
    """The functions of a library; for use in a `with` block, at whose end it is unloaded."""

    def __init__(self, path: Path, name: str) -> None:
        self._library, self._name = ctypes.CDLL(str(path)), name
        self._message = self._function("message", ctypes.c_char_p, ctypes.c_int32)
        self._create = self._function("create", ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p)
        self._destroy = self._function("destroy", None, ctypes.c_void_p)
        ends = ctypes.c_void_p, ctypes.c_int32
        self._run = self._function("run", ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t, *ends, *ends)

    def _function(self, what: str, result: object, *arguments: object) -> ctypes._FuncPointer:
        function = getattr(self._library, f"{self._name}_{what}")
        function.restype, function.argtypes = result, arguments
        return function  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ctypes.dlclose(self._library._handle)

    def number(self, what: str, *index: int) -> int:
        """What one of the functions without a context gives: "abi", "inputs", "input_size" ..."""
        size = what.endswith("_size")
        return int(self._function(what, ctypes.c_size_t if size else ctypes.c_int32, *[ctypes.c_int32] * size)(*index))

    def message(self, status: int) -> str:
        """The text of a status."""
        return str(self._message(status).decode())

    def create(self, threads: int) -> int:
        """The address of a context. Raises TombolaError with the library's own message."""
        context = ctypes.c_void_p()
        self._check(self._create(threads, ctypes.byref(context)))
        return int(context.value or 0)

    def destroy(self, context: int) -> None:
        """Free a context."""
        self._destroy(context)

    def run(self, context: int, inputs: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
        """The outputs of a batch of contiguous float32 inputs.

        Args:
            shapes: of one example of each output.

        Raises:
            TombolaError: the library gives another status than OK.
        """
        batch = len(inputs[0])
        outputs = [made((batch, *shape), torch.float32) for shape in shapes]
        given = [(address(x, torch.float32, x.numel()), x.numel()) for x in inputs]
        wanted = [(place, x.numel()) for x, place in outputs]
        self._check(self._run(context, batch, _pairs(given), len(given), _pairs(wanted), len(wanted)))
        return tuple(x for x, _ in outputs)

    def _check(self, status: int) -> None:
        if status:
            raise TombolaError(self.message(status))


def _pairs(ends: Sequence[tuple[int, int]]) -> ctypes.Array[ctypes.c_uint64]:
    return (_WORD * (2 * len(ends)))(*(word for end in ends for word in end))
