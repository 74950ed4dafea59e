"""Every JSON that a command prints, and every result.json, says its schema, the version and how was trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import tombola
from cli_calls import last_json
from tombola.bench.bench import Benchmark
from tombola.cli import all_verbs
from tombola.data.splits import Splits, Task, make_splits
from tombola.methods import METHODS
from tombola.models.registry import build_network
from tombola.results.codec import typed
from tombola.results.search import SearchResult
from tombola.results.verification import VerificationResult
from tombola.runs.record import SCHEMA, named, shared, stamped, unstamped
from tombola.runs.stage import Stage

QUICK = ["--length", "2it", "--eval_every", "2it", "--batch_size", "32"]
DIGITS = ["--data", "digits", "--model", "mlp", *QUICK]
METHOD = {
    "imp": ["--rounds", "1"],
    "gem-miner": ["--freeze_every", "1it"],
    "concrete": ["--search", "2it"],
    **{name: ["--budget", "10000"] for name in ("anneal", "evolve", "random-search")},
}
ONCE = ["--replicates", "1"]


def error(output: Tensor, target: Tensor) -> Tensor:
    return (output.flatten(1).mean(1) - target).square()


def regression(root: str, seed: int) -> Splits:
    """Inputs and their mean, with a metric that is better when lower."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(120, 64, generator=draw)
    parts = [(x[a:b], x[a:b].mean(1)) for a, b in ((0, 60), (60, 90), (90, 120))]
    task = Task(lambda o, t: error(o, t).mean(), error, "error", higher_is_better=False, name="json-1")
    return make_splits(parts[0], parts[1], parts[2], task)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(runs: Path) -> dict[str, Any]:
    return last_json("find", "imp", *DIGITS, "--density", "0.5", "--rounds", "1", "--out", str(runs))


class Deployed:
    """As much of a deployed network as the command reads."""

    compacted: Any = None

    @property
    def plan(self) -> Any:
        return SimpleNamespace(save=lambda path: None)

    @property
    def report(self) -> Any:
        return SimpleNamespace(as_dict=dict)


Words = Callable[[dict[str, Any], Path], list[str]]


def on_digits(*more: str) -> Words:
    return lambda found, runs: [*DIGITS, *more, "--out", str(runs)]


def arms_file(found: dict[str, Any], runs: Path) -> list[str]:
    file = runs / "arms.yaml"
    file.write_text("[{name: dense, method: dense}, {name: mask, method: edge-popup, recipe: {lr: 0.5}}]")
    return [*DIGITS, *ONCE, "--arms", str(file), "--out", str(runs)]


def sweep_file(found: dict[str, Any], runs: Path) -> list[str]:
    file = runs / "grid.yaml"
    file.write_text("{model: mlp, recipe: {length: 2it, batch_size: 32}, rounds: 1, grid: {density: [0.5]}}")
    return [str(file), "--jobs", "1", "--out", str(runs)]


def checkpoints(runs: Path) -> list[str]:
    states = {"base": {"w": torch.eye(4)}, "tuned": {"w": 2 * torch.eye(4)}}
    for name, state in states.items():
        safetensors.torch.save_file(state, runs / f"{name}.safetensors")
    return [str(runs / f"{name}.safetensors") for name in states]


def trained(runs: Path) -> list[str]:
    model = build_network("mlp", input_shape=(1, 8, 8), classes=10)
    safetensors.torch.save_file(model.state_dict(), runs / "trained.safetensors")
    return ["mlp", "--checkpoint", str(runs / "trained.safetensors"), "--density", "0.5", "--samples", "20"]


def packed(runs: Path) -> str:
    checkpoints(runs)
    tombola.pack({"w": torch.eye(4)}).save(runs / "packed.ticket")
    return str(runs / "packed.ticket")


def differing(runs: Path) -> list[str]:
    base, _ = checkpoints(runs)
    tombola.delta({"w": torch.eye(4)}, {"w": 2 * torch.eye(4)}).save(runs / "x.delta")
    return [str(runs / "x.delta"), base]


