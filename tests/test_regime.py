"""Hand-made tickets: their errors, distances, thresholds and sides; the study from command line to page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from cli_calls import call
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.data.splits import Splits, Task, make_splits
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.report.page import write_report
from tombola.results.regime import PlacedTicket
from tombola.study.regime.measure import memorised, wrong_labels
from tombola.study.regime.place import distance, placed, threshold_of
from tombola.study.regime.sentence import sentence
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket

NONE = " a training error of at most 1.00 % (the lowest is 10.00 %)."


def net(*rows: list[float]) -> nn.Linear:
    """A network that gives x W^T, without biases."""
    made = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(rows))
    return made


def hand_made(final: list[list[float]], keep: list[list[bool]], first: float = 1.0) -> Ticket:
    """A ticket of a 2x2 network whose first weights are all `first`."""
    begun = net(*[[first, first]] * 2)
    return Ticket.from_models(
        origin=Origin.stored(begun),
        mask=Mask({"weight": torch.tensor(keep)}),
        final_state={"weight": torch.tensor(final)},
        provenance={"method": {"name": "imp"}, "model": {"name": "tiny"}},
        model=begun,
    )


def data() -> tuple[tuple[Tensor, Tensor], ...]:
    """Two inputs: the class is the larger one. Of 4 training labels the last is wrong; n K = 8."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    return (x, torch.tensor([0, 1, 0, 0])), (x, torch.tensor([0, 1, 0, 1])), (x, torch.tensor([0, 1, 0, 1]))


FULL = hand_made([[1.0, 0.0], [0.0, 1.0]], [[True, True], [True, True]])
HALF = hand_made([[1.0, 0.0], [0.0, 1.0]], [[True, False], [False, True]])
ONE = hand_made([[-4.0, 0.0], [0.0, 0.0]], [[True, False], [False, False]])


def test_hand_made_tickets_are_placed() -> None:
    result = tb.regime([FULL, HALF, ONE], data(), model=net([0.0, 0.0], [0.0, 0.0]), tolerance=0.25)
    full, half, one = result.tickets
    assert (result.examples, result.outputs) == (4, 2)
    assert [t.ratio for t in result.tickets] == [4 / 8, 2 / 8, 1 / 8]
    assert [t.train_error for t in result.tickets] == [0.25, 0.25, 1.0]
    # logits of `one`: (-4 x0, 0): class 1 unless x0 is 0, where the first of equals is taken
    assert [t.test_error for t in result.tickets] == [0.0, 0.0, 0.75]
    assert full.distance == pytest.approx(2**0.5)
    assert full.relative_distance == pytest.approx(2**0.5 / 2)
    assert half.distance == 0.0
    assert one.distance == 5.0
    assert one.relative_distance == 5.0
    assert [t.side for t in result.tickets] == ["above", "above", "below"]
    (threshold,) = result.thresholds
    assert (threshold.series, threshold.kept, threshold.next_kept, threshold.ratio) == ("imp on tiny", 2, 1, 0.25)
    assert "between 2 kept weights (0.250 n K)" in result.sentence
    assert "2 of 3 tickets lie above it" in result.sentence


def test_a_smaller_tolerance_leaves_every_ticket_below() -> None:
    result = tb.regime([FULL, ONE], data(), model=net([0.0, 0.0], [0.0, 0.0]))
    assert [t.side for t in result.tickets] == ["below", "below"]
    assert result.thresholds[0].kept is None
    assert result.thresholds[0].next_kept == 4
    assert "the lowest is 25.00 %" in result.sentence


def test_a_lone_ticket_tells_one_side() -> None:
    result = tb.regime(HALF, data(), model=net([0.0, 0.0], [0.0, 0.0]), tolerance=0.3)
    assert (result.thresholds[0].kept, result.thresholds[0].next_kept) == (2, None)
    assert result.sentence.startswith("The ticket of imp on tiny lies above the threshold, which is at most 2 ")


@pytest.mark.parametrize(
    ("errors", "kept", "next_kept"),
    [
        ([(100, 0.0), (50, 0.0), (25, 0.2)], 50, 25),
        ([(25, 0.2), (100, 0.0), (50, 0.0)], 50, 25),  # in any order
        ([(100, 0.0), (50, 0.02), (50, 0.0), (25, 0.0)], 25, None),  # means
        ([(100, 0.0), (50, 0.3), (25, 0.0)], 100, 50),  # what fits again below does not count
        ([(100, 0.02)], None, 100),
    ],
)
def test_thresholds(errors: Any, kept: int | None, next_kept: int | None) -> None:
    found = threshold_of("s", errors, 0.01, 200)
    assert (found.kept, found.next_kept) == (kept, next_kept)
    assert found.ratio == (None if kept is None else kept / 200)


def ticket_of(series: str, kept: int, error: float) -> PlacedTicket:
    return PlacedTicket(
        file="",
        digest="",
        series=series,
        replicate=None,
        level=None,
        kept=kept,
        total=100,
        ratio=kept / 10,
        train_error=error,
        test_error=None,
        train_loss=None,
        test_loss=None,
    )


