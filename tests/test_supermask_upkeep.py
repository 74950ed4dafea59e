"""What a loop of one's own may forget or break: refreshes, scores that are no numbers, the order of parameters."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from tombola.errors import TombolaError
from tombola.supermask.layers import layers
from tombola.supermask.masks import finalize_masks
from tombola.supermask.parametrization import StaleMaskWarning
from tombola.supermask.rules import Bernoulli, Coats, MaskRule, Round, Signed, Threshold, TopK

RULES: list[MaskRule] = [TopK(), TopK(scope="global"), Threshold(), Bernoulli(), Round(), Signed(), Coats()]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3))


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(10, 6, generator=draw), torch.randint(3, (10,), generator=draw)


def backward(model: nn.Module) -> None:
    x, y = batch()
    F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    backward(model)
    optimizer.step()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.1),
    "foreach": lambda p: torch.optim.AdamW(p, 0.1, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, 0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1),
}


# -- refreshes


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_forgotten_refresh_is_warned_of_once(kind: str, rule: MaskRule) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](tb.attach(model, rule).scores)
    with warnings.catch_warnings(record=True, action="always") as caught:
        step(model, optimizer)
        assert not caught
        for _ in range(3):
            step(model, optimizer)
    assert [entry.category for entry in caught] == [StaleMaskWarning]
    assert "call tombola.refresh(model) after every optimizer.step()" in str(caught[0].message)


def silent_loops() -> dict[str, Callable[[nn.Module, torch.optim.Optimizer], None]]:
    def refreshed(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            step(model, optimizer)
            tb.refresh(model)

    def accumulated(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            for _ in range(3):
                backward(model)
            optimizer.step()
            tb.refresh(model)

    def evaluated(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        step(model, optimizer)
        with torch.no_grad():
            model(batch()[0])
        model.eval()(batch()[0])
        tb.refresh(model.train())
        step(model, optimizer)

    def copied(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        step(model, optimizer)
        tb.refresh(model)
        backward(model)
        backward(copy.deepcopy(model))

    def put_back(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        state = copy.deepcopy(model.state_dict())
        step(model, optimizer)
        model.load_state_dict(state)
        backward(model)

    def moved(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        backward(model)
        x, y = batch()
        F.cross_entropy(model.double()(x.double()), y).backward()  # type: ignore[no-untyped-call]

    def finalized(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        backward(model)
        undo = finalize_masks(model)
        backward(model)
        undo()
        backward(model)

    return {
        f.__name__: f  # type: ignore[attr-defined]
        for f in (refreshed, accumulated, evaluated, copied, put_back, moved, finalized)
    }


@pytest.mark.parametrize("kind", silent_loops())
@pytest.mark.parametrize("rule", [TopK(), Bernoulli(), Round()], ids=repr)
def test_loops_that_are_right_are_not_warned_of(rule: MaskRule, kind: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(tb.attach(model, rule).scores, 0.1)
    with warnings.catch_warnings(action="error", category=StaleMaskWarning):
        silent_loops()[kind](model, optimizer)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_masks_of_before_the_last_step_are_said_where_they_are_taken_off(kind: str, rule: MaskRule) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](tb.attach(model, rule).scores)
    step(model, optimizer)
    old = [layer.supermask.mask != 0 for layer in layers(model)]
    with pytest.warns(StaleMaskWarning, match="the mask read is the one from before"):
        assert all(torch.equal(kept, before) for kept, before in zip(tb.read(model).values(), old, strict=True))
    other = copy.deepcopy(model)
    with pytest.warns(StaleMaskWarning, match="is that of the present scores; call tombola.refresh") as caught:
        mask = tb.make_permanent(model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    tb.refresh(other, sample=False)
    assert mask == tb.read(other)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_masks_that_were_refreshed_are_taken_off_in_silence(rule: MaskRule) -> None:
    model = network()
    optimizer = torch.optim.SGD(tb.attach(model, rule).scores, 0.1)
    with warnings.catch_warnings(action="error", category=StaleMaskWarning):
        for _ in range(2):
            step(model, optimizer)
            tb.refresh(model)
        tb.read(model)
        model.eval()(batch()[0])
        tb.make_permanent(model)


def test_only_attached_models_are_refreshed() -> None:
    model = network()
    with pytest.raises(TombolaError, match="no supermasks are attached to this model; call attach first"):
        tb.refresh(model)
    tb.attach(model)
    tb.refresh(model)
    tb.make_permanent(model)
    with pytest.raises(TombolaError, match="no supermasks are attached"):
        tb.refresh(model)


# -- scores


@pytest.mark.parametrize("count", [1, 24])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_refuses_scores_that_are_no_numbers(rule: MaskRule, count: int) -> None:
    model = network()
    scores = tb.attach(model, rule).scores[1]
    with torch.no_grad():
        scores.view(-1)[:count] = torch.nan
    for write in (tb.refresh, lambda m: tb.refresh(m, sample=False), tb.make_permanent):
        with pytest.raises(TombolaError, match=rf"{count} of (24 )?.*scores.*NaN") as caught:
            write(model)
        assert "3.weight" in str(caught.value)
        assert "\n" not in str(caught.value)


# -- what is left behind


class Own(nn.Module):
    """Parameters in an order of its own, one of them shared, buffers between them."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(6))
        self.first = nn.Linear(6, 6)
        self.gain = nn.Parameter(torch.ones(6))
        self.norm = nn.BatchNorm1d(6)
        self.conv = nn.Conv1d(1, 2, 3, padding=1)
        self.last = nn.Linear(6, 3)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.again(self.first(x))) * self.gain + self.bias
        out: Tensor = self.last(self.conv(y[:, None]).mean(1))
        return out


@pytest.mark.parametrize("take_off", [tb.make_permanent, tb.detach])
@pytest.mark.parametrize(("make", "exclude"), [(network, ()), (network, ("3.*",)), (Own, ()), (Own, ("last*",))])
def test_parameters_keep_their_order(
    make: Callable[[], nn.Module], take_off: Callable[[nn.Module], object], exclude: tuple[str, ...]
) -> None:
    model = make()
    before, names = list(model.parameters()), list(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    step(model, optimizer)
    state: Any = copy.deepcopy(optimizer.state_dict())
    for _ in range(2):  # attached anew too
        tb.attach(model, exclude=exclude)
        copied = copy.deepcopy(model)
        take_off(model)
        assert [id(p) for p in model.parameters()] == [id(p) for p in before]
        assert list(model.state_dict()) == names
        step(copied, torch.optim.SGD(copied.parameters(), 0.01))  # what is taken off here stays there
        assert next(layers(copied)).weight.shape == next(layers(copied)).supermask.mask.shape
        take_off(copied)
        assert list(copied.state_dict()) == names
    again = torch.optim.Adam(model.parameters(), 0.01)
    again.load_state_dict(state)
    assert all(again.state[p]["exp_avg"].shape == p.shape for p in model.parameters())
    step(model, again)
    assert isinstance(model.state_dict(), OrderedDict)
