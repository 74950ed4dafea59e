"""What cannot work is an error of one line before anything is trained or written; what can, is not disturbed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from odd_networks import ODD, SOUND, Embedded, NeedsCompany, Remembers, WithSpare, mlp, normed
from supermask_searches import RECIPE, splits
from tombola.data.splits import Resident, Splits, Streamed, Task, accuracy, make_splits
from tombola.errors import TombolaError
from tombola.levels.search import Level, Search
from tombola.mask import Mask
from tombola.methods import METHODS
from tombola.methods.base import Method
from tombola.methods.imp import IterativePruning
from tombola.methods.winning_sign import SignTransfer
from tombola.parameters import prunable
from tombola.search.find import find, run_find, validate
from tombola.search.request import make_request
from tombola.select.criteria import CRITERIA
from tombola.study.verify import verify
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train import trial
from tombola.train.fabric import make_fabric
from tombola.train.options import Options
from tombola.train.recipe import Recipe

OPTIONS: dict[str, dict[str, Any]] = {
    "imp": {"density": 0.3, "rounds": 1, "rewind": "2it"},
    "multi-prize": {"density": 0.3},
    "continuous": {"rewind": "2it", "rounds": 2},
    "concrete": {"density": 0.3, "rewind": "2it", "search": "3it"},
    "gem-miner": {"freeze_every": "2it"},
    "iterand": {"every": "2it"},
    "learned-mask": {"finetune": "3it"},
    "evolve": {"finetune": "3it"},
}
KINDS = ("imp", "dense", "edge-popup", "learned-mask", "joint", "multi-prize")
"""Methods of which every other one is a setting."""
ONE_SHOT = IterativePruning(density=0.5, rounds=1)


def method(name: str) -> Any:
    return METHODS[name](**OPTIONS.get(name, {}))


def tried(model: Any, how: Any = ONE_SHOT, data: Splits | None = None, recipe: Recipe = RECIPE, **more: Any) -> None:
    data = data or splits()
    if isinstance(how, SignTransfer):
        mask = Mask.full(prunable(model))
        more["start"] = Ticket.from_models(
            origin=Origin.stored(model), mask=mask, final_state=model.state_dict(), provenance={}
        )
    validate(make_request(model, data, how, recipe=recipe, **more), data)


# -- networks


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ODD)
def test_a_network_that_no_ticket_can_be_made_of_is_refused(kind: str, name: str) -> None:
    make, message = ODD[kind]
    with pytest.raises(TombolaError, match=message) as caught:
        tried(make(), method(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", SOUND)
def test_a_network_that_is_only_unusual_is_not(kind: str, name: str) -> None:
    tried(SOUND[kind](), method(name))


@pytest.mark.parametrize("make", [make for make, _ in ODD.values()], ids=ODD)
def test_nothing_is_trained_or_written(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "train", None)
    for how in (ONE_SHOT, method("edge-popup")):
        with pytest.raises(TombolaError):
            run_find(make_request(make(), splits(), how, recipe=RECIPE), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["snip", "grad"])
def test_gradients_of_frozen_weights_are_there_and_missing_ones_are_named(name: str) -> None:
    how = IterativePruning(density=0.5, rounds=1, criterion=name)
    tried(SOUND["frozen"](), how)
    with pytest.raises(TombolaError, match=r"no gradient of the loss reaches 'spare\.weight'.*exclude"):
        tried(WithSpare(), how)
    tried(WithSpare(), replace(how, exclude=("spare.*",)))


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_passes_on_a_plain_network(name: str) -> None:
    tried(mlp(), IterativePruning(density=0.5, rounds=1, criterion=name))


def test_batch_norm_meets_a_part_of_a_batch_that_is_one_example() -> None:
    tried(normed(), recipe=replace(RECIPE, batch_size=7, accumulate=2))
    with pytest.raises(TombolaError, match="one step of training fails: ValueError: Expected more than 1 value"):
        tried(normed(), recipe=replace(RECIPE, batch_size=7, accumulate=3))  # parts of 3, 3 and 1


def test_what_the_optimiser_cannot_do_is_met() -> None:
    with pytest.raises(TombolaError, match=r"one step of training fails: RuntimeError: .*sparse gradients"):
        tried(Embedded())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_where_gradients_are_off_is_one_line(mode: Callable[[], Any]) -> None:
    with mode(), pytest.raises(TombolaError, match="gradients are off here"):
        tried(mlp())


def test_a_last_batch_of_one_example_is_met() -> None:
    part = splits().val
    for count in (501, 502):
        rows = torch.arange(count) % len(part.y)
        data = replace(splits(), test=Resident(part.x[rows], part.y[rows]))
        if count == 502:
            tried(NeedsCompany(), data=data)
            continue
        with pytest.raises(TombolaError, match="the network fails in evaluation mode"):
            tried(NeedsCompany(), data=data)


def test_the_users_network_and_the_global_random_state_stay_as_they_were() -> None:
    model = normed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for name in METHODS:
        tried(model, method(name))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Balanced(nn.Module):
    """A loss that keeps a state: the share of each class so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(2))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.seen += torch.bincount(target, minlength=2)
        return F.cross_entropy(output, target, weight=1 / self.seen)