def test_every_series_has_a_threshold_of_its_own() -> None:
    given = [ticket_of("a", 50, 0.0), ticket_of("b", 50, 0.5), ticket_of("b", 90, 0.0), ticket_of("a", 10, 0.5)]
    tickets, thresholds = placed(given, 0.01, 10)
    assert [one.side for one in tickets] == ["above", "below", "above", "below"]
    assert [(one.series, one.kept) for one in thresholds] == [("a", 50), ("b", 90)]


def test_a_ticket_that_fits_lies_above_though_a_denser_one_does_not() -> None:
    def placed_at(*errors: tuple[int, float]) -> tuple[list[str], str]:
        tickets, thresholds = placed([ticket_of("a", kept, error) for kept, error in errors], 0.01, 10)
        return [one.side for one in tickets], sentence(tickets, thresholds, 0.01)

    sides, said = placed_at((100, 0.02), (50, 0.005), (10, 0.3))
    assert sides == ["below", "above", "below"]
    assert said == (
        "The threshold of a is not found: the densest tickets, of 100 kept weights, have a training error of 2.00 %, "
        "and sparser ones at most 1.00 %, down to 50 kept weights; 1 of 3 tickets lies above it."
    )
    sides, said = placed_at((100, 0.0), (50, 0.3), (25, 0.0))
    assert sides == ["above", "below", "above"]
    assert said.endswith("2 of 3 tickets lie above it, with those of 25, which fit again.")


def test_searches_without_a_ticket_above_are_said_in_one_sentence() -> None:
    def said(*names: str) -> str:
        given = [ticket_of("fits", 50, 0.0), *(ticket_of(name, 50, 0.1 + 0.1 * at) for at, name in enumerate(names))]
        return sentence(*placed(given, 0.01, 10), 0.01)

    assert said("a").endswith(" The ticket of a lies below the threshold: none has" + NONE)
    assert said("a", "b").endswith(" Every ticket of a and b lies below the threshold: none has" + NONE)
    assert said("a", "b", "c").startswith("The ticket of fits lies above the threshold")
    assert said("a", "b", "c").endswith(" Every ticket of 3 searches lies below the threshold: none has" + NONE)


def test_distance_counts_biases_and_shared_parameters_once() -> None:
    first, final = nn.Sequential(nn.Linear(1, 1), nn.ReLU()), nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    for part, values in ((first, (3.0, 0.0)), (final, (6.0, 4.0))):
        for parameter, value in zip(part.parameters(), values, strict=True):
            nn.init.constant_(parameter, value)
    assert distance(final, first) == (5.0, 5.0 / 3.0)
    shared_first, shared_final = nn.Sequential(first[0], first[0]), nn.Sequential(final[0], final[0])
    assert distance(shared_final, shared_first) == (5.0, 5.0 / 3.0)
    nothing = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(nothing.weight)
    assert distance(nothing, nothing) == (0.0, None)


def test_a_ticket_that_is_given_twice_is_placed_once() -> None:
    result = tb.regime([HALF, FULL, HALF], data(), model=net([0.0, 0.0], [0.0, 0.0]))
    assert [one.file for one in result.tickets] == ["ticket 0", "ticket 1"]


def test_a_ticket_without_its_origin_has_no_distance() -> None:
    bare = FULL.without_origin()
    (one,) = tb.regime(bare, data(), model=net([0.0, 0.0], [0.0, 0.0])).tickets
    assert (one.distance, one.relative_distance, one.train_error) == (None, None, 0.25)


def test_memorised_is_the_share_of_wrong_labels_that_are_given() -> None:
    spec = DataSpec(train_examples=100, label_noise=0.2)
    splits, clean = load_data(spec), load_data(DataSpec(train_examples=100))
    wrong = wrong_labels(spec, splits)
    assert wrong is not None
    assert torch.equal(wrong, splits.train.y != clean.train.y)  # type: ignore[union-attr]
    hits = torch.zeros(100)
    hits[wrong.nonzero().flatten()[:5]] = 1
    assert memorised(hits, wrong) == 0.25
    assert memorised(hits, None) is None
    assert wrong_labels(splits, splits) is None
    assert wrong_labels(DataSpec(train_examples=100), clean) is None


def squared() -> Splits:
    x = torch.zeros(20, 2)
    return make_splits((x, x), (x, x), task=Task(nn.functional.mse_loss, nn.functional.mse_loss, "mse"))


def test_refusals(tmp_path: Path) -> None:
    network = net([0.0, 0.0], [0.0, 0.0])
    with pytest.raises(TombolaError, match="the task of data is one of its own, with the metric mse"):
        tb.regime(FULL, squared(), model=network)
    with pytest.raises(TombolaError, match=r"tolerance is 1\.0"):
        tb.regime(FULL, data(), model=network, tolerance=1.0)
    with pytest.raises(TombolaError, match="mixed"):
        tb.regime([FULL, "x.ticket"], data(), model=network)
    with pytest.raises(TombolaError, match="no ticket was given"):
        tb.regime([], data(), model=network)
    with pytest.raises(TombolaError, match="ticket 0: "):
        tb.regime(FULL, data())
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs")
    words = ["find", "imp", "--model", "mlp", "--data", "digits", "--levels", "2", "--rate", "0.9", "--length", "4ep"]
    noise = ["--train_examples", "100", "--label_noise", "0.2", "--replicates", "2"]
    status, printed, _ = call(*words, *noise, "--device", "cpu", "--out", str(out), "--json")
    assert status == 0
    found: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return found


