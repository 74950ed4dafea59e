"""Pruned weights stay exactly at their pruned value, whatever steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.hold import hold
from tombola.mask import Mask

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def some_mask(model: nn.Module) -> Mask:
    draw = torch.Generator().manual_seed(1)
    return Mask({n: torch.rand(p.shape, generator=draw) < 0.5 for n, p in model.named_parameters() if p.dim() == 2})


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 5)).square().sum().backward()
    optimizer.step()


def pruned(model: nn.Module, mask: Mask) -> list[Tensor]:
    return [dict(model.named_parameters())[name][~kept] for name, kept in mask.items()]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_pruned_weights_are_exactly_zero_after_every_step(kind: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](list(model.parameters()))
    for _ in range(3):
        step(model, optimizer)  # momentum that would go on pushing pruned weights
    mask = some_mask(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with hold(model, mask):
        for _ in range(3):
            step(model, optimizer)
            assert all(bool((values == 0).all()) for values in pruned(model, mask))
    assert all(not torch.equal(before[n][kept], dict(model.named_parameters())[n][kept]) for n, kept in mask.items())


def test_kept_weights_move_as_if_nothing_were_held() -> None:
    held, free = network(), network()
    mask = some_mask(held)
    mask.apply_(free)
    first, second = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (held, free))
    with hold(held, mask):
        step(held, first)
    step(free, second)
    for (name, ours), theirs in zip(held.named_parameters(), free.parameters(), strict=True):
        kept = mask[name] if name in mask else torch.ones_like(ours, dtype=torch.bool)
        assert torch.equal(ours[kept], theirs[kept])


def test_other_pruned_values_are_held_too() -> None:
    model = network()
    mask = some_mask(model)
    values = {name: torch.full(kept.shape, 0.25) for name, kept in mask.items()}
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))
    with hold(model, mask, values):
        step(model, optimizer)
        assert all(bool((held == 0.25).all()) for held in pruned(model, mask))


@pytest.mark.parametrize("computed", [False, True], ids=["parameter", "computed"])
def test_what_any_of_several_holds_prunes_is_pruned(computed: bool) -> None:
    model = network()
    if computed:
        torch.nn.utils.parametrizations.weight_norm(model[0])
    left, right = torch.ones(4, 5, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool)
    left[:3], right[2:] = False, False
    values = torch.tensor([0.25, 0.25, 0.0, 0.0]).repeat_interleave(5).view(4, 5)  # 0 where both prune
    first = hold(model, Mask({"0.weight": left}), {"0.weight": values})
    second = hold(model, Mask({"0.weight": right}))
    for _ in range(2):
        step(model, OPTIMIZERS["sgd"](list(model.parameters())))
        assert torch.equal(model[0].weight, values)
    second.release()
    step(model, OPTIMIZERS["adamw-fused"](list(model.parameters())))
    model(torch.ones(2, 5))
    assert torch.equal(model[0].weight[:3], values[:3])
    assert bool((model[0].weight[3] != 0).any())
    first.release()


def test_holds_that_contradict_each_other_are_one_line() -> None:
    model = network()
    mask = some_mask(model)
    halves = {name: torch.full(kept.shape, 0.5) for name, kept in mask.items()}
    both = int((~mask["0.weight"]).sum())
    part = Mask({"weight": mask["0.weight"]})
    for holder in (lambda: hold(model, mask, halves), lambda: hold(model[0], part, {"weight": halves["0.weight"]})):
        with hold(model, mask):
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            with pytest.raises(TombolaError, match=rf"weight' is held already, .* prune {both} weights .* release"):
                holder()
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
            hold(model, mask, {name: torch.zeros_like(half) for name, half in halves.items()}).release()
        hold(model, mask, halves).release()  # the other is gone


def test_a_change_by_hand_is_undone_before_it_is_used() -> None:
    model = network()
    mask = some_mask(model)
    with hold(model, mask):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
        model(torch.ones(1, 5))
        assert all(bool((values == 0).all()) for values in pruned(model, mask))


def test_gradients_of_pruned_weights_are_masked_so_that_clipping_does_not_see_them() -> None:
    model = network()
    mask = some_mask(model)
    with hold(model, mask):
        model(torch.ones(2, 5)).square().sum().backward()
        for name, kept in mask.items():
            gradient = dict(model.named_parameters())[name].grad
            assert gradient is not None
            assert bool((gradient[~kept] == 0).all())


def test_another_models_optimizer_does_not_touch_this_one_and_release_ends_it() -> None:
    model, other = network(), network()
    mask = some_mask(model)
    held = hold(model, mask)
    step(other, torch.optim.SGD(other.parameters(), lr=0.1))
    held.release()
    step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert any(bool((values != 0).any()) for values in pruned(model, mask))


def test_names_and_state_dict_do_not_change() -> None:
    model = network()
    names = list(model.state_dict())
    with hold(model, some_mask(model)):
        assert list(model.state_dict()) == names


def test_a_mask_that_does_not_fit_is_one_clear_line() -> None:
    model = network()
    with pytest.raises(TombolaError, match=r"'nothing\.weight', which the model lacks"):
        hold(model, Mask({"nothing.weight": torch.ones(2, dtype=torch.bool)}))
    with pytest.raises(TombolaError, match=r"shape \(2,\), the parameter \(4, 5\)"):
        hold(model, Mask({"0.weight": torch.ones(2, dtype=torch.bool)}))


@pytest.mark.parametrize(
    ("mask", "values", "message"),
    [
        (0.5, None, "a mask is made of a mapping from name to tensor, not of a float"),
        ([torch.ones(4, 5)], None, "a mask is made of a mapping from name to tensor, not of a list"),
        ({"0.weight": [1, 0]}, None, "the mask of '0.weight' is a list; give a bool tensor"),
        ({"0.weight": object()}, None, "the mask of '0.weight' is an object; give a bool tensor"),
        ({"0.weight": torch.ones(4, 5)}, {"0.weihgt": torch.ones(4, 5)}, "values for '0.weihgt', which the mask does"),
        ({"0.weight": torch.ones(4, 5)}, {"2.weight": torch.ones(3, 4)}, "values for '2.weight', which the mask does"),
    ],
)
def test_what_is_no_mask_is_one_line_and_holds_nothing(mask: Any, values: Any, message: str) -> None:
    model = network()
    with pytest.raises(TombolaError, match=message) as caught:
        hold(model, mask, values)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_pre_hooks for module in model.modules())
