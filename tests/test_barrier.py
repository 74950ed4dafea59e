"""The line between two networks: values worked out by hand, norms, the barrier of identical runs, and its errors."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.data.splits import Task
from tombola.errors import TombolaError
from tombola.results.connectivity import barrier_of
from tombola.search.request import as_data
from tombola.study.connectivity.line import interpolated
from tombola.train.loop import train
from tombola.train.recipe import Recipe


@pytest.mark.parametrize(
    ("values", "higher", "wanted"),
    [
        ([0.9, 0.6, 0.8], True, 0.25),
        ([0.1, 0.4, 0.2], False, 0.25),
        ([0.9, 0.95, 0.7], True, 0.1),  # the worst point is an end
        ([0.5, 0.5, 0.5], True, 0.0),
        ([0.5, None, 0.5], True, None),
        ([], True, None),
    ],
)
def test_the_barrier_by_hand(values: list[float | None], higher: bool, wanted: float | None) -> None:
    found = barrier_of(values, higher_is_better=higher)
    assert found == (None if wanted is None else pytest.approx(wanted))


def test_a_line_is_exact_at_its_ends() -> None:
    first = {"w": torch.tensor([0.1, -3.0, 1e-9]), "n": torch.tensor(3)}
    second = {"w": torch.tensor([0.7, 5.0, 1e9]), "n": torch.tensor(7)}
    assert torch.equal(interpolated(first, second, 0.0)["w"], first["w"])
    assert torch.equal(interpolated(first, second, 1.0)["w"], second["w"])
    assert interpolated(first, second, 0.25)["w"][1].item() == -1.0
    assert interpolated(first, second, 0.25)["n"].item() == 3
    for position in (0.1, 1 / 3, 0.9):
        assert torch.equal(interpolated(first, first, position)["w"], first["w"])


def swapped() -> tuple[nn.Module, nn.Module]:
    """One function twice, the second time with its hidden units in the other order."""
    first = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    second = copy.deepcopy(first)
    for net, order in ((first, [0, 1]), (second, [1, 0])):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
            net[0].weight.copy_(torch.tensor([[1.0], [-1.0]])[order])
            net[2].weight.copy_(torch.tensor([[-1.0, 1.0], [1.0, -1.0]])[:, order])
    return first, second


SIDES = (torch.tensor([[1.0], [-1.0]] * 8), torch.tensor([1, 0] * 8))


def test_permuted_hidden_units_have_a_barrier_by_hand() -> None:
    """At the middle both hidden units are 0, and so are the logits: half the answers, and a loss of log 2."""
    first, second = swapped()
    line = tb.barrier(first, second, (SIDES, SIDES, SIDES), points=3)
    assert line.positions == (0.0, 0.5, 1.0)
    assert line.test is not None
    assert line.test.metric == (1.0, 0.5, 1.0)
    assert line.test.barrier == line.train.barrier == 0.5
    ends = math.log(1 + math.exp(-2))
    assert line.test.loss == pytest.approx((ends, math.log(2), ends))
    assert line.test.loss_barrier == pytest.approx(math.log(2) - ends)
    assert line.distance == pytest.approx(math.sqrt(8 + 16))  # two weights of 2, four of 2 apart
    assert line.test.ends == 1.0


class Normed(nn.Sequential):
    """A network with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def blobs(dtype: torch.dtype = torch.float32) -> Any:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 2
    x = torch.randn(96, 4, generator=draw, dtype=dtype) + y[:, None]
    part = (x, y)
    return part, part, part


def test_norm_statistics_are_taken_anew_at_every_point() -> None:
    first, second = Normed(), Normed()
    before = {name: value.clone() for name, value in first.state_dict().items()}
    plain = tb.barrier(first, second, blobs(), points=4)
    spoiled = copy.deepcopy(first), copy.deepcopy(second)
    for net in spoiled:
        net[1].running_mean.fill_(100.0)
        net[1].running_var.fill_(1e-3)
    assert tb.barrier(*spoiled, blobs(), points=4).as_dict() == plain.as_dict()
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    assert first.training


def trained(seed: int) -> nn.Module:
    torch.manual_seed(0)
    net = Normed()
    train(net, as_data(blobs(), net), Recipe(length="3ep", batch_size=16, lr=0.1), seed=seed)
    return net


def test_identical_runs_have_no_barrier_at_all_and_other_orders_part() -> None:
    one, same, other = trained(1), trained(1), trained(2)
    line = tb.barrier(one, same, blobs())
    assert len(line.positions) == 30
    assert line.test is not None
    assert (line.test.barrier, line.test.loss_barrier, line.train.barrier, line.train.loss_barrier) == (0, 0, 0, 0)
    assert line.distance == 0.0
    apart = tb.barrier(one, other, blobs(), points=5)
    assert apart.distance > 0.0
    assert len(set(apart.train.loss)) > 1


