from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.data.splits import Task, make_splits
from tombola.errors import TombolaError
from tombola.levels.context import context_of
from tombola.levels.search import Search
from tombola.mask import Mask
from tombola.select.criteria import CRITERIA, Context, criterion, large_final
from tombola.select.select import select
from tombola.ticket.origin import Origin
from tombola.train.fabric import make_fabric
from tombola.train.gradient import gradient, input_norms
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup

W_I = torch.tensor([1.0, -2.0, 0.5, 3.0])
W_F = torch.tensor([2.0, 1.0, 0.25, -4.0])
INF = math.inf


def scores(name: str, **more: object) -> list[float]:
    context = Context({"w": W_I}, {"w": W_F}, **more)  # type: ignore[arg-type]
    result: list[float] = criterion(name)(context)["w"].tolist()
    return result


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [2, 1, 0.25, 4]),
        ("large_final", [2, 1, 0.25, 4]),
        ("small_final", [-2, -1, -0.25, -4]),
        ("large_init", [1, 2, 0.5, 3]),
        ("small_init", [-1, -2, -0.5, -3]),
        ("magnitude_increase", [1, -1, -0.25, 1]),
        ("movement", [1, 3, 0.25, 7]),
        ("large_init_large_final", [0.25, 0.25, 0, 0.75]),
        ("small_init_small_final", [0.25, 0.25, 0.75, 0]),
        ("large_final_same_sign", [2, -INF, 0.25, -INF]),
        ("large_final_diff_sign", [-INF, 1, -INF, 4]),
        ("magnitude_increase_same_sign", [1, -INF, -0.25, -INF]),
        ("magnitude_increase_diff_sign", [-INF, -1, -INF, 1]),
    ],
)
def test_by_hand(name: str, expected: list[float]) -> None:
    assert scores(name) == expected


def test_the_sign_of_0_is_one_of_its_own() -> None:
    w_i, w_f = torch.tensor([0.0, 0.0, -0.0, 1.0]), torch.tensor([2.0, 0.0, 0.0, 0.0])
    context = Context({"w": w_i}, {"w": w_f})
    assert CRITERIA["large_final_same_sign"](context)["w"].tolist() == [-INF, 0, 0, -INF]
    assert CRITERIA["large_final_diff_sign"](context)["w"].tolist() == [2, -INF, -INF, 0]
    assert CRITERIA["magnitude_increase_same_sign"](context)["w"].tolist() == [-INF, 0, 0, -INF]
    assert CRITERIA["magnitude_increase_diff_sign"](context)["w"].tolist() == [2, -INF, -INF, -1]


def test_gradients_given_or_worked_out_on_demand() -> None:
    g = {"w": torch.tensor([-1.0, 2.0, 0.0, 0.5])}
    assert scores("snip", gradient=g) == [1, 4, 0, 1.5]
    assert scores("grad", gradient=lambda: g) == [1, 2, 0, 0.5]
    with pytest.raises(TombolaError, match="needs gradients"):
        scores("snip")
    calls: list[int] = []

    def never() -> dict[str, Tensor]:
        calls.append(1)
        return g

    scores("magnitude", gradient=never)
    assert not calls


