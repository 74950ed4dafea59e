"""Concrete Ticket Search: its masks, penalty and losses by hand, and its levels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from supermask_searches import KillAt, Killed, levels_of, network, splits, state_of
from tombola.data.splits import Splits, Task, make_splits
from tombola.levels.balance import GradBalance, penalty
from tombola.levels.distill import DIVERGENCES, Distill
from tombola.nn.modes import only_norms_train
from tombola.supermask.attach import attach
from tombola.supermask.concrete import BinaryConcrete
from tombola.supermask.layers import layers
from tombola.supermask.masks import read, refresh
from tombola.train import trial
from tombola.train.loop import train
from tombola.train.options import Options
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="12it", batch_size=8, lr=0.05, momentum=0.9, eval_every="4it")
METHOD = tb.Concrete(density=0.3, search="6it", rewind="4it")


# ---- the rule


def test_masks_are_drawn_from_the_binary_concrete_distribution() -> None:
    """At temperature 1 and u = 1/4: sigmoid(s - ln 3), so that a logit of ln 3 gives 1/2."""
    rule = BinaryConcrete(0.5, temperature=1.0)
    drawn = rule.mask(torch.tensor([math.log(3), 0.0]), torch.tensor([0.25, 0.25]))
    assert drawn.tolist() == pytest.approx([0.5, 0.25])
    assert rule.slope(torch.zeros(2), drawn).tolist() == pytest.approx([0.25, 0.1875])


def test_a_lower_temperature_divides_logit_and_noise_alike() -> None:
    s, u = torch.tensor([0.4, -1.0]), torch.tensor([0.3, 0.8])
    drawn = BinaryConcrete(0.5, temperature=2 / 3).mask(s, u)
    assert drawn.tolist() == pytest.approx(
        [1 / (1 + math.exp(-1.5 * (a + math.log(b / (1 - b))))) for a, b in ((0.4, 0.3), (-1.0, 0.8))]
    )


def test_the_slope_is_the_derivative_of_the_draw() -> None:
    s = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    u = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    exact = torch.sigmoid((s + torch.logit(u)) / (2 / 3))
    (wanted,) = torch.autograd.grad(exact.sum(), s)
    torch.testing.assert_close(BinaryConcrete().slope(s.detach(), exact.detach()), wanted)


def test_a_draw_of_exactly_0_is_a_mask_of_0() -> None:
    drawn = BinaryConcrete().mask(torch.zeros(1), torch.zeros(1))
    assert drawn.tolist() == [0.0]
    assert BinaryConcrete().slope(torch.zeros(1), drawn).tolist() == [0.0]


def test_scores_begin_at_the_logit_of_the_density() -> None:
    model = nn.Linear(4, 2)
    attach(model, BinaryConcrete(0.2))
    (layer,) = layers(model)
    assert torch.sigmoid(layer.supermask.scores).flatten().tolist() == pytest.approx([0.2] * 8)
    assert bool((layer.supermask.mask > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_hard_mask_keeps_the_largest_of_all_layers_ties_to_the_first(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).to(dtype)
    attach(model, BinaryConcrete(0.5))
    first, second = (layer.supermask for layer in layers(model))
    with torch.no_grad():
        first.scores.copy_(torch.tensor([[-9.0, 0.5], [1.0, 0.5]]))
        second.scores.copy_(torch.tensor([[2.0, 0.5], [-1.0, 3.0]]))
    refresh(model)
    assert model[0].weight.dtype == dtype
    model(torch.ones(1, 2, dtype=dtype)).sum().backward()
    assert first.scores.grad is not None
    assert read(model)["0.weight"].tolist() == [[False, True], [True, False]]
    assert read(model)["1.weight"].tolist() == [[True, False], [False, True]]


def test_a_layerwise_scope_holds_the_density_in_every_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    attach(model, BinaryConcrete(0.25, scope="layer"))
    with torch.no_grad():
        for layer in layers(model):
            layer.supermask.scores.copy_(torch.tensor([[-9.0, -8.0], [-8.5, -8.0]]))
    refresh(model)
    assert [mask.tolist() for mask in read(model).values()] == [[[False, True], [False, False]]] * 2


def test_other_draws_come_from_other_seeds_and_steps() -> None:
    masks = []
    for seed in (0, 0, 1):
        model = nn.Linear(8, 8)
        attach(model, BinaryConcrete(0.5), seed=seed)
        (layer,) = layers(model)
        first = layer.supermask.mask.clone()
        refresh(model)
        masks.append((first, layer.supermask.mask.clone()))
    assert all(map(torch.equal, masks[0], masks[1]))
    assert not torch.equal(masks[0][0], masks[2][0])
    assert not torch.equal(*masks[0])


@pytest.mark.parametrize("density", [0.0, 1.0, -0.1, 1.5])
def test_a_density_without_a_mask_to_find_is_refused(density: float) -> None:
    with pytest.raises(tb.TombolaError, match="density is"):
        BinaryConcrete(density)
    with pytest.raises(tb.TombolaError, match="density is"):
        tb.Concrete(density=density)


# ---- the penalty


def test_the_penalty_by_hand() -> None:
    """Chances 1/2, 1/2, 3/4 and 1/4 of four weights, half of which are to be kept: 2/(1.1·2) - 1 = -1/11."""
    logits = [torch.zeros(2), torch.tensor([math.log(3), -math.log(3)])]
    excess, pressure = penalty(logits, 0.5)
    assert float(excess) == pytest.approx(-100 / 11)
    assert torch.cat(pressure).tolist() == pytest.approx([100 / 2.2 * p for p in (0.25, 0.25, 0.1875, 0.1875)])
    assert float(penalty(logits, 0.25)[0]) == pytest.approx(100 * (2 / 1.1 - 1))


def balanced(density: float, task: Tensor, balance: GradBalance, logits: Tensor) -> Tensor:
    """The scores' gradient after one step of the hook."""
    model = nn.Linear(2, 1, bias=False)
    attach(model, BinaryConcrete(density))
    (layer,) = layers(model)
    with torch.no_grad():
        layer.supermask.scores.copy_(logits)
    layer.supermask.scores.grad = task.clone()
    balance.after_backward(SimpleNamespace(model=model))  # type: ignore[arg-type]
    assert layer.supermask.scores.grad is not None
    return layer.supermask.scores.grad


