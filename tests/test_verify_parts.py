"""Verify without training: what every arm is given, what names the run, what is refused, and the verdict by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from small_tickets import MASKED, network, splits, ticket_of
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.plain import as_plain
from tombola.results.codec import typed
from tombola.results.statistics import figure
from tombola.results.verification import VerificationResult
from tombola.rng.seeds import derive
from tombola.runs.carry import Done
from tombola.runs.progress import Silent
from tombola.search import driver
from tombola.search.describe import describe_data, describe_module
from tombola.search.driver import Workspace, machine
from tombola.study import verify as module
from tombola.study.arms import ARMS, VerificationSetup
from tombola.study.margin import Margin
from tombola.study.untrained import untrained
from tombola.study.verdict import speed, wins
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.ticket import Ticket
from tombola.train.fabric import make_fabric
from tombola.train.history import Row
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup, Trial
from trial_results import trial_result

RECIPE = Recipe(length="6it", lr=0.1)
OPTIONS = Options(progress=False, device="cpu")
ACCURACY = {"ticket": 22, "dense": 21, "random": 15, "reinit": 14}
"""Of 26 test examples; replicate r gets one more than replicate 0 for r = 1."""


def trained(model: nn.Module, **fields: Any) -> Ticket:
    """A ticket with a trained weight, so that nothing is said of it as it stands."""
    ticket = ticket_of(model, **fields)
    name = MASKED[0]
    return replace(ticket, trained={name: model.state_dict()[name][ticket.mask[name]] + 1})


def outcomes(arm: str, replicate: int) -> Tensor:
    return (torch.arange(26) < ACCURACY[arm] + (replicate == 1)).float()


def trial(arm: str, replicate: int, found: Any = None) -> Trial:
    accuracy = float(outcomes(arm, replicate).mean())
    result = trial_result(test_accuracy=accuracy, early_stop_iteration=3, steps=6)
    rows = tuple(Row(step, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0) for step in (0, 3, 6))
    return Trial(result, rows, found, outcomes(arm, replicate))


class Stand:
    """Stands in for the training of arms, and notes what it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: Any = None) -> None:
        self.arms: list[SimpleNamespace] = []
        self.tries: list[SimpleNamespace] = []
        self.fits: list[tuple[nn.Module, Any]] = []
        self.found = found
        monkeypatch.setattr(module, "run_arm", self.run)
        monkeypatch.setattr(module, "try_arms", self.dry)
        monkeypatch.setattr(module, "check_fits", lambda model, data: self.fits.append((model, data)))

    def run(self, setup: Any, subject: Any, name: str, **more: Any) -> Trial:
        self.arms.append(SimpleNamespace(setup=setup, subject=subject, name=name, **more, tried=len(self.tries)))
        return trial(name, int(more["label"].split("-")[1]), self.found)

    def dry(self, setup: Any, subject: Any, *, seed: int) -> None:
        self.tries.append(SimpleNamespace(setup=setup, subject=subject, seed=seed, threads=torch.get_num_threads()))


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    return Stand(monkeypatch)


def run(ticket: Ticket, model: nn.Module | None, data: Any = None, **more: Any) -> dict[str, Any]:
    given = {"replicates": 3, "recipe": RECIPE, "options": OPTIONS, "model": model, **more}
    return tb.verify(ticket, splits() if data is None else data, **given).as_dict()


# -- what every arm is given


def test_every_arm_is_trained_once_for_every_replicate_by_its_own_seed(stand: Stand) -> None:
    model, data = network(), splits()
    ticket = trained(model)
    result = run(ticket, model, data, seed=4)
    assert [(arm.name, arm.label) for arm in stand.arms] == [(arm, f"{arm}-{i}") for arm in ARMS for i in range(3)]
    for arm in stand.arms:
        assert arm.seed == derive(4, "verify", arm.name, int(arm.label[-1]))
        assert arm.stage is None
        assert (arm.subject.ticket, arm.subject.architecture) == (ticket, model)
        assert (arm.setup.splits, arm.setup.recipe, arm.setup.options) == (data, RECIPE, OPTIONS)
        assert arm.tried == 1  # nothing is trained before the dry run
    (dry,) = stand.tries
    assert (dry.seed, dry.setup.splits, dry.setup.recipe, dry.setup.options) == (4, data, RECIPE, OPTIONS)
    ((fits, there),) = stand.fits
    assert there is data
    assert torch.equal(fits.state_dict()["0.weight"], model.state_dict()["0.weight"])
    for arm in ARMS:
        assert result["arms"][arm]["test_accuracy"] == [trial(arm, i).result.test_accuracy for i in range(3)]
    assert "untrained" not in result
    assert "run" not in result