def test_a_run_from_command_line_to_page(search: dict[str, Any], tmp_path: Path) -> None:
    words = ["study", "regime", search["run"], "--out", str(tmp_path), "--device", "cpu", "--tolerance", "0.5"]
    status, printed, errors = call(*words, "--json")
    assert status == 0, errors
    result = json.loads(printed.strip().splitlines()[-1])
    assert result["kind"] == "regime"
    assert [(t["replicate"], t["level"]) for t in result["tickets"]] == [(r, n) for r in (0, 1) for n in (0, 1, 2)]
    assert result["examples"] * result["outputs"] == 1000
    for ticket in result["tickets"]:
        level = search["replicates"][ticket["replicate"]]["arms"]["ticket"][ticket["level"]]
        assert ticket["kept"] == level["kept"]
        assert ticket["test_error"] == pytest.approx(1 - level["test_accuracy"], abs=1e-6)
        assert ticket["ratio"] == ticket["kept"] / 1000
        assert 0 <= ticket["memorised"] <= 1
        assert ticket["distance"] > 0
    assert result["reused"] is False
    _, again, _ = call(*words, "--json")
    assert json.loads(again.strip().splitlines()[-1])["reused"] is True
    page = write_report([result["run"]], tmp_path / "page")
    text = page.html.read_text()
    assert "Tickets on the curve" in text
    assert "Wrong labels given" in text
    assert [file.stem for file in page.figures] == ["regime", "regime"]


def test_single_files_and_other_data(search: dict[str, Any], tmp_path: Path) -> None:
    files = sorted(str(file) for file in Path(search["run"]).rglob("*.ticket"))
    status, printed, errors = call("study", "regime", files[0], files[2], files[0], "--out", str(tmp_path), "--json")
    assert status == 0, errors
    result = json.loads(printed.strip().splitlines()[-1])
    assert [one["file"] for one in result["tickets"]] == [files[0], files[2]]
    other = tmp_path / "other"
    words = ["find", "imp", "--model", "mlp", "--data", "digits", "--levels", "1", "--length", "2it"]
    status, printed, _ = call(*words, "--device", "cpu", "--out", str(other), "--json")
    second = json.loads(printed.strip().splitlines()[-1])["ticket"]
    status, _, errors = call("study", "regime", files[0], second, "--out", str(tmp_path))
    assert status == 2
    assert "was found on other data" in errors
    status, printed, errors = call(
        "study", "regime", files[0], second, "--data", "digits", "--out", str(tmp_path), "--json"
    )
    assert status == 0, errors
    assert "memorised" not in json.loads(printed.strip().splitlines()[-1])["tickets"][0]


def test_killed_between_tickets_it_ends_with_the_same_result(search: dict[str, Any], tmp_path: Path) -> None:
    def placed_in(out: str) -> Any:
        status, printed, errors = call("study", "regime", search["run"], "--out", str(tmp_path / out), "--json")
        assert status == 0, errors
        return json.loads(printed.strip().splitlines()[-1])

    whole, cut = placed_in("a"), placed_in("b")
    run = Path(cut["run"])
    (run / "result.json").unlink()
    (run / "ticket-003" / "result.json").unlink()
    resumed = placed_in("b")
    assert resumed["reused"] is False
    assert {**resumed, "run": "", "reused": False} == {**whole, "run": "", "reused": False}


def test_a_folder_of_runs_means_the_tickets_of_all_of_them(search: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(search["run"]).parent
    words = ("study", "regime", "--device", "cpu", "--out", str(tmp_path / "out"))
    status, of_folder, errors = call(*words, str(folder), "--json")
    assert status == 0, errors
    _, of_run, _ = call(*words, search["run"], "--json")
    _, shown, _ = call(*words, search["run"])
    first, second = (json.loads(printed.strip().splitlines()[-1]) for printed in (of_folder, of_run))
    assert first["tickets"] == second["tickets"]
    assert "regime of tickets on digits, means over 2 replicates" in shown
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    FULL.save(tmp_path / "loose" / "a.ticket")
    for name, said in (("empty", "name ticket files or run directories"), ("loose", "loose/*.ticket")):
        status, _, errors = call(*words, str(tmp_path / name))
        assert (status, len(errors.splitlines())) == (2, 1)
        assert "is no run, and holds none with tickets" in errors
        assert said in errors


def test_what_is_no_ticket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    status, _, errors = call("study", "regime", str(tmp_path / "run"), "--out", str(tmp_path))
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "holds no ticket" in errors
    status, _, errors = call("study", "regime", str(tmp_path / "none.ticket"), "--out", str(tmp_path))
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "no such file" in errors
