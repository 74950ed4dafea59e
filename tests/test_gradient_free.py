"""Searches without gradients: masks of an exact density, what judges them, budgets, strategies, kill and resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from supermask_searches import Killed, killed_at, levels_of, network, splits, state_of
from tombola.data.splits import Task, accuracy, make_splits
from tombola.errors import TombolaError
from tombola.levels.fitness import Fitness, sample_of
from tombola.levels.gradient_free import Terms
from tombola.levels.population import Part, Space, best_first
from tombola.mask import Mask
from tombola.methods.anneal import TRIALS, Annealing, between
from tombola.methods.evolve import Evolution
from tombola.methods.gradient_free import GradientFree
from tombola.search.find import run_find, validate
from tombola.search.request import make_request
from tombola.train.fabric import make_fabric
from tombola.train.history import read_csv
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup
from trial_results import untimed

WEIGHTS = {"a": torch.zeros(2, 3), "b": torch.zeros(10)}
SMALL: dict[str, Any] = {"examples": 20, "budget": 1000}
QUICK = Recipe(length="6it", batch_size=8, eval_every="3it")
METHODS: list[GradientFree] = [
    tb.RandomSearch(**SMALL),
    tb.Anneal(**SMALL),
    tb.Evolve(**SMALL, population=6, elite=2),
]
each = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(text: str) -> Tensor:
    return torch.tensor([mark == "1" for mark in text])


def setup_of(data: Any = None, recipe: Recipe = QUICK) -> TrainingSetup:
    return TrainingSetup(data or splits(), recipe, make_fabric("cpu", recipe.precision))


# ---- masks of one density


def test_each_layer_keeps_its_own_count_or_all_together() -> None:
    assert Space.of(WEIGHTS, 0.25).parts == (Part(0, 6, 2), Part(6, 16, 2))
    whole = Space.of(WEIGHTS, 0.25, "global")
    assert whole.parts == (Part(0, 16, 4),)
    assert (whole.size, whole.kept, whole.is_one) == (16, 4, False)
    assert Space.of(WEIGHTS, 1.0).is_one


def test_a_row_is_its_layers_one_after_the_other() -> None:
    space = Space.of(WEIGHTS, 0.5)
    row = bits("1000010000000001")
    assert space.layers(row)["a"].tolist() == [[True, False, False], [False, False, True]]
    assert space.mask(row).counts() == {"a": (2, 6), "b": (1, 10)}
    assert torch.equal(space.row(space.mask(row)), row)
    assert space.layers(row.expand(4, 16))["a"].shape == (4, 2, 3)


counts = st.tuples(
    st.integers(0, 999), st.sampled_from(["layer", "global"]), st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.integers(1, 20)
)


@given(counts)
def test_whatever_is_done_to_masks_their_counts_hold(case: tuple[int, str, float, int]) -> None:
    seed, scope, density, count = case
    space, generator = Space.of(WEIGHTS, density, scope), drawn(seed)
    first, second = space.random(2, generator)
    any_mask = torch.rand(space.size, generator=generator) < 0.5
    fitted = space.fitted(any_mask, generator)
    child = space.crossed(first, second, generator)
    assert torch.equal(child & ~(first ^ second), first & second)
    moved = space.swapped(first, count, generator)
    room = sum(min(part.kept, part.size - part.kept) for part in space.parts)
    assert int((moved ^ first).sum()) <= 2 * min(count, room)
    for row in (first, second, fitted, child, moved):
        assert [int(row[part.begin : part.end].sum()) for part in space.parts] == [part.kept for part in space.parts]


def test_a_mask_is_fitted_by_no_more_changes_than_it_needs() -> None:
    space = Space.of({"b": torch.zeros(10)}, 0.3)
    few, many = bits("1000000000"), bits("1111100000")
    assert int((space.fitted(few, drawn()) ^ few).sum()) == 2
    assert (space.fitted(few, drawn()) & few).any()
    assert int((space.fitted(many, drawn()) ^ many).sum()) == 2
    assert not (space.fitted(many, drawn()) & ~many).any()


def test_every_mask_is_drawn_as_often() -> None:
    space = Space.of({"b": torch.zeros(4)}, 0.5)
    rows = space.random(6000, drawn())
    times = torch.bincount((rows * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16)
    assert (times > 0).sum() == 6
    assert times[times > 0].min() > 850  # of 1000, with a standard deviation of 29


def test_a_swap_exchanges_so_many_within_a_layer() -> None:
    space = Space.of(WEIGHTS, 0.5)
    row = space.random(1, drawn())[0]
    moved = space.swapped(row, 2, drawn(1))
    assert int((row & ~moved).sum()) == int((moved & ~row).sum()) == 2
    sparse = Space.of({"b": torch.zeros(10)}, 0.9)
    kept = sparse.random(1, drawn())[0]
    assert int((sparse.swapped(kept, 5, drawn()) ^ kept).sum()) == 2  # one is pruned


def test_of_equal_losses_the_first_is_before() -> None:
    assert best_first([0.5, math.inf, 0.1, 0.5]) == [2, 0, 3, 1]


# ---- what they are judged by


def linear() -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    net[1].weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    return net


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.sum(1) - target).square().mean()


def regression(count: int = 4) -> Any:
    x = torch.eye(3).repeat(2, 1)[:count]
    part = (x, torch.zeros(count))
    return make_splits(part, part, part, Task(squared, lambda o, y: (o.sum(1) - y).abs(), "error", False, name="t"))


def test_a_mask_is_judged_by_the_mean_loss_of_its_network() -> None:
    setup, model = setup_of(regression()), linear()
    space = Space.of({"1.weight": model[1].weight}, 0.5)
    judge = Fitness(setup, model, space, sample_of(setup, model, 100, 0))
    assert judge.examples == 4
    # rows of the identity: the sums of the kept columns, squared; the first column comes twice
    assert judge(torch.stack([bits("111000"), bits("000111")])) == [(1 + 4 + 9 + 1) / 4, (16 + 25 + 36 + 16) / 4]
    assert judge(bits("100001")[None]) == [(1 + 0 + 36 + 1) / 4]


def test_a_loss_of_nan_is_worst() -> None:
    setup, model = setup_of(regression()), linear()
    model[1].weight.data[0, 0] = math.nan
    space = Space.of({"1.weight": model[1].weight}, 0.5)
    judge = Fitness(setup, model, space, sample_of(setup, model, 100, 0))
    assert judge(bits("111000")[None]) == [math.inf]


def odd_network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2)
    )


def judged(together: int | None, mean: float = 0.0) -> list[float]:
    setup, model = setup_of(), odd_network()
    model[1].running_mean.fill_(mean)
    space = Space.of({"0.weight": model[0].weight, "5.weight": model[5].weight}, 0.5)
    judge = Fitness(setup, model, space, sample_of(setup, model, 30, 0), together)
    assert judge.together == (together or 1)
    return judge(space.random(7, drawn()))


def test_several_masks_at_once_give_what_one_does_without_dropout_and_with_statistics_of_the_batch() -> None:
    alone = judged(None)
    assert judged(None) == alone == judged(None, mean=5.0)
    assert judged(3) == pytest.approx(alone, rel=1e-5)


class Branching(nn.Module):
    """What vmap has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out if float(out.sum()) > 0 else -out


