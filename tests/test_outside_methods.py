"""Methods of a user's own, by import path: in Python, on the command line, in a file of arms; examples/ shows two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tombola as tb
from cli_calls import call
from tombola.methods import method_class
from tombola.study.recorded import recipe_of
from tombola.ticket.ticket import Ticket

HALF = '''
from dataclasses import dataclass
from tombola.levels import train_dense, train_under
from tombola.methods.base import Method
from tombola.methods.imp import IterativePruning

@dataclass(frozen=True)
class Half(Method):
    """Keep half of the weights.

    Args:
        density: fraction of weights kept
        patterns: said to nobody
    """

    density: float = 0.5
    patterns: tuple[str, ...] = ()
    trains_scores_only = True

    def find(self, search):
        return IterativePruning(density=self.density, rounds=1).find(search)

class Bare(Half):
    """Without fields of its own."""

@dataclass(frozen=True)
class Unwritten(Method):
    """Without find."""

@dataclass(frozen=True)
class Clash(Half):
    lr: float = 0.1

@dataclass(frozen=True)
class Slow(IterativePruning):
    """Prune a tenth at a time."""

    rate: float = 0.1
    levels: int | None = 2

NUMBER = 3

@dataclass(frozen=True)
class Hides(Half):
    hooks: str = "a"

@dataclass(frozen=True)
class Named(Half):
    name: str = "own"

@dataclass(frozen=True)
class Unset(Half):
    rewind: str

@dataclass(frozen=True)
class Unread(Half):
    more: "Nowhere" = 1

@dataclass(frozen=True)
class Gives(Method):
    what: str = "nothing"

    def find(self, search):
        dense = train_dense(search)
        under = train_under(search, dense.ticket.mask)
        return {"nothing": None, "empty": [], "ticket": [dense.ticket], "level": dense, "back": [under, dense],
                "twice": [under, under]}[self.what]

@dataclass(frozen=True)
class NoMask(Method):
    def find(self, search):
        return [train_under(search, lambda: {"fc1.weight": 1})]
'''
TINY = ["--length", "4it", "--batch_size", "60", "--eval_every", "4it", "--model", "mlp", "--data", "digits"]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package that can be imported from nowhere else."""
    (tmp_path / "outside_pkg").mkdir()
    (tmp_path / "outside_pkg" / "mine.py").write_text(HALF)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("outside_pkg")]:
        del sys.modules[name]


def test_it_is_found_from_the_folder_where_the_command_is_typed(outside: Path) -> None:
    status, out, err = call("find", "outside_pkg.mine.Half", *TINY, "--density", "0.3")
    assert (status, err) == (0, "")
    assert "outside_pkg.mine.Half on digits" in out
    (file,) = outside.glob("runs/outside_pkg.mine.Half-mlp-digits-*/replicate-0/level-01/network.ticket")
    ticket = Ticket.load(file)
    assert ticket.density == pytest.approx(0.3, abs=1e-4)
    assert ticket.provenance["method"] == {
        "name": "outside_pkg.mine.Half",
        "version": 1,
        "density": 0.3,
        "patterns": [],
    }


def test_its_fields_are_options_and_its_docstring_is_their_help(outside: Path) -> None:
    status, out, _ = call("find", "outside_pkg.mine.Half", "--help")
    assert status == 0
    assert "Keep half of the weights." in out
    assert "said to nobody" in out
    status, out, _ = call("find", "outside_pkg.mine.Half", "--print_config")
    assert status == 0
    assert "density: 0.5\npatterns: []\n" in out


def test_a_run_is_known_by_its_code(outside: Path) -> None:
    for text in (HALF, HALF.replace("rounds=1", "rounds=2")):
        (outside / "outside_pkg" / "mine.py").write_text(text)
        sys.modules.pop("outside_pkg.mine", None)
        assert call("find", "outside_pkg.mine.Half", *TINY)[0] == 0
    assert len(list((outside / "runs").iterdir())) == 2


def test_its_tickets_are_verified_without_it(outside: Path) -> None:
    sys.path.append(str(outside))
    ticket = tb.find("mlp", "digits", "outside_pkg.mine.Half", recipe={"length": "4it", "lr": 0.3})
    again = Ticket.from_bytes(ticket.to_bytes())
    for name in ("outside_pkg.mine", "outside_pkg"):
        del sys.modules[name]
    assert recipe_of(again).lr != 0.3  # its recipe was for scores
    assert "outside_pkg" not in sys.modules


