"""Plans and tickets that somebody sent, deployed: more threads than this machine has, layers that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from apart import NETWORK, run_apart
from clocks import Never
from tombola.ticket.example import example_input
from tombola.ticket.origin import NetworkSpec, Origin

PLAN: dict[str, Any] = {
    "format": 2,
    "threads": 1,
    "inputs": [[2, 6]],
    "parts": [{"layers": ["0", "2"], "engine": "torch", "choices": None}],
    "isolated": [],
    "packed": {},
    "machine": {},
}


def native(choice: dict[str, Any]) -> dict[str, Any]:
    """A region in native kernels, its first layer in this one."""
    choices = {"split": {"by": "rows", "images": 8}, "layers": {"relu": choice}}
    return {"layers": ["0", "2"], "engine": "native", "choices": choices}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 5000}, r"int` <= 4096 - at `\$\.threads`"),
        ({"inputs": [[2, 6] * 40]}, r"length <= 64 - at `\$\.inputs\[0\]`"),
        ({"isolated": ["9"]}, "layer '9' is in only one of them"),
        ({"isolated": ["\x1b[2J"]}, "a name that is not printable"),
        ({"machine": {"processor": "x\n"}}, "a name that is not printable"),
        ({"packed": {"x" * 2000: "dense"}}, "longer than 1,000 characters"),
        ({"packed": {"x": "y" * 2000}}, "Invalid enum value 'yyy"),
        ({"parts": [native({"kernel": "lanes", "height": 1, "width": 1, "vectors": 2**40})]}, "at most 32 vectors"),
        ({"parts": [native({"kernel": "lanes", "height": 1.5, "width": 1, "vectors": 1})]}, "Expected `int`"),
        ({"parts": [native({"kernel": "\x1b[2J", "vectors": 1})]}, r"Invalid value .* at `.*kernel`"),
        ({"parts": [{"layers": [], "engine": "native"}]}, "choices are for the engine native, which needs them"),
        ({"\x1b[2J": 1}, "unknown field"),
    ],
    ids=str,
)
def test_it_is_refused_in_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    model, example, file = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), torch.ones(2, 6), tmp_path / "p"
    file.write_text(json.dumps({**PLAN, **change}))
    with pytest.raises(tb.TombolaError, match=said) as caught:
        tb.deploy(model, example, plan=file)
    assert str(caught.value).isprintable()


def test_an_input_that_a_ticket_records_has_a_limit() -> None:
    network = NetworkSpec("resnet-20", {"width": 0.01}, (1, 2**20, 2**20), 2)
    origin = Origin.stored({"w": torch.ones(2)}, network)
    ticket = tb.Ticket(origin=origin, mask=tb.Mask({"w": torch.ones(2) > 0}))
    with pytest.raises(tb.TombolaError, match="1,099,511,627,776 values; at most 16,777,216 are made unasked"):
        example_input(ticket, 1)
    assert example_input(ticket, 2, [1, 4, 4]).shape == (2, 1, 4, 4)


def test_threads_that_this_machine_does_not_have_are_not_started(tmp_path: Path) -> None:
    model, example, file = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), torch.ones(2, 6), tmp_path / "p"
    file.write_text(json.dumps({**PLAN, "threads": 4000}))
    with pytest.warns(UserWarning, match="threads is 4000"):
        deployed = tb.deploy(model, example, plan=file)
    assert deployed.plan.threads < 4000
    assert torch.allclose(deployed(example), model(example))


HERE = """
import sys
from pathlib import Path
from tombola.bench.timing import WallClock

folder = Path(sys.argv[1])
large = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
fast = tb.deploy(model, x, threads=1, clock=WallClock(round=1e-4, rest=0.0))
fast.plan.save(folder / "plan.json")
torch.save(model.state_dict(), folder / "weights.pt")
torch.save([fast(x), fast(large), x, large], folder / "answers.pt")
"""


def test_a_plan_of_another_process_gives_its_bits_without_measuring(tmp_path: Path) -> None:
    """To the network made anew, with the weights that were saved."""
    run_apart(NETWORK + HERE, tmp_path)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    model.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    *answers, x, large = torch.load(tmp_path / "answers.pt", weights_only=True)
    deployed = tb.deploy(model, x, plan=tmp_path / "plan.json", clock=Never())
    assert torch.equal(deployed(x), answers[0])
    assert torch.equal(deployed(large), answers[1])
    deployed.plan.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "plan.json").read_bytes()
    model[0] = nn.Conv2d(1, 4, 3, padding=1)  # other weights: the plan fits, and the answers are this network's
    other = tb.deploy(model, x, plan=tmp_path / "plan.json", clock=Never())
    torch.testing.assert_close(other(large), model.eval()(large).detach())
    model[3] = nn.Linear(256, 9)
    with pytest.raises(tb.TombolaError, match="the plan is of another network"):
        tb.deploy(model, x, plan=tmp_path / "plan.json", clock=Never())