def test_the_strength_follows_the_ratio_of_the_gradients() -> None:
    task, logits = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, math.log(3)]])
    balance = GradBalance(0.25, rate=0.5)
    pressure = torch.tensor([[100 / 0.55 * 0.25, 100 / 0.55 * 0.1875]])  # 1.1·0.25·2 = 0.55 weights are let be
    ratio = 5 / float(pressure.norm())
    torch.testing.assert_close(balanced(0.25, task, balance, logits), task + 0.5 * ratio * pressure)
    assert float(balance.strength) == pytest.approx(0.5 * ratio)
    torch.testing.assert_close(balanced(0.25, task, balance, logits), task + 0.75 * ratio * pressure)
    balanced(0.25, task, balance, torch.full((1, 2), -5.0))  # fewer than are let be: the target is 0
    assert float(balance.strength) == pytest.approx(0.375 * ratio)


def test_without_excess_there_is_no_pressure() -> None:
    task, balance = torch.tensor([[3.0, 4.0]]), GradBalance(0.5)
    assert torch.equal(balanced(0.5, task, balance, torch.zeros(1, 2)), task)
    other = GradBalance(0.5)
    other.load_state_dict({"strength": torch.tensor(2.0, dtype=torch.float64)})
    assert float(other.strength) == 2.0
    assert float(balance.state_dict()["strength"]) == 0.0


# ---- the losses


def test_the_divergences_by_hand() -> None:
    """Probabilities (1/2, 1/2) of the network, (3/4, 1/4) of its teacher."""
    output, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    assert float(DIVERGENCES["reverse-kl"](output, teacher)) == pytest.approx(0.5 * math.log(4 / 3))
    assert float(DIVERGENCES["kl"](output, teacher)) == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))


