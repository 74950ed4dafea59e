"""What a run is called by: a finished one is handed out for the same experiment, and for no other."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.data.splits import Splits, Task, accuracy, classification, make_splits
from tombola.errors import TombolaError
from tombola.methods.base import Method
from tombola.methods.dense import DenseTraining
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.results.search import SearchResult
from tombola.runs.directory import canonical
from tombola.search.describe import describe
from tombola.search.find import find, run_find
from tombola.search.request import make_request
from tombola.study.verify import verify
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="2it", batch_size=8, optimizer="adam", lr=0.01, eval_every="1it")
METHOD = IterativePruning(density=0.5, rounds=1)


def data(task: Task | None = None, **more: Any) -> Splits:
    draw = torch.Generator().manual_seed(0)
    parts = [(torch.randn(n, 4, generator=draw), torch.arange(n) % 2) for n in (32, 8, 8)]
    return make_splits(*parts, task, name="toy", **more)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2))


def name(model: Any = None, splits: Splits | None = None, method: Any = METHOD, recipe: Recipe = RECIPE) -> str:
    """All that the run's name is made of."""
    splits = splits or data()
    return canonical(describe(make_request(model or net(), splits, method, recipe=recipe), splits))


def weighted(weight: float) -> Task:
    return Task(nn.CrossEntropyLoss(weight=torch.tensor([1.0, weight])), accuracy)


