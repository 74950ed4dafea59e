"""Sensitivities, the allocation of densities to layers, and budgets."""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from clocks import NATIVE
from tombola.errors import TombolaError
from tombola.prune.allocate import Counts, Evolution, by_error, evolve, rounded, uniform
from tombola.prune.budget import Trial, bisected, nearest
from tombola.prune.calibration import read
from tombola.prune.goals import KeepAccuracy, bytes_of, dense_bytes
from tombola.prune.validation import Validation


class Idle(nn.Module):
    """A classifier with a layer whose output is multiplied by 0."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.relu(self.first(x + 0 * self.idle(x))))
        return found


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A network that tells four corners apart, and its examples."""
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    model = Idle()
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval(), (x, y)


Trained = tuple[nn.Module, tuple[Tensor, Tensor]]


# ---- sensitivity -----------------------------------------------------------------------------------------------


def test_a_layer_that_does_nothing_is_flat(trained: Trained) -> None:
    model, batch = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = tb.sensitivity(model, [batch], densities=[0.1, 0.5])
    assert (found.measure, found.densities) == ("accuracy", (0.5, 0.1))
    by_name = {layer.name: layer.values for layer in found.layers}
    assert by_name["idle.weight"] == (found.dense, found.dense)
    assert by_name["first.weight"][1] < found.dense
    assert found.losses()["first.weight"][1] == found.dense - by_name["first.weight"][1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "first.weight" in str(found)
    assert "50 %" in str(found)
    assert ",," not in str(tb.sensitivity(model, batch[0], densities=[0.5]))


def test_output_error_by_hand() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[3.0, 1.0]])
    found = tb.sensitivity(nn.Sequential(layer), torch.eye(2), densities=[0.5])
    # outputs 3 and 1; without the lesser weight 3 and 0
    assert (found.measure, found.dense, found.layers[0].values) == ("output_error", 0.0, (1 / 10,))


def test_a_pattern_of_n_of_m_has_its_one_density(trained: Trained) -> None:
    model, batch = trained
    assert tb.sensitivity(model, [batch], pattern="2:4").densities == (0.5,)


def test_channels_are_rows_of_each_layer(trained: Trained) -> None:
    model, batch = trained
    layers = tb.sensitivity(model, [batch], pattern="channel", densities=[0.25]).layers
    assert [len(layer.values) for layer in layers] == [1, 1, 1]
    mask = tb.prune_to(model, [batch], file="2kB", pattern="channel", allocation="uniform").pruned.mask
    assert all(bool((rows.all(1) | ~rows.any(1)).all()) for rows in mask.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"measure": "speed"}, "unknown measure 'speed'"),
        ({"densities": [0.0]}, "the fraction of weights KEPT"),
        ({"criterion": "sparse_gpt"}, "sparse_gpt has no scores to try densities by"),
        ({"pattern": "head"}, "pattern head takes one density for all attention layers"),
        ({"exclude": ["*"]}, "the model has no prunable weights"),
    ],
)
def test_a_sensitivity_that_makes_no_sense_is_refused(trained: Trained, options: dict[str, Any], words: str) -> None:
    model, batch = trained
    with pytest.raises(TombolaError, match=words):
        tb.sensitivity(model, [batch], **options)


def test_accuracy_is_lost_or_gained_and_no_loss_is_negative(trained: Trained) -> None:
    model, batch = trained
    goal = KeepAccuracy(1.0, Validation(read([batch], model, None, None, 0)), 0.9)
    assert goal.words(0.29) == "0.29 points of accuracy lost"
    assert goal.words(-0.29) == "0.29 points of accuracy gained"


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    layer = nn.Linear(3, 2)
    layer.lock = threading.Lock()  # type: ignore[assignment]
    for call in (tb.sensitivity, lambda *given: tb.prune_to(*given, file="1kB")):
        with pytest.raises(TombolaError, match="the model cannot be copied"):
            call(layer, torch.ones(2, 3))


def test_an_error_that_is_no_number_is_said_without_a_unit() -> None:
    found = tb.sensitivity(nn.Linear(3, 2), torch.full((2, 3), math.nan), densities=[0.5])
    assert "not a number" in str(found)
    assert "not a number %" not in str(found)


