"""Options of studies that would be recorded and change nothing are refused, in one line, before anything is written."""

from __future__ import annotations

import shlex
from dataclasses import make_dataclass
from pathlib import Path

import pytest

from cli_calls import call
from tombola.cli.effect import check_effect
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.models.spec import ModelSpec
from tombola.study.setting import Arm, Setting

DESCENT = "study double-descent"
OFF = "--augment '{flip: true}'"
IDLE = {
    f"{DESCENT} --label_noise_kind pairflip": "label_noise_kind is pairflip",
    "study connectivity --label_noise_kind pairflip": "label_noise_kind is pairflip",
    "study landscape --label_noise_kind pairflip": "label_noise_kind is pairflip",
    "study joint --label_noise_kind pairflip": "label_noise_kind is pairflip",
    "study regime x.ticket --data digits --label_noise_kind pairflip": "label_noise_kind is pairflip",
    f"{DESCENT} --multiples 1,2 --features 4,5": "multiples and features are both given",
    f"{DESCENT} --kind relu --multiples 1,2 --features 4,5": "multiples and features are both given",
    f"{DESCENT} --kind width --multiples 1,2 --widths 4,5": "multiples and widths are both given",
    f"{DESCENT} --kind width --reuse --widths 4,500": "reuse has no effect: 1 network",
    f"{DESCENT} --kind width --sigma 2": "--sigma is an option of kind rff",
    f"{DESCENT} --kind relu --sigma 2": "--sigma is an option of kind rff",
    f"{DESCENT} --kind forest --reuse": "--reuse is an option of kind width",
    f"{DESCENT} --kind forest --multiples 1,2": "--multiples is an option of kind rff and relu and width",
    f"{DESCENT} --widths 4,5": "--widths is an option of kind width",
    f"{DESCENT} --kind width --trees 1,2": "--trees is an option of kind forest",
    f"{DESCENT} --kind width --levels 3": "--levels is an option of kind density",
    f"{DESCENT} --kind density --epochs 3": "--epochs is an option of kind width",
    f"{DESCENT} --kind density --network mlp --arms [lottery] --finetune_lr 0.1": "which arms leaves out",
    f"{DESCENT} {OFF}": "augment has no effect on kind rff",
    f"{DESCENT} --device cuda": "device has no effect on kind rff",
    f"{DESCENT} --kind forest --deterministic": "deterministic has no effect on kind forest",
    f"{DESCENT} --kind width --loggers [tensorboard]": "loggers has no effect on kind width",
    "study connectivity --density null --rounds 5": "rounds has no effect without a density",
    "study connectivity --at_levels [0] --controls [random]": "at_levels names level 0 alone",
    f"study regime x.ticket {OFF}": "--augment is not known",
    "study overlap --tickets a b --density 0.3": "--density has no effect here",
    "study overlap --tickets a b --replicates 5": "--replicates has no effect here",
    "study overlap --max_weights 9": "--max_weights has no effect here",
    "study mask-init-steps --lr 0.1 --weights_lr 0.3": "--weights_lr has no effect here",
    "study regularisation --lr 0.1 --weights_lr 0.3": "--weights_lr has no effect here",
    "study joint --lr 0.5 --weights_lr 0.1 --mask_lr 0.2 --joint_lr 0.3": "--lr has no effect here",
    "study curve imp --model mlp --controls [] --control_levels [1]": "control_levels has no effect without controls",
    "find imp --max_weights 9": "--max_weights has no effect here",
    "reproduce --full": "--full has no effect here",
    "reproduce --seed 3": "--seed has no effect here",
    "reproduce belkin-random-features --length 3it": "length has no effect on belkin-random-features",
}


@pytest.mark.parametrize("words", IDLE)
def test_an_option_without_effect_is_refused(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = call(*shlex.split(words))
    assert (status, len(error.splitlines())) == (2, 1), error
    assert IDLE[words] in error
    assert list(tmp_path.iterdir()) == []


HELD = {
    f"{DESCENT} --label_noise_kind symmetric --train_examples 1": "at least 2; raise train_examples",
    f"{DESCENT} --kind relu --features 4,5 --device cpu --train_examples 1": "at least 2; raise train_examples",
    f"{DESCENT} --kind width --reuse --widths 3,4 --train_examples 1": "at least 2; raise train_examples",
    f"{DESCENT} --kind forest --train_examples 1": "at least 2; raise train_examples",
    f"{DESCENT} --kind density --finetune_lr -1": "finetune_lr is -1.0",
    f"{DESCENT} --kind density --recipe '{{lr: -1}}'": "recipe: lr is -1",
}


@pytest.mark.parametrize("words", HELD)
def test_what_has_an_effect_is_taken_and_other_mistakes_are_named(words: str, tmp_path: Path) -> None:
    status, _, error = call(*shlex.split(words), "--out", str(tmp_path / "runs"))
    lines = [line for line in error.splitlines() if "no training example has label" not in line]
    assert (status, len(lines)) == (2, 1), error
    assert HELD[words] in error
    assert not (tmp_path / "runs").exists()


def arms(setting: Setting) -> list[Arm]:
    options = setting.options
    return [
        setting.arm("a", "dense", {}, {"lr": 0.1}),
        setting.arm("b", "imp", {"density": options.density}, {"lr": 0.2, "momentum": 0.5}),
    ]


def test_what_one_arm_takes_has_an_effect() -> None:
    kind = make_dataclass("Kind", [("density", float, 0.5), ("other", float | None, None)], frozen=True)
    setting = Setting(ModelSpec("mlp"), DataSpec(), {"momentum": 0.3}, kind(density=0.2))
    check_effect(arms, setting, arms(setting))
    for recipe, options, said in (
        ({"lr": 0.3}, kind(), "--lr has no effect here: every arm"),
        ({}, kind(other=0.1), "--other has no effect here: no arm"),
        ({"momentum": 0.3}, kind(other=0.1), "or leave out --momentum"),
    ):
        idle = Setting(ModelSpec("mlp"), DataSpec(), recipe, options)
        with pytest.raises(TombolaError, match=said):
            check_effect(arms, idle, arms(idle))