def right_on(label: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, target: (output.argmax(1) == target).float() * (target == label)


TASKS = {
    "plain": lambda: None,
    "class weights": lambda: weighted(2.0),
    "other class weights": lambda: weighted(3.0),
    "label smoothing": lambda: classification(0.1),
    "loss": lambda: Task(F.multi_margin_loss, accuracy),
    "options of the loss": lambda: Task(functools.partial(F.multi_margin_loss, p=2), accuracy),
    "metric": lambda: Task(F.cross_entropy, right_on(0)),
    "metric's closure": lambda: Task(F.cross_entropy, right_on(1)),
    "metric's name": lambda: Task(F.cross_entropy, accuracy, "agreement"),
    "direction": lambda: Task(F.cross_entropy, accuracy, higher_is_better=False),
    "loss of evaluation": lambda: Task(F.cross_entropy, accuracy, eval_loss=F.multi_margin_loss),
    "name": lambda: Task(F.cross_entropy, accuracy, name="v2"),
}


def test_each_part_of_the_task_gives_another_run() -> None:
    found = {key: name(splits=data(make())) for key, make in TASKS.items()}
    assert len(set(found.values())) == len(TASKS)
    assert found == {key: name(splits=data(make())) for key, make in TASKS.items()}


def test_the_standard_task_spelled_out_is_the_standard_task() -> None:
    assert name(splits=data(Task(F.cross_entropy, accuracy))) == name(splits=data())


def test_a_finished_run_is_not_handed_out_for_another_task_or_network(tmp_path: Path) -> None:
    def run(model: nn.Module, task: Task | None) -> SearchResult:
        return run_find(make_request(model, data(task), METHOD, recipe=RECIPE), tmp_path)

    first = run(net(), None)
    assert not first.reused
    assert run(net(), None) == first.replace(reused=True)
    other = run(net(), replace(weighted(9.0), metric_name="agreement"))
    assert (other.reused, other.metric) == (False, "agreement")
    frozen = net()
    frozen[0].weight.requires_grad_(False)  # type: ignore[index]
    assert not run(frozen, None).reused
    assert len({result.ticket for result in (first, other)}) == 2


def test_what_a_named_task_does_is_taken_on_trust() -> None:
    named = [Task(F.cross_entropy, right_on(label), "hits", name="v1") for label in (0, 1)]
    assert name(splits=data(named[0])) == name(splits=data(named[1]))
    assert name(splits=data(named[0])) != name(splits=data(replace(named[0], name="v2")))
    assert name(splits=data(named[0])) != name(splits=data(replace(named[0], metric_name="other")))


def test_what_cannot_be_looked_into_is_said_once_and_gives_one_name() -> None:
    def task() -> Task:
        kept = (i for i in "ab")
        return Task(F.cross_entropy, lambda output, target: accuracy(output, target) if kept else target)

    with pytest.warns(UserWarning, match=r"the task's metric holds .*generator.*kept.*Task\(\.\.\., name='v1'\)"):
        first = name(splits=data(task()))
    with pytest.warns(UserWarning, match="whose state cannot be read"):
        assert name(splits=data(task())) == first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        name(splits=data(replace(task(), name="v1")))


class Counting:
    """A metric that keeps a count: training changes it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return accuracy(output, target)


def test_a_metric_that_training_changes_does_not_change_the_name(tmp_path: Path) -> None:
    splits = data(Task(F.cross_entropy, Counting()))
    request = make_request(net(), splits, METHOD, recipe=RECIPE, replicates=2)
    first = run_find(request, tmp_path)
    assert run_find(request, tmp_path) == first.replace(reused=True)
    tickets = [Ticket.load(Path(first.run) / replicate.ticket) for replicate in first.replicates]
    assert tickets[0].provenance["task"] == tickets[1].provenance["task"] == splits.task.identity


# -- live networks


class Net(nn.Module):
    scale: float = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale


def test_settings_of_a_live_network_count() -> None:
    def changed(change: Callable[[Net], Any]) -> str:
        model = Net()
        change(model)
        return name(model)

    changes: list[Callable[[Net], Any]] = [
        lambda model: None,
        lambda model: setattr(model, "scale", 2.0),
        lambda model: model.fc.bias.requires_grad_(False),
        lambda model: model.fc.register_forward_hook(lambda module, given, output: output),
        lambda model: setattr(model, "forward", lambda x: model.fc(x)),
        lambda model: nn.init.zeros_(model.fc.weight),
        lambda model: model.fc.eval(),
    ]
    assert len({changed(change) for change in changes}) == len(changes)


def test_a_wrapped_network_is_the_network_within() -> None:
    assert name(nn.DataParallel(Net())) == name(Net())


# -- code by import path

MODULE = """
import torch
from torch import nn
SCALE = 1.0
class Net(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.fc = nn.Linear(input_shape[0], num_classes)
    def forward(self, x):
        return self.fc(x) * SCALE
def scores(context):
    return {name: w.abs() * SCALE for name, w in context.final.items()}
def penalty(weight):
    return weight.abs().sum() * SCALE
class Optimizer(torch.optim.SGD):
    def step(self, *args):
        return super().step(*args) if SCALE else None
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.syspath_prepend(tmp_path)

    def write(scale: str) -> None:
        (tmp_path / "my_parts.py").write_text(MODULE.replace("SCALE = 1.0", f"SCALE = {scale}"))
        sys.modules.pop("my_parts", None)
        importlib.invalidate_caches()

    return write


BY_PATH: dict[str, dict[str, Any]] = {
    "network": {"model": ModelSpec("my_parts.Net")},
    "criterion": {"method": replace(METHOD, criterion="my_parts.scores")},
    "penalty": {"recipe": replace(RECIPE, penalty="my_parts.penalty", strength=0.1)},
    "optimizer": {"recipe": replace(RECIPE, optimizer="my_parts.Optimizer")},
}


@pytest.mark.parametrize("part", BY_PATH)
def test_the_code_at_an_import_path_counts(part: str, mine: Callable[[str], None]) -> None:
    found = []
    for scale in ("1.0", "1.0", "2.00"):
        mine(scale)
        found.append(name(**BY_PATH[part]))
    assert found[0] == found[1] != found[2]


@dataclass(frozen=True)
class Mine(Method):
    """A method of the user's own, around one of Tombola's."""

    name: ClassVar[str] = "mine"
    loss: Any = F.cross_entropy

    def find(self, search: Any) -> Any:
        return DenseTraining().find(search)


class Other(Mine):
    def find(self, search: Any) -> Any:
        return DenseTraining().find(search)[-1:]


def test_a_method_of_the_users_own_counts_by_its_code_and_options() -> None:
    found = [name(method=method) for method in (Mine(), Other(), Mine(loss=F.multi_margin_loss))]
    assert len(set(found)) == 3
    assert found[0] == name(method=Mine())


def test_the_number_of_classes_counts() -> None:
    spec = ModelSpec("mlp")
    assert name(spec, data()) != name(spec, data(classes=5))


# -- two processes, and verify

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_run_names import *
class Local(nn.Module):
    kinds = {{"a", "b", "c"}}
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(4, 2)
    def forward(self, x):
        return self.fc(x) if len(self.kinds) else x
task = Task(nn.CrossEntropyLoss(weight=torch.ones(2)), lambda o, y: accuracy(o, y) * len({{"x", "y"}}), "hits")
print(name(Local(), data(task)))
"""


def test_two_processes_give_one_name(tmp_path: Path) -> None:
    found = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / f"script{seed}.py").write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        found.add(subprocess.check_output([sys.executable, f"script{seed}.py"], cwd=folder, env=environment))
    assert len(found) == 1
    assert json.loads(found.pop())["task"]["metric_name"] == "hits"


def test_verify_asks_for_the_task_that_the_ticket_was_found_with(tmp_path: Path) -> None:
    ticket = find(net(), data(), METHOD, recipe=RECIPE)
    more: dict[str, Any] = {"replicates": 1, "model": net()}
    for task, said in (
        (weighted(5.0), "another task: loss differs"),
        (Task(F.cross_entropy, right_on(1), "hits"), r"metric, metric_name differ \('accuracy' there, hits here\)"),
        (Task(F.cross_entropy, accuracy, higher_is_better=False), "higher_is_better differs"),
    ):
        with pytest.raises(TombolaError, match=said):
            verify(ticket, data(task), out=tmp_path, **more)
        assert not list(tmp_path.iterdir())
    assert verify(ticket, data(Task(F.cross_entropy, accuracy)), **more).metric == "accuracy"
    forced = verify(ticket, data(weighted(5.0)), options=Options(force=True), **more)
    assert forced.wins is None
    older = {key: value for key, value in ticket.provenance.items() if key != "task"}
    assert verify(replace(ticket, provenance=older), data(weighted(5.0)), **more).wins is None


def test_a_verification_is_not_handed_out_for_another_network_or_task(tmp_path: Path) -> None:
    ticket = find(net(), data(), METHOD, recipe=RECIPE)

    def run(model: nn.Module, task: Task | None = None) -> bool:
        options = Options(force=True)
        result = verify(ticket, data(task), replicates=1, model=model, options=options, out=tmp_path)
        return bool(result.reused)

    assert not run(net())
    assert run(net())
    other = net()
    other[1].p = 0.1  # type: ignore[index, assignment]
    assert not run(other)
    assert not run(net(), weighted(2.0))
