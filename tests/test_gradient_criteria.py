"""Criteria of gradients and inputs by hand, and what a context says at any weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from test_criteria import X, Y, linear, told
from tombola.data.splits import Task, make_splits
from tombola.errors import TombolaError
from tombola.levels.context import context_of
from tombola.levels.search import Search
from tombola.mask import Mask
from tombola.methods.imp import IterativePruning
from tombola.select.criteria import CRITERIA, Context
from tombola.select.select import select, selection
from tombola.ticket.origin import Origin
from tombola.train.fabric import make_fabric
from tombola.train.gradient import cooled
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup

W = "0.weight"


def scores(name: str, context: Context) -> list[Any]:
    found: list[Any] = CRITERIA[name](context)[W].tolist()
    return found


# ---- by hand -----------------------------------------------------------------------------------------------


class Given:
    """A probe that gives what is written down, and notes what it was asked for."""

    def __init__(self, **values: Tensor) -> None:
        self.values, self.asked = values, list[tuple[Any, ...]]()

    def gradient(self, at: Any, batches: int) -> Mapping[str, Tensor]:
        self.asked.append(("gradient", at, batches))
        return {W: self.values[at]}

    def hessian_gradient(self, at: Any, batches: int, temperature: float) -> Mapping[str, Tensor]:
        self.asked.append(("hessian_gradient", at, batches, temperature))
        return {W: self.values["product"]}

    def input_norms(self, at: Any, batches: int) -> Mapping[str, Tensor]:
        self.asked.append(("input_norms", at, batches))
        return {W: self.values["norms"]}


@pytest.mark.parametrize(
    ("name", "expected", "asked"),
    [
        ("grad", [[1, 2], [0.5, 4]], ("gradient", "initial", 3)),
        ("snip", [[2, 6], [2, 0]], ("gradient", "initial", 3)),
        ("taylor", [[10, 60], [3, 4]], ("gradient", "final", 3)),
        ("grasp", [[-14, 24], [36, 0]], ("hessian_gradient", "initial", 3, 200.0)),
        ("wanda", [[2, 18], [6, 6]], ("input_norms", "final", 3)),
    ],
)
def test_by_hand(name: str, expected: list[list[float]], asked: tuple[Any, ...]) -> None:
    probe: Any = Given(
        initial=torch.tensor([[1.0, -2.0], [-0.5, 4.0]]),
        final=torch.tensor([[10.0, -20.0], [-1.0, 2.0]]),
        product=torch.tensor([[-7.0, -8.0], [9.0, 10.0]]),
        norms=torch.tensor([[2.0, 6.0]]),
    )
    w_i, w_f = torch.tensor([[2.0, -3.0], [4.0, 0.0]]), torch.tensor([[1.0, 3.0], [-3.0, -2.0]])
    if name == "wanda":
        w_f = torch.tensor([[1.0, 3.0], [-3.0, -1.0]])
    context = Context({W: w_i}, {W: w_f}, probe=probe, criterion_batches=3)
    assert scores(name, context) == expected
    assert probe.asked == [asked]


def test_of_a_quadratic_by_hand() -> None:
    # As in test_criteria: g = (16.5, 7), H = [[12.5, 2], [2, 2.5]], Hg = (220.25, 50.5) at w = (1, 2).
    # Outputs divided by 200 make loss, gradient and Hessian 40,000 times smaller.
    found = told(linear([1.0, 2.0]), X, Y)
    assert scores("snip", found) == scores("taylor", found) == [[16.5, 14.0]]
    assert scores("wanda", found) == [[5.0, pytest.approx(2 * 5**0.5)]]
    assert scores("grasp", found)[0] == pytest.approx([220.25 / 200**4, 101.0 / 200**4])
    assert found.hessian_gradients(temperature=2.0)[W].tolist() == [[220.25 / 16, 50.5 / 16]]
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(TombolaError, match="temperature is"):
            found.hessian_gradients(temperature=wrong)


def test_synflow_by_hand() -> None:
    # |w|: 1 2 / 0 3, then 1 4; an input of ones: R = 1·3 + 4·3; score = |w|·dR/d|w|
    model = nn.Sequential(*linear([1.0, -2.0], [0.0, 3.0]), nn.ReLU(), *linear([1.0, -4.0]))
    found = CRITERIA["synflow"](told(model, X, Y))
    assert found[W].tolist() == [[1.0, 2.0], [0.0, 12.0]]
    assert found["2.weight"].tolist() == [[3.0, 12.0]]


def test_synflow_is_conserved_and_reads_no_data() -> None:
    """What flows into a layer flows out of it (Tanaka et al., theorem 1); norms in evaluation mode only scale."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1, bias=False), nn.Identity()
    )
    first, second = CRITERIA["synflow"](told(model, X, Y)), CRITERIA["synflow"](told(model, X * 1000, Y - 3))
    assert first[W].dtype == torch.float64
    assert float(first[W].sum()) == pytest.approx(float(first["3.weight"].sum()))
    assert torch.allclose(first[W].sum(1), first["3.weight"].sum(0))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all((value >= 0).all() for value in first.values())


