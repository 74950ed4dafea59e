"""Calls that make maps of maps without weights: pooling, joining and cutting channels."""

from __future__ import annotations

from torch import fx

from tombola.deploy.node import Call, Recognised, Unsupported, pair, shape_of
from tombola.deploy.ops import Concat, Pool, Slice
from tombola.graph.node import operation


def pool(call: Call) -> Recognised:
    given, name = call.given, operation(call.node)
    kind = "max" if "max" in name else "mean"
    if len(shape_of(call.source)) != 2 + int(name[-2]):
        raise Unsupported("pooling without a batch")
    if given["ceil_mode"] or ("dilation" in given and call.window("dilation", 1) != (1, 1)):
        raise Unsupported("pooling with ceil_mode or dilation")
    if given.get("divisor_override"):
        raise Unsupported("pooling with another divisor")
    window, padding = call.window("kernel_size", 1), call.window("padding", 0)
    if kind == "mean" and padding != (0, 0):
        raise Unsupported("mean pooling with padding")
    return _pooled(call, kind, window, call.window("stride", 1) if given["stride"] else window, padding)


def _pooled(
    call: Call, kind: str, window: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int] = (0, 0)
) -> Recognised:
    op = Pool(call.node.name, call.source.name, call.node.name, kind, window, stride, padding)
    return Recognised(op, (call.source,))


def adaptive(call: Call) -> Recognised:
    space, out = shape_of(call.source)[2:], shape_of(call.node)[2:]
    if not space or len(space) != int(operation(call.node)[-2]) or any(n % m for n, m in zip(space, out, strict=True)):
        raise Unsupported("adaptive pooling over windows of unequal sizes")
    window = pair([n // m for n, m in zip(space, out, strict=True)], len(space), 1)
    return _pooled(call, "mean", window, window)


def mean(call: Call) -> Recognised:
    shape, dims = shape_of(call.source), call.given.get("dim") or ()
    rank = len(shape)
    if rank < 3 or sorted(d % rank for d in dims) != list(range(2, rank)) or call.given.get("dtype"):
        raise Unsupported("a mean over other dimensions than height and width")
    window = pair(shape[2:], rank - 2, 1)
    return _pooled(call, "mean", window, window)


def concat(call: Call) -> Recognised:
    """Along the channels, or features."""
    given = call.given["tensors"]
    sources = tuple(one for one in given if isinstance(one, fx.Node))
    rank = len(shape_of(call.node))
    if len(sources) < len(given) or any(one.op == "get_attr" or len(shape_of(one)) != rank for one in sources):
        raise Unsupported("a concatenation of other things than values")
    if call.given["dim"] % rank != 1:
        raise Unsupported("a concatenation along another dimension than the channels")
    names = tuple(one.name for one in sources)
    return Recognised(Concat(call.node.name, names, call.node.name), sources)


def cut(call: Call) -> Recognised:
    """A range of the channels, or features."""
    given, shape = call.given, shape_of(call.source)
    if given["dim"] % len(shape) != 1 or given["step"] != 1:
        raise Unsupported("a slice of another dimension than the channels, or in steps")
    bounds = given["start"], given["end"]
    if not all(bound is None or isinstance(bound, int) for bound in bounds):
        raise Unsupported("its bounds are computed in the network")
    start, stop, _ = slice(*bounds).indices(shape[1])
    if start >= stop:
        raise Unsupported("a slice of no channels")
    name = call.node.name
    return Recognised(Slice(name, call.source.name, name, start, stop), (call.source,))
