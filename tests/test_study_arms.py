"""The arms of the ready-made studies: which methods, densities, lengths and learning rates; nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixed_studies import fixed_arms
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.methods import method_class
from tombola.models.spec import ModelSpec
from tombola.search.presets import preset
from tombola.study.definition import FIXED, part_of, read_definition
from tombola.study.setting import Arm, Setting, check_arms, folder_of
from tombola.supermask import Coats
from tombola.train.recipe import Recipe


def setting(options: Any, **recipe: Any) -> Setting:
    return Setting(ModelSpec("mlp"), DataSpec("digits"), recipe, options)


@pytest.mark.parametrize(
    ("length", "half"),
    [("60ep", "30ep0it"), ("5ep", "2.5ep0it"), ("1000it", "0ep500it"), ("3ep2it", "1.5ep1it")],
)
def test_half_a_length(length: str, half: str) -> None:
    assert part_of(length, "half") == half


@pytest.mark.parametrize(("length", "says"), [("0it", "half is nothing"), ("5it", "must be even"), ("x", "understood")])
def test_lengths_without_a_half_are_refused(length: str, says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        part_of(length, "half")


def test_three_quarters_of_a_length() -> None:
    assert part_of("160ep", "three_quarters") == "120ep0it"
    assert part_of("5ep8it", "three_quarters") == "3.75ep6it"
    assert part_of("2it", "three_quarters") == "0ep1it"
    with pytest.raises(TombolaError, match="three quarters is nothing"):
        part_of("0it", "three_quarters")


def test_one_whole_number_over_another(tmp_path: Path) -> None:
    def filled(text: str, **values: Any) -> Any:
        file = tmp_path / "study.yaml"
        file.write_text(f"arms: [{{name: a, options: {{x: '{text}'}}}}]")
        given = {"budget": 100, "size": 30, **values}
        return read_definition(file).filled(given, lambda: False, "s")[0]["options"]["x"]

    assert filled("${budget.per.size}") == 3
    assert filled("${budget.per.size.half}it") == "1it"
    with pytest.raises(TombolaError, match=r"budget\.per\.size is 20 / 30, less than one"):
        filled("${budget.per.size}", budget=20)
    with pytest.raises(TombolaError, match="both must be whole numbers"):
        filled("${budget.per.size}", size=1.5)
    with pytest.raises(TombolaError, match="unknown parameter 'batch'"):
        filled("${budget.per.batch}")


def test_searches_get_one_budget() -> None:
    arms = fixed_arms("search-budget", budget=6000, batch_size=30, examples=200, mask_lr=0.3, weights_lr=0.01)
    check_arms(arms)
    assert [(arm.name, arm.method.name, arm.recipe.batch_size, arm.recipe.length) for arm in arms[3:]] == [
        ("edge-popup 0.5", "edge-popup", 30, "200it"),
        ("magnitude, mask alone 0.5", "untrained-mask", 30, "200it"),
        ("magnitude, trained 0.5", "imp", 30, "100it"),
    ]
    assert [(arm.method.name, arm.method.budget, arm.method.examples, arm.method.density) for arm in arms[:3]] == [
        ("random-search", 6000, 200, 0.5),
        ("anneal", 6000, 200, 0.5),
        ("evolve", 6000, 200, 0.5),
    ]
    assert [arm.recipe.lr for arm in arms[3:]] == [0.3, 0.01, 0.01]
    assert {arm.against for arm in arms} == {"random-search 0.5", None}


def test_masks_as_initialisations_get_half_of_the_length() -> None:
    given = {"length": "20it", "weights_lr": 0.1, "mask_lr": 0.2, "finetune_lr": 0.3}
    arms = fixed_arms("mask-init", recipe={"eval_every": "5it"}, **given)
    check_arms(arms)
    assert [(arm.name, arm.method.name, arm.recipe.length, arm.recipe.lr) for arm in arms] == [
        ("weights only", "dense", "20it", 0.1),
        ("mask only", "learned-mask", "20it", 0.2),
        ("mask, then weights", "learned-mask", "0ep10it", 0.2),
    ]
    assert {(arm.recipe.optimizer, arm.recipe.schedule, arm.recipe.eval_every) for arm in arms} == {
        ("adam", "plateau", "5it")
    }
    _, alone, then = (arm.method for arm in arms)
    assert (then.finetune, then.finetune_lr) == ("0ep10it", 0.3)
    assert alone.finetune == "0it"
    assert [(method.rule, method.biases, method.train_norms) for method in (alone, then)] == [
        ("threshold", True, True)
    ] * 2


def test_weights_under_a_mask_take_steps_of_several_sizes_beside_weights_alone_that_drop_too() -> None:
    given = {"length": "20it", "weights_lr": 0.1, "mask_lr": 0.2, "rates": (1e-4, 0.3), "drop": 0.01}
    arms = fixed_arms("mask-init-steps", recipe={"eval_every": "5it"}, **given)
    check_arms(arms)
    assert [arm.name for arm in arms] == [
        *("weights only", "weights only, dropped", "mask only", "best mask only"),
        *("last mask, then weights at 0.0001", "best mask, then weights at 0.0001"),
        *("last mask, then weights at 0.3", "best mask, then weights at 0.3"),
    ]
    dropped = arms[1].recipe
    assert (dropped.lr, dropped.schedule, dropped.milestones, dropped.gamma) == (0.1, "step", ("0ep10it",), 0.01)
    assert [arm.recipe.length for arm in arms] == ["20it"] * 4 + ["0ep10it"] * 4
    masks = [arm.method for arm in arms[2:]]
    assert [method.hand_on for method in masks] == ["last", "best"] * 3
    assert [method.finetune_lr for method in masks[2:]] == [1e-4, 1e-4, 0.3, 0.3]
    assert {arm.against for arm in arms[4:]} == {"weights only, dropped"}


def test_joint_training_stands_beside_the_usual_regularisers() -> None:
    given = {"densities": (0.4,), "decays": (0.01,), "dropouts": (0.25,), "score_lr": 0.3}
    arms = fixed_arms("regularisation", recipe={"length": "3it"}, **given)
    check_arms(arms)
    assert [(arm.name, arm.method.name, arm.recipe.weight_decay) for arm in arms] == [
        ("weights only", "dense", 0),
        ("early stopping", "dense", 0),
        ("weight decay 0.01", "dense", 0.01),
        ("dropout 0.25", "dense", 0),
        ("joint 0.4", "joint", 0),
        ("weights, random mask 0.4", "joint", 0),
    ]
    assert [getattr(arm.method, "hand_on", "last") for arm in arms] == ["last", "best", *["last"] * 4]
    assert [getattr(arm.method, "dropout", 0) for arm in arms] == [0, 0, 0, 0.25, 0, 0]
    assert {arm.recipe.length for arm in arms} == {"3it"}


def test_regularisers_are_compared_under_one_recipe_though_the_presets_of_their_methods_differ() -> None:
    arms = fixed_arms("regularisation", decays=(0.01,))
    dense = preset(method_class("dense"), "mlp", "digits").recipe
    assert dense["optimizer"] != Recipe(**preset(method_class("joint"), "mlp", "digits").recipe).optimizer
    assert {replace(arm.recipe, weight_decay=0) for arm in arms} == {Recipe(**{**dense, "weight_decay": 0})}


def test_an_arm_may_name_the_method_that_it_is_trained_as() -> None:
    own, lent = setting(None).arm("own", "joint"), setting(None).arm("lent", "joint", trained_as="dense")
    assert (own.recipe.optimizer, lent.recipe.optimizer) == ("sgd", "adam")
    assert own.method == lent.method
    with pytest.raises(TombolaError, match="arm 'lent': unknown method 'dens'"):
        setting(None).arm("lent", "joint", trained_as="dens")


def test_joint_training_is_compared_at_every_density() -> None:
    rates = {"weights_lr": 0.1, "mask_lr": 0.2, "joint_lr": 0.3, "score_lr": 0.4}
    given = {"densities": (0.3, 0.5), "weight_gradient": "sr-ste", **rates}
    arms = fixed_arms("joint", recipe={"length": "3it"}, **given)
    check_arms(arms)
    found = [(arm.name, arm.family, arm.method.name, arm.density, arm.recipe.lr, arm.recipe.length) for arm in arms]
    assert found[0] == ("weights only", None, "dense", None, 0.1, "3it")
    assert found[1:4] == [
        ("weights, random mask 0.3", "weights, random mask", "joint", 0.3, 0.1, "3it"),
        ("mask only 0.3", "mask only", "edge-popup", 0.3, 0.2, "3it"),
        ("joint 0.3", "joint", "joint", 0.3, 0.3, "3it"),
    ]
    assert [(arm.density, arm.method.density) for arm in arms[1:]] == [(0.3, 0.3)] * 3 + [(0.5, 0.5)] * 3
    fixed, joint = arms[1].method, arms[3].method
    assert fixed.freeze_scores == 1.0
    assert (joint.weight_gradient, joint.score_lr, joint.freeze_scores == 1.0) == ("sr-ste", 0.4, False)


def test_early_birds_are_compared_with_dense_training_and_train_prune_retrain() -> None:
    given = {"length": "8ep", "densities": (0.3, 0.5), "draw_at": ("1ep", "2ep"), "stable_compare": "newest-vs-all"}
    arms = fixed_arms("early-bird", model="conv-2", recipe={"batch_size": 64}, **given)
    check_arms(arms)
    names = ["train-prune-retrain", "early-bird", "from scratch", "search in bf16-mixed", "search in bfp8"]
    names += ["drawn at 1ep", "drawn at 2ep"]
    assert [arm.name for arm in arms] == ["dense", *(f"{name} {d}" for d in (0.3, 0.5) for name in names)]
    assert [(arm.family, arm.density, arm.method.density) for arm in arms[1:8]] == [(name, 0.3, 0.3) for name in names]
    assert [arm.method.draw_at for arm in arms[1:8]] == ["end", None, None, None, None, "1ep", "2ep"]
    assert [arm.method.stable_compare for arm in arms[2:6]] == ["newest-vs-all"] * 4
    assert [arm.method.retrain for arm in arms[1:8]] == ["continue", "continue", "scratch", *["continue"] * 4]
    assert [arm.method.search_precision for arm in arms[3:6]] == [None, "bf16-mixed", "bfp8"]
    recipes = {arm.recipe for arm in arms}  # a fair comparison: all train alike
    assert len(recipes) == 1
    (recipe,) = recipes
    assert (recipe.length, recipe.milestones, recipe.schedule) == ("8ep", ("4ep0it", "6ep0it"), "step")
    assert (recipe.lr, recipe.batch_size, recipe.precision) == (0.1, 64, "32")
    networks = {str(arm.method.network(ModelSpec("conv-2")).args) for arm in arms}
    assert networks == {str({"norms": True, "affine": True})}


def options(name: str) -> Any:
    return read_definition(FIXED / f"{name}.yaml").options()


@pytest.mark.parametrize("kind", [options("joint"), options("binary"), Coats])
@pytest.mark.parametrize(
    ("densities", "says"),
    [
        ((), r"densities is \(\); give a list"),
        ("0.5", "densities is '0.5'; give a list"),
        (0.5, "densities is 0.5; give a list"),
        ((0.5, 2), r"density is 2; it must lie in \(0, 1\]"),
        ((0.5, "a"), r"density is 'a'; it must lie in \(0, 1\]"),
        ((True,), "density is True"),
    ],
)
def test_densities_that_are_none_are_one_line(kind: Any, densities: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says) as caught:
        kind(densities)
    assert "\n" not in str(caught.value)
    assert kind([1]).densities == (1.0,)


def test_an_arms_recipe_is_its_own_before_the_shared_one_before_the_methods() -> None:
    made = setting(None, lr=0.5, batch_size=7).arm("a", "imp", {"levels": 1}, {"batch_size": 9}, density=0.5)
    assert (made.recipe.lr, made.recipe.batch_size, made.density, made.family) == (0.5, 9, 0.5, None)
    assert setting(None).arm("a", "imp", preset={"lr": 0.6}).recipe.lr == 0.6
    assert setting(None, lr=0.5).arm("a", "imp", preset={"lr": 0.6}).recipe.lr == 0.5
    assert folder_of(" Größe: 50 % / a.b ") == "gr-e-50-a.b"
    for density in (0.0, 1.5, -1.0):
        with pytest.raises(TombolaError, match="density of arm 'a' is"):
            Arm("a", made.method, made.recipe, density)
