"""Curves, comparisons and cross-training with searches and trainings stood in for: seeds, masks, files and figures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import asdict
from torch import nn

import tombola as tb
from small_tickets import masked, network, same, splits, ticket_of
from tombola.errors import TombolaError
from tombola.levels.search import Level, level_result
from tombola.mask import Mask
from tombola.methods.dense import DenseTraining
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.plain import as_plain
from tombola.results.codec import typed
from tombola.results.comparison import ComparedArm
from tombola.results.crossed import Sample, crossed_difference, crossed_paired
from tombola.results.overlap import MaskSide, MaskTrial, PairOverlap, SharedLayer
from tombola.results.search import SearchResult
from tombola.results.statistics import figure
from tombola.results.trial import LevelResult
from tombola.rng.seeds import derive
from tombola.runs.carry import Done
from tombola.runs.progress import Silent
from tombola.runs.record import unstamped
from tombola.runs.versions import versions
from tombola.search import driver, find
from tombola.search.describe import code_of, describe, describe_data, describe_model, describe_training
from tombola.search.driver import Workspace, machine
from tombola.search.find import find_result, parameters, replicate_of, replicate_seed
from tombola.search.request import Request
from tombola.study import compare, cross_training, curve, mask_trial, same_start
from tombola.study.arms import random_mask
from tombola.study.cross_training import MASKS, run_overlap
from tombola.study.mask_overlap import (
    Overlap,
    compare_files,
    compare_tickets,
    kept_weights,
    over_replicates,
    overlap_within,
    strata_by_input,
)
from tombola.study.setting import Arm
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.tensors import hash_state
from tombola.ticket.ticket import UNLIMITED
from tombola.train.options import Options
from tombola.train.outcomes import write_outcomes
from tombola.train.recipe import Recipe
from tombola.train.trial import Trial
from trial_results import level_figures, trial_result

RECIPE = Recipe(length="6it", lr=0.1)
OTHER = replace(RECIPE, lr=0.2)
OPTIONS = Options(progress=False, device="cpu")
IMP = IterativePruning(density=0.5, rounds=1)


def arms() -> tuple[Arm, Arm]:
    second = replace(IMP, exclude=("2.*",))
    return Arm("Dense", DenseTraining(), RECIPE), Arm("IMP, 50 %", second, OTHER, family="IMP")


def request(model: Any = None, **more: Any) -> Request:
    given = {"replicates": 2, "options": OPTIONS, "seed": 3, **more}
    return Request(network() if model is None else model, splits(), IMP, RECIPE, **given)


def stopped(found: list[Any], result: Any = None) -> Any:
    """In the place of `carry_out`: notes what a run is asked for."""

    def carry(order: Any, describe: Any, check: Any, work: Any, progress: Any) -> Done:
        found.append(SimpleNamespace(order=order, config=describe(), check=check, work=work))
        return Done(Path("there"), result or {}, reused=True)

    return carry


# -- curves


def levels(count: int = 3) -> list[LevelResult]:
    return [
        level_figures(level, ticket=f"{level}.ticket", density=1 / (1 + level), kept=50 // (1 + level))
        for level in range(count)
    ]


def searched(asked: Request, **controls: list[LevelResult]) -> SearchResult:
    """A curve's result with the same levels in every replicate."""
    count = range(asked.replicates)
    return find_result(asked, asked.data, [replicate_of(asked, i, {"ticket": levels(), **controls}) for i in count])


def test_a_curve_is_named_by_its_search_and_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    asked = request(replicates=2)
    done = searched(asked)
    monkeypatch.setattr(driver, "carry_out", stopped(found, done.as_dict()))
    result = curve.run_curve(asked, Path("parent"), controls=["random"], control_levels=[2, 1, 2])
    assert result == done.replace(run="there", reused=True)
    (run,) = found
    assert run.config == {
        **describe(asked, asked.data),
        "study": "curve",
        "controls": ["random"],
        "control_levels": [1, 2],
        "seed": 3,
        "replicates": 2,
    }
    order = run.order
    assert (order.parent, order.label, order.kind, order.force) == (
        Path("parent"),
        "curve-imp-Sequential-data",
        "study",
        False,
    )
    assert order.machine == machine(OPTIONS, 1)
    curve.run_curve(replace(asked, options=replace(OPTIONS, force=True)), Path("parent"))
    assert found[1].config["control_levels"] is None
    assert found[1].order.force
    with pytest.raises(TombolaError, match="by name"):
        curve.run_curve(asked, Path("parent"), jobs=2)