def test_a_task_that_keeps_a_state_has_it_as_it_was() -> None:
    loss = Balanced()
    data = replace(splits(), task=Task(loss, accuracy, eval_loss=F.cross_entropy))
    for name in ("imp", "edge-popup"):
        tried(mlp(), method(name), data)
        assert loss.seen.tolist() == [1, 1]


@dataclass(frozen=True)
class Own(Method):
    """A user's own method, without a dry run."""

    def find(self, search: Search) -> list[Level]:
        raise AssertionError


def test_a_users_own_method_has_one_step_of_training_tried() -> None:
    tried(mlp(), Own())
    with pytest.raises(TombolaError, match=r"'mean' .* is not there before one step"):
        tried(Remembers(), Own())


def test_the_second_level_is_tried_too() -> None:
    how = METHODS["learned-mask"](rule="threshold", finetune="3it", finetune_lr=1e45)
    with pytest.raises(TombolaError, match=r"NaN or infinite by iteration 1 at lr 1e\+45"):
        tried(mlp(), how)


# -- cost


class Counted(nn.Module):
    """Counts what goes through the forward pass of every copy."""

    examples: ClassVar[list[int]] = []

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, fx.Proxy):  # a trace computes nothing
            self.examples.append(len(x))
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize("name", METHODS)
def test_few_examples_are_looked_at_however_long_the_search_is_and_many_the_data_has(name: str) -> None:
    part = splits().train
    costs = []
    for count, length, levels in ((40, "4it", 1), (4000, "40ep", 9)):
        rows = torch.arange(count) % len(part.y)
        x, y = part.x[rows], part.y[rows]
        options = {"density": 0.3, "rounds": levels} if name == "imp" else OPTIONS.get(name, {})
        Counted.examples.clear()
        network = Counted(normed() if name == "early-bird" else mlp())
        tried(network, METHODS[name](**options), make_splits(*[(x, y)] * 3), replace(RECIPE, length=length))
        costs.append(list(Counted.examples))
    few, many = costs
    assert sum(many) == sum(few)
    two = "finetune" in OPTIONS.get(name, {}) or name in ("concrete", "continuous", "early-bird")  # networks are tried
    read = name == "early-bird"  # and once more, by two rows for one, to follow its channels
    assert sum(many) <= (1 + two + read) * (RECIPE.batch_size + 200)


# -- data


class Listed(Dataset[Any]):
    """Examples one by one, counting what is fetched."""

    def __init__(self, split: Any, wrong: int | None = None) -> None:
        self.x, self.y, self.fetched = split.x, split.y.clone(), 0
        if wrong is not None:
            self.y[wrong] = 7

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.fetched += 1
        return self.x[index], self.y[index]