def test_accuracy_needs_labels_that_are_classes(trained: Trained) -> None:
    model, (x, y) = trained
    with pytest.raises(TombolaError, match="labels are float32, and accuracy compares classes; give whole numbers"):
        tb.prune_to(model, [(x, y.float())], keep_accuracy=1.0)


def test_accuracy_needs_labels(trained: Trained) -> None:
    model, (x, _) = trained
    with pytest.raises(TombolaError, match="there are no labels to be accurate on"):
        tb.sensitivity(model, x, measure="accuracy")


# ---- allocation ------------------------------------------------------------------------------------------------


def test_the_same_density_everywhere() -> None:
    assert uniform({"a": 10, "b": 30}, 20) == {"a": 5, "b": 15}
    assert sum(uniform({"a": 7, "b": 7, "c": 7}, 10).values()) == 10


def test_rounding_keeps_the_total_within_bounds() -> None:
    assert rounded({"a": 0.2, "b": 5.9, "c": 3.9}, {"a": 4, "b": 6, "c": 9}, 10) == {"a": 1, "b": 6, "c": 3}
    assert rounded({"a": 100.0, "b": 0.0}, {"a": 4, "b": 1000}, 700) == {"a": 4, "b": 696}
    with pytest.raises(TombolaError, match="1 weights cannot be kept of 2 layers"):
        rounded({"a": 1.0, "b": 1.0}, {"a": 4, "b": 4}, 1)


def test_layers_lose_the_same() -> None:
    sizes, densities = {"a": 1000, "b": 1000}, [0.25, 0.0625]
    # at every density b loses twice what a does, linearly in the logarithm: 0.1 and 0.2 a quarter
    losses = {"a": [0.1, 0.2], "b": [0.2, 0.4]}
    found = by_error(sizes, densities, losses, 1000)
    assert sum(found.values()) == 1000
    lost = {name: -math.log(found[name] / 1000, 4) * losses[name][0] for name in sizes}
    assert lost["a"] == pytest.approx(lost["b"], rel=0.01)


def test_a_layer_that_loses_nothing_gives_first_and_what_is_unknown_is_shared() -> None:
    sizes, densities = {"idle": 100, "busy": 100}, [0.5, 0.1]
    losses = {"idle": [0.0, 0.0], "busy": [0.3, 0.9]}
    assert by_error(sizes, densities, losses, 110) == {"idle": 10, "busy": 100}
    assert by_error(sizes, densities, losses, 10) == {"idle": 5, "busy": 5}
    assert by_error(sizes, densities, losses, 155) == {"idle": 55, "busy": 100}


def test_losses_that_fall_again_and_those_unknown_count_as_the_least_before() -> None:
    sizes, densities = {"a": 100, "b": 100}, [0.5, 0.1]
    odd = by_error(sizes, densities, {"a": [0.4, 0.2], "b": [0.4, float("inf")]}, 60)
    assert odd == {"a": 30, "b": 30}


