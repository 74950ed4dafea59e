"""Tickets on the Hub: what is asked of huggingface_hub, the card's text, and mistakes as one line; no network."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import tombola as tb
from cli_calls import call
from tombola.errors import TombolaError
from tombola.results.verification import VerificationResult
from tombola.ticket.card import card

huggingface_hub = pytest.importorskip("huggingface_hub")


class Hub:
    """A Hub that is a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, []

    def create_repo(self, repo_id: str, **given: Any) -> None:
        self.calls.append(("create_repo", repo_id, given))

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None = None) -> bool:
        return (self.folder / filename).exists()

    def create_commit(self, repo_id: str, operations: Any, **given: Any) -> Any:
        for operation in operations:
            content = operation.path_or_fileobj
            data = content if isinstance(content, bytes) else Path(content).read_bytes()
            (self.folder / operation.path_in_repo).write_bytes(data)
        self.calls.append(("create_commit", repo_id, given))
        return SimpleNamespace(commit_url="https://hub/commit/1")

    def download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        self.calls.append(("download", repo_id, revision))
        return str(shutil.copy(self.folder / filename, self.folder / "cached"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


@pytest.fixture
def ticket() -> tb.Ticket:
    network = nn.Linear(8, 4)
    with torch.no_grad():
        network.weight[:, ::2] = 0
    return tb.pack(network, {"data": {"name": "digits"}, "seed": 3})


@pytest.fixture(scope="module")  # before the Hub is replaced, which what is imported here looks at
def verification(tmp_path_factory: pytest.TempPathFactory) -> tuple[tb.Ticket, VerificationResult]:
    """A ticket of a tiny search, and what verifying it gave."""
    torch.manual_seed(0)
    tmp_path = tmp_path_factory.mktemp("runs")
    draw = torch.Generator().manual_seed(0)
    data = tuple((torch.randn(n, 6, generator=draw), torch.arange(n) % 2) for n in (40, 20, 20))
    network, recipe = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), {"length": "2it", "batch_size": 20}
    tb.find(network, data, {"density": 0.5, "rounds": 1}, recipe=recipe, out=tmp_path / "find")
    found = tb.Ticket.load(next((tmp_path / "find").rglob("level-01/*.ticket")))
    result = tb.verify(found, data, model=network, replicates=3, out=tmp_path / "verify")
    return found, result


def test_a_verification_stands_in_the_card_with_its_intervals(
    verification: tuple[tb.Ticket, VerificationResult], hub: Hub, tmp_path: Path
) -> None:
    found, result = verification
    assert result.run is not None
    texts = [card(found, files={"a.ticket": 9}, verdict=one) for one in (result, Path(result.run))]
    assert texts[0] == texts[1]
    assert "| ticket minus control | difference | 95 % interval | verdict |" in texts[0]
    assert texts[0].count(" points to ") == 0
    assert texts[0].count(" to ") >= len(result.comparisons) > 0
    found.push_to_hub("me/net", values="float16", verdict=Path(result.run))
    assert "95 % interval" in (hub.folder / "README.md").read_text()
    other = tb.pack({"a": torch.eye(3)})
    for folder, words in ((Path(result.run), "is of another ticket"), (tmp_path, "holds no finished verification")):
        with pytest.raises(TombolaError, match=words):
            other.push_to_hub("me/net", verdict=folder)


def test_there_and_back(hub: Hub, ticket: tb.Ticket) -> None:
    assert ticket.push_to_hub("me/net", private=True) == "https://hub/commit/1"
    assert hub.calls[0] == ("create_repo", "me/net", {"exist_ok": True, "private": True})
    assert tb.Ticket.from_hub("me/net", revision="v1") == ticket
    assert hub.calls[-1] == ("download", "me/net", "v1")
    ticket.push_to_hub("me/net", "half.ticket", values="float16")
    assert tb.Ticket.from_hub("me/net", "half.ticket") == ticket.rounded("float16")


def test_the_command_line(
    hub: Hub, ticket: tb.Ticket, verification: tuple[tb.Ticket, VerificationResult], tmp_path: Path
) -> None:
    path = tmp_path / "here.ticket"
    ticket.save(path)
    status, out, err = call(
        "push", str(path), "me/net", "--private", "--filename", "half.ticket", "--values", "float16"
    )
    assert (status, out, err) == (0, "half.ticket in me/net: https://hub/commit/1\n", "")
    assert hub.calls[0] == ("create_repo", "me/net", {"exist_ok": True, "private": True})
    assert tb.Ticket.from_hub("me/net", "half.ticket") == ticket.rounded("float16")
    times = ("--milliseconds", "{dense: 56.3}", "--machine", "AMD EPYC", "--replace_card")
    assert call("push", str(path), "me/net", *times)[0] == 0
    assert "| dense | 56.30 |" in (hub.folder / "README.md").read_text()
    found, result = verification
    found.save(path)
    assert call("push", str(path), "me/net", "--replace_card", "--verdict", str(result.run))[0] == 0
    assert "95 % interval" in (hub.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--verdict", "nowhere"), "nowhere holds no finished verification"),
        (("--filename", "../x.ticket"), "filename is '../x.ticket'; give a file's path within the repository"),
        (("--machine", "x"), "milliseconds and machine together"),
        (("--values", "float8"), "values 'float8' is unknown; use one of"),
    ],
)
def test_mistakes_at_the_command_line(words: tuple[str, ...], said: str, hub: Hub, ticket: tb.Ticket) -> None:
    path = hub.folder / "here.ticket"
    ticket.save(path)
    status, out, err = call("push", str(path), "me/net", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not hub.calls


def test_a_card_that_is_there_stays_unless_asked(hub: Hub, ticket: tb.Ticket) -> None:
    page = hub.folder / "README.md"
    page.write_text("mine")
    ticket.push_to_hub("me/net")
    assert page.read_text() == "mine"
    ticket.push_to_hub("me/net", replace_card=True)
    assert "# A ticket of a network" in page.read_text()


def test_the_card_is_of_the_file_that_is_written(hub: Hub, ticket: tb.Ticket) -> None:
    ticket.push_to_hub("me/net", "half.ticket", values="float16")
    text = (hub.folder / "README.md").read_text()
    assert f"| `half.ticket` | {(hub.folder / 'half.ticket').stat().st_size:,} |" in text
    assert "| values | float16 |" in text
    assert "tb.Ticket.from_hub('me/net', 'half.ticket')" in text


def test_the_text_of_a_card(ticket: tb.Ticket) -> None:
    text = card(
        ticket,
        files={"a.ticket": 1234},
        verdict="It matches dense: +0.10 points (95 % interval: -0.05 to +0.25).",
        milliseconds={"dense, batch 1": 3.14159},
        machine="AMD EPYC, 1 thread",
    )
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "tombola"
    assert "keeps 50.00 % of the 32 prunable weights of a network, found by pack on digits; all others are 0." in text
    assert "It matches dense: +0.10 points (95 % interval: -0.05 to +0.25)." in text
    assert "| `a.ticket` | 1,234 |" in text
    assert "| dense, batch 1 | 3.14 |" in text
    assert "Measured on AMD EPYC, 1 thread." in text
    assert "| seed | 3 |" in text


def test_a_verdict_is_read_from_a_result_or_the_provenance(ticket: tb.Ticket) -> None:
    files = {"a.ticket": 1}
    assert "was not held against controls" in card(ticket, files=files)
    assert "\n\nIt wins.\n" in card(ticket, files=files, verdict=SimpleNamespace(sentence="It wins."))
    told = tb.pack({"a": torch.eye(3)}, {"verdict": {"sentence": "It loses."}})
    assert "\n\nIt loses.\n" in card(told, files=files)


def test_texts_of_a_ticket_mean_nothing_to_the_page() -> None:
    sent = tb.pack({"a": torch.eye(3)}, {"data": {"name": "<script>x</script>\n# head | [a](b)"}, "seed": "*"})
    text = card(sent, files={"a.ticket": 1})
    assert "<script>" not in text.replace("\\<", "")
    assert "\n# head" not in text
    assert "| seed | \\* |" in text


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: t.push_to_hub("me/net", "net.bin"), r"ends in \.ticket"),
        (lambda t: t.push_to_hub("me/net", "../x.ticket"), r"^filename is '\.\./x\.ticket'; give a file's path within"),
        (lambda t: t.push_to_hub("me/net", "/x.ticket"), "give a file's path within the repository, such as network"),
        (lambda t: tb.Ticket.from_hub("me/net", "../x"), r"^filename is '\.\./x'; give a file's path within"),
        (lambda t: tb.Ticket.from_hub("me/net", "a\\..\\..\\x"), "give a file's path within"),
        (lambda t: tb.Ticket.from_hub("me/net", ""), "filename is ''; give a file's path within"),
        (lambda t: t.push_to_hub("me/net", machine="x"), "milliseconds and machine together"),
        (lambda t: t.push_to_hub("me/net", milliseconds={"a": 1.0}), "milliseconds and machine together"),
        (lambda t: tb.Ticket.from_hub("me/net", "other.ticket"), "'me/net' on the Hub: FileNotFoundError.*log-in"),
    ],
)
def test_mistakes_are_one_line(call: Callable[[tb.Ticket], object], said: str, hub: Hub, ticket: tb.Ticket) -> None:
    with pytest.raises(TombolaError, match=said) as caught:
        call(ticket)
    assert "\n" not in str(caught.value)
    assert not list(hub.folder.iterdir())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, ticket: tb.Ticket) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TombolaError, match=r"run pip install 'tombola\[hub\]'"):
        ticket.push_to_hub("me/net")