def test_a_curve_is_validated_with_its_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seen = list[Any](), list[Any]()
    asked = request()
    monkeypatch.setattr(driver, "carry_out", stopped(found, searched(asked).as_dict()))
    monkeypatch.setattr(curve, "validate", lambda *given: seen.append(given[:2]))
    curve.run_curve(asked, Path("parent"), control_levels=[1, 2])
    with pytest.raises(TombolaError, match="names level 2, but the search has levels 1;"):
        found[0].check()
    assert seen == [(asked, asked.data)]
    for wanted in ([1], [], None):
        curve.run_curve(asked, Path("parent"), control_levels=wanted)
        found[-1].check()
    learned = replace(asked, method=tb.EdgePopup())  # what levels it has is not known before
    curve.run_curve(learned, Path("parent"), control_levels=[7])
    found[-1].check()


def test_planned_levels_are_those_of_the_plan_from_the_start() -> None:
    asked = replace(request(), method=IterativePruning(rate=0.5, levels=3))
    assert curve.planned_levels(asked, asked.data) == range(1, 4)
    ticket = ticket_of(network())
    within = replace(asked, start=ticket)
    assert curve.planned_levels(within, asked.data) == range(1, 4)
    with pytest.raises(TombolaError):  # more than the ticket has is asked for
        curve.planned_levels(replace(within, method=IterativePruning(density=0.9, rounds=1)), asked.data)


def test_a_curves_work_is_its_searches_then_its_controls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls, threads = list[Any](), list[Any](), list[Any]()
    asked = request(options=replace(OPTIONS, threads=1))
    data = asked.data
    monkeypatch.setattr(driver, "carry_out", stopped(found, searched(asked).as_dict()))
    limit = driver.limit_threads
    monkeypatch.setattr(driver, "limit_threads", lambda count: threads.append(count) or limit(count))

    def searching(what: Request, work: Workspace, replicate: int) -> Any:
        assert (what, work.splits, work.directory) == (asked, data, tmp_path)
        calls.append(("search", replicate))
        return [SimpleNamespace(result=level) for level in levels()]

    def controlling(study: Any, work: Workspace, control: Any) -> LevelResult:
        assert work.splits is data
        assert (study.request, work.directory) == (asked, tmp_path)
        calls.append((control.name, control.replicate, control.level, control.ticket))
        return level_figures(control.level, steps=10 + control.replicate)

    monkeypatch.setattr(find, "search_replicate", searching)
    monkeypatch.setattr(curve._Curve, "train_control", controlling)
    curve.run_curve(asked, Path("parent"), controls=["reinit"], control_levels=[2])
    result = found[0].work(tmp_path)
    assert calls == [("search", 0), ("search", 1), ("reinit", 0, 2, "2.ticket"), ("reinit", 1, 2, "2.ticket")]
    assert threads == [1, 1]  # of what names the machine, and of the work
    expected = [
        replicate_of(asked, index, {"ticket": levels(), "reinit": [level_figures(2, steps=10 + index)]})
        for index in range(2)
    ]
    assert result == find_result(asked, data, expected).as_dict()


class Foreign(nn.Sequential):
    """A network of one's own that is built by its import path."""

    def __init__(self) -> None:
        super().__init__(*network())


