"""A Winning Sign (Oh, Baik & Lee 2025): signs of trained weights on other sizes, and norms between two values."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from supermask_searches import RECIPE, KillAt, Killed, levels_of, network, splits, state_of
from tombola.errors import TombolaError
from tombola.levels.actions import KEPT_ACTIONS, Layer, with_signs
from tombola.levels.interpolation import NormInterpolation
from tombola.models.spec import ModelSpec
from tombola.rng.seeds import generator
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.study.actions import in_words
from tombola.train import trial
from tombola.train.hooks import Hook
from tombola.train.loop import train
from tombola.train.options import Options
from tombola.train.state import Loop

# -- signs of what the mask is drawn from, as kept actions

W = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 0.0, -0.25]])
W_F = torch.tensor([[-0.5, -3.0, 0.0], [1.0, -0.75, 2.0]])
SIGNED = torch.tensor([[-1.0, -2.0, 3.0], [4.0, 0.0, 0.25]])
"""|W|·sign(W_F): 3 keeps its own sign, since W_F is 0 there; 0 has no size."""
KEPT = torch.tensor([[True, True, False], [False, True, True]])


def layer(seed: int = 0) -> Layer:
    return Layer(W, W_F, KEPT, ~KEPT, generator(seed, "test"))


def test_signs_on_sizes_worked_out_by_hand() -> None:
    assert torch.equal(with_signs(W, W_F), SIGNED)
    assert torch.equal(with_signs(W, torch.zeros_like(W)), W)
    assert with_signs(W.double(), W_F).dtype == torch.float64


def test_kept_actions_with_trained_signs() -> None:
    assert torch.equal(KEPT_ACTIONS["rewind_trained_sign"](layer()), SIGNED)
    for name in ("reinit", "reshuffle"):
        expected = with_signs(KEPT_ACTIONS[name](layer(3)), W_F)
        assert torch.equal(KEPT_ACTIONS[f"{name}_trained_sign"](layer(3)), expected)
    std = float(W.std(correction=0))
    constant = KEPT_ACTIONS["constant_trained_sign"](layer())
    assert torch.allclose(constant, torch.tensor([[-1.0, -1, 1], [1, 0, 1]]) * std)
    for name in ("rewind", "reinit", "reshuffle", "constant"):
        plain, rescaled = (KEPT_ACTIONS[f"{name}_trained_sign{end}"](layer()) for end in ("", "_rescaled"))
        assert torch.allclose(rescaled, plain * 6 / 4)


def test_levels_of_imp_begin_with_the_signs_of_the_level_before() -> None:
    levels = levels_of(tb.IterativePruning(density=0.3, rounds=1, kept_action="reinit_trained_sign"))
    trained, begun = state_of(levels[0].ticket), state_of(levels[1].ticket, "origin")
    for name, keep in levels[1].ticket.mask.items():
        assert torch.equal(begun[name][keep].sign(), trained[name][keep].sign())
        assert not torch.equal(begun[name][keep], trained[name][keep])


# -- a ticket's signs on another initialisation


@pytest.fixture(scope="module")
def ticket() -> tb.Ticket:
    with torch.random.fork_rng():
        return tb.find(network(), splits(), tb.IterativePruning(density=0.3, rounds=1), recipe=RECIPE)


def other_network() -> nn.Module:
    """Another draw, with a bias that is no zero and norms that are as they begin."""
    made = network()
    torch.manual_seed(5)
    for module in made:
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()
    return made


def transferred(ticket: tb.Ticket, signs: str = "trained", model: Any = None) -> tb.Ticket:
    method = tb.SignTransfer(signs=signs)
    return tb.find(model or other_network(), splits(), method, recipe=RECIPE, start=ticket)


@pytest.mark.parametrize("signs", ["trained", "origin"])
def test_training_begins_with_fresh_sizes_and_the_tickets_signs(ticket: tb.Ticket, signs: str) -> None:
    found = transferred(ticket, signs)
    begun = found.build("origin", model=network()).state_dict()
    given = state_of(ticket, "final" if signs == "trained" else "origin")
    fresh = other_network().state_dict()
    assert all(torch.equal(keep, ticket.mask[name]) for name, keep in found.mask.items())
    for name in ("0.weight", "0.bias", "4.weight", "4.bias", "6.weight", "6.bias"):
        keep = found.mask[name] if name in found.mask else torch.ones_like(fresh[name], dtype=torch.bool)
        assert torch.equal(begun[name][keep], (fresh[name].abs() * given[name].sign())[keep])
        assert not begun[name][~keep].any()
    for name in ("1.weight", "1.bias", "1.running_mean"):  # norms begin fresh
        assert torch.equal(begun[name], fresh[name])
    assert not torch.equal(state_of(ticket)["1.weight"], fresh["1.weight"])


def test_the_control_keeps_the_initialisation_as_it_is(ticket: tb.Ticket) -> None:
    found = transferred(ticket, "own")
    begun, fresh = found.build("origin", model=network()).state_dict(), other_network().state_dict()
    for name, value in fresh.items():
        keep = found.mask.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(begun[name], value * keep)


def test_a_network_by_name_is_drawn_anew_from_the_seed(tmp_path: Path) -> None:
    spec = ModelSpec("mlp", {"hidden": [12, 8]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = tb.find(spec, splits(), tb.IterativePruning(density=0.4, rounds=1), recipe=RECIPE)
    given, drawn = first.build("final").state_dict(), []
    for seed in (0, 0, 1):
        found = tb.find(spec, splits(), tb.SignTransfer(), recipe=RECIPE, start=first, seed=seed)
        assert found.origin.kind == "seeded"  # biases begin at 0: the signs are all in the first values
        found.save(tmp_path / "transferred.ticket")
        again = tb.Ticket.load(tmp_path / "transferred.ticket")
        begun = again.build("origin").state_dict()
        for name, keep in found.mask.items():
            assert torch.equal(begun[name][keep].sign(), given[name][keep].sign())
        drawn.append(torch.cat([begun[name].abs().flatten() for name in found.mask]))
    own = torch.cat([first.build("origin").state_dict()[name].abs().flatten() for name in first.mask])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], own)  # also with the seed that the ticket was found with


def test_a_ticket_without_its_origin_gives_its_signs_but_not_those_it_began_with(ticket: tb.Ticket) -> None:
    alone = ticket.without_origin()
    assert alone.origin.omitted
    assert transferred(alone).trained is not None
    with pytest.raises(TombolaError, match="saved without its origin"):
        transferred(alone, "origin")


def test_verify_says_what_its_weights_begin_with(ticket: tb.Ticket) -> None:
    for signs, said in (("trained", "kept action sign-transfer gave them"), ("own", "")):
        words = in_words(transferred(ticket, signs), {})
        assert said in words
        assert bool(words) == bool(said)


def test_what_cannot_be_transferred_is_refused_in_one_line(ticket: tb.Ticket) -> None:
    with pytest.raises(TombolaError, match="needs the ticket whose signs"):
        tb.find(network(), splits(), tb.SignTransfer(), recipe=RECIPE)
    with pytest.raises(TombolaError, match="ticket to start from is of another network"):
        transferred(ticket, model=nn.Sequential(nn.Flatten(), nn.Linear(36, 2)))
    with pytest.raises(TombolaError, match="signs"):
        tb.SignTransfer(signs="random")


# -- interpolated norms


class Seen(Hook):
    """What a batch is trained with, and what the loop holds."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm, self.rows = norm, []
        norm.register_forward_hook(self.look)

    def look(self, norm: nn.Module, inputs: Any, output: Tensor) -> None:
        self.rows.append((norm.training, norm.weight.detach().clone(), norm.bias.detach().clone()))


