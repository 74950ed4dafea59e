"""Several processes train one network: what they share, and that it is what one process gives."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from in_ranks import in_ranks
from tombola.data.config import Augment
from tombola.data.feed import feed
from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.machine.ranks import Ranks
from tombola.nn.shared_norm import shared_norms
from tombola.train.fabric import make_fabric, ranks_of
from tombola.train.hooks import Hook
from tombola.train.loop import train
from tombola.train.recipe import Recipe
from tombola.train.shared import own_generators, own_sums

# ---- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("augment", [None, Augment(crop=1, flip=True)])
def test_ranks_divide_every_batch(size: int, augment: Augment | None) -> None:
    splits = images(20)
    whole = list(feed(splits.train, batch_size=7, augment=augment).epoch(3, 1))
    ranks = [
        list(feed(splits.train, batch_size=7, augment=augment, ranks=Ranks(rank, size)).epoch(3, 1))
        for rank in range(size)
    ]
    assert [[len(y) for _, y in batches] for batches in ranks] == {
        2: [[3, 3], [4, 4]],
        3: [[2, 2], [2, 2], [3, 3]],
    }[size]
    for (x, y), *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(x, torch.cat([part for part, _ in parts]))
        assert torch.equal(y, torch.cat([part for _, part in parts]))


class Squares(Dataset[tuple[Tensor, int]]):
    """Examples that are fetched one by one, and drawn from the global generator."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(2) + index, index % 2


def test_ranks_divide_batches_that_are_fetched() -> None:
    split = make_splits(Squares(), Squares(), None, classes=2).train
    whole = list(feed(split, batch_size=4, sweep_batch=4).epoch(3, 1))
    parts = [feed(split, batch_size=4, sweep_batch=4, ranks=Ranks(rank, 2)) for rank in range(2)]
    for (x, _), *halves in zip(whole, *(part.epoch(3, 1) for part in parts), strict=True):
        assert torch.equal(x, torch.cat([half for half, _ in halves]))
    assert [[len(y) for _, y in part.sweep()] for part in parts] == [[4, 2], [4]]


def test_ranks_divide_the_only_batch_and_begin_anywhere() -> None:
    splits = images(5)
    parts = [list(feed(splits.train, batch_size=9, ranks=Ranks(rank, 2)).epoch(0, 0)) for rank in range(2)]
    assert [[len(y) for _, y in batches] for batches in parts] == [[2], [3]]
    splits = images(12)
    for rank in range(2):
        part = feed(splits.train, batch_size=4, ranks=Ranks(rank, 2))
        assert torch.equal(list(part.epoch(0, 0))[2][0], next(iter(part.epoch(0, 0, 2)))[0])
        assert list(part.epoch(0, 0, 3)) == []


def test_ranks_sweep_by_turns() -> None:
    splits = images(10)
    parts = [
        [len(y) for _, y in feed(splits.train, batch_size=4, sweep_batch=4, ranks=Ranks(r, 2)).sweep()] for r in (0, 1)
    ]
    assert parts == [[4, 2], [4]]


def test_a_batch_too_small_for_all_is_refused() -> None:
    from tombola.train.feeds import training_feed

    with pytest.raises(TombolaError, match="a batch has 3 examples, but 4 processes need at least 4"):
        training_feed(images(9), Recipe(batch_size=3), torch.device("cpu"), False, Ranks(0, 4))


# ---- what ranks say to each other --------------------------------------------------------------------------------


def meet() -> dict[str, Any]:
    ranks = ranks_of(make_fabric("cpu", shared=True))
    found: dict[str, Any] = {"ranks": (ranks.rank, ranks.size)}
    found["first"] = ranks.first(lambda: f"from {ranks.rank}")
    found["gathered"] = ranks.gather(ranks.rank * 10)
    found["total"] = ranks.total(torch.tensor([1.0, ranks.rank])).tolist()
    tensors = [torch.full((2, 3), 1.0 + ranks.rank), torch.tensor(5.0)]
    ranks.sum_(tensors)
    found["summed"] = [tensor.tolist() for tensor in tensors]
    order: list[int] = []
    found["in turn"] = ranks.in_turn(lambda: order.append(ranks.rank) or ranks.rank)

    def fail() -> None:
        raise TombolaError(f"no such thing on {ranks.rank}")

    for name, meeting in {
        "failed": lambda: ranks.first(fail),
        "differ": lambda: ranks.agree(ranks.rank, "they differ"),
    }.items():
        with pytest.raises(TombolaError) as error:
            meeting()
        found[name] = str(error.value)
    ranks.agree("same", "never")
    return found


