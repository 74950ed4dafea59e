"""Double descent of networks and forests: reuse by hand, thresholds, points found again, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tombola as tb
from cli_calls import call, last_json
from tombola.data.splits import make_splits
from tombola.errors import TombolaError
from tombola.report.page import write_report
from tombola.results.double_descent import DescentFit, over_replicates
from tombola.study.double_descent.base import Points
from tombola.study.double_descent.examples import Examples, Part, examples_of
from tombola.study.double_descent.forest import JOINT, Forest
from tombola.study.double_descent.one_hidden_layer import (
    Network,
    Schedule,
    batches,
    centred,
    first_network,
    train,
    widened,
)
from tombola.study.double_descent.width import Width, parameters


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> Network:
    return Network(
        torch.tensor([[1.0, 0.0], [0.0, -2.0]]),
        torch.tensor([0.5, 0.0]),
        torch.tensor([[1.0, 3.0]]),
        torch.tensor([-1.0]),
    )


# -- one hidden layer


def test_outputs_norm_and_parameters_by_hand() -> None:
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert network()(x).tolist() == [[0.5], [5.0]]  # 1.5 + 0 - 1; 0 + 3 * 2 - 1
    assert network().norm == pytest.approx((1 + 4 + 0.25 + 1 + 9 + 1) ** 0.5)
    assert parameters(2, 2, 1) == sum(part.numel() for part in network().parts)
    assert parameters(50, 784, 10) == 795 * 50 + 10  # the paper's count


def test_a_wider_network_begins_with_the_trained_units_of_the_narrower_one() -> None:
    narrow = network()
    wide = widened(narrow, 5, draws())
    assert torch.equal(wide.into[:2], narrow.into)
    assert torch.equal(wide.bias, torch.tensor([0.5, 0.0, 0.0, 0.0, 0.0]))
    assert torch.equal(wide.out[:, :2], narrow.out)
    assert torch.equal(wide.out_bias, narrow.out_bias)
    assert wide.into[2:].abs().min() > 0
    many = widened(narrow, 20_000, draws())
    assert float(many.into[2:].std()) == pytest.approx(0.1, rel=0.02)  # variance 0.01
    assert float(many.out[:, 2:].std()) == pytest.approx(0.1, rel=0.02)
    many.out_bias.zero_()
    assert narrow.out_bias == -1  # the narrower one stays as it was


def test_inputs_are_centred_and_scaled_by_the_training_examples() -> None:
    train_x, test_x = centred(torch.tensor([[0.0, 4.0], [2.0, 8.0]]), torch.tensor([[1.0, 6.0]]))
    assert test_x.tolist() == [[0.0, 0.0]]
    assert train_x.square().mean() == pytest.approx(1)
    assert (train_x[0] / train_x[0, 0]).tolist() == [1.0, 2.0]


def test_one_step_of_gradient_descent_by_hand() -> None:
    x, y = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.5]], dtype=torch.float64)
    trained = network()
    train(trained, x, Part(x.double(), y, None), Schedule(1, 10, 0.1, 0.9), draws())
    # output 0.5, so the loss's gradient is 2 * (0.5 - 1.5) = -2; hidden units 1.5 and 0
    assert trained.out.tolist() == [[pytest.approx(1 + 0.1 * 2 * 1.5), 3.0]]
    assert trained.out_bias.tolist() == pytest.approx([-1 + 0.2])
    assert trained.into.tolist() == [pytest.approx([1.2, 0.2]), [0.0, -2.0]]


def test_the_learning_rate_is_cut_at_every_twelfth_and_training_stops_without_errors() -> None:
    schedule = Schedule(24, 10, 1.0, 0.9, cut=True)
    assert [schedule.rate(epoch) for epoch in (0, 1, 2, 23)] == pytest.approx([1, 1, 0.9, 0.9**11])
    assert Schedule(24, 10, 1.0, 0.9).rate(23) == 1
    x = torch.tensor([[1.0, 1.0]])
    part = Part(x.double(), torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0]))
    right = Network(torch.ones(1, 2), torch.zeros(1), torch.tensor([[1.0], [0.0]]), torch.zeros(2))
    train(right, x, part, Schedule(5, 10, 0.1, 0.9, stop=True), draws())
    assert right.out.tolist() == [[1.0], [0.0]]
    train(right, x, part, Schedule(5, 10, 0.1, 0.9), draws())
    assert right.out.tolist() != [[1.0], [0.0]]


def test_every_example_is_in_one_batch_of_an_epoch() -> None:
    parts = batches(10, 4, draws())
    assert [len(part) for part in parts if isinstance(part, Tensor)] == [4, 4, 2]
    assert sorted(torch.cat([part for part in parts if isinstance(part, Tensor)]).tolist()) == list(range(10))
    assert batches(4, 4, draws()) == (slice(None),)


def test_glorot_weights_and_biases_of_0() -> None:
    made = first_network(30, 20, 10, draws())
    assert made.into.abs().max() <= (6 / 50) ** 0.5
    assert made.out.abs().max() <= (6 / 30) ** 0.5
    assert not made.bias.any()


# -- the study


def tiny_data() -> Any:
    x = torch.randn(60, 4, generator=draws(1))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    return make_splits((x[:20], y[:20]), (x[20:30], y[20:30]), (x[30:], y[30:]))


WIDTH = Width(widths=(1, 3, 5, 9, 12), epochs=30, lr=0.02)  # 8 parameters a unit and 3 more: threshold 60


@pytest.mark.parametrize(
    "kind",
    [WIDTH, Width(**{**vars(WIDTH), "reuse": True}), Forest(leaves=(2, 3, 20), trees=(1, 2, 4))],
    ids=["width", "reuse", "forest"],
)
def test_killed_after_any_point_it_goes_on_to_the_same_bytes(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data()
    whole = tb.double_descent(kind, data, tmp_path / "whole", replicates=1)
    assert whole.run is not None
    wanted = (Path(whole.run) / "result.json").read_bytes()
    keep = Points.keep
    for last in range(len(whole.curve)):
        kept: list[int] = []

        def keep_some(self: Points, index: int, fit: DescentFit, kept: list[int] = kept, at: int = last) -> DescentFit:
            if len(kept) == at:
                raise KeyboardInterrupt
            kept.append(index)
            return keep(self, index, fit)

        monkeypatch.setattr(Points, "keep", keep_some)
        with pytest.raises(KeyboardInterrupt):
            tb.double_descent(kind, data, tmp_path / str(last), replicates=1)
        monkeypatch.setattr(Points, "keep", keep)
        again = tb.double_descent(kind, data, tmp_path / str(last), replicates=1)
        assert again.run is not None
        assert (Path(again.run) / "result.json").read_bytes() == wanted


def test_reuse_changes_only_what_lies_below_the_threshold(tmp_path: Path) -> None:
    alone = tb.double_descent(WIDTH, tiny_data(), tmp_path, replicates=1)
    reused = tb.double_descent(Width(**{**vars(WIDTH), "reuse": True}), tiny_data(), tmp_path, replicates=1)
    assert alone.threshold == reused.threshold == 60
    assert [point.parameters for point in alone.curve] == [11, 27, 43, 75, 99]
    same = [one == other for one, other in zip(alone.curve, reused.curve, strict=True)]
    assert same == [True, False, False, True, True]


def test_multiples_of_the_threshold_become_widths() -> None:
    filled = Width(multiples=(0.5, 1.0, 2.0)).filled(examples_of(tiny_data()))
    assert filled.widths == (3, 7, 15)
    assert filled.lr == 0.003


def test_forests_grow_leaves_and_then_trees_and_trees_alone_as_a_control(tmp_path: Path) -> None:
    result = tb.double_descent(Forest(leaves=(2, 4, 20), trees=(1, 2, 4)), tiny_data(), tmp_path, replicates=3)
    places = [(point.series, point.leaves, point.trees) for point in result.curve]
    joint = [(JOINT, 2, 1), (JOINT, 4, 1), (JOINT, 20, 1), (JOINT, 20, 2), (JOINT, 20, 4)]
    assert places == [*joint, ("4 trees", 2, 4), ("4 trees", 4, 4), ("4 trees", 20, 4)]
    first, *_, last = result.series[JOINT]
    assert (first.parameters, last.train_error, last.norm) == (2, 0.0, None)
    assert result.threshold == result.series[JOINT][2].parameters
    assert last.test_loss == result.series["4 trees"][2].test_loss  # the same forest
    assert all(len(point.values["test_loss"]) == 3 for point in result.curve)
    assert "disputed" in result.note
    assert "4 trees" in result.sentence
    assert " leaves" in result.sentence
    assert "parameters" not in result.sentence
    assert result.run is not None
    page = write_report([result.run], tmp_path / "page").html.read_text()
    assert "4 × 20" in page
    assert "Leaves in all" in page
    assert "disputed" in page


def test_forests_of_replicates_share_a_point_though_their_trees_have_other_numbers_of_leaves() -> None:
    loss = {"train_loss": 0.0, "test_loss": 1.0, "train_error": 0.0, "test_error": 0.0, "norm": None}
    fits = [DescentFit(parameters=size, leaves=9, trees=1, **loss) for size in (5, 8, 6)]
    (point,) = over_replicates(fits)
    assert (point.parameters, len(point.values["test_loss"])) == (6, 3)
    assert len(over_replicates([fit.replace(trees=None) for fit in fits])) == 3


def test_forests_need_classes() -> None:
    part = Part(torch.zeros(3, 1), torch.zeros(3, 1), None)
    with pytest.raises(TombolaError, match="class numbers"):
        Forest().filled(Examples("numbers", part, part))


def test_the_command_line_of_width(tmp_path: Path) -> None:
    words = ("--kind", "width", "--widths", "[2, 40]", "--epochs", "5", "--replicates", "1", "--label_noise", "0.2")
    found = last_json("study", "double-descent", *words, "--out", str(tmp_path))
    assert (found["examples"], found["outputs"], found["threshold"]) == (200, 10, 2000)
    assert [point["parameters"] for point in found["curve"]] == [160, 3010]
    assert found["settings"]["lr"] == 0.01


REFUSED = {
    "no widths": (["--kind", "width", "--widths", "[]"], "widths is empty"),
    "too wide": (["--kind", "width", "--widths", "[1000000]"], "at most 100,000"),
    "no epochs": (["--kind", "width", "--epochs", "0"], "epochs is 0"),
    "no batch": (["--kind", "width", "--batch", "0"], "batch is 0"),
    "lr 0": (["--kind", "width", "--lr", "0"], "lr is 0"),
    "momentum 1": (["--kind", "width", "--momentum", "1"], "momentum is 1"),
    "one leaf": (["--kind", "forest", "--leaves", "[1]"], "at least 2"),
    "no trees": (["--kind", "forest", "--trees", "[0]"], "trees has 0"),
    "trees of rff": (["--kind", "rff", "--trees", "[3]"], "--trees is an option of kind forest"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    words, said = REFUSED[name]
    status, _, error = call("study", "double-descent", *words, "--out", str(tmp_path / "runs"))
    assert (status, len(error.splitlines())) == (2, 1)
    assert said in error
    assert not (tmp_path / "runs").exists()