def test_a_divergence_is_the_mean_over_all_that_is_classified() -> None:
    output, teacher = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    rows = [DIVERGENCES["kl"](output[i, :, j][None], teacher[i, :, j][None]) for i in range(3) for j in range(5)]
    torch.testing.assert_close(DIVERGENCES["kl"](output, teacher), torch.stack(rows).mean())


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_network_is_drawn_to_its_teacher_and_away_from_the_labels(precision: str) -> None:
    x, y = torch.eye(2), torch.tensor([0, 1])
    data = make_splits((x, y), (x, y))
    teacher, model = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        teacher.weight.copy_(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))  # says the opposite of the labels
        model.weight.zero_()
    before = teacher.weight.clone()
    recipe = Recipe(length="60it", batch_size=2, lr=1.0, momentum=0.0, precision=precision)
    trained = train(model, data, recipe, hooks=[Distill(lambda: teacher, "reverse-kl")], count_cost=True)
    torch.testing.assert_close(trained.state["weight"], before, atol=0.05, rtol=0)
    assert torch.equal(teacher.weight, before)
    assert trained.cost is not None
    assert trained.cost.forward_passes == 2 * 60 * 2  # the teacher's too


def test_a_teacher_of_no_classes_is_refused_before_anything_is_trained() -> None:
    x = torch.randn(40, 6)
    parts = (x[:20], x[:20].sum(1, keepdim=True)), (x[20:], x[20:].sum(1, keepdim=True))
    task = Task(nn.functional.mse_loss, lambda o, t: (o - t).square().flatten(1).mean(1), "mse", higher_is_better=False)
    data = make_splits(parts[0], parts[1], parts[1], task)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    options = Options(progress=False)
    with pytest.raises(tb.TombolaError, match=r"^loss is reverse-kl, .* take loss task$"):
        tb.find(model, data, METHOD, recipe=RECIPE, options=options)
    method = tb.Concrete(density=0.3, search="6it", loss="task")
    assert tb.find(model, data, method, recipe=RECIPE, options=options).density == pytest.approx(0.3, abs=0.02)


# ---- the levels


def test_the_levels_of_a_search() -> None:
    first, learned, last = levels_of(METHOD, recipe=RECIPE)
    assert [level.level for level in (first, learned, last)] == [0, 1, 2]
    assert (first.result.steps, first.result.stopped) == (4, "rewind point, iteration 4")
    assert (learned.result.steps, learned.result.recipe["optimizer"], learned.result.recipe["lr"]) == (6, "adam", 0.1)
    assert learned.result.recipe["milestones"] == ["5it"]
    assert (last.result.first_step, last.result.steps) == (4, 12)
    assert learned.ticket.mask == last.ticket.mask
    assert last.ticket.mask.kept == round(0.3 * last.ticket.mask.total)
    assert [level.ticket.provenance["rewound_steps"] for level in (first, learned, last)] == [0, 4, 4]


def test_weights_and_norms_rest_while_the_mask_is_learned() -> None:
    first, learned, _ = levels_of(METHOD, recipe=RECIPE)
    before, after = state_of(first.ticket), state_of(learned.ticket)
    for name, value in before.items():
        kept = learned.ticket.mask.get(name)
        statistic = "running" in name or "tracked" in name  # which are the masked network's
        assert torch.equal(after[name], value if kept is None else value * kept) != statistic, name


def test_norms_take_the_statistics_of_each_batch_and_nothing_is_dropped() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.GroupNorm(1, 2)).train()
    assert only_norms_train(model) is model
    assert [module.training for module in model] == [False, True, False, True]


def test_without_a_rewind_point_the_search_begins_at_initialisation() -> None:
    learned, last = levels_of(tb.Concrete(density=0.3, search="6it"), recipe=RECIPE)
    assert (learned.level, last.level, last.result.first_step) == (1, 2, 0)