COMMANDS: dict[tuple[str, ...], Words] = {
    **{("find", name): on_digits(*METHOD.get(name, [])) for name in METHODS},
    ("find", "sign-transfer"): lambda found, runs: on_digits("--start", found["ticket"])(found, runs),
    ("sweep",): sweep_file,
    ("study", "curve", "imp"): on_digits(*ONCE, "--levels", "1"),
    ("study", "compare"): arms_file,
    ("study", "mask-init"): on_digits(*ONCE),
    ("study", "mask-init-steps"): on_digits(*ONCE, "--rates", "[0.01]", "--length", "4it", "--eval_every", "1it"),
    ("study", "regularisation"): on_digits(*ONCE, "--decays", "[]", "--dropouts", "[0.5]", "--eval_every", "1it"),
    ("study", "joint"): on_digits(*ONCE, "--densities", "[0.5]"),
    ("study", "binary"): on_digits(*ONCE, "--densities", "[0.5]"),
    ("study", "early-bird"): on_digits(*ONCE, "--densities", "[0.5]", "--draw_at", "[1it]"),
    ("study", "stop-when-stable"): on_digits(*ONCE, "--rounds", "2"),
    ("study", "mask-rules"): on_digits(*ONCE, "--density", "0.5"),
    ("study", "rewind-schedule"): on_digits(*ONCE, "--densities", "[0.5]", "--warmup", "1it"),
    ("study", "search-budget"): on_digits(*ONCE, "--densities", "[0.5]", "--budget", "2000", "--examples", "100"),
    ("study", "at-init"): on_digits(*ONCE, "--densities", "[0.5]", "--criteria", "[snip]", "--rounds", "1"),
    ("study", "deconstruct"): on_digits(*ONCE, "--criteria", "[random]", "--levels", "1"),
    ("study", "untrained"): on_digits(*ONCE, "--criteria", "[random]", "--levels", "1"),
    ("study", "connectivity"): on_digits(*ONCE, "--from_steps", "[init]", "--rounds", "1", "--points", "3"),
    ("study", "landscape"): on_digits(*ONCE, "--rounds", "1", "--criteria", "[random]", "--probes", "1"),
    ("study", "overlap"): on_digits(*ONCE, "--imp", "{rounds: 1}"),
    ("study", "initialisations"): on_digits(*ONCE, "--imp", "{rounds: 1}", "--inits", "[kaiming_normal]"),
    ("study", "regime"): lambda found, runs: [found["run"], "--out", str(runs)],
    ("study", "double-descent"): lambda found, runs: [*ONCE, "--features", "[5, 9]", "--out", str(runs)],
    ("verify",): lambda found, runs: [found["ticket"], *ONCE, *QUICK[:2], "--out", str(runs)],
    ("info",): lambda found, runs: [found["ticket"]],
    ("export",): lambda found, runs: [found["ticket"], "--out", str(runs / "net.pt")],
    ("deploy",): lambda found, runs: [found["ticket"], "--out", str(runs / "deployed"), "--formats", "[state_dict]"],
    ("bench",): lambda found, runs: [found["ticket"], "--batch", "1", "--engines", "[eager]", "--rounds", "1"],
    ("prune",): lambda found, runs: [*trained(runs), "--out", str(runs / "pruned.ticket")],
    ("sensitivity",): lambda found, runs: [*trained(runs)[:3], "--densities", "[0.5]", "--samples", "20"],
    ("pack",): lambda found, runs: [checkpoints(runs)[0], "--out", str(runs / "made.ticket")],
    ("unpack",): lambda found, runs: [packed(runs), "--out", str(runs / "unpacked.safetensors")],
    ("delta",): lambda found, runs: [*checkpoints(runs), "--out", str(runs / "made.delta")],
    ("apply",): lambda found, runs: [*differing(runs), "--out", str(runs / "applied.safetensors")],
    ("push",): lambda found, runs: [found["ticket"], "me/network"],
    ("report",): lambda found, runs: [found["run"], "--out", str(runs / "page")],
    ("reproduce",): lambda found, runs: [],
    ("runs",): lambda found, runs: ["--out", str(runs)],
    ("completion",): lambda found, runs: ["bash"],
    ("demo",): lambda found, runs: ["--out", str(runs / "demo")],
}

OF_CHECKPOINTS = {("prune",), ("sensitivity",), ("pack",), ("unpack",), ("delta",), ("apply",)}
MEASURED = {("study", "double-descent")}
"""Studies that compare no arms, and train no network by a recipe."""