def test_evolution_keeps_the_total_and_never_gets_worse() -> None:
    sizes = {"a": 200, "b": 50, "c": 120}
    best = {"a": 20, "b": 45, "c": 60}
    start = uniform(sizes, sum(best.values()))
    shares: list[float] = []

    def error(counts: Counts, share: float) -> float:
        assert sum(counts.values()) == sum(best.values())
        assert all(1 <= counts[name] <= size for name, size in sizes.items())
        shares.append(share)
        return sum((counts[name] - best[name]) ** 2 for name in sizes)

    def run() -> list[tuple[Counts, float]]:
        draw = torch.Generator().manual_seed(3)
        return list(evolve(start, sizes, error, Evolution(generations=30), draw))

    found = run()
    errors = [error(start, 1.0), *(value for _, value in found)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 20
    assert run() == found
    # of 16 all are judged on an eighth, of 4 on half, and 2 with the parent on everything
    assert [shares[:16].count(0.125), shares[16:20].count(0.5), shares[20:23].count(1.0)] == [16, 4, 3]


def test_one_layer_has_nothing_to_switch() -> None:
    draw = torch.Generator().manual_seed(0)
    assert list(evolve({"a": 3}, {"a": 9}, lambda *_: 1.0, Evolution(generations=1), draw)) == [({"a": 3}, 1.0)]


# ---- budgets ---------------------------------------------------------------------------------------------------


class Line:
    """A value that is 100 times the density."""

    def __init__(self, most: float | None = None, least: float | None = None) -> None:
        self.sparser_helps, self._most, self._least = most is not None, most, least

    def value(self, pruned: object) -> float:
        raise AssertionError

    def short(self, value: float) -> float:
        return value - self._most if self._most is not None else (self._least or 0) - value

    def words(self, value: float) -> str:
        return str(value)


def hundredfold(density: float) -> float:
    return 100 * density


@pytest.mark.parametrize(("goal", "side"), [(Line(most=20), 1), (Line(least=20), -1)])
def test_the_last_density_that_meets_it_is_found(goal: Line, side: int) -> None:
    trials = list(bisected(hundredfold, goal, 0.01, 20))
    best = nearest(trials, goal)
    assert best.met
    assert 1 / 1.02 <= (best.density / 0.2) ** side <= 1
    assert len(trials) < 12
    assert sum(trial.density < 1 for trial in bisected(hundredfold, goal, 0.01, 3)) == 3


def test_the_nearest_of_those_that_fall_short() -> None:
    goal = Line(most=0.5)
    trials = list(bisected(hundredfold, goal, 0.01, 20))
    assert trials == [Trial(0.01, 1.0, False)]
    assert nearest(trials, goal) == trials[0]
    never = Line(least=1000)
    assert nearest(list(bisected(hundredfold, never, 0.01, 20)), never).density > 0.95


def test_accuracy_is_looked_for_from_the_dense_end() -> None:
    assert [trial.density for trial in bisected(hundredfold, Line(least=90), 0.2, 3)] == pytest.approx([0.6, 0.8, 0.9])
    for least in (45, 70, 90):  # four trials find a density that keeps it
        assert nearest(list(bisected(hundredfold, Line(least=least), 0.01, 4)), Line(least=least)).met
    easy = Line(least=0.5)  # met at the lowest: the search ends beside it
    assert nearest(list(bisected(hundredfold, easy, 0.01, 20)), easy).density < 0.0103


def test_accuracy_is_kept(trained: Trained) -> None:
    model, batch = trained
    reached = tb.prune_to(model, [batch], keep_accuracy=1.0)
    assert reached.met
    assert reached.accuracy is not None
    before, after = reached.accuracy
    assert 100 * (before - after) == pytest.approx(reached.value)
    assert reached.value <= 1.0
    with torch.no_grad():
        assert float((reached.pruned.model(batch[0]).argmax(1) == batch[1]).double().mean()) == after
    assert reached.pruned.mask.density < 0.6
    layers = {layer.name: layer.kept / layer.total for layer in reached.pruned.layers}
    assert layers["idle.weight"] < layers["last.weight"]
    assert "keep_accuracy 1: met:" in str(reached)
    assert reached.as_dict()["met"]


def test_a_file_is_no_larger(trained: Trained, tmp_path: Path) -> None:
    model, batch = trained
    sizes = {}
    for values in (None, "float16"):
        reached = tb.prune_to(model, [batch], file="1.9kB", values=values, allocation="uniform")
        reached.pruned.ticket().save(tmp_path / "net.ticket", values)
        size = (tmp_path / "net.ticket").stat().st_size
        assert reached.met
        assert size == reached.value <= 1900
        sizes[values] = reached.pruned.mask.density
    assert sizes["float16"] > sizes[None]


def test_a_file_is_no_larger_than_its_share_of_the_network_whose_tied_tensors_count_once(trained: Trained) -> None:
    model, batch = trained
    size = sum(value.nbytes for value in model.state_dict().values())
    reached = tb.prune_to(model, [batch], file="95%", allocation="uniform")
    assert reached.asked == int(0.95 * size) >= reached.value
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    assert dense_bytes(tied) == 4 * (64 + 8 + 8)


def test_where_no_density_keeps_the_accuracy_the_nearest_is_given_and_not_the_dense_network(trained: Trained) -> None:
    model, batch = trained
    labels = (batch[1] + 1) % 4  # which the network gets wrong, so that pruning can only win
    reached = tb.prune_to(model, [(batch[0], batch[1])], keep_accuracy=0.0, lowest=0.01, trials=1)
    assert not reached.met
    assert reached.pruned.mask.density < 0.6
    assert "NOT met, the nearest that was reached" in str(reached)
    assert tb.prune_to(model, [(batch[0], labels)], keep_accuracy=0.0, trials=1).met


def test_a_file_that_cannot_be_so_small_is_said_and_the_nearest_kept(trained: Trained) -> None:
    model, batch = trained
    reached = tb.prune_to(model, [batch], file=10, allocation="uniform", lowest=0.1)
    assert not reached.met
    assert len(reached.trials) == 1
    assert reached.pruned.mask.density == pytest.approx(0.1, abs=0.01)
    assert "file 10: NOT met, the nearest that was reached" in str(reached)


@pytest.mark.parametrize("criterion", ["magnitude", "sparse_gpt"])
def test_a_budget_that_the_network_meets_as_it_is_leaves_it_unpruned(trained: Trained, criterion: str) -> None:
    model, batch = trained
    normed = nn.Sequential(model, nn.BatchNorm1d(4)).eval()
    reached = tb.prune_to(normed, [batch], file="1GB", criterion=criterion)
    assert (reached.met, reached.pruned.mask.density) == (True, 1.0)
    assert [trial.density for trial in reached.trials] == [0.01, 1.0]
    assert reached.accuracy is not None
    assert reached.accuracy[0] == reached.accuracy[1]
    for name, value in normed.state_dict().items():
        assert torch.equal(reached.pruned.model.state_dict()[name], value)
    assert "file 1,000,000,000: met by the network as it is, nothing is pruned" in str(reached)


def test_a_network_without_a_path_meets_no_budget() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    with pytest.raises(TombolaError, match="no path leads from the input to the output: 8 of 768 weights") as caught:
        tb.prune_to(model, torch.randn(9, 16), file=10, lowest=0.01, allocation="uniform")
    assert "\n" not in str(caught.value)
    said = r"; file 10 asks for more than these layers can give: with them it is [\d,]+ bytes; ask for less"
    assert re.search(said, str(caught.value))


def test_so_many_times_as_fast(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, _) = trained
    monkeypatch.setattr(import_module("tombola.prune.goals"), "deploy", lambda module, *example, **more: module)

    class Counting:
        """The dense network takes a second, the other the share of its weights that is not 0, and a tenth."""

        def measure(self, runs: dict[str, Callable[[], object]], **more: object) -> dict[str, list[float]]:
            module = runs["deployed"].func  # type: ignore[attr-defined]
            weights = [one for name, one in module.named_parameters() if name.endswith("weight")]
            share = sum(int(one.count_nonzero()) for one in weights) / sum(one.numel() for one in weights)
            return {"eager": [1.0], "deployed": [share + 0.1]}

        fastest, now = NATIVE.fastest, NATIVE.now

    fast = tb.prune_to(model, x, faster=2, allocation="uniform", clock=Counting())
    assert fast.met
    assert fast.pruned.mask.density == pytest.approx(0.4, rel=0.03)
    assert fast.accuracy is None
    slow = tb.prune_to(model, x, faster=30, allocation="uniform", lowest=0.1, clock=Counting())
    assert (slow.met, slow.trials[0].density) == (False, 0.1)


def test_it_is_really_timed(trained: Trained) -> None:
    model, (x, _) = trained
    reached = tb.prune_to(model, x, faster=1e-6, threads=1, trials=1, lowest=0.5, clock=NATIVE, allocation="uniform")
    assert reached.met


def test_evolution_reaches_no_less_at_the_same_size(trained: Trained) -> None:
    model, (x, _) = trained
    options: dict[str, Any] = {"file": 1700, "trials": 4, "lowest": 0.05}
    plain = tb.prune_to(model, x, **options)
    evolved = tb.prune_to(model, x, allocation="evolution", evolution=Evolution(generations=5), **options)
    assert plain.trials[0].density == evolved.trials[0].density
    assert evolved.pruned.error is not None
    assert plain.pruned.error is not None
    if evolved.pruned.mask.kept == plain.pruned.mask.kept:
        assert evolved.pruned.error <= plain.pruned.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no budget is given; give one of keep_accuracy, faster, file"),
        ({"faster": 2, "file": 3}, "faster and file are given; give one of"),
        ({"faster": -1}, "faster is -1; give a number above 0"),
        ({"file": "5 pounds"}, "file is '5 pounds'; give a size such as 5MB"),
        ({"file": 0}, "file is 0; give a size"),
        (
            {"file": "0%"},
            "file is '0%'; give a size such as 5MB, 300kB or 1.5GiB, bytes, or 25% of those of the network",
        ),
        ({"file": "1kB", "pattern": "2:4"}, "pattern 2:4 fixes the density"),
        ({"file": "1kB", "pattern": "head"}, "pattern head takes one density for all attention layers"),
        (
            {"file": "1kB", "pattern": "heads"},
            "unknown pattern 'heads'; allowed: element, block:V, inputs:V, N:M, channel; e.g.",
        ),
        ({"file": "1kB", "pattern": "channel", "criterion": "sparse_gpt"}, "sparse_gpt goes with patterns element"),
        ({"file": "1kB", "allocation": "guess"}, "unknown allocation 'guess'"),
        ({"file": "1kB", "lowest": 0}, "lowest is 0 and trials 8"),
        ({"file": "1kB", "trials": 0}, "lowest is 0.01 and trials 0"),
        ({"keep_accuracy": 1}, "there are no labels to be accurate on"),
        ({"faster": 2, "engine": "abacus"}, "unknown engine 'abacus'"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(trained: Trained, options: dict[str, Any], words: str) -> None:
    model, (x, _) = trained
    with pytest.raises(TombolaError, match=words):
        tb.prune_to(model, x, **options)


def test_sizes_in_words() -> None:
    sizes = ("5MB", "0.5 GiB", "12", "3kib", "25%", "0.5 %", "150%")
    assert [bytes_of(size, 1000) for size in sizes] == [5_000_000, 2**29, 12, 3072, 250, 5, 1500]


# ---- what strangers give ---------------------------------------------------------------------------------------


def test_endless_data_are_read_as_far_as_samples_go(trained: Trained) -> None:
    model, (x, y) = trained
    endless = ((x[:16], y[:16]) for _ in itertools.count())
    reached = tb.prune_to(model, endless, keep_accuracy=10.0, samples=64, trials=1)
    assert reached.pruned.how["samples"] == 64


def test_labels_that_are_no_classes_do_not_matter_where_no_accuracy_is_asked_for(trained: Trained) -> None:
    model, (x, _) = trained
    for labels in (torch.rand(256, 4), torch.eye(4)[torch.arange(256) % 4].long(), torch.full((256,), 9)):
        assert tb.prune_to(model, (x, labels), file="1MB", trials=1).accuracy is None
    assert tb.sensitivity(model, (x, torch.rand(256, 4)), densities=[0.5]).measure == "output_error"


@pytest.mark.parametrize(("labels", "said"), [(9, "labels go from 9 to 9"), (-1, "labels go from -1 to -1")])
def test_labels_that_no_score_stands_for_are_refused(trained: Trained, labels: int, said: str) -> None:
    model, (x, _) = trained
    with pytest.raises(TombolaError, match=f"{said}, and the network gives scores for classes 0 to 3"):
        tb.prune_to(model, (x, torch.full((256,), labels)), keep_accuracy=1.0)


def test_something_is_tried_however_high_the_lowest_density(trained: Trained) -> None:
    model, batch = trained
    reached = tb.prune_to(model, batch, keep_accuracy=50.0, lowest=0.999)
    assert [trial.density for trial in reached.trials] == [0.9995]
