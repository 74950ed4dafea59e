"""Networks drawn from all known operations are compacted and deployed exactly, and train on."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tombola as tb
from clocks import NATIVE
from random_networks import network
from tombola.compact.compare import EQUAL, difference
from tombola.nn.forward import leaves

_ROUGH = 1e-6  # roundings of a network's own from which on its outputs are no measure


def check(model: nn.Module, *example: Tensor) -> tb.Deployed:
    """Compacted and deployed it gives the same, for reasons and not because a comparison of outputs stopped it."""
    before, modes, states = _kept(model), [m.training for m in model.modules()], _generators()
    deployed = tb.deploy(model, *example, threads=1, clock=NATIVE)
    assert _generators() == states
    assert _same(before, _kept(model))
    assert [m.training for m in model.modules()] == modes
    plain = copy.deepcopy(model).eval()
    rough = max(_equal(plain, [deployed, deployed.compacted], inputs) for inputs in _inputs(example))
    said = [deployed.report.compaction.reason, *deployed.report.dense.values()]
    assert rough > _ROUGH or not any("would change" in reason for reason in said if reason), said
    _trains(plain, deployed.compacted, example)
    return deployed


def _inputs(example: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """The example, and others of another batch size."""
    g = torch.Generator().manual_seed(0)
    return [tuple(example), tuple(torch.randn(3, *x.shape[1:], generator=g) for x in example)]


def _equal(plain: nn.Module, others: Sequence[Callable[..., Any]], inputs: Sequence[Tensor]) -> float:
    """The roundings of the network itself, against float64."""
    with torch.no_grad():
        want = plain(*(x.clone() for x in inputs))
        exact = copy.deepcopy(plain).double()(*(x.double() for x in inputs))
        rough = max(difference(b.float(), a.float()) for a, b in zip(leaves(want), leaves(exact), strict=True))
        for other in others:
            off = difference(want, other(*(x.clone() for x in inputs)))
            assert off <= max(EQUAL, 100 * rough), (off, rough)
    return rough


def _trains(plain: nn.Module, compacted: nn.Module, example: Sequence[Tensor]) -> None:
    """A backward pass gives finite gradients wherever it does in the network itself."""
    try:
        want = _learns(plain, example)
    except RuntimeError:  # what a gradient needs is written over
        return
    assert _learns(compacted, example) or not want


def _learns(network: nn.Module, example: Sequence[Tensor]) -> bool:
    """Whether its outputs give its parameters gradients, all finite."""
    losses = [x.square().mean() for x in leaves(network(*(x.clone() for x in example))) if x.requires_grad]
    if losses:
        torch.stack(losses).sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients)
    return bool(gradients)


def _kept(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _generators() -> tuple[Any, ...]:
    found: Any = np.random.get_state()[1]
    return torch.get_rng_state().tolist(), random.getstate(), found.tolist()


# 30 networks; 300 with `--hypothesis-profile=thorough`
SHARE = 0.3


@settings(max_examples=round(SHARE * settings.default.max_examples))  # type: ignore[union-attr]
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 12))
def test_drawn_networks_are_equal(seed: int, steps: int) -> None:
    model, example = network(seed, steps)
    note(f"{model}")
    check(model, *example)