@pytest.mark.parametrize("found", [None, object()])
@pytest.mark.parametrize("live", [True, False])
def test_a_control_is_an_arm_of_the_levels_ticket(
    live: bool, found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    ticket, given = ticket_of(model), dict[str, Any]()
    ticket.save(tmp_path / "2.ticket")

    def loading(path: Path, *, max_weights: int | None = None) -> tb.Ticket:
        assert (path, max_weights) == (tmp_path / "2.ticket", UNLIMITED)  # a ticket of this very run
        return ticket

    def arm(setup: Any, subject: Any, name: str, **more: Any) -> Trial:
        given.update(more, setup=setup, subject=subject, name=name)
        return Trial(trial_result(), (), found)

    monkeypatch.setattr(curve, "run_arm", arm)
    monkeypatch.setattr(tb.Ticket, "load", loading)
    asked = request(model if live else ModelSpec("torch.nn.Linear"), seed=3)
    data = splits()
    control = curve._Control(1, "random", 2, "2.ticket")
    result = curve._Curve(asked, ("random",), None).train_control(workspace(data, tmp_path), control)
    name = "replicate-1/random-02"
    setup, subject = given.pop("setup"), given.pop("subject")
    assert (subject.ticket, subject.architecture) == (ticket, model if live else None)
    assert subject.trusted == (() if live else ("torch.nn.Linear",))
    assert (setup.splits, setup.recipe, setup.options) == (data, RECIPE, OPTIONS)
    stage = given.pop("stage")
    assert stage.directory == tmp_path / name
    assert given == {"name": "random", "seed": derive(3, "control", "random", 1, 2), "label": name}
    trial = Trial(trial_result(), (), None)
    assert result == level_result(2, ticket.mask, trial, name).replace(ticket=None)
    assert stage.result() == (None if found is None else unstamped(result.as_dict()))


# -- comparisons


class Searches:
    """Stands in for searches: what each finds says which it was, and its last level's outcomes are kept."""

    def __init__(self, directory: Path, outcomes: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.directory, self.outcomes = directory, outcomes

    def __call__(self, asked: Request, work: Workspace, replicate: int) -> Any:
        self.calls.append((asked, work.splits, work.directory, replicate))
        found = []
        for level in range(2):
            path = f"replicate-{replicate}/level-{level:02d}"
            accuracy = (20 + replicate + 3 * (asked.method.name == "imp")) / 26
            files = {"metrics": f"{path}/metrics.csv", "ticket": f"{path}/network.ticket" if level else None}
            density = 1 / (1 + level)
            found.append(level_figures(level, density=density, test_accuracy=accuracy, val_accuracy=0.5, **files))
            if self.outcomes:
                write_outcomes(work.folder / path, (torch.arange(26) < round(accuracy * 26)).float())
        origin = ticket_of(network()).origin
        return [Level(level.level, SimpleNamespace(origin=origin), level) for level in found]  # type: ignore[arg-type]


def compared(out: Path, **more: Any) -> dict[str, Any]:
    given = {"replicates": 3, "options": OPTIONS, "seed": 3, **more}
    return compare.run_comparison("try", arms(), network(), splits(), out, **given).as_dict()


def test_a_comparison_is_named_by_its_arms_and_not_by_how_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    class Known(Exception):
        pass

    def carry(*given: Any) -> Any:
        stopped(found)(*given)
        raise Known

    monkeypatch.setattr(driver, "carry_out", carry)
    data = splits()
    for more in ({}, {"note": "tuned"}, {"options": replace(OPTIONS, force=True)}):
        with pytest.raises(Known):
            compared(Path("parent"), **more)
    asked = Request(network(), data, arms()[0].method, RECIPE, 3, 3, OPTIONS)
    described = describe(asked, data)
    assert found[0].config == {
        "study": "try",
        "model": describe_model(network()),
        "data": describe_data(data, data),
        "task": described["task"],
        "arms": [{"name": arm.name, **describe_training(arm.method, arm.recipe)} for arm in arms()],
        "seed": 3,
        "replicates": 3,
    }
    assert found[0].config == found[1].config == found[2].config
    order = found[0].order
    assert (order.parent, order.label, order.kind) == (Path("parent"), "try-Sequential-data", "study")
    assert [run.order.force for run in found] == [False, False, True]
    assert order.machine == machine(OPTIONS, 1)
    with pytest.raises(TombolaError, match="by name"):
        compared(Path("parent"), jobs=2)


def test_a_comparison_searches_replicate_by_replicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searches, checked, threads = Searches(tmp_path), list[Any](), list[Any]()
    monkeypatch.setattr(compare, "search_replicate", searches)
    monkeypatch.setattr(compare, "validate", lambda asked, data, progress: checked.append((asked, data)))
    limit = driver.limit_threads
    monkeypatch.setattr(driver, "limit_threads", lambda count: threads.append(count) or limit(count))
    model, data = network(), splits()
    result = compare.run_comparison(
        "try", arms(), model, data, tmp_path, seed=3, replicates=2, options=replace(OPTIONS, threads=1), note="tuned"
    ).as_dict()
    directory = Path(result["run"])
    requests = [Request(model, data, arm.method, arm.recipe, 3, 2, replace(OPTIONS, threads=1)) for arm in arms()]
    assert checked == [(asked, data) for asked in requests]
    assert searches.calls == [
        (asked, data, directory / folder, replicate)
        for replicate in range(2)
        for asked, folder in zip(requests, ("dense", "imp-50"), strict=True)
    ]
    assert threads == [1, 1, 1]  # of what names the machine, of the dry run and of the work
    assert (result["kind"], result["study"], result["model"], result["data"]) == ("study", "try", "Sequential", "data")
    assert (result["metric"], result["higher_is_better"], result["input_shape"]) == ("accuracy", True, [6])
    assert (result["replicates"], result["seeds"]) == (2, [3, replicate_seed(3, 1)])
    assert result["parameters"] == parameters(requests[0], data, 50).as_dict()
    assert result["recipe"] == {key: value for key, value in as_plain(RECIPE).items() if key != "lr"}
    assert (result["note"], result["reused"]) == ("tuned", False)
    last = result["arms"][1]["replicates"][1][-1]
    assert last["metrics"] == "imp-50/replicate-1/level-01/metrics.csv"
    assert last["ticket"] == "imp-50/replicate-1/level-01/network.ticket"
    assert result["arms"][1]["replicates"][1][0]["ticket"] is None
    assert result["arms"][1]["origins"] == [hash_state(dict(network().state_dict()))] * 2
    assert result["comparisons"][0]["paired"]
    assert result["comparisons"][0]["test_accuracy"]["covers"] == "training seeds alone"

    again = compare.run_comparison(
        "try", arms(), model, data, tmp_path, seed=3, replicates=2, options=replace(OPTIONS, threads=1), note="tuned"
    ).as_dict()
    assert again == {**result, "reused": True}
    assert len(searches.calls) == 4


def test_a_comparison_reads_the_outcomes_that_its_searches_kept(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(compare, "search_replicate", Searches(tmp_path, outcomes=True))
    monkeypatch.setattr(compare, "validate", lambda *given: None)
    result = compared(tmp_path)
    tested = result["comparisons"][0]["test_accuracy"]
    assert tested["covers"] == "training seeds and test examples"
    assert tested["difference"] == pytest.approx(3 / 26)
    assert tested["seeds_alone"]["interval"] == pytest.approx([3 / 26] * 2)
    low, high = tested["interval"]
    assert low < 3 / 26 < high
    run = Path(result["run"])
    (run / "imp-50" / "replicate-1" / "level-01" / "outcomes.safetensors").unlink()
    assert compare.outcomes_of(run, compare._searched(typed(ComparedArm, result["arms"][0], run))).shape == (3, 26)
    assert compare.outcomes_of(run, compare._searched(typed(ComparedArm, result["arms"][1], run))) is None
    write_outcomes(run / "imp-50" / "replicate-1" / "level-01", torch.tensor([1.0, float("nan")] * 13))
    assert compare.outcomes_of(run, compare._searched(typed(ComparedArm, result["arms"][1], run))) is None


def summarised(*given: Any) -> dict[str, Any]:
    """Arms and comparisons as a result's JSON holds them."""
    found = compare.summarise(*given)
    parts = {"arms": found.arms, "comparisons": found.comparisons}
    return {name: [record.as_dict() for record in part] for name, part in parts.items()}


def test_figures_that_only_some_methods_have_are_compared_where_both_have_them() -> None:
    def arm(bits: float | None, sampled: float | None = None) -> list[compare.Searched]:
        level = level_figures(test_accuracy=0.5, val_accuracy=0.5, bits_per_weight=bits, test_accuracy_sampled=sampled)
        return [compare.Searched((level,), "a")] * 3

    found = summarised(arms(), [arm(32.0, 0.5), arm(1.5)])
    assert found["arms"][1]["bits_per_weight"]["mean"] == 1.5
    assert found["comparisons"][0]["bits_per_weight"]["difference"] == -30.5
    assert "test_accuracy_sampled" not in found["comparisons"][0]
    assert (found["arms"][1]["density"], found["arms"][1]["prunable"], found["arms"][1]["method"]) == (0.5, 50, "imp")
    assert found["arms"][1]["recipe"] == as_plain(OTHER)
    assert found["arms"][1]["options"] == as_plain(arms()[1].method)
    one = summarised(arms(), [arm(1.0)[:1], arm(2.0)[:1]])
    assert one["comparisons"][0]["bits_per_weight"] == {"difference": 1.0, "interval": None}


def test_differences_over_examples_are_from_the_first_arm() -> None:
    draw = np.random.default_rng(1)
    outcomes = [np.float32(draw.random((3, 40)) < share) for share in (0.5, 0.7, 0.9)]
    level = level_figures(val_accuracy=0.5)
    three = (*arms(), Arm("third", IMP, RECIPE))
    for origins in ("aaa", "abc"):
        searches = [
            [compare.Searched((level.replace(test_accuracy=float(row.mean())),), origin) for row in values]
            for values, origin in zip(outcomes, origins, strict=True)
        ]
        found = summarised(three, searches, outcomes)["comparisons"]
        for values, compared in zip(outcomes[1:], found, strict=True):
            first = outcomes[0]
            expected = (
                crossed_paired(values, first)
                if compared["paired"]
                else crossed_difference(Sample.of(values), Sample.of(first))
            )
            assert compared["paired"] is (origins == "aaa")
            assert compared["against"] == "Dense"
            assert compared["test_accuracy"]["interval"] == pytest.approx(list(expected.interval or ()))
        partly = summarised(three, searches, [None, *outcomes[1:]])["comparisons"]
        assert {compared["test_accuracy"]["covers"] for compared in partly} == {"training seeds alone"}


# -- cross-training


def pair(**more: Any) -> tuple[Arm, Arm]:
    return Arm("A", IMP, RECIPE), Arm("B", replace(IMP, density=0.3), OTHER)


def crossed(replicates: int = 2, model: Any = None, recipe: Recipe = OTHER) -> Any:
    spec = network() if model is None else model
    first = pair()[0]
    asked = Request(spec, splits(), first.method, first.recipe, 3, replicates, OPTIONS)
    return cross_training._CrossTraining(asked, pair(), recipe)


def workspace(data: Any, directory: Path) -> Workspace:
    return Workspace(data, data, Silent(), directory)


def tickets(directory: Path) -> tuple[tb.Ticket, tb.Ticket]:
    first = ticket_of(network())
    fewer = {name: kept & (torch.arange(kept.numel()).view_as(kept) % 2 == 0) for name, kept in first.mask.items()}
    second = replace(first, mask=Mask(fewer))
    for name, ticket in (("first", first), ("second", second)):
        ticket.save(directory / f"{name}.ticket")
    return first, second


FILES = ("first.ticket", "second.ticket")


def test_the_masks_tried_are_the_two_random_ones_like_them_and_all_ones(tmp_path: Path) -> None:
    first, second = tickets(tmp_path)
    tests = {mask: cross_training._MaskTest(1, mask, FILES) for mask in MASKS}
    found = {mask: cross_training._mask(test, tmp_path, 11) for mask, test in tests.items()}
    assert found["dense"] == Mask.full(first.mask)
    assert (found["first"], found["second"]) == (first.mask, second.mask)
    assert found["random-first"] == random_mask(first, derive(11, "exchange", "random-first"))
    assert found["random-second"] == random_mask(second, derive(11, "exchange", "random-second"))


@pytest.mark.parametrize("mask", ["dense", "second", "random-first"])
def test_a_mask_is_tested_untrained_and_trained_from_the_same_weights(
    mask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets(tmp_path)
    given: dict[str, Any] = {}
    start = dict(network().state_dict())

    def training(setup: Any, model: nn.Module, **more: Any) -> Trial:
        given.update(more, setup=setup, start={name: value.clone() for name, value in model.state_dict().items()})
        more["stage"].directory.mkdir(parents=True)
        state = {name: value + 1 for name, value in model.state_dict().items()}
        return Trial(trial_result(), (), SimpleNamespace(state=state))

    monkeypatch.setattr(mask_trial, "run_trial", training)
    test = cross_training._MaskTest(1, mask, FILES)
    data, seed = splits(), replicate_seed(3, 1)
    result = crossed().test(workspace(data, tmp_path), test)
    tried = cross_training._mask(test, tmp_path, seed)
    setup, stage = given.pop("setup"), given.pop("stage")
    name = f"exchange/replicate-1/{mask}"
    assert stage.directory == tmp_path / name
    assert (setup.splits, setup.recipe, setup.options) == (data, OTHER, OPTIONS)
    assert same(given.pop("start"), start)
    assert given == {
        "seed": derive(seed, "exchange"),
        "label": f"{crossed().names[mask]}  {tried.density:6.1%}",
        "mask": None if mask == "dense" else tried,
    }
    model = network()
    model.load_state_dict(masked(start, tried))
    accuracy = float((model(data.test.x).argmax(1) == data.test.y).float().mean())
    assert result.untrained == pytest.approx(accuracy)
    trial = Trial(trial_result(), (), None)
    assert result == MaskTrial(**asdict(level_result(0, tried, trial, name)), untrained=result.untrained)
    ticket = tb.Ticket.load(tmp_path / name / "network.ticket")
    assert ticket.mask == tried
    assert same(ticket.origin.state_dict(network()), start)
    final = ticket.build(model=network()).state_dict()
    assert same(final, masked({name: value + 1 for name, value in start.items()}, tried))
    assert ticket.provenance == {
        "study": "overlap",
        "mask": mask,
        "recipe": as_plain(OTHER),
        "versions": versions(),
    }
    monkeypatch.setattr(mask_trial, "run_trial", None)
    assert crossed().test(workspace(data, tmp_path), test) == result  # found again


def test_the_weights_of_a_vector_read_one_input() -> None:
    first, second = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    strata = strata_by_input(torch.ones(4))
    assert (strata.dtype, strata.tolist()) == (torch.int64, [0, 0, 0, 0])
    assert overlap_within(first, second, strata) == Overlap.of(4, 2, 2, 1)


def test_a_weight_of_0_is_not_positive() -> None:
    keep = torch.tensor([True, True, True, False])
    assert kept_weights(keep, torch.tensor([0.0, 2.0, -1.0, 0.0])).positive == pytest.approx(1 / 3)
    assert kept_weights(keep, torch.tensor([0.0, 2.0, -1.0, 0.0])).positive_by_chance == 0.25


def test_numbers_of_several_replicates_become_figures_where_they_stand() -> None:
    def side(number: float) -> MaskSide[float | None]:
        return MaskSide(**{part: number + 0.1 * i for i, part in enumerate(MaskSide.__struct_fields__)})

    def row(name: str, number: float) -> SharedLayer[float | None]:
        numbers = {part: number + i for i, part in enumerate(SharedLayer.__struct_fields__[2:-2])}
        return SharedLayer(name=name, total=9, **numbers, first=side(2 * number), second=side(3 * number))

    def found(number: float, whole: float, same_origin: bool = True) -> PairOverlap[float | None]:
        return PairOverlap(layers=(row("fc", number),), whole=row("all layers", whole), same_origin=same_origin)

    joined = over_replicates([found(1, 2), found(5, 6), found(9, 10)])
    assert joined.same_origin
    for shared, name, numbers in ((joined.layers[0], "fc", (1, 5, 9)), (joined.whole, "all layers", (2, 6, 10))):
        assert (shared.name, shared.total) == (name, 9)
        for i, part in enumerate(SharedLayer.__struct_fields__[2:-2]):
            assert getattr(shared, part) == figure([number + i for number in numbers]), part
        for kept, factor in ((shared.first, 2), (shared.second, 3)):
            for i, part in enumerate(MaskSide.__struct_fields__):
                assert getattr(kept, part) == figure([factor * number + 0.1 * i for number in numbers]), part
    assert not over_replicates([found(1, 2), found(1, 2, same_origin=False)]).same_origin


def test_two_files_are_compared_by_the_limits_and_the_trust_that_are_given(tmp_path: Path) -> None:
    spec = NetworkSpec("torch.nn.Linear", {"in_features": 6, "out_features": 5})
    kept = torch.arange(30).view(5, 6) % 2 == 0
    origin = Origin.stored({"weight": torch.randn(5, 6), "bias": torch.zeros(5)}, network=spec)
    files = [tmp_path / "a.ticket", tmp_path / "b.ticket"]
    for file in files:
        tb.Ticket(origin=origin, mask=Mask({"weight": kept})).save(file)
    own = tmp_path / "c.ticket"
    drawn = Origin.seeded(spec, "kaiming_normal", 1, model=nn.Linear(6, 5))
    tb.Ticket(origin=drawn, mask=Mask({"weight": kept})).save(own)
    found = compare_files(*files).as_dict()
    assert (found["kind"], found["names"], found["replicates"]) == ("overlap", [str(file) for file in files], 1)
    assert found["whole"]["both"]["values"] == [15]
    for limited in ((files[0], own), (own, files[0])):
        with pytest.raises(TombolaError, match="weights"):
            compare_files(*limited, trusted=("torch.nn.",), max_weights=29)
    assert compare_files(own, own, trusted=("torch.nn.",), max_weights=100).same_origin
    with pytest.raises(TombolaError, match=r"c\.ticket and .*c\.ticket cannot be compared: .*trusted"):
        compare_files(own, own)


def test_networks_by_import_path_and_of_any_size_are_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tickets(tmp_path)
    limits, load = list[Any](), tb.Ticket.load

    def loading(path: Any, *, max_weights: int | None = None) -> tb.Ticket:
        limits.append(max_weights)
        return load(path, max_weights=max_weights)

    def training(setup: Any, model: nn.Module, *, stage: Any, **more: Any) -> Trial:
        stage.directory.mkdir(parents=True)
        return Trial(trial_result(), (), SimpleNamespace(state=dict(model.state_dict())))

    monkeypatch.setattr(mask_trial, "run_trial", training)
    monkeypatch.setattr(tb.Ticket, "load", loading)
    name = f"{__name__}.Foreign"
    study = crossed(replicates=1, model=ModelSpec(name, init="kaiming_normal"))
    work = workspace(splits(), tmp_path)
    for mask in ("first", "second"):
        study.test(work, cross_training._MaskTest(0, mask, FILES))
    assert limits == [UNLIMITED] * 4
    found = load(tmp_path / "exchange/replicate-0/first/network.ticket")
    assert found.origin.kind == "seeded"
    assert isinstance(found.build(trusted=(name,)), Foreign)


def test_a_search_of_either_mask_gives_its_last_level_with_paths_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, data, calls = crossed(), splits(), list[Any]()

    def searching(asked: Request, work: Workspace, replicate: int) -> Any:
        calls.append((asked, work.splits, work.directory, replicate))
        found = [level_figures(n, metrics=f"{n}.csv", ticket=f"{n}.ticket") for n in range(3)]
        return [Level(level.level, SimpleNamespace(), level) for level in found]  # type: ignore[arg-type]

    monkeypatch.setattr(compare, "search_replicate", searching)
    for arm, (mask, folder) in zip(pair(), (("first", "a"), ("second", "b")), strict=True):
        found = study.search(workspace(data, tmp_path), (1, mask))
        files = {"metrics": f"{folder}/2.csv", "ticket": f"{folder}/2.ticket"}
        assert found == level_figures(2, **files)
        asked = replace(study.request, method=arm.method, recipe=arm.recipe)
        assert calls[-1] == (asked, data, tmp_path / folder, 1)


def test_a_studys_work_is_its_searches_then_every_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[Any]()
    first, second = tickets(tmp_path)
    study, data = crossed(replicates=3), splits()

    def searching(study: Any, work: Workspace, job: tuple[int, str]) -> LevelResult:
        replicate, mask = job
        calls.append((mask, replicate, ()))
        return level_figures(ticket=f"{mask}.ticket", test_accuracy=0.5 + replicate / 10)

    def testing(study: Any, work: Workspace, job: Any) -> MaskTrial:
        assert work.splits is data
        calls.append((job.mask, job.replicate, job.tickets))
        number = 1 + MASKS.index(job.mask)
        level = level_figures(
            ticket=f"{'first' if job.mask == 'first' else 'second'}.ticket",
            density=number / 10,
            test_accuracy=number / 50 + number * job.replicate / 1000,
            metrics=f"{job.mask}-{job.replicate}.csv",
        )
        return MaskTrial(**asdict(level), untrained=number / 100 + job.replicate**2 / 1000)

    monkeypatch.setattr(cross_training._CrossTraining, "search", searching)
    monkeypatch.setattr(cross_training._CrossTraining, "test", testing)
    load = tb.Ticket.load

    def loading(path: Path, *, max_weights: int | None = None) -> tb.Ticket:
        assert max_weights == UNLIMITED
        return load(path, max_weights=max_weights)

    monkeypatch.setattr(tb.Ticket, "load", loading)
    found = study.compute(workspace(data, tmp_path)).as_dict()
    assert calls == [
        *((mask, index, ()) for index, mask in itertools.product(range(3), ("first", "second"))),
        *((mask, index, FILES) for index, mask in itertools.product(range(3), MASKS)),
    ]
    shared = over_replicates([compare_tickets(first, second, model=network())] * 3).as_dict()
    assert {key: found[key] for key in shared} == shared
    assert (found["kind"], found["model"], found["data"]) == ("overlap", "Sequential", "data")
    assert (found["metric"], found["higher_is_better"], found["input_shape"]) == ("accuracy", True, [6])
    assert (found["replicates"], found["seeds"]) == (3, [replicate_seed(3, index) for index in range(3)])
    assert (found["names"], found["methods"], found["recipe"]) == (["A", "B"], ["imp", "imp"], as_plain(OTHER))
    assert found["parameters"] == parameters(study.request, data, 50).as_dict()
    names = dict(zip(MASKS, ("dense", "A", "B", "random as A", "random as B"), strict=True))
    for row, mask in zip(found["accuracy"], MASKS, strict=True):
        number = 1 + MASKS.index(mask)
        trained = [number / 50 + number * index / 1000 for index in range(3)]
        assert row["mask"] == names[mask]
        assert row["density"] == pytest.approx(number / 10)
        assert row["untrained"] == figure([number / 100 + index**2 / 1000 for index in range(3)]).as_dict()
        assert row["trained"] == figure(trained).as_dict()
        assert row["metrics"] == [f"{mask}-{index}.csv" for index in range(3)]
        own = figure([0.5 + index / 10 for index in range(3)]).as_dict() if mask in ("first", "second") else None
        assert row["searched"] == own
    differences = {(row["of"], row["against"]): row for row in found["differences"]}
    assert list(differences) == [("B", "A"), ("A", "random as A"), ("B", "random as B"), ("A", "dense"), ("B", "dense")]
    paired = differences["B", "A"]
    assert paired["untrained"]["mean"] == pytest.approx(0.01)
    assert paired["trained"]["values"] == pytest.approx([0.02, 0.021, 0.022])
    assert paired["trained"]["interval"] is not None
    assert differences["A", "random as A"]["untrained"]["mean"] == pytest.approx(-0.02)
    assert found["intervals"] == "95 % t-intervals over 3 replicates, differences paired by replicate"
    assert found["note"] == ""
    few = crossed(replicates=1).compute(workspace(data, tmp_path))
    assert few.intervals == "no intervals: they need at least 3 replicates, and there is 1"


def test_networks_with_norms_have_a_note(tmp_path: Path) -> None:
    tickets(tmp_path)
    normed = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    study = crossed(replicates=1, model=normed)
    first, second = (tb.Ticket.load(tmp_path / file) for file in FILES)
    shared = [compare_tickets(first, second, model=network())]
    level = MaskTrial(**asdict(level_figures()), untrained=0.5)
    found = study._result(splits(), shared, {"first": [level], "second": [level]}, {mask: [level] for mask in MASKS})
    assert found.note.startswith("Untrained networks keep the norm layers' first statistics")


def test_a_study_of_two_masks_is_named_by_both_searches_and_the_shared_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Any] = []
    ticket, level = ticket_of(network()), MaskTrial(**asdict(level_figures()), untrained=0.5)
    done = crossed(replicates=1)._result(
        splits(),
        [compare_tickets(ticket, ticket, model=network())],
        {"first": [level], "second": [level]},
        {mask: [level] for mask in MASKS},
    )
    monkeypatch.setattr(driver, "carry_out", stopped(found, done.as_dict()))
    data, given = splits(), {"seed": 3, "replicates": 2, "options": OPTIONS}
    result = run_overlap(pair(), network(), data, "parent", recipe=OTHER, **given)
    assert result == done.replace(run="there", reused=True)
    assert found[0].config == {
        "study": "overlap",
        "model": describe_model(network()),
        "data": describe_data(data, data),
        "task": data.task.identity,
        "arms": [{"name": arm.name, **describe_training(arm.method, arm.recipe)} for arm in pair()],
        "recipe": as_plain(OTHER),
        "code": code_of(OTHER),
        "seed": 3,
        "replicates": 2,
    }
    order = found[0].order
    assert (order.parent, order.label, order.kind, order.force) == (
        Path("parent"),
        "overlap-Sequential-data",
        "study",
        False,
    )
    assert order.machine == machine(OPTIONS, 1)
    run_overlap(pair(), "mlp", data, "parent", **{**given, "options": replace(OPTIONS, force=True)})
    assert found[1].config["model"]["init"] == "kaiming_normal"
    assert found[1].config["recipe"] == as_plain(RECIPE)  # the first arm's
    assert found[1].order.force
    run_overlap(pair(), ModelSpec("mlp", init="kaiming_uniform"), data, "parent", **given)
    assert found[2].config["model"]["init"] == "kaiming_uniform"
    with pytest.raises(TombolaError, match="by name"):
        run_overlap(pair(), network(), data, "parent", jobs=2)
    with pytest.raises(TombolaError, match="share"):
        run_overlap((pair()[0], pair()[0]), network(), data, "parent")


def test_both_searches_must_begin_with_the_same_weights_and_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(compare, "validate", lambda asked, data, progress: checked.append((asked, data)))
    data = splits()

    def check(second: Any, where: Any = data) -> None:
        first, other = pair()
        arms_ = (first, replace(other, method=second))
        model = network()
        requests = tuple(Request(model, data, arm.method, arm.recipe, 3, 1, OPTIONS) for arm in arms_)
        study = cross_training._CrossTraining(requests[0], arms_, OTHER)
        del checked[:]
        study.check(workspace(where, Path("unused")))
        assert checked == [(asked, data) for asked in requests]

    check(replace(IMP, density=0.3))
    with pytest.raises(TombolaError, match="no test split"):
        check(IMP, replace(data, test=None))
    with pytest.raises(TombolaError, match="rewind of arm 'B' is 2it"):
        check(replace(IMP, rewind="2it"))
    with pytest.raises(TombolaError, match=r"A and B differ in '2\.weight'"):
        check(replace(IMP, exclude=("2.weight",)))
    with pytest.raises(TombolaError, match=r"A and B differ in '0\.bias'"):
        check(replace(IMP, include=("0.bias",)))

    starts = same_start.start_from

    def other(model: Any, splits: Any, *, seed: int, method: Any) -> Any:
        assert seed == 3
        start = starts(model, splits, seed=seed, method=method)
        if method.density == 0.3:
            moved = {name: value + 1 for name, value in network().state_dict().items()}
            start = replace(start, origin=Origin.stored(moved))
        return start

    monkeypatch.setattr(same_start, "start_from", other)
    with pytest.raises(TombolaError, match="A and B start from different weights"):
        check(replace(IMP, density=0.3))

    def refusing(*given: Any) -> None:
        raise TombolaError("too long")

    monkeypatch.setattr(compare, "validate", refusing)
    with pytest.raises(TombolaError, match="arm 'A': too long"):
        check(IMP)
