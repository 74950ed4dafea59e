"""A search from a trained checkpoint: the dense network is not trained again, and its ticket deploys by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.cli import main
from tombola.errors import TombolaError
from tombola.ticket.example import example_input, recorded_shape

SHORT = {"length": "15it", "lr": 0.05}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def largest(weight: Tensor, kept: int) -> Tensor:
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    keep = torch.zeros(weight.numel(), dtype=torch.bool)
    keep[order[:kept]] = True
    return keep.reshape(weight.shape)


def test_the_mask_is_of_the_weights_as_they_come() -> None:
    model = network()
    ticket = tb.find(model, "digits", tb.IterativePruning(density=0.25, rounds=1, trained=True), recipe=SHORT)
    for name, weight in tb.prunable(model).items():
        assert torch.equal(ticket.mask[name], largest(weight, int(ticket.mask[name].sum())))
    built = dict(ticket.build("origin", model=model).named_parameters())
    for name, weight in tb.prunable(model).items():
        assert torch.equal(built[name], weight * ticket.mask[name])  # rewound to what it came with


def test_level_zero_trains_nothing_and_later_levels_do(tmp_path: Path) -> None:
    model = network()
    method = tb.IterativePruning(density=0.25, rounds=2, trained=True)
    tb.find(model, "digits", method, recipe=SHORT, out=tmp_path)
    run = next(tmp_path.glob("imp-*"))
    levels = [tb.Ticket.load(file) for file in sorted(run.rglob("network.ticket"))]
    assert len(levels) == 3
    dense = levels[0].build(model=model).state_dict()
    assert all(torch.equal(dense[name], value) for name, value in model.state_dict().items())
    assert levels[0].trained is None
    assert levels[2].trained


def test_learning_rate_rewinding_goes_on_from_level_to_level() -> None:
    model = network()
    method = tb.IterativePruning(density=0.25, rounds=2, trained=True, rewind="lr")
    ticket = tb.find(model, "digits", method, recipe=SHORT)
    origin = ticket.origin.state_dict(model)
    assert all(torch.equal(origin[name], value) for name, value in model.state_dict().items())


def test_a_step_to_rewind_to_is_refused() -> None:
    for rewind in ("5it", "lr:5it"):
        with pytest.raises(TombolaError, match="of a training that is left out"):
            tb.IterativePruning(density=0.5, rounds=1, trained=True, rewind=rewind)
    method = tb.IterativePruning(density=0.5, rounds=1, trained=True, stop_when_stable=True)
    with pytest.raises(TombolaError, match="and level 0 is not trained"):
        tb.find(network(), "digits", method, recipe=SHORT)


def test_the_shape_of_an_input_is_recorded_for_a_live_module() -> None:
    model = network()
    ticket = tb.find(model, "digits", tb.IterativePruning(density=0.5, rounds=1, trained=True), recipe=SHORT)
    assert ticket.origin.network is None
    assert recorded_shape(ticket) == (1, 8, 8)
    assert example_input(ticket, 3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize("shape", [None, [], "x", [1.5], [[3]], {"a": 1}])
def test_a_shape_that_is_none_counts_as_not_recorded(shape: object) -> None:
    ticket = tb.pack({"weight": torch.eye(3)}, {"input_shape": shape})
    assert recorded_shape(ticket) is None
    with pytest.raises(TombolaError, match="give one: input_shape"):
        example_input(ticket, 1)


def test_from_a_checkpoint_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = tb.ModelSpec("mlp")
    first = tb.find(spec, "digits", tb.IterativePruning(levels=0), recipe=SHORT)
    torch.save({"epoch": 1, "model": first.build().state_dict()}, "start.pt")
    words = "find imp --model mlp --checkpoint start.pt --data digits --trained --density 0.3 --rounds 1 --length 10it"
    assert main([*words.split(), "--out", "runs"]) == 0
    file = max(Path("runs").rglob("network.ticket"))
    assert main(["deploy", str(file), "--out", "fast", "--formats", "state_dict"]) == 0
    assert Path("fast/plan.json").is_file()