class Tied(nn.Module):
    """Two layers that share a weight, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def test_a_metric_that_is_better_when_lower_on_tied_weights_of_a_regression() -> None:
    def off(output: Any, target: Tensor) -> Tensor:
        return (output - target).abs().mean(1)

    task = Task(loss=nn.functional.mse_loss, metric=off, metric_name="off", higher_is_better=False)
    x = torch.randn(40, 3, dtype=torch.float64)
    part = (x, x.flip(1))
    first, second = Tied(), Tied()
    line = tb.barrier(first, second, (part, part, part, task), points=5)
    metric = [value for value in line.train.metric if value is not None]
    assert line.train.barrier == pytest.approx(max(metric) - (metric[0] + metric[-1]) / 2)
    ends = [[net.first.weight, net.first.bias, net.second.bias] for net in (first, second)]  # the weight counts once
    squares = [(a - b).detach().square().sum() for a, b in zip(*ends, strict=True)]
    assert line.distance == pytest.approx(math.sqrt(sum(map(float, squares))))


def test_two_tickets_and_no_test_split() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    recipe = {"length": "2ep", "batch_size": 32}
    parts = blobs()[:2]
    tickets = [tb.find(net, parts, {"density": 0.5, "rounds": 1}, recipe=recipe, seed=seed) for seed in (0, 1)]
    line = tb.barrier(*(ticket.build(model=net) for ticket in tickets), parts, points=3)
    assert line.test is None
    assert line.train.barrier is not None
    with tb.hold(net, tickets[0].mask):
        held = tb.barrier(net, net, parts, points=3)
    assert held.train.barrier == 0.0


def test_what_no_line_leads_to_is_named() -> None:
    net = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(TombolaError, match=r"'1.bias', which only one"):
        tb.barrier(net, nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)), blobs())
    with pytest.raises(TombolaError, match=r"'0.weight': \(2, 4\) of torch.float32 and \(3, 4\)"):
        tb.barrier(nn.Sequential(nn.Linear(4, 2)), nn.Sequential(nn.Linear(4, 3)), blobs())
    with pytest.raises(TombolaError, match=r"of torch\.float64"):
        tb.barrier(net, copy.deepcopy(net).double(), blobs())
    with pytest.raises(TombolaError, match="points is 2, but it must lie between 3"):
        tb.barrier(net, net, blobs(), points=2)
    first, second = copy.deepcopy(net), copy.deepcopy(net)
    first.register_buffer("chosen", torch.tensor([0, 1]))
    second.register_buffer("chosen", torch.tensor([1, 0]))
    with pytest.raises(TombolaError, match="other whole numbers in 'chosen'"):
        tb.barrier(first, second, blobs())


def test_a_line_is_exact_where_both_are_infinite() -> None:
    causal = {"mask": torch.full((2, 2), -math.inf).triu(1)}
    assert torch.equal(interpolated(causal, causal, 0.5)["mask"], causal["mask"])


def test_networks_that_diverged_have_no_line() -> None:
    first, second = (nn.Linear(2, 2) for _ in range(2))
    with torch.no_grad():
        second.weight[0, 0] = math.nan
    data = (torch.randn(8, 2), torch.arange(8) % 2)
    with pytest.raises(TombolaError, match="the second network has values that are NaN or infinite in 'weight'"):
        tb.barrier(first, second, (data, data, data), points=3)


def plain(inputs: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


MISFITS: dict[str, tuple[Any, Any, Any, str]] = {
    "another width": (plain(), plain(), (torch.randn(8, 5), torch.arange(8) % 2), "first network: .*inputs of shape"),
    "images": (plain(), plain(), (torch.randn(8, 1, 6, 6), torch.arange(8) % 2), "first network: .*inputs of shape"),
    "too many classes": (plain(), plain(), (torch.randn(8, 4), torch.arange(8) % 5), "2 outputs, but .* 5 classes"),
    "another architecture": (plain(), plain(5), None, "differ in '0.weight'"),
    "a list of layers": (plain(), nn.ModuleList(plain()), None, "second network: .* missing the required"),
    "no values": (plain(), nn.LazyLinear(2), None, "second network has parameters without values"),
    "meta": (nn.Linear(4, 2, device="meta"), plain(), None, "first network has parameters without values"),
    "complex": (nn.Linear(4, 2, dtype=torch.complex64), plain(), None, "complex parameters"),
    "one example": (plain(), plain(), (torch.randn(1, 4), torch.zeros(1).long()), "norms cannot take their statistics"),
    "nothing": (plain(), plain(), (torch.randn(0, 4), torch.zeros(0).long()), "split is empty"),
    "no numbers": (plain(), plain(), (torch.full((8, 4), math.nan), torch.arange(8) % 2), "NaN or infinite"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_said_in_one_line(name: str) -> None:
    first, second, part, said = MISFITS[name]
    part = blobs()[0] if part is None else part
    with pytest.raises(TombolaError, match=said) as error:
        tb.barrier(first, second, (part, part, part), points=3)
    assert "\n" not in str(error.value)
