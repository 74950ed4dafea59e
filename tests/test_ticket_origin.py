"""Origins: seeded ones regenerate and are checked; no ticket imports what its caller did not trust."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tombola.errors import TicketError
from tombola.mask import Mask
from tombola.models.registry import default_init, is_known, names
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.tensors import hash_state, same_bits
from tombola.ticket.ticket import Ticket

NAME = next(name for name in names() if "mlp" in name or "lenet" in name or "300" in name)
INIT = default_init(NAME) or "none"
SPEC = NetworkSpec(NAME, {}, (1, 28, 28), 4)


def seeded() -> Origin:
    return Origin.seeded(SPEC, INIT, 11)


def ticket_of(origin: Origin, **where: Any) -> Ticket:
    state = origin.state_dict(**where)
    name = next(name for name, tensor in state.items() if tensor.ndim == 2)
    keep = torch.zeros(state[name].shape, dtype=torch.bool)
    keep.view(-1)[::3] = True
    return Ticket.from_models(origin=origin, mask=Mask({name: keep}), final_state=state, provenance={}, **where)


def test_seeded_origin_regenerates() -> None:
    assert is_known(NAME)
    origin = seeded()
    torch.manual_seed(99)  # the global generator has no part in it
    random_state = torch.get_rng_state()
    again = seeded()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert origin.kind == "seeded"
    assert origin.weights_hash == again.weights_hash == hash_state(again.state_dict())
    other = Origin.seeded(SPEC, INIT, 12)
    assert other.weights_hash != origin.weights_hash
    ticket = Ticket.from_bytes(ticket_of(origin).to_bytes())
    dense = origin.state_dict()
    for name, tensor in ticket.build().state_dict().items():
        expected = torch.where(ticket.mask[name], dense[name], 0.0) if name in ticket.mask else dense[name]
        assert same_bits(tensor, expected)
    assert set(ticket.info()["bytes_by_kind"]) == {"mask"}  # no weight is stored at all


def test_other_weights_are_refused() -> None:
    ticket = ticket_of(seeded())
    for change in (
        {"weights_hash": "0" * 64},
        {"seed": 12},
        {"network": dataclasses.replace(SPEC, classes=5)},
    ):
        forged = dataclasses.replace(ticket, origin=dataclasses.replace(ticket.origin, **change))
        forged = Ticket.from_bytes(forged.to_bytes())
        with pytest.raises(TicketError, match="regenerated weights differ"):
            forged.build()


def test_seeded_origin_on_a_users_model() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    origin = Origin.seeded(None, INIT, 5, model=model)
    model(torch.randn(9, 6))  # moves the statistics, which are no part of the origin
    ticket = Ticket.from_bytes(ticket_of(origin, model=model).to_bytes())
    built = ticket.build("origin", model=model)
    assert torch.equal(built.state_dict()["1.running_mean"], torch.zeros(4))
    with pytest.raises(TicketError, match="pass a model of that architecture"):
        ticket.build()


def test_arguments_of_the_scheme_are_kept() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    origin = Origin.seeded(None, INIT, 5, model=model, init_args={"norm_scale": "uniform"})
    ticket = Ticket.from_bytes(ticket_of(origin, model=model).to_bytes())
    scale = ticket.build(model=model).state_dict()["1.weight"]
    assert scale.unique().numel() == 4  # drawn, where the default would give ones
    for args in ({"norm_scale": "odd"}, {"more": 1}, {"scale_fan": "a"}):
        with pytest.raises(TicketError, match="init"):
            Origin.seeded(None, INIT, 5, model=model, init_args=args)
    with pytest.raises(TicketError, match="unknown initialisation"):
        Origin.seeded(None, "nothing", 5, model=model)


class Odd(nn.Module):
    """A parameter that no initialisation scheme knows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.strange = nn.Parameter(torch.ones(3))


def test_uncovered_parameters_must_be_stored() -> None:
    with pytest.raises(TicketError, match=r"does not write 'strange'; use Origin\.stored"):
        Origin.seeded(None, INIT, 5, model=Odd())