def test_ranks_meet() -> None:
    first, second = in_ranks(meet)
    assert first.pop("ranks") == (0, 2)
    assert second.pop("ranks") == (1, 2)
    assert (first.pop("in turn"), second.pop("in turn")) == (0, 1)
    assert first == second
    assert first["first"] == "from 0"
    assert first["gathered"] == [0, 10]
    assert first["total"] == [2.0, 1.0]
    assert first["summed"] == [[[3.0] * 3] * 2, 10.0]
    assert first["failed"] == "no such thing on 0"


# ---- batch norms -------------------------------------------------------------------------------------------------


def normalise(parts: list[Tensor], affine: bool) -> dict[str, Any]:
    ranks = ranks_of(make_fabric("cpu", shared=True))
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
    x = parts[ranks.rank].clone().requires_grad_()
    with shared_norms(norm, ranks)():
        output = norm(x)
    (output * weighing(sum(map(len, parts)))[offset(parts, ranks.rank)]).sum().backward()
    gradients = [p.grad.clone() for p in norm.parameters()]
    ranks.sum_(gradients)
    return {"output": output.detach(), "x": x.grad, "gradients": gradients, "state": norm.state_dict()}


def offset(parts: list[Tensor], rank: int) -> slice:
    begin = sum(len(part) for part in parts[:rank])
    return slice(begin, begin + len(parts[rank]))


def weighing(count: int) -> Tensor:
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("affine", [True, False])
def test_norms_take_the_statistics_of_the_whole_batch(affine: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 3, 2, 2, generator=draw) * 3 + 7 for n in (2, 3)]
    shared = in_ranks(normalise, parts, affine)
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
    x = torch.cat(parts).requires_grad_()
    output = norm(x)
    (output * weighing(5)).sum().backward()
    close(torch.cat([part["output"] for part in shared]), output)
    close(torch.cat([part["x"] for part in shared]), x.grad)
    for part in shared:
        for gradient, parameter in zip(part["gradients"], norm.parameters(), strict=True):
            close(gradient, parameter.grad)
        for name, value in norm.state_dict().items():
            close(part["state"][name], value)


def close(one: Tensor, other: Tensor | None) -> None:
    assert other is not None
    assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


# ---- what a checkpoint keeps of every rank ------------------------------------------------------------------------


def test_each_rank_takes_back_its_own() -> None:
    saved = {"loss": 1.0, "count": 2, "loss 1": 10.0, "count 1": 20, "loss 2": 100.0, "count 2": 200}
    assert own_sums(Ranks(1, 3), saved) == {"loss": 10.0, "count": 20}
    assert own_sums(Ranks(0, 2), saved) == {"loss": 101.0, "count": 202}  # forced, with fewer processes
    assert own_sums(Ranks(3, 4), saved) == {}
    assert own_sums(Ranks(), {"loss": 1.0, "count": 2}) == {"loss": 1.0, "count": 2}
    states = [torch.tensor([number]) for number in range(4)]
    assert own_generators(Ranks(1, 2), states, 2) == states[2:]
    assert own_generators(Ranks(1, 4), states, 1) == states[1:2]
    assert own_generators(Ranks(5, 6), states, 2) == states[:2]  # forced, with more


# ---- training ----------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """A convolution, its norm and a layer."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.conv(x))).mean((2, 3)))  # type: ignore[no-any-return]


def images(count: int) -> Splits:
    draw = torch.Generator().manual_seed(count)
    x = torch.randn(count, 1, 6, 6, generator=draw)
    y = (x.mean((1, 2, 3)) * 12).clamp(-1, 1).round().long() + 1
    return make_splits((x, y), (x[:5], y[:5]), (x[-3:], y[-3:]), classes=3)