def norms_network() -> nn.Sequential:
    made = network()
    with torch.no_grad():
        made[1].weight.copy_(torch.tensor([2.0, -1.0, 0.5, 0.0]))
        made[1].bias.copy_(torch.tensor([1.0, 0.0, -2.0, 4.0]))
    return made


def test_a_batch_sees_norms_between_what_they_are_and_what_they_began_as() -> None:
    model, hook = norms_network(), NormInterpolation(0)
    scale, shift = model[1].weight.detach().clone(), model[1].bias.detach().clone()
    seen = Seen(model[1])
    train(model, splits(), replace(RECIPE, length="1it", eval_every="1it"), hooks=[hook])
    a = hook.a(0)
    assert 0 < a < 1
    evaluated = [row for row in seen.rows if not row[0]]
    (batch,) = [row for row in seen.rows if row[0]]
    assert torch.allclose(batch[1], a + (1 - a) * scale)
    assert torch.allclose(batch[2], (1 - a) * shift)
    assert torch.equal(evaluated[0][1], scale)
    assert torch.equal(evaluated[-1][1], model[1].weight)
    assert not {"weight", "bias"} & set(vars(model[1]))
    assert not model[1]._forward_pre_hooks


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.RMSNorm(3)], ids=repr)
def test_gradients_reach_the_norms_by_the_chain_rule(norm: nn.Module) -> None:
    x, target = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    norm = norm.double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.tensor([0.5, -1.5, 2.0]))
    hook = NormInterpolation(1)
    loop: Any = type("Loop", (), {"model": nn.Sequential(norm), "step": 3})()
    a = hook.a(3)

    def loss(scale: Tensor, shift: Tensor | None) -> Tensor:
        names = {"weight": scale} if shift is None else {"weight": scale, "bias": shift}
        return ((torch.func.functional_call(norm, names, x) - target) ** 2).sum()

    parameters = [p.detach().clone().requires_grad_() for p in norm.parameters()]
    between = a + (1 - a) * parameters[0], (1 - a) * parameters[1] if len(parameters) > 1 else None
    expected = torch.autograd.grad(loss(*between), parameters)
    hook.before_step(loop)
    ((loop.model(x) - target) ** 2).sum().backward()
    hook.after_backward(loop)
    for parameter, gradient in zip(norm.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient)


