"""study deconstruct: the product of criteria and actions, one dense network for all, differences at the same level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tombola.cli import main
from tombola.errors import TombolaError
from tombola.levels import prune
from tombola.methods.imp import IterativePruning
from tombola.results.comparison import ComparisonResult
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.study.compare import Searched, summarise
from tombola.study.deconstruct import run_deconstruction
from tombola.study.grid import Grid
from tombola.study.setting import Arm, check_arms
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from trial_results import level_figures

TINY = {"length": "6it", "eval_every": "3it"}
CRITERIA = ("large_final", "random")


def tried(out: Path, grid: Grid | None = None, **more: Any) -> ComparisonResult:
    given = {"pruning": {"levels": 2}, "recipe": TINY, "replicates": 2, "options": Options(threads=1), **more}
    return run_deconstruction(grid or Grid(CRITERIA), "mlp", "digits", out, **given)


# -- the grid


def test_the_grid_is_the_product_of_its_lists() -> None:
    grid = Grid(("movement", "magnitude"), ("rewind", "reinit"), ("zero",))
    assert [one.name for one in grid.combinations] == [
        "movement / rewind / zero",
        "movement / reinit / zero",
        "magnitude / rewind / zero",
        "magnitude / reinit / zero",
    ]
    assert grid.reference.name == "magnitude / rewind / zero"
    assert Grid(("movement", "random")).reference.name == "movement / rewind / zero"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"criteria": ()}, "criteria is ()"),
        ({"criteria": ("random", "random")}, "names 'random' twice"),
        ({"densities": (0.5, 0.5)}, "different fractions"),
        ({"densities": (1.0,)}, "which is the dense network"),
        ({"densities": (0.0,)}, "it must lie in"),
    ],
)
def test_lists_that_make_no_grid_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TombolaError) as error:
        Grid(**wrong)
    assert message in str(error.value)


# -- differences


def levels(*tests: float) -> tuple[Any, ...]:
    return tuple(level_figures(density=1 / 2**at, test_accuracy=test) for at, test in enumerate(tests))


def test_each_arm_is_compared_with_the_one_that_it_names() -> None:
    arms = [
        Arm("dense", IterativePruning(levels=0), Recipe()),
        Arm("a", IterativePruning(), Recipe()),
        Arm("b", IterativePruning(), Recipe(), against="a"),
    ]
    tests = ((0.9, 0.8, 0.7), (0.5, 0.6, 0.7), (0.4, 0.5, 0.6))
    found = summarise(arms, [[Searched(levels(test), "o") for test in arm] for arm in tests])
    contrasts = {x.arm: (x.against, x.paired, x.test_accuracy.difference) for x in found.comparisons}
    assert contrasts["a"] == ("dense", True, pytest.approx(-0.2))
    assert contrasts["b"] == ("a", True, pytest.approx(-0.1))
    # the replicates differ in step with those of the arm named: the paired interval has no width
    assert found.comparisons[1].test_accuracy.interval == pytest.approx((-0.1, -0.1))


@pytest.mark.parametrize(
    ("against", "message"),
    [((None, "c"), "unknown arm to be compared with 'c'"), (("b", None), "is the first"), ((None, "b"), "unknown arm")],
)
def test_an_arm_is_compared_with_another_arm(against: tuple[str | None, str | None], message: str) -> None:
    names = zip(("a", "b"), against, strict=True)
    with pytest.raises(TombolaError, match=message):
        check_arms([Arm(name, IterativePruning(), Recipe(), against=other) for name, other in names])


# -- the study


def test_all_combinations_share_one_dense_network_per_replicate(tmp_path: Path, monkeypatch: Any) -> None:
    trained: list[int] = []
    train = prune._train_level

    def counted(*given: Any) -> Any:
        *_, before, _ = given
        trained.append(len(before))
        return train(*given)

    monkeypatch.setattr(prune, "_train_level", counted)
    result = tried(tmp_path)
    assert sorted(trained) == [0] * 2 + [1] * 4 + [2] * 4
    assert [arm.name for arm in result.arms] == [
        "dense",
        "large_final / rewind / zero at 80.38 %",
        "large_final / rewind / zero at 64.64 %",
        "random / rewind / zero at 80.38 %",
        "random / rewind / zero at 64.64 %",
    ]
    assert {x.arm: (x.against, x.paired) for x in result.comparisons} == {
        result.arms[1].name: ("dense", True),
        result.arms[2].name: ("dense", True),
        result.arms[3].name: (result.arms[1].name, True),
        result.arms[4].name: (result.arms[2].name, True),
    }
    assert list(result.families) == ["dense", "large_final / rewind / zero", "random / rewind / zero"]
    assert result.references == ("large_final / rewind / zero",)
    for arm in result.arms:
        dense = [levels[0] for levels in arm.replicates]
        assert [level.metrics for level in dense] == [f"dense/replicate-{r}/level-00/metrics.csv" for r in range(2)]
    assert result.arms[4].replicates[1][2].metrics == "random-rewind-zero/replicate-1/level-02/metrics.csv"


def test_the_combination_of_lottery_tickets_is_what_imp_finds(tmp_path: Path) -> None:
    result = tried(tmp_path, Grid(("large_final",)), replicates=1)
    request = make_request(
        "mlp", "digits", {"levels": 2, "criterion": "large_final"}, recipe=TINY, options=Options(threads=1)
    )
    alone = run_find(request, tmp_path / "find").replicates[0].levels
    ours = result.arms[-1].replicates[0]
    assert [(x.kept, x.test_loss, x.val_loss) for x in ours] == [(x.kept, x.test_loss, x.val_loss) for x in alone]
    assert len(ours) == 3


def test_kept_and_pruned_actions_are_crossed(tmp_path: Path) -> None:
    grid = Grid(("large_final",), ("rewind", "constant_same_sign"), ("zero", "zero_or_freeze"))
    result = tried(tmp_path, grid, pruning={"levels": 2, "one_shot": True}, replicates=1)
    options = {arm.series: arm.options or {} for arm in result.arms[1:]}
    assert [(x["kept_action"], x["pruned_action"]) for x in options.values()] == [
        ("rewind", "zero"),
        ("rewind", "zero_or_freeze"),
        ("constant_same_sign", "zero"),
        ("constant_same_sign", "zero_or_freeze"),
    ]
    # one shot: every level was pruned from the dense network, and cost no other training
    assert [[level.level for level in arm.replicates[0]] for arm in result.arms[1:3]] == [[0, 1], [0, 2]]
    last = {arm.series: arm.last_levels[0] for arm in result.arms}
    assert len({level.test_loss for level in last.values()}) == 5
    assert all(level.mask_histories is None for level in last.values())
    with pytest.raises(TombolaError, match="unknown kept_action 'rewindd'"):
        tried(tmp_path, Grid(("large_final",), ("rewindd",)))
    with pytest.raises(TombolaError, match="stop_when_stable"):
        tried(tmp_path, grid, pruning={"levels": 1, "stop_when_stable": True})


def test_densities_are_one_shot_tickets_of_the_one_dense_network(tmp_path: Path) -> None:
    result = tried(tmp_path, Grid(CRITERIA, densities=(0.5, 0.1)), pruning=None)
    assert [(arm.plotted, len(arm.replicates[0])) for arm in result.arms] == [(1, 1)] + [
        (pytest.approx(density, abs=1e-4), 2) for density in (0.5, 0.1, 0.5, 0.1)
    ]
    with pytest.raises(TombolaError, match="densities are given, and density or levels too"):
        tried(tmp_path, Grid(CRITERIA, densities=(0.5,)))


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match="unknown criterion 'largest'"):
        tried(tmp_path, Grid(("large_final", "largest")))
    assert not list(tmp_path.iterdir())


def test_a_killed_study_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: Any) -> None:
    whole = tried(tmp_path / "whole")
    train, count = prune._train_level, 0

    def killed(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return train(*given)

    monkeypatch.setattr(prune, "_train_level", killed)
    with pytest.raises(KeyboardInterrupt):
        tried(tmp_path / "killed")
    monkeypatch.setattr(prune, "_train_level", train)
    again = tried(tmp_path / "killed")

    def bare(result: ComparisonResult) -> Any:
        def without(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: without(item) for key, item in value.items() if key not in ("seconds", "cost")}
            return [without(item) for item in value] if isinstance(value, list) else value

        return without(result.replace(run=None, reused=None).as_dict())

    assert bare(again) == bare(whole)
    assert tried(tmp_path / "killed").reused


def test_the_command_prints_a_grid_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "deconstruct", "--data", "digits", "--model", "mlp", "--criteria", "[random,movement]"]
    words += ["--levels", "2", "--replicates", "1", "--length", "4it", "--out", str(tmp_path), "--threads", "1"]
    assert main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["study"] == "deconstruct"
    assert len(result["arms"]) == 5
    assert "Differences from random / rewind / zero" in shown.err
    assert "minus" not in shown.err  # the long tables are on the page alone
