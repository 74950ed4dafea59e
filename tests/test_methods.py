"""One list of all methods, and what every method must do: a new one adds a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tombola as tb
from supermask_searches import KillAt, Killed, killed_at, splits, start_for
from supermask_searches import network as drawn_network
from tombola.cli.options import field_help
from tombola.levels.fitness import Fitness
from tombola.methods import METHODS, method_class
from tombola.methods.base import Method
from tombola.plain import as_plain
from tombola.results.search import SearchResult
from tombola.results.trial import LevelResult
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.train import trial
from tombola.train.evaluate import evaluate
from tombola.train.feeds import evaluation_feed
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from trial_results import untimed

ROOT = Path(__file__).parents[1]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("imp", {"density": 0.3, "rounds": 2}),
    ("imp", {"density": 0.4, "rounds": 1, "scope": "global", "rewind": "3it", "criterion": "snip"}),
    ("imp", {"pattern": "2:4", "rewind": "lr"}),
    ("imp", {"density": 0.3, "rounds": 2, "kept_action": "constant", "pruned_action": "zero_or_freeze_all"}),
    ("imp", {"density": 0.4, "rounds": 2, "rewind": "3it", "kept_action": "reinit", "pruned_action": "freeze_reinit"}),
    ("imp", {"density": 0.4, "rounds": 2, "pruned_action": "train", "retrain": {"lr": 0.01, "momentum": 0.5}}),
    ("imp", {"density": 0.4, "rounds": 2, "one_shot": True, "criterion": "random", "pruned_action": "freeze"}),
    ("imp", {"density": 0.4, "rounds": 1, "retrain": {"penalty": "hoyer", "strength": 0.001}}),
    ("at-init", {"density": 0.3}),
    ("at-init", {"density": 0.2, "criterion": "synflow", "iterations": 4}),
    ("at-init", {"criterion": "grasp", "temperature": 10.0, "scope": "layer", "shuffle": True}),
    ("at-init", {"density": 0.5, "criterion": "random", "layers": "erk", "pattern": "block:2"}),
    ("at-init", {"criterion": "magnitude", "layer_densities": {"*": 0.25, "4.*": 0.5}, "iterations": 2}),
    ("at-init", {"pattern": "2:4"}),
    ("at-init", {"density": 0.3, "criterion": "ntk-sap", "iterations": 2, "layers": "uniform"}),
    ("at-init", {"density": 0.3, "criterion": "px", "iterations": 3}),
    ("early-bird", {"density": 0.5, "watch": [0.25], "draw_at": "5it"}),
    ("early-bird", {"density": 0.75, "retrain": "scratch", "stop_when_stable": False, "pressure": 0.01}),
    (
        "early-bird",
        {"density": 0.5, "detector": "displacement", "stable_distance": 2.0, "search_precision": "bf16-mixed"},
    ),
    ("edge-popup", {"density": 0.3, "scope": "global", "train_norms": True}),
    ("edge-popup", {"density": 0.1, "anneal": "6it"}),
    ("edge-popup", {"density": 0.4, "frozen": 0.7}),
    ("edge-popup", {"pattern": "2:4"}),
    ("iterand", {"density": 0.3, "every": "3it", "probability": 0.5}),
    ("multicoat", {"densities": [0.5, 0.2]}),
    ("gem-miner", {"density": 0.2, "freeze_every": "3it", "finetune": "18it"}),
    ("concrete", {"density": 0.3, "search": "7it", "rewind": "3it"}),
    ("concrete", {"density": 0.4, "search": "17it", "loss": "task", "scope": "layer", "search_lr": 0.3}),
    ("signed-supermask", {"threshold": 0.05}),
    ("learned-mask", {"rescale": True}),
    ("learned-mask", {"rule": "threshold", "logit": 0.002, "finetune": "18it", "finetune_lr": 0.05}),
    ("learned-mask", {"weights": "signed_constant"}),
    ("learned-mask", {"hand_on": "best"}),
    ("learned-mask", {"rule": "intermediate", "sampling_step": 50.0}),
    ("learned-mask", {"rule": "threshold", "density": 0.3, "logit": 0.01, "finetune": "18it", "finetune_lr": 0.05}),
    ("learned-mask", {"density": 0.6, "reached_at": 1.0}),
    ("learned-mask", {"rule": "intermediate", "sampling_raw": True, "biases": True}),
    ("joint", {"density": 0.4, "weights_first": "2it", "freeze_scores": 0.3, "score_lr": 0.3}),
    ("joint", {"density": 0.4, "scores_first": "3it", "weight_gradient": "sr-ste"}),
    ("joint", {"density": 0.4, "weights": "binary", "activations": "binary"}),
    ("multi-prize", {"density": 0.3, "norms": "tuned", "tune": "18it"}),
    ("multi-prize", {"density": 0.3, "scope": "global", "activations": "binary", "norms": "trained"}),
    ("continuous", {"rounds": 2, "logit": 0.01, "rewind": "3it"}),
    ("continuous", {"rounds": 2, "score_lr": 0.2, "rewind_rounds": True, "mask_penalty": 1e-4}),
    ("sign-transfer", {}),
    ("sign-transfer", {"signs": "origin"}),
    ("random-search", {"density": 0.3, "scope": "global", "examples": 20, "budget": 900}),
    ("anneal", {"density": 0.3, "examples": 20, "budget": 900}),
    ("evolve", {"density": 0.4, "examples": 9, "budget": 300, "population": 6, "elite": 1, "finetune": "18it"}),
    ("dense", {}),
    ("dense", {"hand_on": "best"}),
    ("binary-weights", {"per_channel": True}),
    ("examples.snip.Snip", {"density": 0.3, "batches": 2}),
    ("examples.taylor.Taylor", {"density": 0.4, "batches": 1}),
]
RECIPE = Recipe(length="18it", batch_size=8, lr=0.05, momentum=0.9, eval_every="6it")
OPTIONS = Options(checkpoint_seconds=0, progress=False)

each = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name} {options}" for name, options in CASES])


@pytest.fixture(autouse=True)
def examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("runs")
    whole.cache_clear()


def network() -> torch.nn.Module:
    """The same network each time; the global generator is left as it was."""
    with torch.random.fork_rng():
        return drawn_network()


def made(name: str, options: dict[str, Any]) -> Method:
    return method_class(name)(**options)


def run(method: Method, out: Path) -> SearchResult:
    return run_find(
        make_request(network(), splits(), method, recipe=RECIPE, options=OPTIONS, start=start_of(method)), out
    )


@cache
def start_of(method: Method) -> tb.Ticket | None:
    return start_for(method.name, network(), splits())


@cache
def whole(method: Method, out: Path) -> SearchResult:
    """The run of a method, made once for all tests."""
    return run(method, out)


def test_every_method_has_a_line() -> None:
    assert set(METHODS) <= {name for name, _ in CASES}


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_every_option_has_its_help(name: str) -> None:
    kind = method_class(name)
    assert kind.__doc__
    assert all(field_help(kind).values())


@each
def test_options_come_back_from_plain_values(name: str, options: dict[str, Any]) -> None:
    method = made(name, options)
    assert type(method)(**json.loads(json.dumps(as_plain(method)))) == method
    assert hash(method) == hash(made(name, options))


@each
def test_its_density_is_exact(name: str, options: dict[str, Any], runs: Path) -> None:
    method = made(name, options)
    mask = tb.Ticket.load(whole(method, runs).ticket).mask
    if options.get("pattern") == "2:4":
        assert mask.counts() == {name: (two_of_four(keep), keep.numel()) for name, keep in mask.items()}
    elif name == "early-bird":
        channels = whole(method, runs).replicates[0].levels[-1].channels
        assert channels is not None
        assert channels.kept == round(options["density"] * channels.total)
        assert mask["0.weight"].flatten(1).all(1).sum() == channels.kept
    elif method.density is not None and (method.scope == "global" or name in WHOLE):
        assert mask.kept == round(method.density * mask.total)
    elif method.density is not None:
        assert all(kept == round(method.density * total) for kept, total in mask.counts().values())
    else:
        assert (0 < mask.kept < mask.total) == (name not in ("dense", "binary-weights"))


KILLED_AT = {"random-search": 3, "anneal": 20, "evolve": 3}
"""Methods that search without training -> the evaluation at which they are killed."""
WHOLE = ("imp", "at-init", "examples.snip.Snip", "examples.taylor.Taylor")
"""Methods whose density holds over the network whatever the scope."""


def two_of_four(keep: Tensor) -> int:
    """Of every four inputs two, of what is left over at the end half."""
    rows, inputs = keep.flatten(1).shape
    return rows * (inputs // 4 * 2 + round(inputs % 4 / 2))


@each
def test_its_levels_are_typed_and_nested_in_the_network(name: str, options: dict[str, Any], runs: Path) -> None:
    result = whole(made(name, options), runs)
    levels = result.replicates[0].levels
    assert levels
    assert all(isinstance(level, LevelResult) for level in levels)
    assert [level.level for level in levels] == list(range(levels[0].level, levels[0].level + len(levels)))
    assert result.method == name
    assert result.density == levels[-1].density


@each
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    name: str, options: dict[str, Any], runs: Path
) -> None:
    method = made(name, options)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    start = start_of(method)
    ticket = tb.find(network(), splits(), method, recipe=RECIPE, start=start)
    assert ticket.to_bytes() == Path(whole(method, runs).ticket).read_bytes()
    other = tb.find(network(), splits(), method, recipe=RECIPE, seed=1, start=start)
    assert other != ticket
    assert torch.equal(torch.get_rng_state(), before)


@each
def test_a_killed_search_ends_bit_for_bit_as_if_never_killed(
    name: str, options: dict[str, Any], runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(name, options)
    expected, real, trainings = whole(method, runs), trial.train, [0]

    def train(*args: Any, hooks: Any = (), **more: Any) -> Any:
        trainings[0] += 1
        last = trainings[0] == len(expected.replicates[0].levels)
        return real(*args, hooks=(*hooks, KillAt(17)) if last else hooks, **more)

    with monkeypatch.context() as patched:
        patched.setattr(trial, "train", train)
        if name in KILLED_AT:
            patched.setattr(Fitness, "__call__", killed_at(KILLED_AT[name]))
        with pytest.raises(Killed):
            run(method, tmp_path)
    assert list(tmp_path.rglob("checkpoint.pt"))
    resumed = run(method, tmp_path)
    assert Path(resumed.ticket).read_bytes() == Path(expected.ticket).read_bytes()
    ours, theirs = ([untimed(level) for level in r.replicates[0].levels] for r in (resumed, expected))
    assert ours == theirs
    assert run(method, tmp_path).reused


@each
def test_its_ticket_builds_what_was_tested_and_is_verified(name: str, options: dict[str, Any], runs: Path) -> None:
    result = whole(made(name, options), runs)
    ticket = tb.Ticket.load(result.ticket)
    model, data = ticket.build(model=network()), splits()
    feed = evaluation_feed(data, data.test, torch.device("cpu"), False)
    assert evaluate(model, feed, data.task).metric == result.test_accuracy
    begun = ticket.build("origin", model=network()).state_dict()
    for name_of, keep in ticket.mask.items():
        value = model.state_dict()[name_of]
        held = torch.equal(value[~keep], begun[name_of][~keep])
        assert held == (options.get("pruned_action") != "train")
        assert options.get("pruned_action") or torch.equal(value * keep, value)
    found = tb.verify(ticket, data, model=network(), replicates=1, recipe=RECIPE, options=OPTIONS)
    assert set(found.arms) == {"ticket", "dense", "random", "reinit"} or ticket.density == 1
