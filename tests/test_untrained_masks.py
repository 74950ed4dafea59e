"""study untrained: masks drawn from trained networks, tested on weights that nothing trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.cli import main
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.errors import TombolaError
from tombola.levels.untrained import WEIGHTS
from tombola.mask import Mask
from tombola.methods.imp import IterativePruning
from tombola.methods.untrained_mask import WEIGHTS as NAMES
from tombola.methods.untrained_mask import UntrainedMask
from tombola.results.comparison import ComparisonResult
from tombola.runs.stage import OUTCOMES
from tombola.study import grid_study
from tombola.study.deconstruct import run_untrained
from tombola.study.grid import MaskGrid, mask_searches_of
from tombola.study.untrained import is_untrained
from tombola.train.norms import renew_norm_statistics
from tombola.train.options import Options
from tombola.train.recipe import Recipe

DIGITS = load_data(DataSpec("digits"))
QUICK = {"length": "4ep", "lr": 0.1, "momentum": 0.9, "batch_size": 60}
GRID = MaskGrid(("large_final_same_sign",))


def tried(out: Path, grid: MaskGrid = GRID, **more: Any) -> ComparisonResult:
    given = {"pruning": {"levels": 3}, "recipe": QUICK, "replicates": 2, "options": Options(threads=1), **more}
    return run_untrained(grid, more.pop("model", "mlp"), "digits", out, **given)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ComparisonResult:
    return tried(tmp_path_factory.mktemp("runs"))


def accuracy(model: nn.Module) -> float:
    """By hand, over the whole test split."""
    model.eval()
    with torch.no_grad():
        x, y = DIGITS.test.x, DIGITS.test.y
        assert x.dtype == torch.float32
        return float((model(x).argmax(1) == y).double().mean())


def test_signed_constants_are_the_layers_standard_deviation_by_hand() -> None:
    weights = {"a": torch.tensor([1.0, -3.0, 0.0, 2.0]), "b": torch.tensor([2.0, -2.0])}
    mask = Mask({"a": torch.tensor([True, True, True, False]), "b": torch.tensor([True, True])})
    found = WEIGHTS["signed_constant"](weights, mask)
    size = 3.5**0.5  # of all four, kept or not: mean 0, mean square (1 + 9 + 0 + 4) / 4
    assert found.apply("a", weights["a"]).tolist() == pytest.approx([size, -size, 0.0, size])
    assert found.apply("b", weights["b"]).tolist() == [2.0, -2.0]
    assert WEIGHTS["init"](weights, mask).apply("a", weights["a"]) is weights["a"]
    assert tuple(WEIGHTS) == NAMES


def test_masks_alone_are_tested_as_their_tickets_build_them(result: ComparisonResult) -> None:
    run = Path(str(result.run))
    assert len(result.arms) == 1 + 2 * 2 * 3
    for arm in result.arms[1:]:
        for levels in arm.replicates:
            dense, level = levels
            assert (dense.level, dense.density, level.steps) == (0, 1.0, 0)
            ticket = tb.Ticket.load(run / str(level.ticket))
            assert is_untrained(ticket)
            built = ticket.build("origin")
            assert accuracy(built) == pytest.approx(level.test_accuracy, abs=1e-6)
            assert all(map(torch.equal, built.state_dict().values(), ticket.build("final").state_dict().values()))
            assert (run / level.metrics).is_file()
            assert (run / level.metrics).with_name(OUTCOMES).is_file()
    constant = next(arm for arm in result.arms if arm.series == "large_final_same_sign / signed_constant")
    weight = next(iter(tb.Ticket.load(run / str(constant.replicates[0][1].ticket)).build().parameters()))
    assert len(weight.abs().unique()) == 2  # 0 and one size


def test_each_mask_is_compared_with_a_random_one_of_its_density_on_its_weights(result: ComparisonResult) -> None:
    arms = {arm.name: arm for arm in result.arms}
    compared = {x.arm: x for x in result.comparisons}
    ours = [arm for arm in result.arms if arm.series.startswith("large_final_same_sign")]
    assert len(ours) == 6
    for arm in ours:
        other = arms[compared[arm.name].against]
        assert other.series == f"random / {arm.series.rpartition(' ')[2]}"
        assert compared[arm.name].paired
        for mine, theirs in zip(arm.last_levels, other.last_levels, strict=True):
            assert [layer.kept for layer in mine.layers] == [layer.kept for layer in theirs.layers]
    assert result.references == ("random / init", "random / signed_constant")
    # layer rates of the paper: 0.8 to the power of the level, 0.9 in the output layer
    sparsest = ours[2].last_levels[0].layers
    shares = [layer.density for layer in sparsest]
    assert shares == pytest.approx([0.8**3] * (len(shares) - 1) + [0.9**3], abs=1e-3)


def test_the_best_density_is_chosen_on_the_validation_split(result: ComparisonResult) -> None:
    assert len(result.chosen) == 4
    for series, arms in result.families.items():
        if series != "dense":
            best = max(arms, key=lambda arm: (arm.val_accuracy.mean or 0.0, -arm.plotted))
            assert best.name in result.chosen
    # nothing but the validation split counts
    worse = [
        arm.replace(val_accuracy=arm.val_accuracy.replace(values=tuple(-(x or 0.0) for x in arm.val_accuracy.values)))
        for arm in result.arms
    ]
    others = grid_study._chosen(result.replace(arms=tuple(worse)))
    assert set(others) != set(result.chosen)


def test_the_dense_networks_are_those_of_imp(result: ComparisonResult) -> None:
    ours = result.arms[0].replicates[0][0]
    method = IterativePruning(levels=0)
    alone = tb.search.find.search(
        tb.search.request.make_request("mlp", "digits", method, recipe=QUICK, options=Options(threads=1))
    )
    assert (ours.test_loss, ours.val_loss) == (alone[0].result.test_loss, alone[0].result.val_loss)


def test_densities_are_met_exactly(tmp_path: Path) -> None:
    grid = MaskGrid(("movement",), ("init",), densities=(0.3, 0.05))
    result = tried(tmp_path, grid, pruning=None, replicates=1)
    kept = [level.kept for arm in result.arms[1:3] for level in arm.last_levels]
    assert kept == [round(density * (result.arms[0].prunable or 0)) for density in (0.3, 0.05)]
    with pytest.raises(TombolaError, match="densities are given, and density or levels too"):
        tried(tmp_path, grid)


def test_without_a_word_on_density_there_are_twenty_levels() -> None:
    searches = mask_searches_of(MaskGrid(), IterativePruning(), Recipe())
    assert {search.arm.method.levels for search in searches} == {20}  # type: ignore[attr-defined]
    assert [search.against for search in searches[:3]] == [None, None, "random / init"]
    assert len(searches) == 5 * 2


def test_norms_take_their_statistics_anew(tmp_path: Path) -> None:
    data = ((torch.randn(64, 4) + 3, torch.arange(64) % 2),) * 3
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    found = tb.search.find.search(
        tb.search.request.make_request(
            model, data, UntrainedMask(density=0.5, rounds=1), recipe={"length": "1ep", "batch_size": 32}
        )
    )
    built = found[1].ticket.build(model=model)
    assert found[1].result.steps == 0
    assert not torch.equal(built[1].running_mean, model[1].running_mean)
    assert torch.equal(built[1].weight, model[1].weight)
    again = found[1].ticket.build("origin", model=model)
    assert torch.equal(again[0].weight, built[0].weight)
    assert callable(renew_norm_statistics)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"weights": ("final",)}, "unknown weights 'final'"),
        ({"weights": ()}, "weights is ()"),
        ({"criteria": ("random", "random")}, "twice"),
    ],
)
def test_what_cannot_be_tested_is_refused(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(TombolaError) as error:
        MaskGrid(**grid)
    assert message in str(error.value)


def test_an_unknown_criterion_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match="unknown criterion 'largest'"):
        tried(tmp_path, MaskGrid(("largest",)))
    assert not list(tmp_path.iterdir())


def test_the_command_says_the_best_density_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "untrained", "--data", "digits", "--model", "mlp", "--criteria", "large_final", "--weights"]
    words += ["init", "--levels", "2", "--replicates", "3", "--length", "1ep", "--out", str(tmp_path), "--threads", "1"]
    assert main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert shown.err.index("Best density by validation") < shown.err.index("Test accuracy against density")
    assert [name.rpartition(" at ")[0] for name in result["chosen"]] == ["random / init", "large_final / init"]
    assert main(["report", result["run"], "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Best density by validation: " in page
    assert "<summary>The arms</summary>" in page