def test_grasp_has_the_sign_of_what_the_gradients_norm_loses() -> None:
    """Taking the share s of a weight away lowers |g|^2 / 2 by s·score, for a small s."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, y = X.double(), torch.randn(4, 1, dtype=torch.float64)
    found = CRITERIA["grasp"](told(model, x, y))
    loss, share = cooled(F.mse_loss, 200.0), 1e-6

    def half_norm() -> float:
        names = ("0.weight", "2.weight")  # the weights that scores are for
        inputs = [model.get_parameter(name) for name in names]
        gradients = torch.autograd.grad(loss(model(x), y), inputs)
        return float(sum(g.square().sum() for g in gradients)) / 2

    before = half_norm()
    for name in found:
        flat = model.get_parameter(name).data.view(-1)
        for index in range(flat.numel()):
            kept = flat[index].item()
            flat[index] = kept * (1 - share)
            lost = (before - half_norm()) / share
            flat[index] = kept
            assert float(found[name].flatten()[index]) == pytest.approx(lost, rel=1e-3, abs=1e-4 * before)


# ---- at any weights ----------------------------------------------------------------------------------------


def test_at_any_weights() -> None:
    found = told(linear([1.0, 2.0]), X, Y)
    there = {W: torch.tensor([[2.0, 4.0]])}  # twice the weights: twice the outputs, gradient and Hessian product
    assert found.loss(there) == pytest.approx(4 * 15.25)
    assert found.gradients(there)[W].tolist() == [[33.0, 14.0]]
    assert found.hessian_gradients(there)[W].tolist() == [[440.5, 101.0]]
    assert found.network(there)[0].weight.tolist() == [[2.0, 4.0]]  # type: ignore[index]
    half = {name: (found.initial[name] + value) / 2 for name, value in there.items()}
    assert found.loss(half) == pytest.approx(1.5**2 * 15.25)
    assert found.loss() == pytest.approx(15.25)
    for wrong, message in (
        ({"0.wieght": torch.ones(1, 2)}, "no parameter or buffer is called '0.wieght' .did you mean 0.weight"),
        ({W: torch.ones(2)}, r"'0.weight' has shape \(1, 2\), but is given as \(2,\)"),
        ("last", "allowed: initial, final"),
    ):
        with pytest.raises(TombolaError, match=message):
            found.loss(wrong)  # type: ignore[arg-type]


def test_inputs_of_layers_at_any_weights() -> None:
    found = told(nn.Sequential(*linear([1.0, 2.0]), *linear([1.0])), X, Y)
    assert found.input_norms()["1.weight"].tolist() == [[pytest.approx(61**0.5)]]
    assert found.input_norms({W: torch.tensor([[2.0, 4.0]])})["1.weight"].tolist() == [[pytest.approx(244**0.5)]]


def test_the_mask_so_far_holds_there_too() -> None:
    search = _search(linear([1.0, 2.0]), Mask({W: torch.tensor([[True, False]])}))
    found = context_of(search)
    assert found.gradients({W: torch.tensor([[2.0, 4.0]])})[W].tolist() == [[25.0, 4.0]]  # 2·(12.5, 2)
    assert found.network({W: torch.tensor([[2.0, 4.0]])})[0].weight.tolist() == [[2.0, 0.0]]  # type: ignore[index]
    assert scores("synflow", found) == [[1.0, 0.0]]


def _search(model: nn.Module, mask: Mask | None = None, batch_size: int = 4) -> Search:
    splits = make_splits((X, Y), (X, Y), task=Task(F.mse_loss, F.mse_loss, metric_name="error"))
    setup = TrainingSetup(splits, Recipe(batch_size=batch_size, length="1it"), make_fabric("cpu", "32"))
    return Search(setup, Origin.stored(model), 0, {}, architecture=model, mask=mask)


def test_batches_that_a_criterion_does_not_name_are_the_contexts() -> None:
    whole = context_of(_search(linear([1.0, 2.0])))
    halves = context_of(_search(linear([1.0, 2.0]), batch_size=2)).over(2)
    single = context_of(_search(linear([1.0, 2.0]), batch_size=2))
    assert len(halves.batches()) == 2
    assert len(halves.batches(1)) == 1
    assert halves.loss() == pytest.approx(whole.loss())
    assert single.loss() == pytest.approx(halves.loss(batches=1))
    assert single.loss() != pytest.approx(whole.loss())
    for name in ("grad", "snip", "taylor", "grasp", "wanda"):
        assert torch.allclose(CRITERIA[name](halves)[W], CRITERIA[name](whole)[W]), name
        assert not torch.allclose(CRITERIA[name](single)[W], CRITERIA[name](whole)[W]), name


# ---- refusals ----------------------------------------------------------------------------------------------


class Hard(nn.Module):
    """A network whose output depends on no weight as far as gradients see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).detach().sign()


