"""The gradients of a stack as a CUDA graph: one launch for all kernels of a forward and backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.train.stacked.stack import Stack

_WARM_UP = 3
"""Passes before the capture, in which libraries choose their kernels and get their memory."""


class Captured:
    """`Stack.gradients` of batches of one form, replayed.

    The graph writes gradients, losses and sums where they lay when it was captured: gradients are not dropped between
    steps, and batches are copied to one place.
    """

    def __init__(self, stack: Stack, x: Tensor, y: Tensor) -> None:
        self._stack, self._x, self._y = stack, x.clone(), y.clone()
        aside = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside), stack.unchanged():
            for _ in range(_WARM_UP):
                stack.gradients(self._x, self._y)
                stack.clear()  # so that the graph makes its own, which replays overwrite
        torch.cuda.current_stream(x.device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):  # which computes nothing yet
            stack.gradients(self._x, self._y)
        self._losses = stack.losses

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """As `Stack.gradients`."""
        self._x.copy_(x, non_blocking=True)
        self._y.copy_(y, non_blocking=True)
        self._graph.replay()
        self._stack.losses = self._losses