def test_random_follows_its_generator() -> None:
    draws = [scores("random", generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    with pytest.raises(TombolaError, match="give the context a generator"):
        scores("random")


def test_ranks_leave_pruned_weights_out() -> None:
    mask = Mask({"w": torch.tensor([1, 0, 1, 1])})
    assert scores("large_init_large_final", mask=mask) == [1 / 3, -INF, 0, 2 / 3]


def test_ranks_are_the_quadrant_rule() -> None:
    """Cutting both axes at one common quantile keeps the same weights as the minimum of the ranks."""
    draw = torch.Generator().manual_seed(0)
    w_i, w_f = torch.randn(400, generator=draw), torch.randn(400, generator=draw)
    rank = CRITERIA["large_init_large_final"](Context({"w": w_i}, {"w": w_f}))
    t = 0.35
    kept = (w_i.abs() >= w_i.abs().sort().values[int(t * 400)]) & (w_f.abs() >= w_f.abs().sort().values[int(t * 400)])
    assert torch.equal(select(rank, counts={"w": int(kept.sum())})["w"], kept)


def test_all_criteria_share_one_signature_and_leave_no_graph() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    context = told(model, X, Y)
    for name, function in CRITERIA.items():
        result = function(context)
        assert list(result) == ["0.weight", "2.weight"], name
        for layer, scores in result.items():
            assert scores.shape == context.final[layer].shape, name
            assert not scores.requires_grad, name


def test_lookup() -> None:
    assert criterion("magnitude") is large_final
    assert criterion("tombola.select.criteria:large_final") is large_final
    assert criterion("tombola.select.criteria.large_final") is large_final
    assert criterion(large_final) is large_final
    for bad, said in {
        "magnitud": r"did you mean magnitude\?\); allowed: magnitude, large_final",
        "tombola.nowhere.f": "tombola has no 'nowhere'",
        "tombola.select.criteria.nothing": "tombola.select.criteria has no 'nothing'",
        "tombola.select.criteria.CRITERIA": "not a function of a Context",
    }.items():
        with pytest.raises(TombolaError, match=said) as caught:
            criterion(bad)
        assert "\n" not in str(caught.value)


# -- what a search tells a criterion


def told(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 4) -> Context:
    splits = make_splits((x, y), (x, y), task=Task(F.mse_loss, F.mse_loss, metric_name="error"))
    recipe = Recipe(batch_size=batch_size, length="1it", optimizer="sgd")
    setup = TrainingSetup(splits, recipe, make_fabric("cpu", "32"))
    return context_of(Search(setup, Origin.stored(model), 0, {}, architecture=model))


def linear(*rows: list[float]) -> nn.Module:
    model = nn.Sequential(nn.Linear(len(rows[0]), len(rows), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows))
    return model


X, Y = torch.tensor([[3.0, 0.0], [4.0, 1.0], [0.0, 2.0], [0.0, 0.0]]), torch.zeros(4, 1)


def test_loss_gradient_and_hessian_of_a_quadratic_by_hand() -> None:
    # w = (1, 2): outputs 3, 6, 4, 0; L = (9 + 36 + 16 + 0) / 4; g = 2/4 X'Xw; H = 2/4 X'X = [[12.5, 2], [2, 2.5]]
    found = told(linear([1.0, 2.0]), X, Y)
    assert found.loss() == pytest.approx(15.25)
    assert found.gradients()["0.weight"].tolist() == [[16.5, 7.0]]
    assert found.hessian_gradients()["0.weight"].tolist() == [[220.25, 50.5]]
    assert found.gradients("final")["0.weight"].tolist() == [[16.5, 7.0]]  # nothing is trained yet


def test_several_batches_give_the_mean_over_all_examples() -> None:
    whole, halves = (told(linear([1.0, 2.0]), X, Y, size) for size in (4, 2))
    assert halves.loss(batches=2) == pytest.approx(whole.loss())
    for kind in ("gradients", "hessian_gradients", "input_norms"):
        one, two = getattr(whole, kind)()["0.weight"], getattr(halves, kind)(batches=2)["0.weight"]
        assert torch.allclose(one, two)
    assert len(halves.batches(2)) == 2
    with pytest.raises(TombolaError, match="batches is 0"):
        whole.loss(batches=0)


def test_norms_of_inputs_by_hand() -> None:
    assert told(linear([1.0, 2.0]), X, Y).input_norms()["0.weight"].tolist() == [[5.0, pytest.approx(5**0.5)]]


@pytest.mark.parametrize("groups", [1, 2])
def test_norms_of_a_convolutions_channels(groups: int) -> None:
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups), nn.Flatten(), nn.Linear(54, 1))
    norms = input_norms(model, [(x, x)], ["0.weight", "2.weight"])
    by_hand = x.square().sum((0, 2, 3)).sqrt()
    shown = norms["0.weight"].expand_as(model[0].weight)
    for out in range(6):
        first = out // (6 // groups) * (4 // groups)
        assert torch.allclose(shown[out, :, 0, 0], by_hand[first : first + 4 // groups])
    assert norms["2.weight"].shape == (1, 54)


def test_a_transposed_convolution_takes_its_channels_in_along_the_first_dimension() -> None:
    x = torch.ones(2, 4, 3, 3)
    layer = nn.ConvTranspose2d(4, 6, 2, groups=2)
    assert input_norms(nn.Sequential(layer), [(x, x)], ["0.weight"])["0.weight"].expand_as(layer.weight).shape == (
        4, 3, 2, 2,
    )  # fmt: skip


def test_synflow_is_five_lines_over_the_network() -> None:
    # |w|: 1 2 / 0 3, then 1 4; all inputs 1: R = 1·3 + 4·3; score = |w|·dR/d|w|
    def synflow(context: Context) -> dict[str, Tensor]:
        model = context.network().eval()
        for weight in model.parameters():
            weight.data.abs_()
        model(torch.ones_like(context.batches()[0][0][:1])).sum().backward()
        return {name: weight.grad * weight.data for name, weight in model.named_parameters()}

    model = nn.Sequential(*linear([1.0, -2.0], [0.0, 3.0]), nn.ReLU(), *linear([1.0, -4.0]))
    found = synflow(told(model, X, Y))
    assert found["0.weight"].tolist() == [[1.0, 2.0], [0.0, 12.0]]
    assert found["2.weight"].tolist() == [[3.0, 12.0]]


def test_nothing_is_worked_out_unless_it_is_asked_for() -> None:
    class Counted(nn.Sequential):
        runs: ClassVar[list[int]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.runs.append(len(x))
            return super().forward(x)

    found = told(Counted(*linear([1.0, 2.0])), X, Y)
    assert CRITERIA["magnitude"](found)["0.weight"].tolist() == [[1.0, 2.0]]
    assert Counted.runs == []
    assert CRITERIA["snip"](found)["0.weight"].tolist() == [[16.5, 14.0]]
    assert Counted.runs == [4]


# -- the gradient of any loss over any split


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_they_are_off(mode: Callable[[], Any]) -> None:
    task = Task(F.mse_loss, F.mse_loss, metric_name="error")
    model, data = linear([1.0, 2.0]), ((X[:1], Y[:1]), (X, Y), None, task)
    expected = gradient(model, data)["0.weight"].tolist()
    assert expected == [[18.0, 0.0]]
    with mode():
        assert gradient(model, data)["0.weight"].tolist() == expected


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, y: out, "the loss gives shape"),
        (lambda out, y: None, "the loss gives a NoneType"),
        (lambda out, y: out.detach().sum(), "depends on no weight"),
    ],
)
def test_what_is_no_loss_is_named(loss: Any, message: str) -> None:
    part = (X, torch.zeros(len(X), dtype=torch.long))
    with pytest.raises(TombolaError, match=message):
        gradient(linear([1.0, 2.0]), (part, part), loss)


def test_the_gradient_of_a_loss_over_a_split_leaves_the_model_alone() -> None:
    model = linear([1.0, 2.0])
    model.requires_grad_(False)
    splits = make_splits((X[:1], Y[:1]), (X, Y), (X[:2], Y[:2]), task=Task(F.mse_loss, F.mse_loss, metric_name="error"))
    assert gradient(model, splits, split="val")["0.weight"].tolist() == [[16.5, 7.0]]
    assert gradient(model, splits)["0.weight"].tolist() == [[18.0, 0.0]]
    assert gradient(model, splits, lambda out, y: out.sum(), split="test")["0.weight"].tolist() == [[7.0, 1.0]]
    assert model[0].weight.grad is None
    assert not model[0].weight.requires_grad
    for wrong, message in (({"split": "all"}, "allowed: train, val, test"), ({"batches": 0}, "batches is 0")):
        with pytest.raises(TombolaError, match=message):
            gradient(model, splits, **wrong)
    with pytest.raises(TombolaError, match="no test split"):
        gradient(model, make_splits((X, Y), (X, Y), task=splits.task), split="test")
