"""Arms that prune one dense network, and the study of learning rates that is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixed_studies import fixed_arms
from tombola.errors import TombolaError
from tombola.levels import prune
from tombola.methods.dense import DenseTraining
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.imp import IterativePruning
from tombola.results.comparison import ComparisonResult
from tombola.study.compare import run_comparison
from tombola.study.setting import Arm, check_arms, dense_of
from tombola.train.options import Options
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="6it", eval_every="3it", batch_size=32)


def arms(shared: bool) -> list[Arm]:
    name = "dense" if shared else None
    half, third = IterativePruning(density=0.5, rounds=1), IterativePruning(density=0.3, rounds=2)
    return [
        Arm("dense", DenseTraining(), RECIPE),
        Arm("half", half, RECIPE, dense=name),
        Arm("low", replace(half, retrain={"lr": 0.001}), RECIPE, against="half", dense=name),
        Arm("third", third, RECIPE, dense=name),
    ]


def run(out: Path, given: list[Arm], **more: Any) -> ComparisonResult:
    return run_comparison("try", given, "mlp", "digits", out, replicates=2, options=Options(threads=1), **more)


def figures(result: ComparisonResult) -> Any:
    return [
        [(x.level, x.kept, x.test_loss, x.val_loss) for x in levels] for arm in result.arms for levels in arm.replicates
    ]


def test_a_shared_dense_network_changes_no_bit_and_is_trained_once(tmp_path: Path, monkeypatch: Any) -> None:
    trained: list[int] = []
    train = prune._train_level

    def counted(*given: Any) -> Any:
        *_, before, _ = given
        trained.append(len(before))
        return train(*given)

    apart = run(tmp_path / "apart", arms(shared=False))
    monkeypatch.setattr(prune, "_train_level", counted)
    shared = run(tmp_path / "shared", arms(shared=True))
    assert sorted(trained) == [0, 0] + [1] * 6 + [2, 2]
    assert figures(shared) == figures(apart)
    for arm in shared.arms:
        for number, levels in enumerate(arm.replicates):
            assert levels[0].metrics == f"dense/replicate-{number}/level-00/metrics.csv"
            assert all((Path(str(shared.run)) / level.metrics).is_file() for level in levels)
    assert not (Path(str(shared.run)) / "half" / "replicate-0" / "level-00").exists()
    assert [x.against for x in shared.comparisons] == ["dense", "half", "dense"]


@pytest.mark.parametrize(
    "change",
    [
        {"dense": "none"},
        {"dense": "half"},
        {"method": EdgePopup()},
        {"method": IterativePruning(rewind="2it")},
        {"method": IterativePruning(exclude=("fc1*",))},
        {"recipe": replace(RECIPE, lr=0.5)},
    ],
)
def test_only_the_same_dense_network_is_shared(change: dict[str, Any]) -> None:
    given = [*arms(shared=True)[:1], replace(arms(shared=True)[1], **change)]
    with pytest.raises(TombolaError, match="cannot prune the dense network of"):
        check_arms(given)


def test_what_makes_a_dense_network() -> None:
    pruning = IterativePruning(density=0.1, rounds=3, criterion="movement", kept_action="reinit", retrain={"lr": 0.1})
    assert dense_of(pruning) == dense_of(DenseTraining()) == IterativePruning(levels=0)
    assert dense_of(replace(pruning, rewind="5it")) == IterativePruning(levels=0, rewind="5it")
    assert dense_of(EdgePopup()) is None
    assert dense_of(replace(pruning, stop_when_stable=True)) is None


# -- study rewind-schedule


def test_the_schedules_of_the_study() -> None:
    found = {arm.name: arm for arm in fixed_arms("rewind-schedule", densities=(0.2,), warmup="5it")}
    assert list(found) == [
        "dense",
        "rewound 0.2",
        "low constant 0.2",
        "warm-up 0.2",
        "high constant 0.2",
        "random mask 0.2",
    ]
    retrained = {name: arm.method.retrain for name, arm in found.items()}  # type: ignore[attr-defined]
    assert retrained == {
        "dense": {},
        "rewound 0.2": {},
        "low constant 0.2": {"lr": 0.001, "schedule": "constant"},
        "warm-up 0.2": {"warmup": "5it"},
        "high constant 0.2": {"lr": 0.1, "schedule": "constant"},
        "random mask 0.2": {},
    }
    assert len({arm.recipe for arm in found.values()}) == 1
    assert {arm.dense for arm in found.values()} == {None, "dense"}
    assert [arm.against for arm in found.values()] == [None, None, *["rewound 0.2"] * 4]


def test_the_study_keeps_what_imp_prunes_in_a_residual_network() -> None:
    check_arms(found := fixed_arms("rewind-schedule", model="resnet-20", densities=(0.2,)))
    assert len(found) == 6


def test_all_schedules_train_the_same_ticket(tmp_path: Path) -> None:
    given = fixed_arms("rewind-schedule", densities=(0.3,), warmup="3it", recipe={"length": "8it", "eval_every": "4it"})
    result = run(tmp_path, given)
    kept = {arm.name: [layer.kept for layer in arm.last_levels[0].layers] for arm in result.arms[1:]}
    assert len(set(map(tuple, kept.values()))) == 1
    losses = [arm.last_levels[0].test_loss for arm in result.arms]
    assert len(set(losses)) == 6
    assert result.arms[0].dense
    assert result.references == ()  # a single density is no curve
