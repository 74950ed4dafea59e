"""Double descent: least squares by hand and against numpy, the peak at N = n, points found again, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import tombola as tb
from cli_calls import call, last_json
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.data.splits import Task, make_splits
from tombola.errors import TombolaError
from tombola.report.descent_plots import descent_plots
from tombola.report.descent_tables import descent_tables
from tombola.report.page import write_report
from tombola.report.plot import Plot
from tombola.results.double_descent import KIND_TITLES, DescentFit, DescentResult, over_replicates, peak_of, unit_of
from tombola.results.table import results
from tombola.study.double_descent.examples import Examples, Part, examples_of
from tombola.study.double_descent.features import Draws, fourier, half_median_distance, relu
from tombola.study.double_descent.kinds import KINDS
from tombola.study.double_descent.least_squares import minimum_norm
from tombola.study.double_descent.random_features import FourierFeatures, ReluFeatures
from tombola.study.double_descent.sentence import sentence, size_in_words

FEW = (3, 8, 12, 13, 15, 24, 60)
"""Numbers of features, below and above twelve examples, and beside them."""


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn(inputs: int = 5) -> Draws:
    return Draws(inputs, 3, fourier)


def check_against_pinv(x: Tensor, tolerance: float) -> None:
    y, other = uniform(len(x), 3, seed=1), uniform(7, x.shape[1], seed=2)
    found = dict(minimum_norm(drawn(x.shape[1]), x, y, FEW, [other]))
    assert list(found) == list(FEW)
    for count, fitted in found.items():
        z, z_other = (drawn(x.shape[1])(inputs, 0, count).numpy() for inputs in (x, other))
        coefficients = np.linalg.pinv(z, rcond=1e-10) @ y.numpy()
        assert fitted.norm == pytest.approx(np.linalg.norm(coefficients), rel=tolerance)
        for outputs, features in zip(fitted.outputs, (z, z_other), strict=True):
            assert np.allclose(outputs.numpy(), features @ coefficients, atol=tolerance * fitted.norm)


# -- least squares


def test_the_solution_of_smallest_norm_is_that_of_the_pseudo_inverse() -> None:
    check_against_pinv(uniform(12, 5), 1e-7)


def test_examples_that_occur_twice_leave_the_features_without_full_rank() -> None:
    x = uniform(12, 5)
    x[7] = x[2]
    check_against_pinv(x, 1e-4)


def test_least_squares_by_hand() -> None:
    x, y = torch.eye(2, dtype=torch.float64), torch.tensor([[3.0], [4.0]], dtype=torch.float64)

    def features(x: Tensor, first: int, end: int) -> Tensor:
        return torch.cat([x, x], dim=1)[:, first:end]  # the third is the first again

    one, two, four = (fitted for _, fitted in minimum_norm(features, x, y, [1, 2, 4]))
    assert one.outputs[0].flatten().tolist() == [3, 0]
    assert one.norm == 3
    assert two.outputs[0].flatten().tolist() == pytest.approx([3, 4])
    assert two.norm == pytest.approx(5)
    assert four.norm == pytest.approx(5 / math.sqrt(2))  # each weight shared by two equal features


def test_what_is_done_is_left_out_and_changes_no_bit_of_the_rest() -> None:
    x, y = uniform(12, 5), uniform(12, 3, seed=1)
    whole = dict(minimum_norm(drawn(), x, y, FEW, [x[:4]]))
    for done in ([], [3, 13], [3, 8, 12], [13, 15, 24, 60], [24, 60], FEW):
        rest = dict(minimum_norm(drawn(), x, y, FEW, [x[:4]], done))
        assert list(rest) == [count for count in FEW if count not in done]
        for count, fitted in rest.items():
            assert fitted.norm == whole[count].norm
            assert all(map(torch.equal, fitted.outputs, whole[count].outputs))


def test_more_features_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tombola.study.double_descent.least_squares.CHUNK", 5)
    check_against_pinv(uniform(12, 5), 1e-7)


def test_features_that_are_0_for_every_example_have_the_coefficient_0() -> None:
    x, y = uniform(12, 5), uniform(12, 3, seed=1)

    def features(x: Tensor, first: int, end: int) -> Tensor:
        z = drawn()(x, first, end)
        z[:, [at - first for at in (0, 4, 11, 13) if first <= at < end]] = 0
        return z

    for count, fitted in minimum_norm(features, x, y, [1, 3, 6, 12, 14, 30]):
        z = features(x, 0, count).numpy()
        coefficients = np.linalg.pinv(z) @ y.numpy()
        assert fitted.norm == pytest.approx(np.linalg.norm(coefficients), rel=1e-6)
        assert np.allclose(fitted.outputs[0].numpy(), z @ coefficients, atol=1e-6)


# -- features


def test_fourier_features_approximate_the_gaussian_kernel() -> None:
    x, sigma = uniform(6, 4), 0.8
    z = Draws(4, 0, lambda x, v, b: fourier(x, v / sigma, b))(x, 0, 20_000)
    kernel = (-(torch.cdist(x, x) ** 2) / (2 * sigma**2)).exp()
    assert (z @ z.T / z.shape[1] - kernel).abs().max() < 0.05


def test_relu_features_have_directions_of_length_1() -> None:
    v = torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    assert relu(x, v).tolist() == [[pytest.approx(1.4), 0.0]]


def test_a_feature_depends_on_its_number_and_the_seed_alone() -> None:
    x = uniform(3, 5)
    whole = drawn()(x, 0, 1100)
    assert torch.allclose(drawn()(x, 500, 1030), whole[:, 500:1030], atol=1e-14)
    assert not torch.allclose(Draws(5, 4, fourier)(x, 0, 10), whole[:, :10])


def test_half_the_median_distance() -> None:
    assert half_median_distance(torch.tensor([[0.0], [4.0], [10.0]])) == 3
    with pytest.raises(TombolaError, match="set sigma"):
        half_median_distance(torch.ones(5, 2))


# -- examples


def test_inputs_are_pixels_as_they_were_before_normalisation() -> None:
    examples = examples_of(load_data(DataSpec("digits")))
    assert (examples.n, examples.inputs, examples.outputs) == (1294, 64, 10)
    assert abs(examples.train.x.min()) < 1e-6
    assert examples.train.x.max() == pytest.approx(1)
    assert (examples.train.x * 16 - (examples.train.x * 16).round()).abs().max() < 1e-5
    assert examples.train.y.sum(1).eq(1).all()


def test_losses_and_errors_by_hand() -> None:
    part = Part(torch.zeros(2, 1), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    outputs = torch.tensor([[0.5, 0.0], [2.0, 0.0]])
    assert part.loss(outputs) == (0.25 + 5) / 2
    assert part.error(outputs) == 0.5
    assert replace(part, labels=None).error(outputs) is None


# -- peak, points


def test_the_peak_is_the_most_prominent_maximum_inside() -> None:
    sizes = [1, 2, 3, 4, 5, 6]
    assert peak_of(sizes, [9, 3, 2, 5, 1, 0]) == 4
    assert peak_of(sizes, [9, 3, 4, 2, 8, 1]) == 5
    assert peak_of(sizes, [5, 4, 3, 2, 1, 0]) is None
    assert peak_of(sizes, [0, 1, 2, 3, 4, 5]) is None
    assert peak_of(list(reversed(sizes)), [0, 1, 5, 2, 3, 9]) == 4
    assert peak_of(sizes, [9, None, 2, 5, None, 0]) == 4
    assert peak_of(sizes, [1] * 6) is None


def fit(features: int, loss: float | None) -> DescentFit:
    return DescentFit(features=features, train_loss=0.0, test_loss=loss, train_error=0.0, test_error=0.1, norm=1.0)


def test_points_are_means_with_intervals_from_three_replicates_on() -> None:
    fits = [fit(count, value) for value in (1.0, 2.0, 3.0) for count in (5, 10)]
    first, second = over_replicates(fits)
    assert (first.features, second.features) == (5, 10)
    assert first.test_loss == 2.0
    assert first.values["test_loss"] == (1.0, 2.0, 3.0)
    assert first.intervals["test_loss"] == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-5)
    alone = over_replicates(fits[:2])[0]
    assert alone.intervals == {}
    assert over_replicates([fit(5, None), fit(5, 4.0)])[0].test_loss == 4.0


# -- the study

KEYS = {"features", "train_loss", "test_loss", "train_error", "test_error", "norm", "intervals", "values"}


@pytest.mark.parametrize("kind", ["rff", "relu"])
def test_the_peak_lies_where_there_are_as_many_features_as_examples(kind: str, tmp_path: Path) -> None:
    multiples = ("--multiples", "[0.4, 0.8, 0.9, 1.0, 1.1, 1.3, 2.0]", "--replicates", "2")
    words = ("study", "double-descent", "--kind", kind, "--data", "digits", *multiples, "--out", str(tmp_path))
    found = last_json(*words)
    assert (found["kind"], found["curve_kind"], found["axis"]) == ("double-descent", kind, "features")
    assert found["threshold"] == found["examples"]
    assert found["peak"] == pytest.approx(found["threshold"], rel=0.1)
    assert [point["features"] for point in found["curve"]] == [518, 1035, 1165, 1294, 1423, 1682, 2588]
    assert all(set(point) == KEYS - {"intervals"} for point in found["curve"])
    losses = {point["features"]: point["test_loss"] for point in found["curve"]}
    assert losses[2588] < losses[518] < losses[1165] < losses[1294] > losses[1423]
    assert all(point["train_loss"] < 1e-12 for point in found["curve"] if point["features"] >= 1423)
    assert (found["seeds"][0], len(found["seeds"])) == (0, 2)
    again = last_json(*words)
    assert again["reused"]
    assert {**again, "reused": False} == found


def small(**more: Any) -> FourierFeatures:
    return FourierFeatures(**{"features": FEW, "sigma": 2.0, **more})


def tiny_data(labels: bool = True) -> Any:
    x = uniform(40, 5).float()
    y = (x.sum(1) > 2.5).long() if labels else x[:, :2]
    task = None if labels else Task(mse_loss, mse_loss, "error", higher_is_better=False)
    return make_splits((x[:12], y[:12]), (x[12:20], y[12:20]), (x[20:], y[20:]), task)


def curve_of(folder: Path, data: Any, **more: Any) -> DescentResult:
    return tb.double_descent(small(), data, folder, replicates=2, **more)


def test_killed_after_any_point_it_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tombola.study.double_descent.base import Points

    data = tiny_data()
    whole = curve_of(tmp_path / "whole", data)
    assert whole.run is not None
    wanted = (Path(whole.run) / "result.json").read_bytes()
    keep = Points.keep
    for last in range(2 * len(FEW)):
        kept: list[int] = []

        def keep_some(
            self: Points, index: int, fit: DescentFit, kept: list[int] = kept, last: int = last
        ) -> DescentFit:
            if len(kept) == last:
                raise KeyboardInterrupt
            kept.append(index)
            return keep(self, index, fit)

        folder = tmp_path / f"killed-{last}"
        monkeypatch.setattr(Points, "keep", keep_some)
        with pytest.raises(KeyboardInterrupt):
            curve_of(folder, data)
        monkeypatch.setattr(Points, "keep", keep)
        resumed = curve_of(folder, data)
        assert resumed.run is not None
        assert (Path(resumed.run) / "result.json").read_bytes() == wanted


def test_losses_that_are_no_numbers_are_said() -> None:
    def point(size: int, *losses: float) -> tuple[DescentFit, ...]:
        rest: dict[str, Any] = {"train_error": None, "test_error": None, "norm": None}
        return tuple(DescentFit(features=size, train_loss=loss, test_loss=loss, **rest) for loss in losses)

    some = over_replicates([*point(1, 2.0, 3.0), *point(2, math.inf, 1.0), *point(3, math.nan, math.nan)])
    assert sentence("rff", some, "features", "test_loss", 2.0) == (
        "Test loss has no peak inside the curve; it is lowest at 2 features; it is not a finite number in every "
        "replicate at 2 of 3 sizes."
    )
    none = over_replicates(point(3, math.nan))
    assert sentence("rff", none, "features", "test_loss", 2.0) == "Test loss is not a finite number at any size."


def test_one_of_something_is_said_in_the_singular() -> None:
    assert size_in_words(1.0, "parameters", unit_of("width", "parameters")) == "1 parameter"
    assert size_in_words(1.0, "parameters", unit_of("forest", "parameters")) == "1 leaf"
    assert size_in_words(1294.0, "features", unit_of("rff", "features")) == "1,294 features"
    assert size_in_words(0.05, "density", unit_of("density", "density")) == "5.00 % of the weights"


def test_every_kind_has_a_title() -> None:
    assert list(KIND_TITLES) == list(KINDS)


def test_replicates_draw_other_features(tmp_path: Path) -> None:
    point = curve_of(tmp_path, tiny_data()).curve[0]
    assert len(set(point.values["test_loss"])) == 2


def test_targets_that_are_no_classes_have_losses_without_errors(tmp_path: Path) -> None:
    result = curve_of(tmp_path, tiny_data(labels=False))
    assert result.outputs == 2
    assert all(point.test_error is None and point.test_loss is not None for point in result.curve)
    assert [plot.title for plot in descent_plots(result) if isinstance(plot, Plot)] == ["Double descent"]


def test_models_that_came_out_alike_are_drawn(tmp_path: Path) -> None:
    # as do trees that fit everything with fewer leaves than they may have
    result = curve_of(tmp_path, tiny_data())
    twice = result.replace(curve=(*result.curve, result.curve[-1]))
    assert [plot.title for plot in descent_plots(twice) if isinstance(plot, Plot)] == ["Double descent"]


def test_the_page_the_table_of_results_and_an_unfinished_run(tmp_path: Path) -> None:
    result = curve_of(tmp_path / "runs", tiny_data())
    assert result.run is not None
    (table,) = descent_tables(result)
    assert f"n = {result.examples} training examples, K = {result.outputs} outputs." in table.note
    past = [row for row, point in zip(table.rows, result.curve, strict=True) if (point.features or 0) > result.examples]
    assert past
    assert all(row[2] == "< 1e−09" for row in past)
    page = write_report([result.run], tmp_path / "page").html.read_text()
    assert result.sentence in page
    assert "Double descent" in page
    rows = results(tmp_path / "runs")
    assert len(rows) == 2 * len(FEW)
    error = result.curve[0].values["test_error"][1]
    assert error is not None
    assert rows[1].test_accuracy == 1 - error
    (Path(result.run) / "result.json").unlink()
    (Path(result.run) / "curve-1" / "point-006" / "result.json").unlink()
    page = write_report([result.run], tmp_path / "partial").html.read_text()
    assert "13 models fitted so far" in page
    assert len(results(tmp_path / "runs")) == 0


REFUSED = {
    "an unknown kind": (["--kind", "rfff"], "did you mean rff"),
    "an option of another kind": (["--kind", "relu", "--sigma", "2"], "--sigma is an option of kind rff"),
    "sigma 0": (["--sigma", "0"], "sigma is 0"),
    "no features": (["--features", "[]"], "features is empty"),
    "0 features": (["--features", "[0, 5]"], "at least 1"),
    "0 features alone": (["--features", "0"], "at least 1"),
    "features twice": (["--features", "[5, 5]"], "5 twice"),
    "multiples below 0": (["--multiples", "[-1]"], "multiples has -1"),
    "replicates 0": (["--replicates", "0"], "replicates is 0"),
    "a seed below 0": (["--seed", "-1"], "seed is -1"),
    "a length": (["--length", "3ep"], "--length is not known; --epochs or --recipe says how long"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    words, said = REFUSED[name]
    out = tmp_path / "runs"
    status, _, error = call("study", "double-descent", *words, "--out", str(out))
    assert (status, len(error.splitlines())) == (2, 1)
    assert said in error
    assert not out.exists()


def test_too_many_examples_are_refused_with_the_option_to_set() -> None:
    examples = Examples(
        "many", Part(torch.zeros(30_000, 1), torch.zeros(30_000, 1), None), Part(*[torch.zeros(1, 1)] * 2, None)
    )
    for kind in (FourierFeatures(), ReluFeatures()):
        with pytest.raises(TombolaError, match="set train_examples to at most"):
            kind.filled(examples)


def test_data_without_a_test_split_or_with_tokens_are_refused() -> None:
    x, y = uniform(20, 3).float(), torch.arange(20) % 2
    with pytest.raises(TombolaError, match="no test split"):
        examples_of(make_splits((x, y), (x, y)))
    tokens = torch.arange(60).view(20, 3) % 7
    with pytest.raises(TombolaError, match="pixels or other numbers"):
        examples_of(make_splits((tokens, y), (tokens, y), (tokens, y)))


def test_settings_left_open_are_filled_in_and_recorded(tmp_path: Path) -> None:
    result = tb.double_descent(FourierFeatures(multiples=(0.5, 2)), tiny_data(), tmp_path, replicates=1)
    assert result.settings["features"] == [6, 24]
    assert result.settings["sigma"] == pytest.approx(half_median_distance(examples_of(tiny_data()).train.x))


def test_every_kind_has_its_name_and_json(tmp_path: Path) -> None:
    assert set(KINDS) >= {"rff", "relu"}
    result = tb.double_descent("relu", tiny_data(), tmp_path, replicates=1)
    assert json.loads(json.dumps(result.as_dict()))["curve_kind"] == "relu"