def own_task() -> Task:
    """Cross-entropy that nobody can know as such: no number of classes is told."""
    return Task(lambda o, t: F.cross_entropy(o, t), lambda o, t: (o.argmax(1) == t).float(), "hits")


def longer(count: int) -> Resident:
    part = splits().test
    assert isinstance(part, Resident)
    rows = torch.arange(count) % len(part.y)
    return Resident(part.x[rows], part.y[rows])


@pytest.mark.parametrize("where", ["train", "val", "test"])
@pytest.mark.parametrize("place", [0, 100, 599])
@pytest.mark.parametrize("wrong", [2, -1, 10**6])
def test_a_label_out_of_range_is_met_wherever_it_lies(where: str, place: int, wrong: int) -> None:
    part = longer(600)
    part.y[place] = wrong
    data = replace(splits(), task=own_task(), **{where: part})
    whose = ".*" if (where, place) == ("val", 0) else f".* of the {where} split:"
    with pytest.raises(TombolaError, match=rf"loss fails on {whose} IndexError: Target {wrong} is out of"):
        tried(mlp(), data=data)


@pytest.mark.parametrize("place", [0, 599])
def test_a_label_out_of_range_in_a_streamed_test_split_is_met(place: int) -> None:
    data = replace(splits(), task=own_task(), test=Streamed(Listed(longer(600), place)))
    with pytest.raises(TombolaError, match=r"the loss fails on .* of the test split: IndexError: Target 7 is out of"):
        tried(mlp(), data=data)


def test_verify_meets_it_before_an_arm_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(splits(), task=own_task())
    ticket = find(mlp(), data, ONE_SHOT, recipe=RECIPE)
    part = longer(600)
    part.y[599] = 7
    monkeypatch.setattr(trial, "train", None)
    with pytest.raises(TombolaError, match=r"the loss fails on .* of the test split: IndexError: Target 7 is out of"):
        verify(ticket, replace(data, test=part), model=mlp(), options=Options(force=True))


def test_a_streamed_test_split_is_read_once_and_the_others_hardly() -> None:
    sets = {where: Listed(longer(600)) for where in ("train", "val", "test")}
    data = replace(splits(), task=own_task(), **{where: Streamed(found, source="s") for where, found in sets.items()})
    tried(mlp(), data=data)
    assert 600 < sets["test"].fetched < 700
    assert sets["train"].fetched < 100
    assert sets["val"].fetched < 200


def test_an_example_that_cannot_be_read_is_met() -> None:
    class Torn(Listed):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            if index == 599:
                raise OSError("image file is truncated")
            return super().__getitem__(index)

    data = replace(splits(), test=Streamed(Torn(longer(600)), source="s"))
    with pytest.raises(TombolaError, match="test split cannot be read: OSError: image file is truncated"):
        tried(mlp(), data=data)


# -- loss and metric

Measure = Callable[[Tensor, Tensor], Tensor]


def regression(loss: Measure, metric: Measure, target: Callable[[Tensor], Tensor] = lambda y: y) -> Splits:
    """Targets (N, 1) of the data's means, changed by `target`; outputs (N, 1)."""
    parts = []
    for part in (splits().train, splits().val, splits().test):
        assert isinstance(part, Resident)
        parts.append((part.x, target(part.x.flatten(1).mean(1, keepdim=True))))
    return make_splits(*parts, Task(loss, metric, "error", higher_is_better=False))


def line() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 1))


def error(o: Tensor, t: Tensor) -> Tensor:
    return (o - t).abs().squeeze(1)


