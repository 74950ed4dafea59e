"""The contract of metric and loss: what they may give, and how batches of different sizes weigh."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tombola.data.feed import feed
from tombola.data.splits import Resident, Task, accuracy, make_splits
from tombola.errors import TombolaError
from tombola.train.evaluate import evaluate
from tombola.train.fabric import make_fabric
from tombola.train.loop import train
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup, run_trial

X = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
Y = torch.tensor([[0.0], [0.0], [0.0], [0.0], [10.0]])  # errors 0, 1, 2, 3, 6


def score(metric, loss=None, batch=2, x=X, y=Y):
    task = Task(loss or (lambda o, t: (o - t).abs().mean()), metric, "error", higher_is_better=False)
    return evaluate(nn.Identity(), feed(Resident(x, y), batch_size=batch, sweep_batch=batch), task)


def test_values_per_example_come_back_in_the_order_of_the_split():
    found = score(lambda o, t: (o - t).abs().squeeze(1))
    assert found.values.tolist() == [0, 1, 2, 3, 6]
    assert found.values.dtype == torch.float32
    assert (found.metric, found.loss, found.examples) == (12 / 5, 12 / 5, 5)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_a_number_per_batch_counts_for_each_of_its_examples(batch):
    found = score(lambda o, t: (o - t).abs().mean(), batch=batch)
    assert found.metric == pytest.approx(12 / 5)
    assert found.values is None or batch == 1


def test_a_metric_in_plain_python_numbers_is_one_per_batch():
    found = score(lambda o, t: float((o - t).abs().mean()))
    assert found.metric == pytest.approx(12 / 5)
    assert found.values is None


def test_squeezing_a_lone_example_to_a_scalar_is_its_value():
    found = score(lambda o, t: (o - t).abs().squeeze())
    assert found.values.tolist() == [0, 1, 2, 3, 6]


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64, torch.bfloat16])
def test_hits_of_any_type_are_counted(kind):
    found = score(lambda o, t: ((o - t).abs() < 2.5).squeeze(1).to(kind))
    assert found.metric == 3 / 5
    assert found.values.tolist() == [1, 1, 1, 0, 0]


WRONG = {
    "column": (lambda o, t: (o - t).abs(), r"shape \(2, 1\)"),
    "pixels": (lambda o, t: torch.zeros(len(t), 3, 3), r"shape \(2, 3, 3\)"),
    "classes": (lambda o, t: torch.zeros(10), r"shape \(10,\)"),
    "batch mean in a vector": (lambda o, t: (o - t).abs().mean().reshape(1), r"shape \(1,\)"),
    "broadcast": (lambda o, t: (o - t.squeeze(1)).abs(), r"shape \(2, 2\)"),
    "mapping": (lambda o, t: {"error": 1.0}, "a dict"),
    "nothing": (lambda o, t: None, "a NoneType"),
}


@pytest.mark.parametrize("name", WRONG)
def test_any_other_form_is_refused_with_what_is_wanted(name):
    metric, found = WRONG[name]
    with pytest.raises(TombolaError, match=f"metric error gives {found}.*one value per example, shape \\(2,\\)"):
        score(metric)


def test_a_metric_that_changes_its_form_is_refused():
    forms = iter([torch.zeros(2), torch.zeros(()), torch.zeros(1)])
    with pytest.raises(TombolaError, match="same form"):
        score(lambda o, t: next(forms))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_weighs_a_number_per_batch_as_evaluation_does(accumulate):
    """Parts of 3, 3 and 1 examples: the mean over all is the same, whichever form the metric has."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(21, 4, generator=draw), torch.randint(3, (21,), generator=draw)
    rows = []
    for metric in (accuracy, lambda o, t: accuracy(o, t).mean(), lambda o, t: float(accuracy(o, t).mean())):
        torch.manual_seed(0)
        data = make_splits((x, y), (x, y), None, Task(lambda o, t: F.cross_entropy(o, t), metric))
        recipe = Recipe(length="2ep", batch_size=7, lr=0.5, accumulate=accumulate)
        rows.append(train(nn.Linear(4, 3), data, recipe).history[1:])
    for first, second, third in zip(*rows, strict=True):
        assert 0 < first.train_accuracy < 1
        assert second.train_accuracy == pytest.approx(first.train_accuracy)
        assert third.train_accuracy == pytest.approx(first.train_accuracy)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.bool_, np.int64, bool, int])
def test_numbers_of_numpy_and_python_are_taken(kind):
    assert score(lambda o, t: kind(1)).metric == 1.0
    assert score(lambda o, t: np.array(kind(1))).values is None
    assert score(lambda o, t: np.ones(len(o), dtype=kind)).values.tolist() == [1] * 5
    with pytest.raises(TombolaError, match=r"metric error gives shape \(2, 1\)"):
        score(lambda o, t: np.ones((len(o), 1), dtype=kind))


def test_the_mode_is_put_back_whatever_happens():
    model = nn.Sequential(nn.Identity())
    task = Task(lambda o, t: (o - t).abs().mean(), lambda o, t: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, feed(Resident(X, Y), batch_size=2), task)
    assert model.training


@pytest.mark.parametrize("loss", [lambda o, t: (o - t).abs(), lambda o, t: (o - t).abs().squeeze(1), lambda o, t: 1.0])
def test_a_loss_is_one_scalar_tensor(loss):
    with pytest.raises(TombolaError, match="mean over the batch, a scalar"):
        score(lambda o, t: (o - t).abs().squeeze(1), loss)


def test_a_trial_holds_the_outcome_of_every_test_example_and_none_of_validation():
    """Validation and test hold the same inputs under opposite labels: nothing of one can pass for the other."""
    x = torch.tensor([[-1.0], [1.0]]).repeat(6, 1)
    y = (x[:, 0] > 0).long()
    splits = make_splits((x, y), (x[:6], y[:6]), (x[:5], 1 - y[:5]), classes=2)
    torch.manual_seed(0)
    setup = TrainingSetup(splits, Recipe(length="8it", batch_size=12, lr=1.0), make_fabric("cpu"))
    trial = run_trial(setup, nn.Linear(1, 2), seed=0, label="")
    assert trial.result.val_accuracy == 1.0
    assert trial.result.test_accuracy == trial.result.test_accuracy_early_stop == 0.0
    assert trial.result.test_loss > trial.result.val_loss
    assert trial.outcomes.tolist() == [0, 0, 0, 0, 0]
