"""Calls that make maps of maps without weights: pooling, resizing, joining and cutting channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from tombola.deploy.node import Call, PassThrough, Recognised, Unsupported, pair, shape_of
from tombola.deploy.ops import Axis, Combine, Concat, Pointwise, Pool, Resize, Shuffle, Slice
from tombola.graph.node import operation


def pool(call: Call) -> Recognised:
    """Max and mean pools over windows."""
    given, name = call.given, operation(call.node)
    kind = "max" if "max" in name else "mean"
    if len(shape_of(call.source)) != 2 + int(name[-2]):
        raise Unsupported("pooling without a batch")
    if (given["ceil_mode"] and kind == "mean") or ("dilation" in given and call.window("dilation", 1) != (1, 1)):
        raise Unsupported("pooling with dilation, or the mean with ceil_mode")
    if given.get("divisor_override"):
        raise Unsupported("pooling with another divisor")
    window, padding = call.window("kernel_size", 1), call.window("padding", 0)
    if kind == "mean" and padding != (0, 0):
        raise Unsupported("mean pooling with padding")
    stride = call.window("stride", 1) if given["stride"] else window
    return _pooled(
        call, kind, window, stride, padding, _reach(call, window, stride, padding) if kind == "max" else None
    )


_Pair = tuple[int, int]


def _reach(call: Call, window: _Pair, stride: _Pair, padding: _Pair) -> _Pair | None:
    """How far the last windows reach beyond the maps; None where that is no further than the padding."""
    (high, wide), (rows, columns) = (*shape_of(call.source)[2:], 1)[:2], (*shape_of(call.node)[2:], 1)[:2]
    reach = [
        (out - 1) * step + size - space - before
        for out, step, size, space, before in zip((rows, columns), stride, window, (high, wide), padding, strict=True)
    ]
    if all(far <= before for far, before in zip(reach, padding, strict=True)):
        return None
    return max(reach[0], padding[0]), max(reach[1], padding[1])


def _pooled(
    call: Call,
    kind: str,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    end: tuple[int, int] | None = None,
) -> Recognised:
    op = Pool(call.node.name, call.source.name, call.node.name, kind, window, stride, padding, end=end)
    return Recognised(op, (call.source,))


def adaptive(call: Call) -> Recognised:
    """Adaptive mean pools whose windows are all of one size."""
    space, out = shape_of(call.source)[2:], shape_of(call.node)[2:]
    if not space or len(space) != int(operation(call.node)[-2]) or any(n % m for n, m in zip(space, out, strict=True)):
        raise Unsupported("adaptive pooling over windows of unequal sizes")
    window = pair([n // m for n, m in zip(space, out, strict=True)], len(space), 1)
    return _pooled(call, "mean", window, window)


def mean(call: Call) -> Recognised:
    """A mean over height and width."""
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


def cut(call: Call) -> Recognised | PassThrough:
    """A range of the channels, or features; or all of an axis."""
    given, shape = call.given, shape_of(call.source)
    if (given["start"] or 0) == 0 and given.get("end", 0) in (None, _END) and given["step"] == 1:
        return PassThrough(call.source)
    if given["dim"] % len(shape) != 1 or given.get("step", 1) != 1:
        raise Unsupported("a slice of another dimension than the channels, or in steps")
    bounds = [given[name] for name in ("start", "end", "length") if name in given]
    if not all(bound is None or isinstance(bound, int) for bound in bounds):
        raise Unsupported("its bounds are computed in the network")
    start, stop, _ = slice(*bounds).indices(shape[1])
    if "length" in given:  # of `narrow`
        stop = start + given["length"]
    if start >= stop:
        raise Unsupported("a slice of no channels")
    name = call.node.name
    return Recognised(Slice(name, call.source.name, name, start, stop), (call.source,))


_END = 2**63 - 1  # torch's for a slice without one


def combined(call: Call) -> Recognised:
    """Two values number by number, one of them of one channel, row or column perhaps; or a value and constants."""
    kind, given = operation(call.node), call.given
    one, other = given["self"], given["other"]
    if given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
        raise Unsupported("a sum with a factor, or a rounded quotient")
    if kind in ("add", "mul") and not _is_value(one):
        one, other = other, one
    if not _is_value(one):
        raise Unsupported("no value of the network is the first of two")
    name, shape = call.node.name, shape_of(call.node)
    if not _is_value(other):
        return _with_constant(call, one, "other" if other is given["other"] else "self")
    if kind in ("add", "mul") and shape_of(one) != shape:
        one, other = other, one
    if shape_of(one) != shape or len(shape_of(other)) != len(shape):
        raise Unsupported("two values of shapes that neither has")
    if kind == "add" and shape_of(other) == shape:
        return Recognised(Pointwise(name, one.name, name, residual=other.name), (one, other))
    return Recognised(Combine(name, one.name, other.name, name, kind), (one, other))


def _is_value(one: Any) -> bool:
    return isinstance(one, fx.Node) and one.op != "get_attr"


def _with_constant(call: Call, source: fx.Node, name: str) -> Recognised:
    """A number, or one for each channel, as scale or shift."""
    value, shape = call.constant(name), shape_of(source)
    if shape != shape_of(call.node) or value is None:
        raise Unsupported("a constant that makes the value larger")
    if isinstance(value, Tensor):
        along = (1,) * (len(shape) - value.dim()) + tuple(value.shape)
        if len(along) != len(shape) or any(n != 1 for i, n in enumerate(along) if i != 1):
            raise Unsupported("a constant that is no number for each channel")
        each = value.reshape(-1).expand(shape[1])
    else:
        each = torch.full((shape[1],), value, dtype=torch.float32, device="cpu")
    kind = operation(call.node)
    if kind in ("mul", "div"):
        scale, shift = each if kind == "mul" else each.reciprocal(), None
    else:
        scale, shift = None, each if kind == "add" else -each
    op = Pointwise(call.node.name, source.name, call.node.name, scale, shift)
    return Recognised(op, (source,))


def resized(call: Call) -> Recognised:
    """Nearest and linear interpolation: what torch makes of ones at single positions says what each counts."""
    kind, given = operation(call.node), call.given
    before, after = shape_of(call.source)[2:], shape_of(call.node)[2:]
    scales = given.get("scale_factors") or [given[name] for name in _SCALES if name in given] or [None] * len(before)
    if not all(isinstance(one, float | int | None) for one in scales):
        raise Unsupported("its scale is computed in the network")
    one_axis = getattr(torch.ops.aten, _ALONG_ONE_AXIS[kind[:-2]]).default
    axes = []
    for size, wanted, scale in zip(before, after, scales, strict=True):
        more = [given["align_corners"]] if "align_corners" in given else []
        ones = torch.eye(size, dtype=torch.float32, device="cpu").unsqueeze(0)
        axes.append(_axis(one_axis(ones, [wanted], *more, scale)[0], blend=bool(more)))
    rows, columns = (*axes, Axis(*(torch.zeros(1, dtype=torch.int64, device="cpu"),) * 2))[:2]
    op = Resize(call.node.name, call.source.name, call.node.name, rows, columns)
    return Recognised(op, (call.source,))


_SCALES = ("scales", "scales_h", "scales_w")
_ALONG_ONE_AXIS = {
    "upsample_nearest": "upsample_nearest1d",
    "_upsample_nearest_exact": "_upsample_nearest_exact1d",
    "upsample_linear": "upsample_linear1d",
    "upsample_bilinear": "upsample_linear1d",
}
RESIZING = (
    *("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d"),
    *("upsample_linear1d", "upsample_bilinear2d"),
)
"""The operations that `resized` reads."""


def _axis(counts: Tensor, *, blend: bool) -> Axis:
    """From what each position (before, after) counts: one, or two neighbours."""
    size = len(counts)
    first = (counts != 0).int().argmax(0)
    if not blend:
        return Axis(first, first)
    second = (first + 1).clamp(max=size - 1)
    own = counts.gather(0, first[None])[0]
    weights = torch.stack([own, counts.gather(0, second[None])[0]])
    weights[:, first == second] /= 2  # the last position, which torch blends with itself
    return Axis(first, second, weights)


def shuffled(call: Call) -> Recognised:
    """Channels to positions."""
    factor = int(call.given["upscale_factor"])
    high, wide = shape_of(call.node)[2:]
    op = Shuffle(call.node.name, call.source.name, call.node.name, (factor, factor), (high, wide))
    return Recognised(op, (call.source,))
