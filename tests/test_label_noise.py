"""Wrong training labels and small training splits: which, how many, and that they go from option to ticket."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from tombola.cli import main
from tombola.data.config import Augment, DataSpec
from tombola.data.fewer import stratified_order, with_train_examples
from tombola.data.label_noise import mislabelled, noisy_classes, with_label_noise
from tombola.data.labels import UntaughtLabelsWarning
from tombola.data.registry import load_data
from tombola.data.splits import Resident, Splits, Task, accuracy, make_splits
from tombola.errors import TombolaError
from tombola.search.describe import describe_data
from tombola.study.recorded import data_of
from tombola.ticket.ticket import Ticket


def labels_of(splits: Splits, part: str = "train") -> Tensor:
    split = getattr(splits, part)
    assert isinstance(split, Resident)
    return split.y


def own(classes: int = 4, count: int = 40, **more: Any) -> Splits:
    y = torch.arange(count) % classes
    x = torch.arange(count, dtype=torch.float32).view(-1, 1)
    return make_splits((x, y), (x[:classes], y[:classes]), (x[:classes], y[:classes]), **more)


def test_pairflip_by_hand() -> None:
    labels = torch.tensor([0, 1, 2, 2])
    assert noisy_classes(labels, 3, 1.0, "pairflip", 0).tolist() == [1, 2, 0, 0]


def test_two_classes_leave_no_choice() -> None:
    labels = torch.tensor([0, 1, 1])
    assert noisy_classes(labels, 2, 1.0, "symmetric", 5).tolist() == [1, 0, 0]


@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
def test_exactly_so_many_are_wrong_and_more_noise_keeps_what_less_did(kind: str) -> None:
    labels = torch.arange(1003) % 10
    less, more = (noisy_classes(labels, 10, p, kind, 3) for p in (0.2, 0.4))
    assert int((less != labels).sum()) == round(0.2 * 1003)
    assert int((more != labels).sum()) == round(0.4 * 1003)
    assert torch.equal(more[less != labels], less[less != labels])
    assert torch.equal(less, noisy_classes(labels, 10, 0.2, kind, 3))
    assert not torch.equal(less, noisy_classes(labels, 10, 0.2, kind, 4))


def test_symmetric_noise_is_uniform_among_the_others() -> None:
    labels = torch.zeros(30_000, dtype=torch.int64)
    counts = torch.bincount(noisy_classes(labels, 4, 1.0, "symmetric", 0), minlength=4)
    assert int(counts[0]) == 0
    assert bool(((counts[1:] - 10_000).abs() < 400).all()), "4.9 standard deviations"


def test_half_to_even() -> None:
    assert int((noisy_classes(torch.zeros(5, dtype=torch.int64), 3, 0.5, "symmetric", 0) != 0).sum()) == 2


def test_only_the_training_split_is_noisy() -> None:
    clean, noisy = load_data(DataSpec()), load_data(DataSpec(label_noise=0.25))
    for part in ("val", "test"):
        assert torch.equal(labels_of(clean, part), labels_of(noisy, part))
    wrong = mislabelled(noisy, clean)
    assert int(wrong.sum()) == round(0.25 * len(wrong))
    assert clean.fingerprint != noisy.fingerprint
    assert noisy.fingerprint != load_data(DataSpec(label_noise=0.25, label_noise_kind="pairflip")).fingerprint
    with pytest.raises(TombolaError, match="differ in length"):
        mislabelled(noisy, load_data(DataSpec(train_examples=50)))


def test_a_label_that_the_task_leaves_out_is_neither_made_wrong_nor_drawn() -> None:
    y = torch.tensor([0, 1, 2, 2] * 10)
    x = torch.zeros(40, 1)
    task = Task(partial(F.cross_entropy, ignore_index=1), accuracy)
    noisy = labels_of(with_label_noise(make_splits((x, y), (x[:4], y[:4][[0, 2, 2, 0]]), task=task), 1.0))
    assert torch.equal(noisy == 1, y == 1)
    assert torch.equal(noisy[y == 0], torch.full((10,), 2))
    assert torch.equal(noisy[y == 2], torch.zeros(20, dtype=torch.int64))


def test_the_order_is_stratified_at_every_length() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, 0)
    assert sorted(order.tolist()) == list(range(100))
    for count in (10, 20, 50, 90):
        counts = torch.bincount(labels[order[:count]], minlength=3)
        assert counts.tolist() == pytest.approx([0.6 * count, 0.3 * count, 0.1 * count], abs=1)
    assert not torch.equal(order, stratified_order(labels, 1))
    balanced = stratified_order(torch.arange(40) % 4, 0)
    assert all(sorted((balanced[at : at + 4] % 4).tolist()) == [0, 1, 2, 3] for at in range(0, 40, 4))


def test_fewer_are_among_more_and_the_other_parts_stay() -> None:
    whole, some, few = (load_data(DataSpec(train_examples=n)) for n in (None, 300, 100))
    rows = [{tuple(x.flatten().tolist()) for x in splits.train.x} for splits in (whole, some, few)]  # type: ignore[union-attr]
    assert rows[2] < rows[1] < rows[0]
    assert [len(splits.train) for splits in (some, few)] == [300, 100]
    for part in ("val", "test"):
        assert torch.equal(labels_of(whole, part), labels_of(few, part))
    assert torch.bincount(labels_of(few), minlength=10).tolist() == pytest.approx([10] * 10, abs=1)
    assert load_data(DataSpec(train_examples=len(whole.train))).fingerprint == whole.fingerprint


def test_noise_counts_what_is_left() -> None:
    clean, noisy = (load_data(DataSpec(train_examples=101, label_noise=p)) for p in (0.0, 0.2))
    assert int(mislabelled(noisy, clean).sum()) == 20


class _Fetched(Dataset[Any]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), index % 2


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (lambda: make_splits((torch.zeros(20, 1), torch.zeros(20, 1)), task=Task(F.mse_loss, F.mse_loss)), "float32"),
        (lambda: make_splits((torch.zeros(20, 1, 3), torch.arange(60).view(20, 3) % 2), classes=2), r"shape \(18, 3\)"),
        (lambda: make_splits(_Fetched(), classes=2), "in memory"),
        (lambda: own(1), "at least 2 classes"),
    ],
)
def test_what_has_no_labels_to_make_wrong_is_refused(splits: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says) as caught:
        with_label_noise(splits(), 0.2)
    assert "\n" not in str(caught.value)


def test_examples_without_class_numbers_are_drawn_uniformly() -> None:
    streamed = make_splits(_Fetched(), classes=2)
    assert len(with_train_examples(streamed, 5).train) == 5
    numbers = make_splits((torch.arange(20.0).view(-1, 1), torch.zeros(20, 1)), task=Task(F.mse_loss, F.mse_loss))
    assert len(with_train_examples(numbers, 7).train) == 7


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"label_noise": 1.5}, "label_noise is 1.5; it must lie in 0 to 1"),
        ({"label_noise_kind": "pair"}, "unknown label_noise_kind 'pair'"),
        ({"train_examples": 0}, "must be at least 1"),
    ],
)
def test_impossible_options(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        DataSpec(**fields)


def test_more_than_there_are() -> None:
    with pytest.raises(TombolaError, match=r"train_examples is 99999, but digits has 1,\d+ to train on"):
        load_data(DataSpec(train_examples=99999))


def function(root: str, seed: int) -> Splits:
    return own()


def test_a_data_function_has_both() -> None:
    spec = DataSpec(f"{__name__}.function", train_examples=20, label_noise=0.5)
    noisy, clean = load_data(spec), load_data(replace(spec, label_noise=0.0))
    assert int(mislabelled(noisy, clean).sum()) == 10


def test_descriptions_without_the_options_are_as_before() -> None:
    spec = DataSpec()
    plain = describe_data(spec, load_data(spec))
    assert not {"train_examples", "label_noise", "label_noise_kind"} & set(plain)
    with pytest.raises(TombolaError, match="no label is made wrong"):
        load_data(DataSpec(label_noise_kind="pairflip"))
    noisy = DataSpec(train_examples=100, label_noise=0.2)
    told = describe_data(noisy, load_data(noisy))
    assert (told["train_examples"], told["label_noise"], told["label_noise_kind"]) == (100, 0.2, "symmetric")


def test_from_the_command_line_to_the_ticket_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--train_examples", "200", "--label_noise", "0.2", "--label_noise_kind", "pairflip"]
    words = ["find", "imp", "--model", "mlp", "--data", "digits", "--levels", "1", "--length", "10it", *data]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    ticket = Ticket.load(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["ticket"])
    spec = data_of(ticket, "data")
    assert spec == DataSpec(augment=Augment(), train_examples=200, label_noise=0.2, label_noise_kind="pairflip")
    assert load_data(spec).fingerprint == ticket.provenance["data"]["fingerprint"]


def test_classes_that_a_small_training_split_lacks_are_named() -> None:
    with pytest.warns(UntaughtLabelsWarning, match=r"no training example has label .* of the val split"):
        with_train_examples(own(), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_train_examples(own(), 4)


def test_noise_that_makes_no_label_wrong_is_refused() -> None:
    with pytest.raises(TombolaError, match=r"label_noise 0\.01 makes none of the 40 training labels wrong"):
        with_label_noise(own(), 0.01)


def test_a_mapping_is_named_where_one_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "double-descent", "--kind", "density", "--data", "digits", "--recipe", "3"]) == 2
    assert "recipe is '3', but it must be a mapping such as {name: value} or null" in capsys.readouterr().err