@pytest.mark.parametrize("loss", ["task", "kl", "reverse-kl"])
@pytest.mark.parametrize("more", [{"precision": "bf16-mixed"}, {"accumulate": 2}, {"channels_last": False}])
def test_every_loss_trains_in_every_precision_and_layout(loss: str, more: dict[str, Any]) -> None:
    recipe = Recipe(length="6it", batch_size=8, lr=0.05, eval_every="3it", **more)
    found = levels_of(tb.Concrete(density=0.3, search="4it", loss=loss), recipe=recipe)
    assert found[-1].ticket.mask.kept == round(0.3 * found[-1].ticket.mask.total)


def test_in_double_precision() -> None:
    data: Splits = splits()
    found = tb.find(network().double(), data, METHOD, recipe=RECIPE, options=Options(progress=False))
    assert found.mask.kept == round(0.3 * found.mask.total)


def test_other_losses_find_other_masks() -> None:
    masks = [levels_of(tb.Concrete(density=0.3, search="6it", loss=loss), recipe=RECIPE)[-1].ticket.mask
             for loss in ("task", "kl", "reverse-kl")]  # fmt: skip
    assert masks[0] != masks[1] != masks[2] != masks[0]


def test_the_mask_comes_to_press_on_its_density() -> None:
    """Of too many logits, those fall that the task does not pull at, to what is let be of all."""
    model = network()
    attach(model, BinaryConcrete(0.3))
    scores = [layer.supermask.scores for layer in layers(model)]
    balance = GradBalance(0.3, rate=1.0)
    optimizer = torch.optim.Adam(scores, lr=0.1)
    for s in scores:
        nn.init.constant_(s, 2.0)
    for _ in range(200):
        for s in scores:
            s.grad = torch.zeros_like(s)
        scores[0].grad = torch.full_like(scores[0], -1e-3)
        balance.after_backward(SimpleNamespace(model=model))  # type: ignore[arg-type]
        optimizer.step()
    wanted, *others = (torch.sigmoid(s.detach()) for s in scores)
    assert float(wanted.min()) > 0.8
    assert all(float(other.max()) < 0.3 * 1.1 for other in others)


def test_a_mask_search_that_is_killed_ends_bit_for_bit_as_if_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, recipe = (
        tb.Concrete(density=0.2, search="20it", search_lr=0.5, rewind="2it"),
        replace(RECIPE, penalty="l1", strength=1e-4),
    )
    options, real = Options(checkpoint_seconds=0, progress=False), trial.train
    expected = tb.find(network(), splits(), method, recipe=recipe, options=options)

    def train(*args: Any, hooks: Any = (), **more: Any) -> Any:
        return real(*args, hooks=(*hooks, KillAt(17)), **more)

    with monkeypatch.context() as patched:
        patched.setattr(trial, "train", train)
        with pytest.raises(Killed):
            tb.find(network(), splits(), method, recipe=recipe, options=options, out=tmp_path)
    found = tb.find(network(), splits(), method, recipe=recipe, options=options, out=tmp_path)
    assert found.to_bytes() == expected.to_bytes()


def test_a_cut_network_is_refused_in_one_line() -> None:
    with pytest.raises(tb.TombolaError, match=r"no path leads from input to output.*ask for") as caught:
        levels_of(tb.Concrete(density=0.001, search="2it"), recipe=RECIPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mse"}, "loss"),
        ({"search": "0it"}, "search is 0it; it must be at least one iteration"),
        ({"rewind": "lr"}, "rewind to init or to a step"),
        ({"rewind": "soon"}, "rewind 'soon' is not understood"),
        ({"search_lr": -1.0}, "search_lr is -1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(tb.TombolaError, match=message):
        tb.Concrete(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewind": "12it"}, "rewind is to iteration 12, but training has 12"),
        ({"search": "0.05ep"}, "search is 0.05ep, not one of 5 iterations an epoch"),
        ({"density": 0.005, "scope": "layer"}, "nothing is kept of"),
        ({"density": 1e-4}, "at density 0.0001 none of 1,204 weights is kept"),
        ({"exclude": ["*"]}, "no prunable"),
    ],
)
def test_what_cannot_work_here_is_refused_before_it_is_trained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(tb.TombolaError, match=message):
        tb.find(network(), splits(), tb.Concrete(**options), recipe=RECIPE, options=Options(progress=False))