def squared(o: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(o, t)


def flat(y: Tensor) -> Tensor:
    return y.squeeze(1)


def needing(o: Tensor, t: Tensor) -> Tensor:
    """Fails for fewer examples than a split has, as a rank statistic does for one class."""
    if len(o) < 12:
        raise ValueError("not enough examples")
    return (o - t).abs().mean()


SOUND_TASKS: dict[str, Splits] = {
    "per example": regression(squared, error),
    "batch mean": regression(squared, lambda o, t: (o - t).abs().mean()),
    "python number": regression(squared, lambda o, t: float((o - t).abs().mean())),  # type: ignore[arg-type,return-value]
    "hits": regression(squared, lambda o, t: ((o - t).abs() < 0.1).squeeze(1)),
    "correlation": regression(squared, lambda o, t: torch.corrcoef(torch.cat([o, t], 1).T)[0, 1]),
    "defined for many": regression(squared, lambda o, t: needing(o, t)),
    "a number for many": regression(
        squared, lambda o, t: (o - t).abs().mean() if len(o) > 11 else o.mean() * torch.nan
    ),
    "a loss of pairs": regression(lambda o, t: F.mse_loss(o - o.T, t - t.T), error),
    "contrast": regression(lambda o, t: F.cross_entropy(-(o - t.T).abs(), torch.arange(len(o))), error),
    "flat targets": regression(lambda o, t: F.mse_loss(o.squeeze(1), t), lambda o, t: (o.squeeze(1) - t).abs(), flat),
    "signs of outputs that are all above 0": regression(
        squared, lambda o, t: (((100 + o.squeeze(1)) > 0) == (t.squeeze(1) > 0)).float()
    ),
    "signs about 0 of flat targets": regression(
        lambda o, t: F.mse_loss(o.squeeze(1), t), lambda o, t: ((o[:, 0].abs() > 0) != (t > 0)).float(), flat
    ),
    "signs of outputs that are mostly below 0": regression(
        lambda o, t: F.mse_loss(o.squeeze(1), t), lambda o, t: ((o[:, 0] - 0.4 > 0) != (t > 0)).float(), flat
    ),
    "no targets": regression(lambda o, t: o.pow(2).mean(), lambda o, t: o.abs().squeeze(1), flat),
    "one target for all": regression(squared, error, lambda y: torch.ones_like(y)),
}


@pytest.mark.parametrize("kind", SOUND_TASKS)
def test_tasks_that_keep_the_contract_pass(kind: str) -> None:
    tried(line(), data=SOUND_TASKS[kind], recipe=replace(RECIPE, batch_size=16))


class Tagger(nn.Module):
    """A class for each of the steps of a sequence, in whatever order of axes."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.line, self.form = nn.Linear(3, 5), form

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.line(x)  # (N, T, C)
        return {"flat": scores.flatten(0, 1), "time first": scores.transpose(0, 1), "batch first": scores}[self.form]


@pytest.mark.parametrize("steps", [4, 16, 1])
@pytest.mark.parametrize("form", ["flat", "time first", "batch first"])
def test_outputs_need_no_row_per_example(form: str, steps: int) -> None:
    """Also where there are as many steps as examples looked at."""

    def scores(output: Tensor, target: Tensor) -> Tensor:
        if form == "flat":
            return output.unflatten(0, target.shape)
        return output.transpose(0, 1) if form == "time first" else output

    task = Task(
        lambda o, t: F.cross_entropy(scores(o, t).flatten(0, 1), t.flatten()),
        lambda o, t: (scores(o, t).argmax(2) == t).float().mean(1),
    )
    draw = torch.Generator().manual_seed(0)
    parts = [(torch.randn(n, steps, 3, generator=draw), torch.randint(5, (n, steps), generator=draw)) for n in (80, 40)]
    tried(Tagger(form), data=make_splits(*parts, parts[1], task))
    parts[1][1][35, -1] = 5
    with pytest.raises(
        TombolaError, match=r"the loss fails on .* of the (val|test) split: IndexError: Target 5 is out"
    ):
        tried(Tagger(form), data=make_splits(parts[0], parts[0], parts[1], task))


WRONG_TASKS: dict[str, tuple[Splits, str]] = {
    "loss not reduced": (regression(lambda o, t: (o - t).pow(2), error), "the loss gives shape .*a scalar"),
    "loss per example": (regression(lambda o, t: error(o, t) ** 2, error), "the loss gives shape .*a scalar"),
    "loss added up": (
        regression(lambda o, t: F.mse_loss(o, t, reduction="sum"), error),
        "the loss .* so it sums over examples; it must give their mean",
    ),
    "loss that fails": (
        regression(lambda o, t: F.mse_loss(o, t[:, 1]), error),
        "the loss fails on .*IndexError",
    ),
    "metric added up": (
        regression(squared, lambda o, t: (o - t).abs().sum()),
        "metric error .* so it sums over examples; it must give their mean",
    ),
    "metric not flat": (regression(squared, lambda o, t: (o - t).abs()), r"metric error gives shape \(\d+, 1\)"),
    "metric of one number": (
        regression(squared, lambda o, t: (o - t).abs().mean().reshape(1)),
        r"metric error gives shape \(1,\) for a batch of 8 examples; .*one value per example, shape \(8,\)",
    ),
    "metric of as many classes as examples": (
        regression(squared, lambda o, t: torch.zeros(20 if len(o) > 20 else 8)),
        r"metric error gives shape \(20,\) for a batch of 22 examples",
    ),
    "metric of as many classes as a batch has examples": (
        regression(squared, lambda o, t: torch.zeros({8: 8, 40: 40}.get(len(o), 3))),
        r"metric error gives shape \(3,\) for a batch of 22 examples",
    ),
    "metric of two forms": (
        regression(squared, lambda o, t: error(o, t) if len(o) > 20 else error(o, t).mean()),
        r"metric error gives shape \(2\d,\) for 2\d examples and \(\) for 1\d",
    ),
    "metric that is complex": (
        regression(squared, lambda o, t: torch.complex(error(o, t), error(o, t))),
        "metric error gives complex numbers; it must give real ones",
    ),
    "metric that fails": (
        regression(squared, lambda o, t: o.argmax(7)),
        "metric error fails on .*: IndexError",
    ),
    "metric that is a mapping": (regression(squared, lambda o, t: {"error": 1}), "metric error gives a dict"),  # type: ignore[arg-type,return-value]
    "loss of all pairs": (
        regression(lambda o, t: (o - t).pow(2).mean(), lambda o, t: (o.squeeze(1) - t).abs(), flat),
        r"the loss pairs every output with every target: outputs \(\d+, 1\) and targets \(\d+,\) broadcast",
    ),
    "metric of all pairs": (
        regression(lambda o, t: F.mse_loss(o.squeeze(1), t), lambda o, t: (o - t).abs().mean(), flat),
        "metric error pairs every output with every target",
    ),
    "metric of all pairs by example": (
        regression(lambda o, t: F.mse_loss(o.squeeze(1), t), lambda o, t: (o - t).abs().mean(1), flat),
        "metric error pairs every output with every target",
    ),
    "metric of all pairs by target": (
        regression(lambda o, t: F.mse_loss(o.squeeze(1), t), lambda o, t: (o - t).abs().mean(0), flat),
        "metric error pairs every output with every target",
    ),
    "metric of all pairs, broadcast by itself": (
        regression(squared, lambda o, t: (o - t.reshape(1, -1)).abs().mean(1)),
        "metric error gives an example another value in a batch of fewer examples",
    ),
    "metric in units of the batch": (
        regression(squared, lambda o, t: error(o, t) / t.std()),
        "metric error gives an example another value in a batch of fewer examples",
    ),
    "metric that ranks within the batch": (
        regression(squared, lambda o, t: (o[:, 0].argsort().argsort() - t[:, 0].argsort().argsort()).abs().float()),
        "metric error gives an example another value in a batch of fewer examples",
    ),
    "metric that is no number": (
        regression(squared, lambda o, t: error(o, t) * torch.nan),
        "metric error is NaN for 16 of the first 16 examples of the train split",
    ),
    "batch metric that is no number": (
        regression(squared, lambda o, t: (o - t).mean() * torch.nan),
        "metric error is NaN for the first batch of the train split",
    ),
    "metric that divides by zero": (
        regression(squared, lambda o, t: error(o, t) / t.squeeze(1).abs(), lambda y: y * (y != y.max())),
        r"metric error is NaN or infinite for example \d+ of the train split, whatever the output \(target 0\)",
    ),
}


@pytest.mark.parametrize("kind", WRONG_TASKS)
def test_tasks_that_break_it_are_refused_with_what_is_wanted(kind: str) -> None:
    data, message = WRONG_TASKS[kind]
    with pytest.raises(TombolaError, match=message) as caught:
        tried(line(), data=data)
    assert "\n" not in str(caught.value)


def test_a_metric_that_draws_is_let_be() -> None:
    tried(line(), data=regression(squared, lambda o, t: error(o, t) + torch.rand(len(o))))


LOSSES_ON_ONE_SIDE: dict[str, Measure] = {
    "absolute": F.l1_loss,
    "quantile": lambda o, t: torch.maximum(0.9 * (t - o), -0.1 * (t - o)).mean(),
    "linear beyond a margin": lambda o, t: F.huber_loss(o, t, delta=0.01),
    "one-sided": lambda o, t: (t - o).clamp(min=0).mean(),
}


@pytest.mark.parametrize("kind", LOSSES_ON_ONE_SIDE)
@pytest.mark.parametrize("shift", [100.0, -100.0, 0.0])
def test_losses_of_right_pairs_pass_wherever_the_first_outputs_lie(kind: str, shift: float) -> None:
    """Of outputs below all targets an absolute error is a difference of means, whichever belongs to which."""
    loss = LOSSES_ON_ONE_SIDE[kind]
    data = regression(lambda o, t: loss(o[:, 0], t), lambda o, t: loss(o[:, 0], t), lambda y: y[:, 0] + shift)
    tried(line(), data=data)


class Apart(nn.Module):
    """Its output does not hang together with its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = line()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x).detach().requires_grad_()
        return out


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("apart", ["network", "loss"])
def test_what_trains_nothing_is_refused(apart: str, name: str) -> None:
    def constant(o: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(o.detach(), t).requires_grad_(torch.is_grad_enabled())

    model, loss = (Apart(), squared) if apart == "network" else (line(), constant)
    with pytest.raises(TombolaError, match="no gradient of the loss reaches a parameter that is trained"):
        tried(model, method(name), data=regression(loss, error))


class Named(nn.Module):
    """A regression whose output is a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.body = line()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"value": self.body(x), "size": x.abs().mean()}


@pytest.mark.parametrize("wrong", ["loss", "metric"])
def test_all_pairs_are_met_in_mappings_too(wrong: str) -> None:
    def apart(what: str) -> Callable[[Any, Tensor], Tensor]:
        return lambda o, t: F.l1_loss(o["value"] if wrong == what else o["value"][:, 0], t)

    data = regression(apart("loss"), apart("metric"), lambda y: y[:, 0])
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(TombolaError, match=f"{wrong}.* pairs every output with every target"),
    ):
        tried(Named(), data=data)


def test_a_metric_that_turns_out_no_number_at_the_end_is_an_error_and_not_a_verdict() -> None:
    calls = []

    def fading(o: Tensor, t: Tensor) -> Tensor:
        calls.append(len(o))
        values = accuracy(o, t)
        return torch.where(torch.arange(len(o)) == 3, torch.nan, values) if len(calls) > 12 else values

    data = replace(splits(), task=Task(lambda o, t: F.cross_entropy(o, t), fading, "fading"))
    setup = trial.TrainingSetup(data, RECIPE, make_fabric("cpu"))
    with pytest.raises(TombolaError, match="metric fading is NaN or infinite for 1 of 12 test examples"):
        trial.run_trial(setup, mlp(), seed=0, label="")