def test_a_network_that_cannot_take_several_masks_takes_them_one_by_one() -> None:
    setup, model = setup_of(), Branching()
    space = Space.of({"fc.weight": model.fc.weight}, 0.5)
    judge = Fitness(setup, model, space, sample_of(setup, model, 30, 0), 4)
    assert judge.together == 1
    assert all(map(math.isfinite, judge(space.random(5, drawn()))))


def test_the_sample_is_drawn_once_from_the_seed() -> None:
    setup, model = setup_of(), network()
    first, again, other = (sample_of(setup, model, 25, seed) for seed in (0, 0, 1))
    assert sum(len(y) for _, y in first) == 25
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    assert sum(len(y) for _, y in sample_of(setup, model, 10**6, 0)) == 40


# ---- annealing


class Fixed(Terms):
    """Draws that are given."""

    def draw(self) -> float:
        return 0.5


def walk(**options: Any) -> Annealing:
    space = Space.of({"b": torch.zeros(10)}, 0.5)
    return Annealing(tb.Anneal(**options), Fixed(space, drawn(), 100))


def steps(walk: Annealing, losses: Sequence[float], room: int = 100) -> list[float]:
    """Where a walk stands after each of the losses."""
    seen = []
    for loss in losses:
        walk.tell(walk.ask(room), [loss])
        seen.append(walk.loss)
    return seen


