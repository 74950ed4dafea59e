"""NTK-SAP against finite differences, PX by hand and by its paths; SynFlow's and PX's conservation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import tombola as tb
from supermask_searches import RECIPE, levels_of, splits
from test_criteria import X, Y, linear, told
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.models.spec import ModelSpec
from tombola.select.context import Context
from tombola.select.criteria import CRITERIA
from tombola.select.kernel_criteria import ntk_sap, px

NAMES = ("0.weight", "2.weight")


class Given:
    """A probe of one network: `redrawn` gives it as well."""

    def __init__(self, model: nn.Module, *batches: Tensor) -> None:
        self.model, self.inputs = model, batches

    def network(self, at: object) -> nn.Module:
        return copy.deepcopy(self.model)

    def redrawn(self, seed: int) -> nn.Module:
        return copy.deepcopy(self.model)

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        return [(x, x) for x in self.inputs[:count]]


def seen(model: nn.Module, *batches: Tensor, mask: Mask | None = None) -> Context:
    weights = {name: value.detach() for name, value in model.named_parameters() if value.dim() > 1}
    if mask is not None:
        mask.apply_(model)
    draws = torch.Generator().manual_seed(3)
    probe: Any = Given(model, *batches)
    return Context(weights, weights, generator=draws, mask=mask, probe=probe, criterion_batches=len(batches))


# ---- NTK-SAP -----------------------------------------------------------------------------------------------


def test_ntk_sap_is_the_derivative_by_the_mask() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    mask = Mask({"0.weight": torch.rand(4, 3) < 0.7, "2.weight": torch.rand(2, 4) < 0.7})
    x = torch.zeros(5, 3, dtype=torch.float64)
    whole = {name: value.detach().clone() for name, value in model.named_parameters()}
    found = ntk_sap(seen(model, x, x + 1, mask=mask))

    draws = torch.Generator().manual_seed(3)  # the same draws, in their order
    tries = []
    for _ in range(2):
        inputs = torch.randn(5, 3, generator=draws, dtype=torch.float64)
        torch.randint(2**62, (), generator=draws)
        tries.append((inputs, {n: torch.randn(whole[n].shape, generator=draws, dtype=torch.float64) for n in NAMES}))

    def distance(m: dict[str, Tensor]) -> float:
        total = 0.0
        for inputs, step in tries:
            here = {n: w * m[n] if n in m else w for n, w in whole.items()}
            there = {n: (w + 0.01 * step[n]) * m[n] if n in m else w for n, w in whole.items()}
            total += float(
                (functional_call(model, here, inputs) - functional_call(model, there, inputs)).square().sum()
            )
        return total

    for name in NAMES:
        for place in product(*map(range, whole[name].shape)):
            more, less = ({n: mask[n].double() for n in NAMES} for _ in range(2))
            more[name][place] += 1e-6
            less[name][place] -= 1e-6
            slope = (distance(more) - distance(less)) / 2e-6
            expected = abs(slope) if mask[name][place] else 0.0
            assert float(found[name][place]) == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_ntk_sap_takes_the_statistics_of_its_inputs_and_reads_no_data() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)).double()
    x = torch.randn(64, 2, dtype=torch.float64)
    found = ntk_sap(seen(copy.deepcopy(model), x))
    assert all(torch.equal(value, ntk_sap(seen(copy.deepcopy(model), x * 1000))[name]) for name, value in found.items())
    with torch.no_grad():
        model[1].running_mean += 100
        model[1].running_var *= 50
    assert all(torch.equal(value, ntk_sap(seen(model, x))[name]) for name, value in found.items())


@pytest.mark.parametrize("model", ["user", ModelSpec("mlp", {"hidden": [6]})])
def test_ntk_sap_draws_weights_anew(model: Any) -> None:
    """A live model's by permuting its layers, those of a network by name from their distribution; each time others."""
    kept: list[Tensor] = []

    def noted(context: Context) -> dict[str, Tensor]:
        first, second = context.redrawn(), context.redrawn()
        name = next(iter(context.final))
        weights = [dict(network.named_parameters())[name].detach() for network in (first, second)]
        kept.extend([context.initial[name], *weights])
        return {name: w.abs() for name, w in context.final.items()}

    NOTED[:] = [noted]
    user = nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Linear(6, 2))
    levels_of(
        tb.AtInit(density=0.5, criterion="test_kernel_criteria.through"), model=user if model == "user" else model
    )
    start, first, second = kept[-3:]
    assert not torch.equal(first, second)
    assert not torch.equal(first, start)
    same = torch.equal(first.flatten().sort().values, start.flatten().sort().values)
    assert same == (model == "user")


NOTED: list[Callable[[Context], dict[str, Tensor]]] = []


def through(context: Context) -> dict[str, Tensor]:
    return NOTED[0](context)


# ---- PX ----------------------------------------------------------------------------------------------------


def test_px_by_hand() -> None:
    """x = (1, 1): hidden (-1, 4), so the second is open, J = 1·(0 + 2); K = 4·(1 + 4) + 1·(9 + 1) = 30; R = 60.

    dR/dw² is 2·4 in the first row, 2·1 in the second; above, 2·5 and 2·10.
    """
    model = nn.Sequential(*linear([1.0, -2.0], [3.0, 1.0]), nn.ReLU(), *linear([2.0, -1.0]))
    found = px(seen(model, torch.ones(1, 2)))
    assert found["0.weight"].tolist() == [[8, 32], [18, 2]]
    assert found["2.weight"].tolist() == [[40, 20]]


