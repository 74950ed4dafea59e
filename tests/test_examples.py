"""The methods of examples/: short, of public parts, found from the repository, and what their papers say."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from cli_calls import last_json
from tombola.data.splits import make_splits
from tombola.methods import method_class
from tombola.train.feeds import training_feed

ROOT = Path(__file__).parents[1]
EXAMPLES = {"examples.snip.Snip": 1, "examples.taylor.Taylor": 2}
X = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 3
RECIPE = tb.Recipe(length="6it", batch_size=10, lr=0.1, eval_every="6it")


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    monkeypatch.chdir(ROOT)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.py")), ids=lambda file: file.name)
def test_it_is_short_and_of_public_parts(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) < 60
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in nodes for alias in node.names]
    homes = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert not [part for name in (*names, *homes) for part in name.split(".") if part.startswith("_")]


@pytest.mark.parametrize("path", EXAMPLES)
def test_it_is_found_from_the_repository(path: str, tmp_path: Path) -> None:
    tiny = ["--length", "8it", "--eval_every", "8it", "--out", str(tmp_path)]
    found = last_json("find", path, "--model", "mlp", "--data", "digits", "--density", "0.3", *tiny)
    assert found["density"] == pytest.approx(0.3, abs=1e-4)
    assert len(found["replicates"][0]["arms"]["ticket"]) == EXAMPLES[path]
    assert Path(found["run"]).name.startswith(f"{path}-mlp-digits-")


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    splits = make_splits((X, Y), (X, Y), (X, Y))
    feed = training_feed(splits, RECIPE, torch.device("cpu"), False).epoch(0, 0)
    return [next(feed) for _ in range(count)]


def gradients(model: nn.Module, count: int) -> list[Tensor]:
    loss = torch.stack([F.cross_entropy(model(x), y) for x, y in batches(count)]).mean()
    return list(torch.autograd.grad(loss, [model[0].weight, model[2].weight]))


def kept(scores: list[Tensor], density: float) -> list[Tensor]:
    every = torch.cat([score.flatten() for score in scores])
    least = every.sort(descending=True).values[round(density * len(every)) - 1]
    return [score >= least for score in scores]


def test_snip_keeps_the_largest_products_of_gradient_and_weight_at_the_start() -> None:
    ticket = tb.find(network(), ((X, Y), (X, Y), (X, Y)), method_class("examples.snip.Snip")(0.4, 2), recipe=RECIPE)
    model = network()
    scores = [(g * w).abs() for g, w in zip(gradients(model, 2), (model[0].weight, model[2].weight), strict=True)]
    assert [part.tolist() for part in ticket.mask.values()] == [part.tolist() for part in kept(scores, 0.4)]


def test_taylor_keeps_them_at_the_trained_weights_and_trains_on() -> None:
    data = ((X, Y), (X, Y), (X, Y))
    dense = tb.find(network(), data, "dense", recipe=RECIPE).build(model=network())
    ticket = tb.find(network(), data, method_class("examples.taylor.Taylor")(0.4, 1), recipe=RECIPE)
    weights = (dense[0].weight, dense[2].weight)
    scores = [(g * w).square() for g, w in zip(gradients(dense, 1), weights, strict=True)]
    assert [part.tolist() for part in ticket.mask.values()] == [part.tolist() for part in kept(scores, 0.4)]
    start = ticket.build("origin", model=network())
    for name, keep in ticket.mask.items():
        assert torch.equal(start.state_dict()[name], dense.state_dict()[name] * keep)