def test_a_worse_mask_is_taken_by_the_rule_of_metropolis() -> None:
    # exp(-change / 1) > 0.5 for changes below 0.693
    assert steps(walk(temperature=1.0), [3.0, 3.6, 4.4, 4.2, 4.2, 1.0]) == [3.0, 3.6, 3.6, 4.2, 4.2, 1.0]
    assert steps(walk(temperature=1.0), [math.inf, math.inf, 2.0, math.inf]) == [math.inf, math.inf, 2.0, 2.0]


def test_it_cools_geometrically_to_the_end_of_the_budget() -> None:
    assert between(0.1, 0.001, 0.5) == pytest.approx(0.01)
    half = walk(temperature=1.0, cooling=0.01)
    steps(half, [3.0])
    # half of the budget is left: the temperature is 0.1, and changes below 0.0693 are taken
    assert steps(half, [3.06, 3.2], room=50) == [3.06, 3.06]


def test_the_first_temperature_is_that_of_the_first_changes() -> None:
    own = walk(heat=2.0)
    steps(own, [1.0, *[1.0 + 0.25 * (-1) ** (i + 1) for i in range(1)], *[1.5] * (TRIALS - 1)])
    assert len(own.changes) == TRIALS
    mean = sum(own.changes) / TRIALS
    assert own.accepts(own.loss + 2 * mean * 0.69)
    assert not own.accepts(own.loss + 2 * mean * 0.70)


def test_the_block_shrinks() -> None:
    space = Space.of({"b": torch.zeros(200)}, 0.5)
    walk = Annealing(tb.Anneal(block=0.2, final_block=0.02), Terms(space, drawn(), 100))
    walk.tell(walk.ask(100), [1.0])
    assert walk.here is not None
    sizes = [int((walk.ask(room)[0] & ~walk.here).sum()) for room in (100, 50, 1)]
    assert sizes == [20, 6, 2]


# ---- evolution


def evolution(**options: Any) -> Evolution:
    space = Space.of({"b": torch.zeros(40)}, 0.5)
    return Evolution(tb.Evolve(**options), Terms(space, drawn(), 100))


def test_the_elite_goes_on_and_the_rest_is_new() -> None:
    found = evolution(population=4, elite=2, migrants=1)
    first = found.ask(100)
    assert first.shape == (4, 40)
    found.tell(first, [0.4, 0.1, 0.3, math.inf])
    assert found.rows is not None
    assert torch.equal(found.rows, first[[1, 2, 0, 3]])
    new = found.ask(100)
    assert new.shape == (2, 40)
    found.tell(new, [0.2, 0.1])
    assert found.losses == [0.1, 0.1, 0.2, 0.3]
    assert torch.equal(found.rows, torch.stack([first[1], new[1], new[0], first[2]]))


def test_a_child_of_the_best_alone_is_one_swap_from_it() -> None:
    found = evolution(population=4, elite=1, tournament=50, crossover=0.0, mutation=0.0)
    found.tell(rows := found.ask(100), [0.4, 0.1, 0.3, 0.2])
    assert found.rows is not None
    assert int((found.child(found.rows) ^ rows[1]).sum()) == 2


def test_a_generation_ends_with_the_budget() -> None:
    assert len(evolution(population=10).ask(3)) == 3


# ---- searches


def everything(levels: Any) -> tuple[Any, ...]:
    return tuple((level.ticket, untimed(level.result)) for level in levels)


@each
def test_forward_passes_are_counted_and_the_budget_is_kept(method: GradientFree) -> None:
    (level,) = levels_of(replace(method, budget=1015), recipe=QUICK)
    cost = level.result.cost
    assert cost is not None
    assert cost.forward_passes == 1000
    with_bias_left_out = 2 * (36 * 4 * 9 + 144 * 8 + 8 * 2)
    assert cost.flops == 1000 * with_bias_left_out
    assert level.result.trained_steps == 0


