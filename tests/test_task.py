"""Tasks: what they leave out, what `accuracy` counts, and which labels a data set may hold."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from tombola.data.feed import feed
from tombola.data.labels import UntaughtLabelsWarning
from tombola.data.splits import Resident, Splits, Streamed, Task, accuracy, classification, make_splits
from tombola.errors import TombolaError
from tombola.train.feeds import training_loss
from tombola.train.recipe import Recipe

X = torch.arange(24.0).view(12, 2)
Y = torch.arange(12) % 3
Given = tuple[Any, Any]


def both(x: Any, y: Any, **more: Any) -> Splits:
    return make_splits((x, y), (x, y), **more)


class Examples(Dataset[Any]):
    """(x, y) one by one, in whatever form `form` gives them."""

    def __init__(self, x: Any, y: Any, form: Any = lambda x, y: (x, y), **attributes: Any) -> None:
        self.x, self.y, self.form = x, y, form
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.form(self.x[index], self.y[index])


def streamed(y: Any, form: Any = lambda x, y: (x, y), **attributes: Any) -> Splits:
    return make_splits(Examples(X, y, form, **attributes), Examples(X, y, form, **attributes))


# ---- accuracy ----------------------------------------------------------------------------------------------

SCORES = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[0.0, 0.0, 5.0], [1.0, 1.0, 0.0]]])  # guesses 011, 110


def test_accuracy_leaves_out_ignored_targets() -> None:
    target = torch.tensor([[0, -100, 0], [1, -100, -100]])
    assert accuracy(SCORES, target).tolist() == [0.5, 1.0]
    target[target == -100] = 255
    assert accuracy(SCORES, target, ignore_index=255).tolist() == [0.5, 1.0]
    torch.testing.assert_close(accuracy(SCORES, target), torch.tensor([1 / 3, 1 / 3]))


def test_an_example_without_a_target_does_not_move_the_mean() -> None:
    target = torch.tensor([[0, 1, 0], [-100, -100, -100]])
    torch.testing.assert_close(accuracy(SCORES, target), torch.tensor([2 / 3, 2 / 3]))
    assert accuracy(SCORES, torch.full((2, 3), -100)).tolist() == [0.0, 0.0]
    flat = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert accuracy(flat, torch.tensor([1, 0, -100, 0]), ignore_index=-100).tolist() == pytest.approx([1, 0, 2 / 3, 1])


@pytest.mark.parametrize("shape", [(2, 1), (2, 2), (2,), (2, 1, 3)])
def test_accuracy_does_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(TombolaError, match=r"accuracy of outputs \(2, 2, 3\) needs targets \(2, 3\); found \(2"):
        accuracy(SCORES, torch.zeros(shape, dtype=torch.int64))


def nothing(output: Tensor, target: Tensor) -> Tensor:
    return output.sum() * 0


@pytest.mark.parametrize(
    ("loss", "ignored"),
    [
        (F.cross_entropy, -100),
        (F.nll_loss, -100),
        (partial(F.cross_entropy, label_smoothing=0.1), -100),
        (partial(F.cross_entropy, ignore_index=255), 255),
        (partial(partial(F.cross_entropy, ignore_index=7), ignore_index=0), 0),
        (nn.CrossEntropyLoss(), -100),
        (nn.CrossEntropyLoss(ignore_index=255), 255),
        (nn.NLLLoss(ignore_index=3), 3),
        (nothing, None),
        (nn.MSELoss(), None),
    ],
)
def test_the_label_that_a_loss_leaves_out(loss: Any, ignored: int | None) -> None:
    task = Task(loss, accuracy)
    assert task.ignored == ignored
    assert task.takes_class_numbers
    target = torch.tensor([[0, 1, 1], [1, 1, 0]])
    if ignored is not None:
        target[0, 2] = ignored
        assert task.metric(SCORES, target).tolist() == [1.0, 1.0]


def test_a_recipe_smooths_labels_of_what_is_left_in() -> None:
    target = torch.tensor([[0, 255, 1], [1, 1, 255]])
    for task in (classification(ignore_index=255), Task(partial(F.cross_entropy, ignore_index=255), nothing)):
        splits = both(X, torch.stack((Y, Y, Y), 1), task=task)
        found = training_loss(splits, Recipe(label_smoothing=0.1))(SCORES, target)
        assert found == F.cross_entropy(SCORES, target, ignore_index=255, label_smoothing=0.1)
    with pytest.raises(TombolaError, match="this task brings its own loss"):
        training_loss(both(X, Y, task=Task(nothing, nothing)), Recipe(label_smoothing=0.1))


def test_a_metric_may_say_what_is_left_out() -> None:
    assert Task(nothing, partial(accuracy, ignore_index=9)).ignored == 9
    assert not Task(nothing, nothing).takes_class_numbers
    assert classification(ignore_index=255).ignored == 255
    smooth = classification(0.1, ignore_index=255)
    target = torch.tensor([[0, 255, 1], [1, 1, 255]])
    assert smooth.evaluation_loss(SCORES, target) == F.cross_entropy(SCORES, target, ignore_index=255)
    assert smooth.loss(SCORES, target) == F.cross_entropy(SCORES, target, ignore_index=255, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("loss", "metric", "says"), [("mse", nothing, "loss is 'mse'"), (nothing, None, "metric is None")]
)
def test_a_task_is_of_functions(loss: Any, metric: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=f"the task's {says}; give a function of"):
        Task(loss, metric)
    with pytest.raises(TombolaError, match="the task is a function; give a Task"):
        both(X, Y, task=nothing)


# ---- labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_whole_numbers_of_any_width_are_class_numbers(dtype: torch.dtype) -> None:
    for given in (Y.to(dtype), Y.to(dtype).numpy()):
        splits = both(X, given)
        assert isinstance(splits.train, Resident)
        assert torch.equal(splits.train.y, Y)
        assert splits.classes == splits.outputs == 3
        (_, y), *_ = feed(streamed(given, lambda x, y: (x, np.asarray(y))).train, batch_size=12).sweep()
        assert y.dtype == torch.int64
        assert torch.equal(y, Y)


def test_resident_splits_are_of_the_same_kinds() -> None:
    given = Resident(X.half(), Y.int(), "mine")
    splits = make_splits(given, given)
    assert isinstance(splits.train, Resident)
    assert (splits.train.x.dtype, splits.train.y.dtype, splits.train.source) == (torch.float16, torch.int64, "mine")


def test_booleans_are_two_classes() -> None:
    assert both(X, Y > 1).classes == 2
    (_, y), *_ = feed(streamed(Y > 1).train, batch_size=12).sweep()
    assert torch.equal(y, (Y > 1).long())


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (F.one_hot(Y), r"train targets of shape \(12, 3\) look one-hot; give class numbers: y\.argmax\(1\)"),
        (F.one_hot(Y).bool(), "look one-hot"),
        (F.one_hot(Y).float(), r"are torch\.float32 of shape \(12, 3\); .* such as y\.argmax\(1\), or give a task"),
        (torch.rand(12, 3).softmax(1), r"needs whole numbers, such as y\.argmax\(1\), or give a task"),
        (Y.double(), r"train targets are torch\.float.* such as y\.long\(\), or give a task"),
        (Y + 0.5, "needs whole numbers, or give a task"),
        (Y.to(torch.complex64), "complex64"),
        ([str(int(y)) for y in Y], "list of str; x and y must be tensors .*; number the targets that are text"),
        (np.array([str(int(y)) for y in Y]), "ndarray of <U1; .*; number the targets that are text, from 0 on"),
        ([None] * 12, "list of NoneType; .*; give targets, or leave out the examples that have none"),
        ({"a": Y}, "dict; .*; put the targets into one tensor, and take it apart in the task"),
        (list(F.one_hot(Y)), r"list of Tensor; .*; put the targets into one tensor, e\.g\. with torch\.stack"),
        (F.one_hot(Y).to_sparse(), "has targets that are sparse_coo; give dense tensors with values"),
        (torch.empty(12, device="meta"), "has targets that are not plain; give dense tensors with values"),
        (Y - 1, "label -1 in the train split is out of range"),
    ],
)
def test_targets_that_are_no_class_numbers(y: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says) as error:
        both(X, y)
    assert "\n" not in str(error.value)


def test_one_label_per_place_may_look_one_hot() -> None:
    assert both(X, F.one_hot(Y), classes=2).classes == 2


def test_inputs_that_are_no_tensor() -> None:
    with pytest.raises(TombolaError, match=r"dict and Tensor .*; put the inputs into one tensor"):
        both({"a": X}, Y)


def test_ignored_labels_are_no_class() -> None:
    dense = torch.stack((Y, Y), 1)
    dense[::2, 0] = 255
    task = Task(nn.CrossEntropyLoss(ignore_index=255), accuracy)
    assert both(X, dense, task=task).classes == 3
    assert both(X, dense).classes == 256  # nothing says that 255 is none
    dense[dense == 255] = -100
    assert both(X, dense).classes == 3
    says = r"label -100 in the train split .* allowed are 0 to 2 \(3 classes\), and 255 for none"
    with pytest.raises(TombolaError, match=says):
        both(X, dense, task=task)
    says = r"label 2 in the val split .* allowed are 0 to 1 \(2 classes\), and 255 for none$"
    with pytest.raises(TombolaError, match=says):
        make_splits((X, torch.stack((Y, Y), 1) % 2), (X, torch.stack((Y, Y), 1)), task=task, classes=2)


def test_classes_are_those_of_all_splits() -> None:
    with pytest.warns(UntaughtLabelsWarning, match=r"no training example has label 2 of the val split and 3, 4 of the"):
        splits = make_splits((X, Y % 2), (X, Y), (X, torch.where(Y > 0, Y + 2, 0)))
    assert splits.classes == splits.outputs == 5
    with warnings.catch_warnings(action="error"):
        assert make_splits((X, Y), (X, Y % 2)).classes == 3
        assert make_splits((X, Y), (X, Y % 2), task=OWN).outputs == 3
        assert make_splits((X, Y % 2), (X, Y), task=OWN).outputs == 3
    with pytest.warns(UntaughtLabelsWarning, match="label 1, 2, 3, 4, 5 and 6 more of the val split"):
        make_splits((X, Y * 0), (X, torch.arange(12)))
    dense = torch.stack((Y % 2, torch.where(Y > 1, -100, Y)), 1)
    with warnings.catch_warnings(action="error"):
        assert make_splits((X, dense.clamp(0)), (X, dense)).classes == 2


def test_streamed_labels_beyond_those_counted_say_how_to_count_on() -> None:
    more = make_splits((X, Y), Examples(X, Y + 1))
    with pytest.raises(
        TombolaError, match=r"label 3 in .* \(3 classes\); classes were counted by the labels of train: "
    ):
        list(feed(more.val, batch_size=12).sweep())
    assert make_splits((X, Y), Examples(X, Y + 1), classes=4).outputs == 4


def test_lists_of_classes_are_those_of_all_splits() -> None:
    three, more = Examples(X, Y, classes=("a", "b", "c")), Examples(X, Y, classes=["a", "b", "c", "d"])
    assert make_splits(three, more).classes == make_splits(more, three).classes == 4
    says = "class 0 is 'a' in the train split and 'b' in the test split, so their labels mean different things; give"
    with pytest.raises(TombolaError, match=says):
        make_splits(three, three, Examples(X, Y, classes=["b", "c"]))


def test_every_example_that_is_scored_needs_a_label() -> None:
    some = Y.clone()
    some[3] = -100
    splits = make_splits((X, some), (X, Y))
    output = torch.eye(3)[Y]
    assert splits.task.metric(output, some).tolist() == [1.0] * 12
    assert make_splits((X, Y), (X, Y)).task.metric is accuracy
    with pytest.raises(
        TombolaError, match="example 3 of the val split has no label but -100, which the task leaves out"
    ):
        make_splits((X, Y), (X, some))
    with pytest.raises(TombolaError, match="all labels of the train split are -100"):
        make_splits((X, torch.full_like(Y, -100)), (X, Y))


# ---- one by one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (lambda x, y: {"image": x, "label": y}, "example 0 is a dict with keys image, label; a dataset must give"),
        (lambda x, y: (x, y, 0), r"example 0 is a tuple of 3; a dataset must give \(x, y\) pairs"),
        (lambda x, y: x, "example 0 is a Tensor of torch.float32; a dataset must give"),
        (lambda x, y: (x, "cat"), "example 0 holds Tensor of torch.float32 and str; .*; number the targets"),
        (lambda x, y: (x, None), "example 0 holds .* NoneType; .*; give targets"),
        (lambda x, y: (x, {"a": y}), "example 0 holds .* dict; .*; put the targets into one tensor"),
    ],
)
def test_examples_of_another_form(form: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        streamed(Y, form)


def swept(splits: Splits) -> None:
    list(feed(splits.train, batch_size=12).sweep())


def named(splits: Splits) -> None:
    """What a run does with streamed data before it trains: it reads every example once."""
    assert splits.fingerprint


@pytest.mark.parametrize("meet", [swept, named])
def test_every_example_is_checked_before_training_and_as_it_is_fetched(meet: Any) -> None:
    wrong = Y.clone()
    wrong[7] = 5
    says = r"label 5 in example 7 of the train split is out of range; allowed are 0 to 2 \(3 classes\)"
    with pytest.raises(TombolaError, match=says):
        meet(streamed(wrong, classes=("a", "b", "c")))
    with pytest.raises(TombolaError, match="the inputs of example 4 of the train split hold 1 value that is NaN"):
        meet(streamed(Y, lambda x, y: (torch.where(x == 8, torch.nan, x), y)))
    with pytest.raises(TombolaError, match=r"example 6 of the train split has shape \(1,\), the first one \(2,\)"):
        meet(streamed(Y, lambda x, y: (x[: 1 + int(x[0] < 12)], y)))
    with pytest.raises(TombolaError, match="label 5 in the train split is out of range"):  # listed: known at once
        streamed(wrong, classes=("a", "b", "c"), targets=wrong.tolist())


def test_examples_of_a_batch_are_of_one_kind() -> None:
    with pytest.raises(TombolaError, match=r"inputs of a batch differ: torch\.float32 .* and torch\.uint8"):
        swept(streamed(Y, lambda x, y: (x if x[0] < 12 else x.byte(), y)))
    with pytest.raises(TombolaError, match=r"targets of a batch differ: .* \(\) and .* \(1,\)"):
        swept(streamed(Y, lambda x, y: (x, y if x[0] < 12 else y[None])))


def test_listed_targets_tell_the_classes() -> None:
    splits = make_splits(Examples(X, Y, targets=Y.tolist()), val_size=3)
    assert isinstance(splits.train, Streamed)
    assert splits.classes == 3
    assert streamed(Y).classes is None
    changed = Examples(X, Y, targets=(Y + 90).tolist(), target_transform=lambda y: y - 90)
    assert make_splits(changed, changed).classes is None


# ---- how many outputs --------------------------------------------------------------------------------------

OWN = Task(nothing, nothing, "zero")


@pytest.mark.parametrize(
    ("y", "task", "outputs"),
    [
        (Y, None, 3),
        (Y, OWN, 3),
        (Y, Task(F.cross_entropy, nothing, "zero"), 3),
        (X, OWN, 2),
        (X[:, 0], OWN, 1),
        (X[:, :1], OWN, 1),
        (X.view(12, 2, 1), OWN, None),
    ],
)
def test_how_many_outputs_a_network_by_name_gets(y: Tensor, task: Task | None, outputs: int | None) -> None:
    assert both(X, y, task=task).outputs == outputs
    if y.is_floating_point():
        data = Examples(X, y)
        assert make_splits(data, data, task=task).outputs == outputs


# ---- precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_are_held_as_asked_for(dtype: torch.dtype) -> None:
    x = torch.rand(12, 2, dtype=torch.float64)
    splits = make_splits((x.to(dtype), x), (x.to(dtype), x), task=OWN)
    assert isinstance(splits.train, Resident)
    assert (splits.train.x.dtype, splits.train.y.dtype) == (torch.float32, torch.float32)
    wide = make_splits((x.to(dtype), x), (x.to(dtype), x), task=OWN, floats=torch.float64)
    assert isinstance(wide.train, Resident)
    assert torch.equal(wide.train.x, x.to(dtype).double())
    assert torch.equal(wide.train.y, x)
    with pytest.raises(TombolaError, match=r"floats is torch\.int32; it must be a floating-point dtype"):
        make_splits((x, x), (x, x), task=OWN, floats=torch.int32)


def test_booleans_as_inputs_are_numbers() -> None:
    splits = both(X > 5, Y)
    assert isinstance(splits.train, Resident)
    assert torch.equal(splits.train.x, (X > 5).float())
    (x, _), *_ = feed(streamed(Y, lambda x, y: (x > 5, y)).train, batch_size=12).sweep()
    assert torch.equal(x, (X > 5).float())