class Gradients(Hook):
    """The gradients that hooks see, and which parameters have none."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor | None]] = []

    def after_backward(self, loop: Any) -> None:
        self.seen.append({n: None if p.grad is None else p.grad.clone() for n, p in loop.model.named_parameters()})


def one_training(recipe: Recipe, shared: bool = True) -> dict[str, Any]:
    torch.manual_seed(3)
    model, hook = Conv(norm=recipe.accumulate == 1), Gradients()  # each part of a batch has its own statistics
    fabric = make_fabric("cpu", recipe.precision, shared=shared)
    trained = train(model, images(45), recipe, fabric=fabric, hooks=[hook], seed=4, count_cost=True)
    rows = [(row.step, row.train_loss, row.train_accuracy, row.val_loss, row.val_accuracy) for row in trained.history]
    return {"rows": rows, "state": trained.state, "seen": hook.seen, "cost": trained.cost}


RECIPES = {
    "odd batch": Recipe(length="6it", batch_size=15, eval_every="2it", optimizer="sgd", lr=0.1),
    "in parts": Recipe(length="4it", batch_size=16, eval_every="2it", accumulate=2, penalty="l1", strength=0.01),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_is_that_of_one_process(name: str) -> None:
    recipe = RECIPES[name]
    first, second = in_ranks(one_training, recipe)
    alone = one_training(recipe, shared=False)
    for key in first["state"]:
        assert torch.equal(first["state"][key], second["state"][key])
        close(first["state"][key], alone["state"][key])
    assert str(first["rows"]) == str(second["rows"])  # NaN at step 0
    for ours, theirs in zip(first["rows"], alone["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, nan_ok=True)
    for ours, theirs in zip(first["seen"], alone["seen"], strict=True):
        assert all(torch.allclose(ours[key], theirs[key], rtol=1e-4, atol=1e-6) for key in theirs)
    assert first["cost"].flops == alone["cost"].flops
    assert first["cost"].forward_passes == alone["cost"].forward_passes


# ---- what cannot be shared ---------------------------------------------------------------------------------------


class OwnStatistics(Conv):
    """Keeps something of the examples that it sees."""

    def __init__(self) -> None:
        super().__init__(norm=False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.copy_(x.mean())
        return super().forward(x)


class Nan(Hook):
    """A loss on one rank that is no number."""

    def training_loss(self, loop: Any, x: Tensor, output: Any, y: Tensor, loss: Tensor) -> Tensor:
        return loss * float("nan") if loop.ranks.rank == 1 and loop.step == 1 else loss


class StopOne(Hook):
    """Ends the training of one rank."""

    def after_step(self, loop: Any) -> None:
        if loop.ranks.rank == 1 and loop.step == 2:
            loop.stop("mine")


REFUSED: dict[str, tuple[type[nn.Module], list[type[Hook]], str]] = {
    "statistics of a rank's own": (OwnStatistics, [], "'seen' differs between the processes after iteration 2"),
    "a loss that is no number": (lambda: Conv(False), [Nan], "a weight became NaN or infinite by iteration 2"),  # type: ignore[dict-item]
    "an end of a rank's own": (lambda: Conv(False), [StopOne], r"parted: one is at iteration 2 \(going on\), another"),  # type: ignore[dict-item]
}


def refused_training() -> dict[str, str]:
    """Every rank's message."""
    found = {}
    for name, (network, hooks, _) in REFUSED.items():
        torch.manual_seed(3)
        recipe = Recipe(length="4it", batch_size=8, eval_every="2it", optimizer="sgd", lr=0.1)
        with pytest.raises(TombolaError) as error:
            train(network(), images(45), recipe, fabric=make_fabric("cpu", shared=True), hooks=[h() for h in hooks])
        found[name] = str(error.value)
    return found


def test_what_ranks_cannot_share_is_an_error_of_all() -> None:
    first, second = in_ranks(refused_training)
    assert first == second
    for name, (_, _, message) in REFUSED.items():
        assert re.search(message, first[name]), first[name]
