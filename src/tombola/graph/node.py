"""What a node of a traced network is: its operation, its arguments by name, its shape, its place in the model."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch._ops import OpOverload


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def overload(node: fx.Node) -> OpOverload | None:
    """The operation of ATen's that a node calls; None for what is no call of one."""
    return node.target if isinstance(node.target, OpOverload) else None


def operation(node: fx.Node) -> str:
    """The one name of what the node computes: that of the torch function, such as "conv2d"; "" for what is no call."""
    if node.op == "call_module":
        return "structure"
    if node.op != "call_function":
        return ""
    if (called := overload(node)) is not None:
        return str(called.overloadpacket.__name__)
    return str(getattr(node.target, "__name__", node.target))


def arguments(node: fx.Node) -> dict[str, Any]:
    """The call's arguments by name, defaults included.

    >>> linear = fx.Graph().call_function(torch.ops.aten.linear.default, (None, None))
    >>> arguments(linear)
    {'input': None, 'weight': None, 'bias': None}
    """
    if (called := overload(node)) is not None:
        wanted = called._schema.arguments
        given = dict(zip((one.name for one in wanted), node.args, strict=False))
        return {one.name: given.get(one.name, node.kwargs.get(one.name, one.default_value)) for one in wanted}
    bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    bound.apply_defaults()
    return bound.arguments


@dataclass(frozen=True)
class Value:
    """What is known of a tensor before it is computed.

    `shape`: for the inputs that the network was traced with. `symbols`: of each axis, the expression of its size where
    that depends on the batch, such as "s0" or "4*s0"; "" where it does not.
    """

    shape: tuple[int, ...]
    symbols: tuple[str, ...]
    dtype: str
    device: str

    @classmethod
    def of(cls, tensor: Tensor) -> Value:
        """Of a tensor, whose sizes may be symbols."""
        symbols = tuple(str(n) if _is_free(n) else "" for n in tensor.shape)
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(tuple(map(_number, tensor.shape)), symbols, dtype, tensor.device.type)


def value_of(node: Any) -> Value | None:
    """What is known of a node's value; None where it is not one tensor."""
    return node.meta.get("value") if isinstance(node, fx.Node) else None


def shape_of(node: Any) -> tuple[int, ...] | None:
    """The shape of a node's value for the inputs that it was traced with; None where it is not one tensor."""
    value = value_of(node)
    return None if value is None else value.shape


def set_shape(node: fx.Node, shape: tuple[int, ...]) -> None:
    """Note that a node's value has another shape of as many axes, the batch as it was."""
    value = value_of(node)
    assert value is not None
    sizes = zip(value.symbols, value.shape, shape, strict=True)
    node.meta["value"] = replace(value, shape=shape, symbols=tuple(_scaled(*each) for each in sizes))


def _scaled(symbol: str, before: int, after: int) -> str:
    """The expression of a size that depends on the batch when there is more or less of the rest.

    >>> _scaled("12*s0", 24, 16), _scaled("12*s0", 24, 2), _scaled("s0", 2, 2), _scaled("", 5, 4)
    ('8*s0', 's0', 's0', '')
    """
    if not symbol or before == after:
        return symbol
    number, _, rest = symbol.partition("*")
    many = int(number) * after // before
    return rest if many == 1 else f"{many}*{rest}"


def computes(node: fx.Node) -> bool:
    """Whether a node makes values, or something of values, and not sizes."""
    return any(shape_of(one) is not None for one in (node, *node.all_input_nodes)) and operation(node) != "sym_size"


def batch_axes(node: fx.Node) -> tuple[int, ...]:
    """The axes of a node's value whose size depends on the batch; empty where it has none, or the batch is fixed."""
    value = value_of(node)
    return () if value is None else tuple(i for i, symbol in enumerate(value.symbols) if symbol)


def is_batched(node: fx.Node) -> bool:
    """Whether the first axis, and no other, is the batch, in full."""
    value = value_of(node)
    return value is not None and batch_axes(node) == (0,) and value.symbols[0].isalnum()


def place(node: fx.Node) -> str:
    """Where the node stands: the path of the module whose forward calls it, and the line of code outside of torch."""
    return str(node.meta.get("place") or "the model")


# ---- from what torch.export notes of a node --------------------------------------------------------------------------


def noted(node: fx.Node, path: str, value: Any = None) -> dict[str, Any]:
    """What is kept of torch.export's notes: `value`, or that of the node, and the place.

    `path`: of the module in the network, in whose forward paths begin.
    """
    known = node.meta.get("val", value)
    meta: dict[str, Any] = {"place": place_of(node, path)}
    if isinstance(known, Tensor):
        meta["value"] = Value.of(known)
    return meta


def _is_free(size: Any) -> bool:
    """Whether a size is a symbol that the network's code has not tied to one number."""
    return isinstance(size, SymInt) and not size.node.expr.is_number


def _number(size: Any) -> int:
    return int(str(size.node.hint)) if isinstance(size, SymInt) else int(size)


def place_of(node: fx.Node, path: str) -> str:
    """The path of the module whose forward calls a node, and the line of code, from torch.export's notes."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    inner = str(stack[-1][0]).removeprefix("inner").lstrip(".") if stack else ""
    where = ".".join(filter(None, (path, inner))) or "the model"
    lines = re.findall(r'File "([^"]+)", line (\d+), in', str(node.meta.get("stack_trace") or ""))
    if not lines or _TORCH in Path(lines[-1][0]).parents:
        return where
    return f"{where} (line {lines[-1][1]} of {Path(lines[-1][0]).name})"


_TORCH = Path(torch.__file__).parent