def test_arms_of_a_file_name_it(outside: Path) -> None:
    arms = "[{name: mine, method: outside_pkg.mine.Half, options: {density: 0.4}}, {name: all, method: dense}]"
    (outside / "arms.yaml").write_text(arms)
    status, out, err = call("study", "compare", "--arms", "arms.yaml", *TINY, "--replicates", "1")
    assert (status, err) == (0, "")
    assert "40.00 %" in out


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("outside_pkg.mine.Halv", "did you mean Half"),
        ("outside_pkg.mine.NUMBER", "not a subclass of tombola.methods.base.Method"),
        ("outside_pkg.mine.Unwritten", "has no find"),
        ("outside_pkg.mine.Bare", "put @dataclass"),
        ("outside_pkg.mine.Clash", "--lr of method outside_pkg.mine.Clash is an option of tombola find"),
        ("outside_pkg.nowhere.Half", "cannot be imported"),
        ("outside_pkg.mine.Hides", "field hooks of method Hides hides what tombola.Method calls so"),
        ("outside_pkg.mine.Named", "say ClassVar"),
        ("outside_pkg.mine.Unset", "field rewind of method Unset has no default"),
        ("outside_pkg.mine.Unread", "NameError: name 'Nowhere' is not defined"),
        ("outside_pkg.mine.NoMask", "the mask is a dict, but it must be a Mask"),
    ],
)
def test_what_is_no_method_is_one_line(outside: Path, path: str, message: str) -> None:
    status, _, err = call("find", path, *TINY)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_curve_is_drawn_of_levels(outside: Path) -> None:
    words = ["--replicates", "1", "--controls", "random", "--control_levels", "[2]"]
    status, out, err = call("study", "curve", "outside_pkg.mine.Slow", *TINY, *words)
    assert (status, err) == (0, "")
    assert "outside_pkg.mine.Slow on digits" in out
    status, _, err = call("study", "curve", "outside_pkg.mine.Slow", *TINY, "--control_levels", "[3]", "--levels", "1")
    assert status == 2
    assert "the search has levels 1" in err


def test_its_options_come_from_yaml(outside: Path) -> None:
    (outside / "half.yaml").write_text("density: 0.25\nlength: 4it\nmodel: mlp\ndata: digits\n")
    status, out, err = call("find", "outside_pkg.mine.Half", "--config", "half.yaml")
    assert (status, err) == (0, "")
    assert "25.00 %" in out
    (outside / "half.yaml").write_text("densiti: 0.25\n")
    status, _, err = call("find", "outside_pkg.mine.Half", "--config", "half.yaml")
    assert (status, err.count("\n")) == (2, 1)
    assert "densiti" in err


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "gave None"),
        ("empty", "gave an empty list"),
        ("ticket", "gave a list with a Ticket"),
        ("level", "gave a Level"),
        ("back", "gave the levels [1, 0], but their numbers must rise"),
        ("twice", "gave the levels [1, 1]"),
    ],
)
def test_what_find_gives_is_levels_in_order(outside: Path, what: str, message: str) -> None:
    status, _, err = call("find", "outside_pkg.mine.Gives", *TINY, "--what", what)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_curve_needs_levels(outside: Path) -> None:
    status, _, err = call("study", "curve", "outside_pkg.mine.Half", *TINY)
    assert (status, err.count("\n")) == (2, 1)
    assert "does not prune level by level" in err


def test_it_goes_on_from_no_ticket_unless_it_says_so(outside: Path) -> None:
    sys.path.append(str(outside))
    start = tb.find("mlp", "digits", {"density": 0.5, "rounds": 1}, recipe={"length": "4it"})
    with pytest.raises(tb.TombolaError, match=r"outside_pkg\.mine\.Half cannot start from a ticket"):
        tb.find("mlp", "digits", "outside_pkg.mine.Half", start=start)


def test_names_of_methods() -> None:
    status, _, err = call("find", "Half")
    assert (status, err.count("\n")) == (2, 1)
    assert "or an import path such as package.module.Class" in err
    assert method_class("tombola.methods.imp.IterativePruning") is method_class("imp")
    with pytest.raises(tb.TombolaError, match=r"did you mean edge-popup"):
        tb.find("mlp", "digits", "edge-pop")