def test_precision_and_threads_are_those_asked_for(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    model, fabrics, set_ = network(), list[tuple[Any, ...]](), list[Any]()
    monkeypatch.setattr(module, "make_fabric", lambda *given: fabrics.append(given) or make_fabric("cpu", "32"))
    limit = driver.limit_threads
    monkeypatch.setattr(driver, "limit_threads", lambda threads: set_.append(threads) or limit(threads))
    run(trained(model), model, recipe=replace(RECIPE, precision="bf16-mixed"), options=replace(OPTIONS, threads=1))
    assert set(fabrics) == {("cpu", "bf16-mixed")}
    assert len(fabrics) == 1 + 12
    assert set_ == [1]  # dry run and work


def test_stages_lie_in_the_runs_directory_and_finish_after_training(tmp_path: Path, monkeypatch: Any) -> None:
    model = network()
    for found, finished in ((None, 0), (object(), 12)):
        stand = Stand(monkeypatch, found)
        out = tmp_path / str(finished)
        result = run(trained(model), model, out=out)
        directory = Path(result["run"])
        assert result["reused"] is False
        assert [arm.stage.directory for arm in stand.arms] == [directory / arm.label for arm in stand.arms]
        files = sorted(file.parent.name for file in directory.glob("*/result.json"))
        assert files == (sorted(arm.label for arm in stand.arms) if finished else [])
        again = run(trained(model), model, out=out)
        assert again == {**result, "reused": True}
        assert len(stand.arms) == 12
        assert len(stand.tries) == 1
        assert result["arms"]["dense"]["metrics"] == [f"dense-{i}/metrics.csv" for i in range(3)]


def test_a_trial_leaves_its_network_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    Stand(monkeypatch, object())
    asked = module.Verification(VerificationSetup(trained(model), model), splits(), RECIPE, 3, seed=4, options=OPTIONS)
    found = module._Verify(asked).train(Workspace(asked.data, splits(), Silent()), ("dense", 1))
    assert found.trained is None
    assert found.result == trial("dense", 1).result
    assert torch.equal(found.outcomes, outcomes("dense", 1))


def test_a_ticket_without_trained_weights_is_told_of_as_it_stands_too(stand: Stand) -> None:
    model, data = network(), splits()
    ticket = ticket_of(model)
    result = run(ticket, model, data, seed=4, replicates=2)
    setup = TrainingSetup(data, RECIPE, make_fabric("cpu", "32"))
    expected = untrained(VerificationSetup(ticket, model), setup, seed=4, replicates=2)
    assert result["untrained"] == expected.as_dict()
    assert "this ticket of 60.00 % of the 50 prunable weights" in result["sentence"]
    assert "As it stands, no weight trained, it reaches " in result["sentence"]


# -- what names the run


class Named(Exception):
    """The run's order and configuration are known."""


def config_of(monkeypatch: pytest.MonkeyPatch, ticket: Ticket, model: nn.Module | None, **more: Any) -> Any:
    found: list[Any] = []

    def noting(order: Any, describe: Any, check: Any, work: Any, progress: Any) -> Done:
        found.extend((order, describe()))
        raise Named

    monkeypatch.setattr(driver, "carry_out", noting)
    with pytest.raises(Named):
        run(ticket, model, out=Path("parent"), **more)
    return found


def test_a_run_is_named_by_all_that_decides_its_result(monkeypatch: pytest.MonkeyPatch, stand: Stand) -> None:
    model, data = network(), splits()
    ticket = trained(model, provenance={"method": {"name": "imp"}})
    order, config = config_of(monkeypatch, ticket, model, data=data, seed=4, margin=0.01, margin_kind="absolute")
    assert config == {
        "ticket": ticket.digest,
        "data": describe_data(data, data),
        "task": data.task.identity,
        "recipe": as_plain(RECIPE),
        "code": {"network": describe_module(VerificationSetup(ticket, model).origin())},
        "replicates": 3,
        "margin": as_plain(Margin(0.01, "absolute")),
        "statistics": module.STATISTICS,
        "seed": 4,
    }
    assert (order.parent, order.label, order.kind, order.force) == (Path("parent"), "verify-imp-data", "verify", False)
    assert order.machine == machine(OPTIONS, 1)
    order, _ = config_of(monkeypatch, trained(model), model, options=replace(OPTIONS, force=True))
    assert (order.label, order.force) == ("verify-ticket-data", True)
    assert not stand.arms
    assert not stand.tries


class Shrinking(torch.optim.SGD):
    """An optimiser of one's own."""


def test_a_run_is_named_by_the_code_of_what_is_the_users_own(monkeypatch: pytest.MonkeyPatch, stand: Stand) -> None:
    model = network()
    own = replace(RECIPE, optimizer=f"{__name__}.Shrinking")
    _, config = config_of(monkeypatch, trained(model), model, recipe=own)
    assert sorted(config["code"]) == ["network", "optimizer"]
    spec = NetworkSpec("mlp", input_shape=(6,), classes=4)
    built = spec.build()
    name = next(name for name, value in built.state_dict().items() if value.dim() == 2)
    known = Ticket(
        origin=Origin.seeded(spec, "kaiming_normal", 1),
        mask=tb.Mask({name: torch.ones_like(built.state_dict()[name], dtype=torch.bool)}),
    )
    assert config_of(monkeypatch, known, None)[1]["code"] == {}
    assert sorted(config_of(monkeypatch, known, built)[1]["code"]) == ["network"]  # given, so it may be another
    foreign = NetworkSpec("torch.nn.Linear", {"in_features": 6, "out_features": 4})
    weights = nn.Linear(6, 4)
    theirs = Ticket(
        origin=Origin.stored(weights, network=foreign),
        mask=tb.Mask({"weight": torch.ones(4, 6, dtype=torch.bool)}),
    )
    _, config = config_of(monkeypatch, theirs, None, trusted=("torch.nn.",))
    assert config["code"] == {"network": describe_module(weights)}


# -- what is refused or warned of


def test_data_without_a_test_split_is_refused(stand: Stand) -> None:
    model = network()
    with pytest.raises(TombolaError, match="no test split, so nothing can be verified"):
        run(trained(model), model, replace(splits(), test=None))


def test_other_data_and_other_tasks_are_refused_unless_forced(stand: Stand) -> None:
    model, data = network(), splits()
    forced = replace(OPTIONS, force=True)
    here = data.task.identity
    part, other = next(iter(here)), {"metric_name": "loss"}
    cases = [
        ({"data": {"fingerprint": "0" * 64}}, "found on other data .fingerprint '?0{12}'?, here"),
        ({"task": {**here, **other}}, r"another task: metric_name differs .*loss.* there, accuracy here"),
        ({"task": {**here, part: "x", **other}}, f"another task: .*{part}.* differ .*there"),
    ]
    for provenance, says in cases:
        ticket = trained(model, provenance=provenance)
        with pytest.raises(TombolaError, match=says):
            run(ticket, model, data)
        assert run(ticket, model, data, options=forced)["kind"] == "verify"
    for provenance in ({"data": {"fingerprint": data.fingerprint}}, {"task": here}, {"task": {}}, {}):
        assert run(trained(model, provenance=provenance), model, data)["kind"] == "verify"


def test_a_margin_that_lets_any_accuracy_match_is_refused(stand: Stand) -> None:
    model = network()
    with pytest.raises(TombolaError, match="any network would match"):
        run(trained(model), model, margin=1.0, margin_kind="absolute")


def test_another_network_than_the_tickets_is_warned_of(stand: Stand, recwarn: pytest.WarningsRecorder) -> None:
    model, other = network(), network()
    other[1] = nn.Tanh()
    ticket = trained(model, provenance={"model": {"settings": describe_module(model)}})
    run(ticket, model)
    run(trained(model), other)  # which does not say
    assert not recwarn.list
    with pytest.warns(UserWarning, match="not the one that the ticket was found with"):
        run(ticket, other)


def test_processes_need_data_by_name(stand: Stand) -> None:
    model = network()
    with pytest.raises(TombolaError, match="by name"):
        run(trained(model), model, jobs=2)
    with pytest.raises(TombolaError, match="replicates is 0"):
        run(trained(model), model, replicates=0)
    with pytest.raises(TombolaError, match="seed is -1"):
        run(trained(model), model, seed=-1)


def test_a_result_goes_through_other_options(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data by name and the ticket's own recipe, where nothing is given."""
    model, given = network(), list[Any]()
    ticket = trained(model)
    monkeypatch.setattr(module, "recipe_of", lambda *asked: given.append(asked) or RECIPE)
    monkeypatch.setattr(module, "data_of", lambda *asked: given.append(asked) or DataSpec("digits"))
    monkeypatch.setattr(module, "run_verify", lambda verification, out, jobs: (verification, out, jobs))
    found: Any = tb.verify(ticket, model=model, trusted=("a.",), data_root="there", jobs=5, out="here")
    verification, out, jobs = found
    assert given == [(ticket, "there"), (ticket, None, ("a.",))]
    assert (verification.data, verification.recipe, out, jobs) == (DataSpec("digits"), RECIPE, Path("here"), 5)
    assert verification.subject == VerificationSetup(ticket, model, ("a.",))
    assert (verification.replicates, verification.margin, verification.seed) == (5, Margin(), 0)
    assert verification.options == Options()
    found = tb.verify(ticket, splits(), recipe={"lr": 0.5}, model=model)
    assert found[1] is None
    assert given[-1] == (ticket, {"lr": 0.5}, ())


# -- the verdict


def judged(ticket: Ticket, model: nn.Module, data: Any = None, **more: Any) -> dict[str, Any]:
    asked = module.Verification(VerificationSetup(ticket, model), data or splits(), RECIPE, 3, **more)
    trials = {arm: [trial(arm, index) for index in range(3)] for arm in ARMS}
    return module.judge(trials, asked, data or splits()).as_dict()


def test_the_verdict_of_made_up_trials() -> None:
    model = network()
    ticket = trained(model, provenance={"method": {"name": "imp"}, "model": {"name": "small"}})
    found = judged(ticket, model)
    assert (found["kind"], found["method"], found["model"], found["data"]) == ("verify", "imp", "small", "data")
    assert (found["density"], found["kept"], found["total"], found["barred_kept"]) == (0.6, 30, 50, 0)
    assert found["parameters"]["total"] == 59
    assert found["parameters"]["prunable"] == 50
    assert (found["replicates"], found["recipe"]) == (3, as_plain(RECIPE))
    assert (found["margin"], found["margin_in_words"]) == (0.002, "0.2 points")
    assert (found["metric"], found["higher_is_better"]) == ("accuracy", True)
    assert found["test_set"] == {"examples": 26, "resolution": 1 / 26}
    for arm, described in found["arms"].items():
        values = [(ACCURACY[arm] + (index == 1)) / 26 for index in range(3)]
        assert described["test_accuracy"] == pytest.approx(values)
        assert described["mean"] == pytest.approx(np.mean(values))
        assert described["seeds_alone"]["interval"] == pytest.approx(list(figure(values).interval or ()))
    assert {name: part["difference"] for name, part in found["comparisons"].items()} == pytest.approx(
        {"dense": 1 / 26, "random": 7 / 26, "reinit": 8 / 26}
    )
    assert all(part["why"] is not None for part in found["comparisons"].values())
    assert found["sentence"].startswith("This ticket of 60.00 % of the 50 prunable weights ")
    assert "barred" not in found["sentence"]
    assert "float weights" not in found["sentence"]
    arms = module.figures({arm: [trial(arm, index) for index in range(3)] for arm in ARMS})
    assert found["speed"] == speed(arms).as_dict()
    assert found["wins"] is wins(typed(VerificationResult, found, Path("made up")).comparisons)
    named = judged(replace(ticket, provenance={**ticket.provenance, "parameters": 59}), model)
    assert named["sentence"].startswith("This ticket of 60.00 % of the 50 prunable weights, which are ")
    assert " parameters, " in named["sentence"]


def test_the_margin_decides_whether_dense_is_matched() -> None:
    model = network()
    wide = judged(trained(model), model, margin=Margin(0.5, "absolute"))
    assert wide["comparisons"]["dense"]["verdict"] == "yes"
    assert wide["margin"] == 0.5
    narrow = judged(trained(model), model)
    assert narrow["comparisons"]["dense"]["verdict"] == "cannot decide"  # below one example


def test_of_an_error_the_lower_one_wins() -> None:
    model = network()
    data = splits(lambda output, target: (output.argmax(1) != target).float(), "error", higher_is_better=False)
    found = judged(trained(model), model, data)
    assert found["comparisons"]["random"]["difference"] == pytest.approx(-7 / 26)
    assert (found["metric"], found["higher_is_better"], found["wins"]) == ("error", False, False)
    assert found["margin"] == 0.002  # a share of the examples: not relative to the dense mean


def test_a_share_of_examples_that_is_none_for_every_one_has_a_relative_margin() -> None:
    model = network()
    data = splits(lambda output, target: output.square().mean(1), "squares", higher_is_better=False)
    asked = module.Verification(VerificationSetup(trained(model), model), data, RECIPE, 3, margin=Margin(0.1))
    trials = {
        arm: [replace(trial(arm, index), outcomes=3 * outcomes(arm, index)) for index in range(3)] for arm in ARMS
    }
    found = module.judge(trials, asked, data).as_dict()
    mean = np.mean([trial("dense", index).result.test_accuracy for index in range(3)])
    assert found["margin"] == pytest.approx(0.1 * mean)
    assert found["test_set"] == {"examples": 26, "resolution": None}


def test_what_is_odd_about_a_ticket_stands_in_its_sentence() -> None:
    model = network()
    layers = ({"kind": "binary-layers", "names": list(MASKED)},)
    found = judged(trained(model, rewrites=layers), model)
    assert found["sentence"].endswith("All arms train float weights instead of the ticket's binary ones.")
    found = judged(trained(model, provenance={"barred_kept": {MASKED[0]: 7}}), model)
    assert found["barred_kept"] == 7
    assert "Of the 30 weights that it keeps 7 are barred by its criterion" in found["sentence"]


def test_no_bound_of_an_accuracy_lies_beyond_what_one_can_be() -> None:
    model = network()
    values = {"ticket": (1.0, 1.0, 0.7), "dense": (0.0, 0.0, 0.3), "random": (0.1, 0.2, 0.3), "reinit": (0.1, 0.2, 0.3)}
    for name, limited in (("accuracy", True), ("score", False)):
        trials: dict[str, list[Trial]] = {}
        for arm, reached in values.items():
            base = [trial(arm, index) for index in range(3)]
            trials[arm] = [
                replace(one, outcomes=None, result=trial_result(test_accuracy=value))
                for one, value in zip(base, reached, strict=True)
            ]
        data = splits(lambda output, target: (output.argmax(1) == target).float().mean(), name)
        asked = module.Verification(VerificationSetup(trained(model), model), data, RECIPE, 3)
        found = module.judge(trials, asked, data).as_dict()
        assert found["test_set"] == {"examples": None, "resolution": None}
        assert (found["arms"]["ticket"]["interval"][1] <= 1) is limited
        assert (found["arms"]["dense"]["interval"][0] >= 0) is limited
        assert (found["comparisons"]["dense"]["interval"][1] <= 1) is limited


def test_of_a_dense_network_without_a_figure_no_share_is_allowed() -> None:
    model = network()
    data = splits(lambda output, target: output.square().mean(1), "squares", higher_is_better=False)
    trials = {arm: [replace(trial(arm, index), outcomes=None) for index in range(3)] for arm in ARMS}
    broken = trial_result(test_accuracy=None)
    trials["dense"][0] = replace(trials["dense"][0], result=broken)
    asked = module.Verification(VerificationSetup(trained(model), model), data, RECIPE, 3, margin=Margin(0.1))
    assert module.judge(trials, asked, data).margin == 0.0


def test_a_folder_that_cannot_be_is_met_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(*given: Any) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr(driver, "loaded", reading)
    (tmp_path / "file").write_text("")
    model = network()
    with pytest.raises(TombolaError, match="file"):
        run(trained(model), model, out=tmp_path / "file")


def test_runs_of_one_evaluation_have_no_time_between_two() -> None:
    lone = {arm: [replace(trial(arm, 0), history=trial(arm, 0).history[:1])] for arm in ARMS}
    assert {arm.evaluated_every for arm in module.figures(lone).values()} == {0}