@each
def test_the_best_mask_so_far_only_gets_better_and_is_the_ticket(method: GradientFree, tmp_path: Path) -> None:
    result = run_find(make_request(network(), splits(), method, recipe=QUICK), tmp_path)
    level = result.replicates[0].levels[-1]
    rows = read_csv(Path(result.run) / level.metrics)
    losses = [row.train_loss for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert rows[-1].step == 50
    assert rows[-1].epoch == pytest.approx(1000 / 40)
    assert len(rows) >= 2
    setup, model = setup_of(), network()
    mask = tb.Ticket.load(result.ticket).mask
    space = Space.of({name: model.get_parameter(name) for name in mask}, 0.5)
    judge = Fitness(setup, model, space, sample_of(setup, model, 20, make_request(model, splits(), method).seed))
    assert judge.examples == 20


def all_masks() -> list[float]:
    """The losses of the twenty masks that keep three of six weights."""
    setup, model = setup_of(regression(6)), linear()
    space = Space.of({"1.weight": model[1].weight}, 0.5)
    judge = Fitness(setup, model, space, sample_of(setup, model, 100, 0))
    return judge(torch.stack([torch.tensor([i in kept for i in range(6)]) for kept in combinations(range(6), 3)]))


@pytest.mark.parametrize(
    "method",
    [tb.RandomSearch(budget=1200), tb.Anneal(budget=1200), tb.Evolve(budget=1200, population=6, elite=2)],
    ids=lambda method: method.name,
)
def test_of_few_masks_the_best_is_found(method: GradientFree) -> None:
    method = replace(method, examples=6)
    (level,) = tb.search.find.search(make_request(linear(), regression(6), method, recipe=QUICK))
    assert level.result.train_loss == min(all_masks())


@each
def test_it_begins_with_the_mask_of_a_ticket(method: GradientFree) -> None:
    start = levels_of(tb.EdgePopup(density=0.5), recipe=QUICK)[-1].ticket
    one = replace(method, budget=20)
    assert levels_of(one, start=start, recipe=QUICK)[-1].ticket.mask == start.mask
    sparser = levels_of(replace(one, density=0.3), start=start, recipe=QUICK)[-1].ticket.mask
    assert sparser.nested_in(start.mask)
    denser = levels_of(replace(one, density=0.7), start=start, recipe=QUICK)[-1].ticket.mask
    assert start.mask.nested_in(denser)


@each
def test_weights_rest_and_norms_take_their_statistics_from_the_sample(method: GradientFree) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ticket = levels_of(method, model, recipe=QUICK)[-1].ticket
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not ticket.trained
    built = state_of(ticket)
    for name, keep in ticket.mask.items():
        assert torch.equal(built[name], before[name] * keep)
    assert not torch.equal(built["1.running_mean"], before["1.running_mean"])
    assert torch.equal(built["1.weight"], before["1.weight"])


@each
@pytest.mark.parametrize("kill", [2, 3, 4])
def test_a_search_killed_anywhere_ends_as_if_never_killed(
    method: GradientFree, kill: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path) -> Any:
        options = Options(checkpoint_seconds=0, progress=False)
        return run_find(make_request(network(), splits(), method, recipe=QUICK, options=options), out)

    expected = run(tmp_path / "whole")
    for call in (kill, 2):  # and killed again as soon as it goes on; the first call is the dry run's
        with monkeypatch.context() as patched:
            patched.setattr(Fitness, "__call__", killed_at(call))
            with pytest.raises(Killed):
                run(tmp_path / "killed")
    resumed = run(tmp_path / "killed")
    assert Path(resumed.ticket).read_bytes() == Path(expected.ticket).read_bytes()
    ours, theirs = (untimed(found.replicates[0].levels[-1]) for found in (resumed, expected))
    assert ours == theirs
    rows = [read_csv(Path(found.run) / found.replicates[0].levels[-1].metrics) for found in (resumed, expected)]
    assert str([replace(row, seconds=0) for row in rows[0]]) == str([replace(row, seconds=0) for row in rows[1]])


def wrong(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).float().mean()


def test_a_loss_without_a_gradient_will_do() -> None:
    data = replace(splits(), task=Task(wrong, accuracy, name="wrong"))
    levels = tb.search.find.search(make_request(network(), data, tb.Anneal(**SMALL), recipe=QUICK))
    assert levels[-1].result.train_loss is not None
    assert levels[-1].result.train_loss <= 0.5


def test_weights_in_double_precision_and_tied_ones_are_searched() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.out = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 2)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(F.relu(self.second(F.relu(self.first(x.flatten(1))))))
            return out

    found = tb.search.find.search(make_request(Tied().double(), splits(), tb.Anneal(**SMALL), recipe=QUICK))[-1]
    assert set(found.ticket.mask) == {"first.weight", "out.weight"}
    built = found.ticket.build(model=Tied().double())
    assert built.second.weight is built.first.weight


