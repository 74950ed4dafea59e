"""The user's default dtype and device are for tensors of the user's own: networks by name are float32 on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tombola.machine.defaults import plainly
from tombola.mask import Mask
from tombola.models.registry import build_network
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.ticket import Ticket


@contextlib.contextmanager
def default_dtype(kind: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "meta": lambda: torch.device("meta"),
}
SPEC = NetworkSpec("mlp", {"hidden": [8], "activation": "binary"}, (1, 8, 8), 10)


def ticket() -> Ticket:
    origin = Origin.seeded(SPEC, "kaiming_normal", 0)
    state = origin.state_dict()
    mask = Mask({name: value.abs() > 0.1 for name, value in state.items() if value.dim() > 1})
    final = {name: value * 2 if value.is_floating_point() else value for name, value in state.items()}
    return Ticket.from_models(origin=origin, mask=mask, final_state=final, provenance={})


def kinds(model: nn.Module) -> set[tuple[torch.dtype, str]]:
    return {(x.dtype, x.device.type) for x in (*model.parameters(), *model.buffers()) if x.is_floating_point()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_ticket_is_the_same_whatever_the_defaults(setting: str) -> None:
    before = ticket()
    with SETTINGS[setting]():
        after = ticket()
        assert after.digest == before.digest
        built = [before.build(), after.build("origin"), before.build(model=after.build())]
    assert all(kinds(one) == {(torch.float32, "cpu")} for one in built)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["conv-2", "resnet-20", "torch.nn.Linear"])
def test_networks_by_name_draw_the_same_weights_whatever_the_defaults(name: str, setting: str) -> None:
    args = {"in_features": 3, "out_features": 2} if name.startswith("torch") else {"width": 0.1}

    def built() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_network(name, input_shape=(1, 8, 8), classes=2, args=args)

    want = built()
    with SETTINGS[setting]():
        found = built()
    assert kinds(found) == {(torch.float32, "cpu")}
    assert all(torch.equal(a, b) for a, b in zip(want.state_dict().values(), found.state_dict().values(), strict=True))


def test_the_size_of_a_network_takes_no_memory() -> None:
    large = NetworkSpec("mlp", {"hidden": [2**16, 2**16]}, (1, 8, 8), 10)
    with default_dtype(torch.float64):
        assert large.size() == 2**16 * (64 + 1) + 2**16 * (2**16 + 1) + 10 * (2**16 + 1)


def test_what_names_a_dtype_or_a_device_keeps_it() -> None:
    with default_dtype(torch.float64), plainly():
        assert torch.empty(1, dtype=torch.float16, device="meta").device.type == "meta"
        assert torch.tensor([1.0], dtype=torch.float64).dtype is torch.float64
        assert torch.as_tensor(torch.ones(1, dtype=torch.float64)).dtype is torch.float64
        assert [torch.tensor(x).dtype for x in (1, 1.0, True)] == [torch.int64, torch.float32, torch.bool]
        assert torch.get_default_dtype() is torch.float64
