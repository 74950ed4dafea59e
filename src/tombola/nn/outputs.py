"""The weights that make a network's outputs: their output rows are classes, or other predicted quantities."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from tombola.hold import release
from tombola.nn.forward import leaves
from tombola.parameters import parameters_by_name

_LAYERS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution", "MkldnnLinear", "MkldnnConvolution")
_VIEWS = ("T", "Transpose", "Permute", "View", "ReshapeAlias", "UnsafeView", "Expand", "Clone", "ToCopy", "AsStrided")


class OutputsKeptWarning(UserWarning):
    """The channel pattern has left output layers whole."""


def output_weights(model: nn.Module, x: Tensor, names: Collection[str]) -> list[str]:
    """Of the weights called `names`, those whose products reach an output and pass no other weight matrix on the way.

    Read from the autograd graph of one pass in evaluation mode over the batch `x`, so that it is not a matter of the
    order in which layers were registered; all of several heads are listed. The model is copied. Empty where there is no
    graph to read (no output that depends on weights).
    """
    probe = copy.deepcopy(model).cpu().eval()
    release(probe)
    for parameter in probe.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        ends = [tensor.grad_fn for tensor in leaves(probe(x.cpu())) if tensor.grad_fn is not None]
    by_id = {id(parameter): name for name, parameter in parameters_by_name(probe).items()}
    last: dict[str, None] = {}
    seen: set[Any] = set()
    while ends:
        node: Any = ends.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        sources = [source for source, _ in node.next_functions]
        weights = [w for source in sources if (w := _parameter(source)) is not None and w.dim() > 1]
        if node.name().removesuffix("0").removesuffix("Backward") in _LAYERS and weights:
            last |= dict.fromkeys(by_id[id(w)] for w in weights if id(w) in by_id)
        else:
            ends += sources
    return [name for name in names if name in last]


def say_kept(names: Collection[str], how: str) -> None:
    """Warn that the channel pattern keeps these weights whole; `how` to have it otherwise."""
    if names:
        listed, them = ", ".join(names), "them" if len(names) > 1 else "it"
        warnings.warn(
            f"pattern channel keeps all rows of {listed}, which are the network's outputs; {how} prunes {them} too",
            OutputsKeptWarning,
            stacklevel=4,
        )


def _parameter(node: Any) -> Tensor | None:
    """The parameter that a node of the graph stands for, seen through changes of its form."""
    while node is not None and node.name().removesuffix("0").removesuffix("Backward") in _VIEWS:
        node = node.next_functions[0][0]
    parameter: Tensor | None = getattr(node, "variable", None)
    return parameter
