"""Transposed convolutions as convolutions of stride 1: one for each phase of the result; their channels interleave.

Position s·q + a of the result takes from the input's positions q + (a + p - r) / s - t the weights r + s·t, where s is
the stride, p the padding and r = (a + p) mod s. Each phase a is so an ordinary convolution; all read one window.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tombola.deploy.node import Call, Recognised, Unsupported, pair, shape_of
from tombola.deploy.ops import Conv, Shuffle


def transposed(call: Call) -> Recognised:
    """conv_transpose1d and conv_transpose2d."""
    given, rank = call.given, len(shape_of(call.source)) - 2
    weight, bias = call.own("weight"), call.own("bias")
    assert weight is not None
    if rank != weight.dim() - 2:
        raise Unsupported("a convolution without a batch")
    if call.window("dilation", 1) != (1, 1):
        raise Unsupported("a transposed convolution with dilation")
    weight = weight.unsqueeze(-1) if rank == 1 else weight
    stride, padding, groups = call.window("stride", 1), call.window("padding", 0), int(given["groups"])
    before, after = (pair(list(shape_of(node)[2:]), rank, 1) for node in (call.source, call.node))
    name, inner = call.node.name, f"{call.node.name}.phases"
    spans = [_span(weight.shape[2 + i], stride[i], padding[i]) for i in (0, 1)]
    kernel = _phases(weight, stride, padding, groups, spans)
    first = [-low for low, _ in spans]
    last = [-(-after[i] // stride[i]) - before[i] + spans[i][1] for i in (0, 1)]
    each = stride[0] * stride[1]
    conv = Conv(
        call.name("weight"), call.source.name, inner, kernel,
        None if bias is None else bias.repeat_interleave(each),
        (1, 1), (first[0], first[1]), groups=groups, end=(last[0], last[1]),
    )  # fmt: skip
    if min(*first, *last) < 0:
        raise Unsupported("a transposed convolution that cuts its input")
    if each == 1:
        return Recognised(replace(conv, target=name), (call.source,))
    return Recognised(conv, (call.source,), after=Shuffle(name, inner, name, stride, after))


def _taps(kernel: int, stride: int, padding: int) -> list[list[tuple[int, int]]]:
    """Of each phase: (position of the input beside q, position of the weight)."""
    phases = []
    for a in range(stride):
        r = (a + padding) % stride
        phases.append([((a + padding - r) // stride - t, k) for t, k in enumerate(range(r, kernel, stride))])
    return phases


def _span(kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """The first and the last position beside q that any phase reads, q itself included."""
    at = [0, *(position for phase in _taps(kernel, stride, padding) for position, _ in phase)]
    return min(at), max(at)


def _phases(
    weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], groups: int, spans: list[tuple[int, int]]
) -> Tensor:
    """(in, out / groups, kh, kw) as the weight (out · phases, in / groups, window) of a convolution."""
    inputs, out = weight.shape[:2]
    down, across = (_taps(weight.shape[2 + i], stride[i], padding[i]) for i in (0, 1))
    window = [high - low + 1 for low, high in spans]
    grouped = weight.view(groups, inputs // groups, out, *weight.shape[2:]).transpose(1, 2)
    made = torch.zeros(
        (groups, out, stride[0], stride[1], inputs // groups, *window), dtype=torch.float32, device="cpu"
    )
    for a, rows in enumerate(down):
        for b, columns in enumerate(across):
            for y, i in rows:
                for x, j in columns:
                    made[:, :, a, b, :, y - spans[0][0], x - spans[1][0]] = grouped[..., i, j]
    return made.view(-1, inputs // groups, *window)