def test_masks_only_of_nan_are_an_error_before_the_search() -> None:
    model, method = linear(), tb.RandomSearch(budget=40, examples=4)
    data = replace(regression(), task=replace(regression().task, loss=lambda o, y: squared(o, y) * math.nan))
    with pytest.raises(TombolaError, match="all of 2 masks give a loss of NaN"):
        validate(make_request(model, data, method, recipe=QUICK), data)
    model[1].weight.data.fill_(math.nan)
    with pytest.raises(TombolaError, match="all of 10 masks give a loss of NaN"):
        tb.search.find.search(make_request(model, regression(), method, recipe=QUICK))


class Drawing(nn.Module):
    """Draws in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.dropout(x.flatten(1), 0.5, training=True))
        return out


@pytest.mark.parametrize("together", [1, 3])
def test_what_a_network_draws_is_the_same_for_every_mask(together: int) -> None:
    setup, model = setup_of(), Drawing()
    space = Space.of({"fc.weight": model.fc.weight}, 0.5)
    judge = Fitness(setup, model, space, sample_of(setup, model, 30, 0), together)
    assert judge.together == together
    row = space.random(1, drawn())
    assert len(set(judge(row.expand(together + 2, -1)))) <= 2  # masks together differ from one alone by rounding
    assert judge(row.expand(3, -1)) == pytest.approx(judge(row) * 3, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tb.Anneal(examples=0), "examples is 0"),
        (lambda: tb.Anneal(budget=999), "budget is 999, less than one mask takes on 1000 examples"),
        (lambda: tb.Anneal(block=0.0), "block is 0.0"),
        (lambda: tb.Anneal(cooling=1.5), "cooling is 1.5"),
        (lambda: tb.Anneal(temperature=0.0), "temperature is 0.0"),
        (lambda: tb.Anneal(heat=math.nan), "heat is nan"),
        (lambda: tb.Evolve(population=1), "population is 1"),
        (lambda: tb.Evolve(population=6, elite=5), "leave no room for children"),
        (lambda: tb.Evolve(crossover=1.5), "crossover is 1.5"),
        (lambda: tb.Evolve(tournament=0), "tournament is 0"),
        (lambda: tb.RandomSearch(finetune="soon"), "soon"),
        (lambda: tb.RandomSearch(finetune_lr=-1.0), "finetune_lr is -1.0"),
    ],
)
def test_options_without_sense_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TombolaError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (tb.Anneal(density=0.01), r"nothing is kept of 0\.weight, 6\.weight"),
        (tb.Anneal(density=0.0001, scope="global"), "nothing is kept of the network"),
        (tb.Anneal(density=1.0), "there is one mask only"),
        (tb.Anneal(exclude=("*",)), "the network has no prunable weight"),
    ],
)
def test_a_network_with_nothing_to_search_is_refused_before_anything_is_done(method: Any, message: str) -> None:
    with pytest.raises(TombolaError, match=message):
        validate(make_request(network(), splits(), method, recipe=QUICK), splits())


def test_a_ticket_over_other_weights_is_refused() -> None:
    start = levels_of(tb.EdgePopup(exclude=("0.*",)), recipe=QUICK)[-1].ticket
    with pytest.raises(TombolaError, match=r"differ in '0\.weight'"):
        validate(make_request(network(), splits(), tb.Anneal(**SMALL), recipe=QUICK, start=start), splits())


def test_masks_of_a_search_are_of_the_density_asked_for() -> None:
    masks: list[Mask] = [levels_of(replace(method, density=0.3), recipe=QUICK)[-1].ticket.mask for method in METHODS]
    for mask in masks:
        assert mask.counts() == {"0.weight": (11, 36), "4.weight": (346, 1152), "6.weight": (5, 16)}