def test_every_command_is_here() -> None:
    assert set(COMMANDS) == {verb.words for verb in all_verbs()}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_command_says_it(
    words: tuple[str, ...], found: dict[str, Any], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words == ("demo",):  # the searches of a real one take a minute
        from tombola.study.demo import Demo

        verdict = last_json("verify", found["ticket"], *ONCE, *QUICK[:2], "--out", str(runs))
        monkeypatch.setattr(
            "tombola.study.demo.run_demo",
            lambda *args: Demo(typed(SearchResult, found, runs), typed(VerificationResult, verdict, runs)),
        )
    # pages and kernels have tests of their own
    monkeypatch.setattr("tombola.report.page.write_report", lambda *args: SimpleNamespace(html="x.html", figures=[]))
    monkeypatch.setattr(import_module("tombola.deploy.deploy"), "deploy", lambda *args, **more: Deployed())
    monkeypatch.setattr(import_module("tombola.deploy.export"), "export", lambda *args, **more: {})
    monkeypatch.setattr("tombola.ticket.hub.push", lambda *args, **more: "https://hub/commit/1")
    monkeypatch.setattr("tombola.runs.atomic.write_json", lambda *args: None)
    monkeypatch.setattr("tombola.bench.bench.bench", lambda *args, **more: Benchmark(1, 1, (), (), 1, 1, {}))
    said = last_json(*words, *COMMANDS[words](found, runs))
    assert (said["schema"], said["tombola"]) == (SCHEMA, tombola.__version__)
    if words in (("runs",), ("reproduce",), ("completion",), ("sweep",), *OF_CHECKPOINTS):
        assert said["recipe"] is None
        assert all(run["recipe"]["length"] == "2it" for run in said.get("runs", ()) if "recipe" in run["config"])
    elif words in MEASURED:
        assert said["recipe"] is None
        assert {"sentence", "replicates", "run"} <= said.keys()
    else:
        assert said["recipe"]["batch_size"] == 32
        assert said["recipe"].get("length", "2it") == "2it"  # not all arms of mask-init are as long
    if words[0] in ("find", "study", "verify") and words not in MEASURED:
        assert {"metric", "parameters"} <= said.keys()
        assert said["parameters"]["prunable"] == 17_024
        assert said["parameters"]["total"] >= 17_226


def test_tickets_of_any_two_runs_have_no_one_recipe(found: dict[str, Any]) -> None:
    said = last_json("study", "overlap", "--tickets", found["ticket"], found["ticket"])
    assert (said["schema"], said["recipe"]) == (SCHEMA, None)


def results(folder: Path) -> Iterator[dict[str, Any]]:
    for file in folder.rglob("result.json"):
        yield json.loads(file.read_text())


def test_every_result_says_it(found: dict[str, Any], runs: Path) -> None:
    there = list(results(Path(found["run"])))
    assert len(there) == 3  # the run and its levels
    for result in there:
        assert list(result)[:3] == ["schema", "tombola", "recipe"]
        assert result["recipe"]["length"] == "2it"
        assert result["metric"] == "accuracy"
        assert "test_metric" not in result


# ---- another metric than accuracy


def pairs(value: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(key, value, the object it stands in) of every key about accuracy, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            if re.search(r"(train|val|test)_accuracy", key):
                yield key, item, value
            yield from pairs(item)
    elif isinstance(value, list):
        for item in value:
            yield from pairs(item)


def test_figures_of_another_metric_are_called_by_its_own_key(tmp_path: Path) -> None:
    data = ["--data", "test_json.regression", "--model", "mlp", *QUICK]
    data += ["--out", str(tmp_path)]
    search = last_json("find", "imp", *data, "--density", "0.5", "--rounds", "1")
    again = last_json("find", "imp", *data, "--density", "0.5", "--rounds", "1")
    assert again == {**search, "reused": True}
    assert search["metric"] == "error"
    assert search["test_metric"] == search["test_accuracy"]
    assert search["dense_test_metric"] == search["dense_test_accuracy"]
    arms = tmp_path / "arms.yaml"
    arms.write_text("[{name: dense, method: dense}, {name: mask, method: learned-mask}]")
    said = [
        search,
        last_json("study", "curve", "imp", *data, *ONCE, "--levels", "1"),
        last_json("study", "compare", *data, *ONCE, "--arms", str(arms)),
        last_json("verify", search["ticket"], *ONCE, "--data", "test_json.regression", "--out", str(tmp_path)),
        last_json("runs", "--out", str(tmp_path)),
    ]
    for result in [*said, *results(tmp_path)]:
        keys = set()
        for key, value, place in pairs(result):
            keys.add(key)
            assert place[key.replace("_accuracy", "_metric")] == value, key
        assert keys, result
    text = json.dumps(said[2])
    for key in ("val_metric", "train_metric_eval", "test_metric_sampled", "val_metric_sampled"):
        assert f'"{key}"' in text, key


def test_the_library_gives_what_the_file_holds(tmp_path: Path) -> None:
    from tombola.search.find import run_find
    from tombola.search.request import make_request

    recipe = {"length": "2it", "eval_every": "2it", "train_eval": 10}
    request = make_request("mlp", "test_json.regression", {"density": 0.5, "rounds": 1}, recipe=recipe)
    fresh = run_find(request, tmp_path)
    assert run_find(request, tmp_path) == fresh.replace(reused=True)
    assert fresh.headed()["test_metric"] == fresh.as_dict()["replicates"][0]["arms"]["ticket"][-1]["test_metric"]


# ---- by hand


def test_named_by_hand() -> None:
    assert named({"metric": "accuracy", "test_accuracy": 1}) == {"metric": "accuracy", "test_accuracy": 1}
    result = {"test_accuracy": 1, "in": [{"metric": "f1", "dense_test_accuracy": 2, "x": {"val_accuracy_sampled": 3}}]}
    assert named(result) == {
        "test_accuracy": 1,
        "in": [
            {
                "metric": "f1",
                "dense_test_accuracy": 2,
                "dense_test_metric": 2,
                "x": {"val_accuracy_sampled": 3, "val_metric_sampled": 3},
            }
        ],
    }
    assert named(named(result)) == named(result)
    assert named({"metric": "f1", "accuracy": [1]}) == {"metric": "f1", "accuracy": [1]}


def test_stamps_come_off_again(tmp_path: Path) -> None:
    result = {"metric": "f1", "test_accuracy": 0.5, "recipe": {"lr": 0.1}}
    Stage(tmp_path).finish(result)
    assert Stage(tmp_path).result() == {**result, "test_metric": 0.5}
    assert unstamped(stamped(result)) == {**result, "test_metric": 0.5}
    assert stamped({})["recipe"] is None


def test_what_recipes_share() -> None:
    assert shared([{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1}]) == {"a": 1}
