"""Memory for compiled code: the one place where tensors and arrays become addresses.

Compiled code checks nothing. So dtype, device, layout and size of all that it reads are checked here, and all that it
writes is allocated here, whatever default dtype, default device or torch mode is set when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tombola.errors import TombolaError

PLAIN = (Tensor, nn.Parameter)
OF_LAYOUT = (Tensor.is_contiguous, Tensor.stride, Tensor.storage_offset, Tensor.data_ptr, Tensor.untyped_storage)
"""What tells how a tensor lies in memory: code that asks may depend on the answer."""
_CLASSES = frozenset(PLAIN)


def made(shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, int]:
    """(an uninitialised contiguous tensor in CPU memory, its address): for compiled code to write."""
    tensor = torch.empty(shape, dtype=dtype, device=_CPU)
    if type(tensor) is not Tensor or tensor.dtype is not dtype or not tensor.is_cpu:
        raise TombolaError(
            f"torch makes {described(tensor)} where {dtype} on cpu was asked for; leave the mode it is in"
        )
    return tensor, tensor.data_ptr()


def given(x: Any, dtype: torch.dtype, shape: tuple[int, ...], what: str) -> tuple[Tensor, int]:
    """(what `checked` gives, contiguous, a copy where it must be; its address): for compiled code to read."""
    tensor = checked(x, dtype, shape, what).contiguous()
    return tensor, _start(tensor)


def checked(x: Any, dtype: torch.dtype, shape: tuple[int, ...], what: str) -> Tensor:
    """The tensor as a plain one without gradient, in any memory order.

    Args:
        shape: without the first dimension, which may have any size.
        what: what to call it in an error.

    Raises:
        TombolaError: it is no dense tensor of this dtype and shape in CPU memory.
    """
    if (
        not has_shape(x)
        or x.layout is not _STRIDED
        or x.dtype is not dtype
        or not x.is_cpu
        or x.dim() != 1 + len(shape)
        or x.shape[1:] != shape
    ):
        wanted = f"{dtype} (N, {', '.join(map(str, shape))}) on cpu"
        raise TombolaError(f"{what} is {described(x)}; give a plain dense tensor: {wanted}")
    if type(x) not in _CLASSES:
        x = _unwrapped(x, what)
    if x.requires_grad:
        x = x.detach()
    if x.is_neg():
        x = x.resolve_neg()
    return x  # type: ignore[no-any-return]


def has_shape(x: Any) -> bool:
    """Whether it is a tensor with a shape: nested ones have none."""
    return isinstance(x, Tensor) and not x.is_nested


def address(x: Tensor, dtype: torch.dtype, count: int) -> int:
    """The address of the `count` entries of a tensor in CPU memory, contiguous in some order of its dimensions.

    Raises:
        TombolaError: they do not.
    """
    if type(x) not in _CLASSES or x.dtype is not dtype or not x.is_cpu or x.layout is not _STRIDED:
        raise TombolaError(f"{described(x)} cannot be given to compiled code; it takes {dtype} on cpu")
    if x.numel() != count or not without_gaps(x) or x.is_neg():
        raise TombolaError(f"{described(x)} cannot be given to compiled code; it takes {count} entries without gaps")
    return _start(x)


def whereabouts(x: Tensor) -> int:
    """A number that changes when a tensor's data move. Not for reading or writing: see `address`."""
    return x.data_ptr()


def storage_address(storage: torch.UntypedStorage) -> int:
    """Where a storage begins: tensors that share memory share it."""
    return storage.data_ptr()


def array_address(array: NDArray[Any]) -> int:
    """The address of an array's data, contiguous in the order of its dimensions. The caller keeps the array alive.

    Raises:
        TombolaError: they are not.
    """
    if type(array) is not np.ndarray or not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
        raise TombolaError(f"an array of {array.dtype} with strides {array.strides} cannot be given to compiled code")
    return array.ctypes.data


def check_apart(name: str, tensor: Tensor) -> None:
    """TombolaError where entries of a tensor that is to be written share memory, as those of an expanded one do."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                raise TombolaError(
                    f"entries of {name!r} share memory, as those of an expanded tensor do, so that they cannot be "
                    "written one by one; give it memory of its own: parameter.data = parameter.data.clone()"
                )
            reach += stride * (size - 1)


def without_gaps(tensor: Tensor) -> bool:
    """Whether the tensor's entries follow each other in memory, in the order of its dimensions or channels last."""
    return (
        tensor.is_contiguous()
        or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
        or (tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d))
    )


def within_words(numbers: NDArray[np.int64], what: str) -> NDArray[np.int32]:
    """The same as 32-bit words. Raises TombolaError where they need more."""
    if numbers.size and (int(numbers.max()) > _MAX or int(numbers.min()) < -_MAX):
        raise TombolaError(f"{what} lie more than 2^31 bytes or entries apart; the layer is too large to be compiled")
    return numbers.astype(np.int32)


def described(x: Any) -> str:
    """A value for an error message: its kind, dtype, shape and device."""
    if not isinstance(x, Tensor):
        return f"of type {type(x).__name__}"
    kind = "" if type(x) in _CLASSES else f"{type(x).__name__} "
    if x.is_nested:
        return f"{kind}nested {x.dtype} on {x.device.type}"
    layout = "" if x.layout is torch.strided else f" ({x.layout})"
    return f"{kind}{x.dtype} {tuple(x.shape)} on {x.device.type}{layout}"


_MAX = 2**31 - 1
_STRIDED, _CPU = torch.strided, torch.device("cpu")


def _start(x: Tensor) -> int:
    """The address of a contiguous tensor in CPU memory whose storage is whole."""
    try:
        pointer = x.data_ptr()
        available = x.untyped_storage().nbytes() - x.storage_offset() * x.itemsize
    except RuntimeError:  # torch.func's tensors and others that have no memory
        raise TombolaError(f"{described(x)} has no memory, as within torch.func; call compiled code outside") from None
    if available < x.nbytes or (x.nbytes and not pointer):
        raise TombolaError(f"the memory of {described(x)} was given back; give a tensor whose storage is whole")
    return pointer


def _unwrapped(x: Tensor, what: str) -> Tensor:
    """A tensor of a subclass as a plain one, if it has memory of its own."""
    if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TombolaError(f"{what} is {described(x)}, which computes in its own way; give a plain dense tensor")
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(Tensor)
