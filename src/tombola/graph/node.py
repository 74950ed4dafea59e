"""What a node of a traced network is: its operation, its arguments by name, its shape, its place in the model."""

from __future__ import annotations

import inspect
import re
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


def shape_of(node: Any) -> tuple[int, ...] | None:
    """The shape of a node's value for the inputs that it was traced with; None where it is not one tensor."""
    if not isinstance(node, fx.Node):
        return None
    if "shape" in node.meta:  # since its channels were cut
        return tuple(node.meta["shape"])
    value = node.meta.get("val")
    return tuple(map(_number, value.shape)) if isinstance(value, Tensor) else None


def computes(node: fx.Node) -> bool:
    """Whether a node makes values, or something of values, and not sizes."""
    return any(shape_of(one) is not None for one in (node, *node.all_input_nodes)) and operation(node) != "sym_size"


def batch_axes(node: fx.Node) -> tuple[int, ...]:
    """The axes of a node's value whose size depends on the batch; empty where it has none, or the batch is fixed."""
    value = node.meta.get("val")
    return tuple(i for i, n in enumerate(value.shape) if _is_free(n)) if isinstance(value, Tensor) else ()


def is_batched(node: fx.Node) -> bool:
    """Whether the first axis, and no other, is the batch, in full."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or batch_axes(node) != (0,):
        return False
    return bool(re.fullmatch(r"s\d+", str(value.shape[0])))


def _is_free(size: Any) -> bool:
    """Whether a size is a symbol that the network's code has not tied to one number."""
    return isinstance(size, SymInt) and not size.node.expr.is_number


def _number(size: Any) -> int:
    return int(str(size.node.hint)) if isinstance(size, SymInt) else int(size)


def place(node: fx.Node) -> str:
    """Where the node stands: the path of the module whose forward calls it, and the line of code outside of torch."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    inner = str(stack[-1][0]).removeprefix("inner").lstrip(".") if stack else ""
    path = ".".join(filter(None, (node.meta.get("within", ""), inner)))
    lines = re.findall(r'File "([^"]+)", line (\d+), in', str(node.meta.get("stack_trace") or ""))
    if not lines or _TORCH in Path(lines[-1][0]).parents:
        return path or "the model"
    return f"{path or 'the model'} (line {lines[-1][1]} of {Path(lines[-1][0]).name})"


_TORCH = Path(torch.__file__).parent
