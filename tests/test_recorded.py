"""What a ticket says of how it was found chooses among Tombola's own; anything else is the user's to name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tombola as tb
from cli_calls import call
from tombola.mask import Mask
from tombola.study.recorded import data_of, recipe_of, recorded_name
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.ticket import Ticket

NETWORK = NetworkSpec("mlp", {"hidden": [4]}, (1, 8, 8), 10)
TINY = {"length": "1it", "batch_size": 8, "eval_every": "1it", "train_eval": 8}
DATA = {"name": "digits", "val_size": None, "image_size": None, "args": {}, "augment": {}, "cue": {}}


def ticket(**provenance: Any) -> Ticket:
    origin = Origin.seeded(NETWORK, "xavier_normal", 1)
    mask = Mask({"fc1.weight": torch.ones(4, 64, dtype=torch.bool)})
    return Ticket(origin=origin, mask=mask, provenance={"recipe": TINY, "data": DATA, **provenance})


def with_optimizer(name: Any) -> Ticket:
    return ticket(recipe={**TINY, "optimizer": name})


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that can be imported, and must not be."""
    (tmp_path / "evil_recorded.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "evil_recorded"


def test_a_foreign_optimizer_of_a_ticket_is_not_imported(evil: str) -> None:
    for name in (f"{evil}.Adam", f"{evil}:Adam", "os.system"):
        with pytest.raises(tb.TombolaError, match=f"optimizer {name}.* if you trust the ticket"):
            recipe_of(with_optimizer(name), {"lr": 0.1})
    assert evil not in sys.modules


@pytest.mark.parametrize("name", ["", "unheard", "a b.c", "../x.y", "x" * 1000, "a.\x1b[2J", None, 3, ["sgd"], {}])
def test_no_word_of_a_ticket_is_an_optimizer_by_itself(name: Any) -> None:
    with pytest.raises(tb.TombolaError) as caught:
        recipe_of(with_optimizer(name))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_what_the_user_names_holds() -> None:
    found = with_optimizer("torch.optim.RMSprop")
    assert recipe_of(found, {"optimizer": "torch.optim.RMSprop"}).optimizer == "torch.optim.RMSprop"
    assert recipe_of(found, {"optimizer": "adam"}).optimizer == "adam"
    for trusted in (("torch.optim",), ("torch.optim.RMSprop",)):
        assert recipe_of(found, trusted=trusted).optimizer == "torch.optim.RMSprop"
    assert recipe_of(with_optimizer("adam")).optimizer == "adam"


def test_a_ticket_of_a_foreign_optimizer_is_verified_by_who_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_recorded.py").write_text("import torch\n\n\nclass Mine(torch.optim.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    file, name = tmp_path / "t.ticket", "mine_recorded.Mine"
    with_optimizer(name).save(file)
    command = ("verify", str(file), "--replicates", "1", "--out", str(tmp_path / "runs"))
    status, _, err = call(*command)
    assert status == 2
    assert f"name it yourself (optimizer {name}" in err
    assert "mine_recorded" not in sys.modules
    assert not (tmp_path / "runs").exists()
    assert tb.verify(str(file), recipe={"optimizer": name}, replicates=1).recipe["optimizer"] == name


@pytest.mark.parametrize("name", ["", "unheard", "os.system", "x" * 1000, "a.\x1b[2J", ["l1"], 3])
def test_a_penalty_that_a_ticket_names_is_not_imported(name: Any, evil: str) -> None:
    for penalty in (name, f"{evil}.l1"):
        with pytest.raises(tb.TombolaError) as caught:
            recipe_of(ticket(recipe={**TINY, "penalty": penalty, "strength": 0.1}), {"lr": 0.1})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
    assert evil not in sys.modules
    own = ticket(recipe={**TINY, "penalty": f"{evil}.l1", "strength": 0.1})
    assert recipe_of(own, {"penalty": "l1"}).penalty == "l1"
    assert recipe_of(ticket(recipe={**TINY, "penalty": "hoyer", "strength": 0.1})).penalty == "hoyer"


def test_what_a_trusted_prefix_only_imported_is_not_trusted() -> None:
    with pytest.raises(tb.TombolaError, match="defined in 'posix'"):
        recipe_of(with_optimizer("torch.optim.adam.torch.os.system"), trusted=("torch.optim",))


ODD: list[dict[str, Any]] = [
    {"name": "os.system"}, {"name": ["digits"]}, {"name": "x\n\x1b[2J"}, {"val_size": "all"}, {"val_size": -1},
    {"image_size": 10**9}, {"image_size": 2.5}, {"augment": {"crop": "4"}}, {"augment": {"crop": 10**9}},
    {"augment": {"zoom": float(10**300)}}, {"augment": []}, {"augment": {"odd": 1}}, {"cue": {"kind": "os.system"}},
    {"cue": {"kind": ["corner"]}}, {"args": [1]}, {"args": "x"},
]  # fmt: skip


@pytest.mark.parametrize("change", ODD, ids=str)
def test_data_that_cannot_be_is_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(tb.TombolaError, match="give the data") as caught:
        data_of(ticket(data={**DATA, **change}), "data")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 300, "\x1b[2J", 3, None, ["imp"]])
def test_names_that_are_none(name: Any) -> None:
    odd = ticket(method={"name": name})
    assert recorded_name(odd, "method") is None
    assert repr(odd).isprintable()
    assert recorded_name(replace(odd, provenance={"method": {"name": "imp"}}), "method") == "imp"
    assert recorded_name(replace(odd, provenance={"method": "imp"}), "method") is None