def test_numbers_depend_on_seed_level_and_step_alone_and_spread_evenly() -> None:
    drawn = [NormInterpolation(0).a(step) for step in range(400)]
    assert drawn == [NormInterpolation(0, 0).a(step) for step in range(400)]
    assert not set(drawn) & {NormInterpolation(0, 1).a(step) for step in range(400)}
    assert not set(drawn) & {NormInterpolation(1).a(step) for step in range(400)}
    counts = torch.histc(torch.tensor(drawn), 4, 0, 1)
    assert 70 < counts.min() <= counts.max() < 130


def test_imp_trains_every_level_so_and_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(RECIPE, length="20it")
    options = Options(checkpoint_seconds=0, progress=False)
    method = tb.IterativePruning(density=0.4, rounds=1, scope="global", rewind="lr", norm_interpolation=True)

    def run(out: Path) -> bytes:
        found = run_find(make_request(network(), splits(), method, recipe=long, options=options), out)
        return Path(found.ticket).read_bytes()

    expected, real, trainings = run(tmp_path / "whole"), trial.train, [0]

    def killed(*args: Any, hooks: Any = (), **more: Any) -> Any:
        trainings[0] += 1
        assert any(isinstance(hook, NormInterpolation) for hook in hooks)
        return real(*args, hooks=(*hooks, KillAt(17)) if trainings[0] == 2 else hooks, **more)

    with monkeypatch.context() as patched:
        patched.setattr(trial, "train", killed)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    assert run(tmp_path / "killed") == expected
    plain = tb.find(network(), splits(), replace(method, norm_interpolation=False), recipe=long)
    assert plain.to_bytes() != expected


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "bfp8"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_other_precisions_and_parts_of_a_batch(precision: str, accumulate: int) -> None:
    recipe = replace(RECIPE, precision=precision, accumulate=accumulate)
    method = tb.IterativePruning(density=0.4, rounds=1, norm_interpolation=True, include=("1.*",))
    assert tb.find(network(), splits(), method, recipe=recipe).mask.kept > 0


@pytest.mark.parametrize("affine", [False, None])
def test_a_network_without_norms_that_have_scales_is_refused(affine: bool | None) -> None:
    parts = [] if affine is None else [nn.BatchNorm1d(36, affine=False)]
    model = nn.Sequential(nn.Flatten(), *parts, nn.Linear(36, 2))
    with pytest.raises(TombolaError, match="norm_interpolation is set, but the network has") as caught:
        tb.find(model, splits(), tb.IterativePruning(density=0.5, norm_interpolation=True), recipe=RECIPE)
    assert "\n" not in str(caught.value)


def test_state_of_a_loop_is_never_that_of_a_batch() -> None:
    class Copies(Hook):
        def before_step(self, loop: Loop) -> None:
            assert torch.equal(loop.model.state_dict()["1.weight"], loop.model[1]._parameters["weight"])

    train(norms_network(), splits(), replace(RECIPE, length="2it"), hooks=[NormInterpolation(0), Copies()])