def test_stored_origin_of_a_rewind_point() -> None:
    model = nn.Linear(3, 2)
    origin = Origin.stored(model.state_dict(), NetworkSpec("their.net"), "kaiming_normal", 3)
    assert origin.kind == "stored"
    assert (origin.init, origin.seed) == ("kaiming_normal", 3)
    module = origin.network_module(model=nn.Linear(3, 2))
    assert all(same_bits(t, model.state_dict()[n]) for n, t in module.state_dict().items())
    with pytest.raises(TicketError, match=r"pass model=, or trusted="):
        origin.network_module()


def test_odd_origins() -> None:
    cases: list[dict[str, Any]] = [
        {},
        {"init": "a", "seed": 1},
        {"init": "a", "seed": 1, "weights_hash": "0" * 63},
        {"tensors": {}},
        {"tensors": {"w": torch.ones(1)}, "tied": {"x": "y"}},
        {"tensors": {"w": 3}},
        {"tensors": {"w": torch.ones(2).to_sparse()}},
    ]
    for case in cases:
        with pytest.raises(TicketError):
            Origin(**case)


# ---- imports


def test_facts_about_the_data_reach_a_foreign_network() -> None:
    spec = NetworkSpec("torchvision.models.squeezenet1_1", {}, (3, 32, 32), 7)
    assert spec.build(("torchvision.models",)).state_dict()["classifier.1.bias"].shape == (7,)


RESNET = NetworkSpec("torchvision.models.resnet18", {"num_classes": 3})


def test_foreign_networks_need_trust() -> None:
    untrusted: list[tuple[str, ...]] = [
        (),
        ("torch.",),
        ("",),
        (".",),
        ("torchvision.model",),
        ("torchvision.models.resnet1",),
    ]
    for trusted in untrusted:
        with pytest.raises(TicketError, match="pass model=, or trusted="):
            RESNET.build(trusted)
    with pytest.raises(TicketError, match="give a sequence"):
        RESNET.build("torchvision.models.")
    for trusted in (("torchvision.models.",), ("x", "torchvision"), ("torchvision.models.resnet18",)):
        random_state = torch.get_rng_state()
        assert isinstance(RESNET.build(trusted), nn.Module)
        assert torch.equal(torch.get_rng_state(), random_state)


def test_a_ticket_causes_no_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_ticket_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    origin = Origin.stored({"w": torch.ones(2, 2)}, NetworkSpec("evil_ticket_module.Net"))
    ticket = Ticket.from_bytes(ticket_of(origin).to_bytes())
    ticket.info()
    with pytest.raises(TicketError, match="not one of Tombola's own"):
        ticket.build()
    assert "evil_ticket_module" not in sys.modules


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("torchvision.models._utils.OrderedDict", {}),  # something a trusted module imported
        ("torchvision.models._api.import_module", {"name": "antigravity"}),
        ("torchvision.models.resnet.partial", {}),
        ("torchvision.models.nothing", {}),
        ("torchvision.models.no.such.module", {}),
        ("torchvision.models.list_models", {}),  # gives no module
        ("torchvision.models.resnet18", {"wrong": 1}),
        ("torchvision.models.resnet18; import os", {}),
        ("torchvision.models.", {}),
        ("torchvision.models..x", {}),
    ],
)
def test_trust_ends_at_what_the_prefix_defines(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(TicketError) as caught:
        NetworkSpec(name, args).build(("torchvision.models.",))
    assert "\n" not in str(caught.value)
    assert "antigravity" not in sys.modules


def test_spec_is_checked() -> None:
    for case in (
        {"name": ""},
        {"name": "a\nb"},
        {"name": "a", "args": {"x": object()}},
        {"name": "a", "args": [1]},
        {"name": "a", "input_shape": (0,)},
        {"name": "a", "classes": -1},
    ):
        with pytest.raises(TicketError):
            NetworkSpec(**case)
    with pytest.raises(TicketError, match="needs input_shape and classes"):
        NetworkSpec(NAME).build()
    assert NetworkSpec("a", {"widths": (1, 2)}) == NetworkSpec("a", {"widths": [1, 2]})
