"""The network of the lowest validation loss as what a training hands on, and dropout in the field's networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.errors import TombolaError
from tombola.methods.dense import DenseTraining
from tombola.methods.learned_mask import LearnedMask
from tombola.models.registry import build_network, has_dropout
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.train.history import read_csv

SHAKY = {"length": "24it", "eval_every": "2it", "lr": 0.1, "batch_size": 16}
"""So large steps that the validation loss rises again and again."""
OPTIONS = tb.Options(progress=False, device="cpu", threads=1)


def found(method: Any, out: Path, **recipe: Any) -> Any:
    result = run_find(make_request("mlp", "digits", method, recipe={**SHAKY, **recipe}, options=OPTIONS), out)
    levels = result.replicates[0].levels
    return levels, [read_csv(out / Path(result.run).name / level.metrics) for level in levels], result


def test_early_stopping_hands_on_the_network_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    (last,), (history,), _ = found(DenseTraining(), tmp_path)
    (best,), (again,), result = found(DenseTraining(hand_on="best"), tmp_path)
    assert [row.val_loss for row in again] == [row.val_loss for row in history]  # the same training
    lowest = min(history, key=lambda row: row.val_loss)
    assert 0 < lowest.step < history[-1].step
    assert (best.val_loss, best.val_accuracy) == (lowest.val_loss, lowest.val_accuracy)
    assert best.val_loss == best.val_loss_min == last.val_loss_min
    assert best.test_accuracy == best.test_accuracy_early_stop == last.test_accuracy_early_stop
    assert last.val_loss == history[-1].val_loss
    assert best.train_accuracy_eval != last.train_accuracy_eval
    assert best.steps == last.steps
    ticket = tb.Ticket.load(result.ticket)
    assert any(
        not torch.equal(a, b) for a, b in zip(ticket.build().state_dict().values(), initial(ticket), strict=True)
    )


def initial(ticket: Any) -> list[torch.Tensor]:
    return list(ticket.build("origin").state_dict().values())


def test_the_best_mask_is_what_weights_are_trained_under(tmp_path: Path) -> None:
    options = {"rule": "threshold", "logit": 0.01, "finetune": "2it", "finetune_lr": 0.0}
    (_, after), _, _ = found(LearnedMask(**options), tmp_path, lr=10.0)
    (mask, then), (history, _), _ = found(LearnedMask(**options, hand_on="best"), tmp_path, lr=10.0)
    lowest = min(history, key=lambda row: row.val_loss)
    assert lowest.step < history[-1].step
    assert mask.val_loss == lowest.val_loss
    assert then.val_loss == pytest.approx(lowest.val_loss, rel=1e-5)  # nothing moves at a rate of 0
    assert after.val_loss == pytest.approx(history[-1].val_loss, rel=1e-5)
    assert then.kept == mask.kept


def test_best_masks_that_keep_nothing_say_what_to_do() -> None:
    method = LearnedMask(hand_on="best", weights="signed_constant")  # a logit of 0 keeps nothing before it is trained
    with pytest.raises(TombolaError, match=r"masks of the lowest validation loss .*density 0.* ask for hand_on last"):
        tb.find("mlp", "digits", method, recipe={"length": "2it", "eval_every": "1it", "lr": 1e-6}, options=OPTIONS)


@pytest.mark.parametrize("method", [DenseTraining(hand_on="best"), LearnedMask(hand_on="best")])
def test_the_best_of_one_evaluation_is_refused(method: Any, tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=r"eval_every 5it .* end alone; give an eval_every below 4it"):
        tb.find("mlp", "digits", method, out=tmp_path, recipe={"length": "4it", "eval_every": "5it"}, options=OPTIONS)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (DenseTraining, {"hand_on": "worst"}, "hand_on"),
        (DenseTraining, {"dropout": 1.0}, "dropout is 1.0"),
        (LearnedMask, {"hand_on": "best", "density": 0.5}, "density is about the last masks"),
        (LearnedMask, {"hand_on": "best", "stop_when_stable": True}, "stop_when_stable is about the last masks"),
    ],
)
def test_what_makes_no_sense_is_refused(method: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(TombolaError, match=said):
        method(**options)


# ---- dropout


@pytest.mark.parametrize(("name", "shape", "places"), [("lenet-300-100", (1, 8, 8), 2), ("conv-2", (1, 8, 8), 2)])
def test_dropout_stands_before_all_linear_layers_but_the_first(name: str, shape: Any, places: int) -> None:
    plain = build_network(name, input_shape=shape, classes=3)
    dropped = build_network(name, input_shape=shape, classes=3, args={"dropout": 0.4})
    assert list(plain.state_dict()) == list(dropped.state_dict())
    assert not any(isinstance(module, nn.Dropout) for module in plain.modules())
    layers = [module for module in dropped.modules() if isinstance(module, nn.Dropout | nn.Linear)]
    kinds = [type(module).__name__ for module in layers]
    assert kinds == ["Linear", *["Dropout", "Linear"] * places]
    assert {module.p for module in layers if isinstance(module, nn.Dropout)} == {0.4}
    assert has_dropout(name)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"dropout": 1}, "dropout is 1; a number in"),
        ({"dropout": True}, "dropout is True"),
        ({"dropout": 0.5, "activation": "binary"}, "adds zeros to"),
    ],
)
@pytest.mark.parametrize("name", ["mlp", "conv-2"])
def test_dropout_that_cannot_be_is_refused(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(TombolaError, match=said):
        build_network(name, input_shape=(1, 8, 8), classes=3, args=args)


def test_dropout_acts_in_training_alone_and_needs_a_network_that_takes_it(tmp_path: Path) -> None:
    calm = {"length": "4it"}
    (plain,), (one,), _ = found(DenseTraining(), tmp_path, **calm)
    (dropped,), (other,), _ = found(DenseTraining(dropout=0.5), tmp_path, **calm)
    assert one[0].val_loss == other[0].val_loss  # at the same first weights
    assert plain.val_loss != dropped.val_loss
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(TombolaError, match="the network has none"):
        tb.find(own, "digits", DenseTraining(dropout=0.5), recipe=calm, options=OPTIONS)
    with pytest.raises(TombolaError, match="resnet-20 takes none"):
        tb.find("resnet-20", "digits", DenseTraining(dropout=0.5), recipe=calm, options=OPTIONS)