class Aside(nn.Module):
    """One layer plays no part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


class Once(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Any:
        return OnceOnly.apply(self.layer(x))


@pytest.mark.parametrize("name", ["grad", "snip", "taylor", "grasp", "synflow"])
def test_a_network_without_gradients_is_refused(name: str) -> None:
    with pytest.raises(TombolaError, match="gradient") as caught:
        CRITERIA[name](told(Hard(), X, Y))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["grad", "snip", "taylor", "synflow", "wanda"])
def test_a_weight_that_nothing_reaches_is_named(name: str) -> None:
    with pytest.raises(TombolaError, match=r"reaches 'unused.weight'.*exclude") as caught:
        CRITERIA[name](told(Aside(), X, Y))
    assert "\n" not in str(caught.value)


def test_a_network_without_second_derivatives_is_refused_by_grasp_alone() -> None:
    context = told(Once(), X, Y)
    with pytest.raises(TombolaError, match="no second derivative") as caught:
        CRITERIA["grasp"](context)
    assert "\n" not in str(caught.value)
    assert CRITERIA["snip"](context)["layer.weight"].shape == (1, 2)


class Attending(nn.Module):
    """Fused attention has no second derivative, its definition has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.layer(x)[None, None]
        return nn.functional.scaled_dot_product_attention(seen, seen, seen)[0, 0, :, :1]


def test_grasp_knows_attention() -> None:
    scores = CRITERIA["grasp"](told(Attending(), X, Y))["layer.weight"]
    assert scores.shape == (2, 2)
    assert bool(scores.isfinite().all())
    assert bool((scores != 0).any())


# ---- barred classes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CRITERIA if name.endswith(("same_sign", "diff_sign"))])
@pytest.mark.parametrize("pattern", ["element", "channel"])
def test_barred_weights_are_never_kept_before_allowed_ones(name: str, pattern: str) -> None:
    draw = torch.Generator().manual_seed(0)
    w_i, w_f = torch.randn(40, 3, generator=draw), torch.randn(40, 3, generator=draw)
    if pattern == "channel":  # whole rows keep or change their signs
        w_f = w_f.abs() * w_i.sign() * torch.where(torch.arange(40) % 2 > 0, 1.0, -1.0)[:, None]
    w_f[0], w_i[0] = 1e-6, 5.0  # shrunk: the lowest of all scores that are not barred
    allowed = (w_i.sign() == w_f.sign()) == name.endswith("same_sign")
    found = CRITERIA[name](Context({W: w_i}, {W: w_f}))
    assert torch.equal(found[W].isneginf(), ~allowed)
    for count in (1, 7, 15, 19, 21, 30, 39):
        size = 1 if pattern == "element" else 3
        kept = select(found, counts={W: count}, pattern=pattern, signed=True, fill=torch.Generator())[W]
        assert int(kept.sum()) == count * size
        assert not (kept & ~allowed).any() or (kept | ~allowed).all()  # barred ones only after all allowed ones
    few = selection(found, counts={W: 3}, signed=True, fill=torch.Generator())
    assert not few.barred


# ---- in the loop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow", "taylor", "wanda"])
def test_a_search_keeps_the_largest_scores(name: str) -> None:
    """imp hands its batches on, and its first mask is what the criterion says after the dense training."""
    torch.manual_seed(0)
    search = _search(nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)), batch_size=1)
    method = IterativePruning(density=0.75, rounds=1, scope="global", criterion=name, criterion_batches=3)
    dense, level = method.find(search)
    found = CRITERIA[name](context_of(search, dense).over(3))
    assert level.ticket.mask == select(found, density=0.75, scope="global", signed=True)


def test_the_batches_of_a_criterion_are_checked() -> None:
    with pytest.raises(TombolaError, match="criterion_batches is 0, but it must lie between 1 and 10,000"):
        IterativePruning(criterion="snip", criterion_batches=0)