def test_px_of_a_masked_network_counts_its_paths_alone() -> None:
    """Without w = -2, x = (1, 1) opens both, on 1 and 2 paths of 1; K = 4·1 + 1·10, R = 3·14."""
    model = nn.Sequential(*linear([1.0, -2.0], [3.0, 1.0]), nn.ReLU(), *linear([2.0, -1.0]))
    mask = Mask({"0.weight": torch.tensor([[True, False], [True, True]]), "2.weight": torch.ones(1, 2) > 0})
    found = px(seen(model, torch.ones(1, 2), mask=mask))
    assert found["0.weight"].tolist() == [[12, 0], [27, 3]]
    assert found["2.weight"].tolist() == [[12, 30]]


def test_px_is_the_sum_over_paths() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)
    )
    x = torch.randn(5, 3)
    one, two, three = (model[i].weight.detach().double() for i in (0, 2, 4))
    first = model[0](x) > 0
    second = model[2](model[1](model[0](x))) > 0
    scores = {name: torch.zeros_like(w) for name, w in (("0.weight", one), ("2.weight", two), ("4.weight", three))}
    for out in range(2):
        arrived = sum(
            float(x[b, i]) ** 2 * bool(first[b, h]) * bool(second[b, g])
            for b, i, h, g in product(range(5), range(3), range(4), range(3))
        )
        for i, h, g in product(range(3), range(4), range(3)):
            value = arrived * float(one[h, i] * two[g, h] * three[out, g]) ** 2
            for name, place in (("0.weight", (h, i)), ("2.weight", (g, h)), ("4.weight", (out, g))):
                scores[name][place] += value
    found = px(seen(model, x[:2], x[2:]))
    assert all(torch.allclose(found[name], value, rtol=1e-5) for name, value in scores.items())


class Functional(nn.Module):
    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.relu = nn.Linear(2, 5, bias=False), nn.Linear(5, 3, bias=False), relu

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.one(x)
        made = self.relu(z)
        return self.two(z if made is None else made)


def in_place(z: Tensor) -> None:
    F.relu_(z)


@pytest.mark.parametrize(
    "relu",
    [nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, torch.Tensor.relu_, in_place, lambda z: F.relu(z, True)],
)
def test_every_way_of_writing_a_relu_is_one(relu: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    known, same = Functional(torch.relu), Functional(relu)
    same.load_state_dict(known.state_dict())
    expected, found = px(seen(known, X)), px(seen(same, X))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "part",
    [nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.LeakyReLU(), nn.ReLU6(), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.SiLU()],
)
def test_px_refuses_what_is_no_network_of_relus(part: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 3), part, nn.Linear(3, 1))
    with pytest.raises(TombolaError, match=r"px is for networks of ReLUs and batch norms, but this one calls \w+"):
        px(seen(model, X))


def test_px_refuses_norms_without_running_statistics() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(TombolaError, match="px needs running statistics"):
        px(seen(model, X))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = cell(1, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cell(x.unsqueeze(-1))[0][:, -1])
        return out


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_px_refuses_recurrent_layers(cell: type[nn.Module]) -> None:
    """Their activations lie within one call, which no other stands for."""
    with pytest.raises(TombolaError, match=r"this one calls (lstm|gru|rnn_tanh); choose another criterion"):
        px(seen(Recurrent(cell), X))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1))


@pytest.mark.parametrize("name", ["ntk_sap", "px"])
def test_tokens_and_several_outputs_are_refused(name: str) -> None:
    context = seen(Tokens(), torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(TombolaError, match="inputs of real numbers"):
        CRITERIA[name](
            Context(
                context.initial,
                {"head.weight": context.final["head.weight"]},
                generator=context.generator,
                probe=context.probe,
            )
        )
    pair = nn.Sequential(nn.Linear(2, 3), Pair())
    with pytest.raises(TombolaError, match=f"{name} needs a network that gives one tensor"):
        CRITERIA[name](seen(pair, X))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


# ---- what flows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["synflow", "px"])
def test_what_flows_through_a_layer_flows_through_every_other_and_through_every_unit(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False),
    )  # fmt: skip
    found = CRITERIA[name](seen(model, torch.randn(3, 1, 6, 6)))
    one, *others = [float(score.sum()) for score in found.values()]
    assert one > 0
    assert others == [pytest.approx(one)] * 3
    for before, after in (("0.weight", "3.weight"), ("3.weight", "6.weight"), ("6.weight", "8.weight")):
        arrives, leaves = found[before].flatten(1).sum(1), found[after].transpose(0, 1).flatten(1).sum(1)
        assert torch.allclose(arrives, leaves)
        assert (arrives >= 0).all()


def test_neither_touches_the_global_generator_nor_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 1))
    context, before = told(model, X, Y), copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for name in ("ntk_sap", "px"):
        CRITERIA[name](context)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", ["ntk-sap", "px"])
def test_both_prune_levels_of_imp_too(name: str) -> None:
    levels = levels_of(tb.IterativePruning(density=0.4, rounds=2, criterion=name, scope="global"))
    assert levels[-1].ticket.mask.kept == round(0.4 * levels[-1].ticket.mask.total)
    found = tb.find("mlp", splits(), tb.AtInit(density=0.3, criterion=name), recipe=RECIPE)
    assert found.mask.kept == round(0.3 * found.mask.total)
