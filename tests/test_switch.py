"""Tasks on one live backbone: what `build` gives, in place, and the backbone's own bits again."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

import tombola as tb
from test_ticket_alone import Tied, same_networks
from test_ticket_base import backbone, task
from test_ticket_format import tickets
from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.methods.edge_popup import EdgePopup
from tombola.search.find import find
from tombola.ticket.origin import Origin
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket import Ticket


def on(whole: Ticket) -> Ticket:
    return whole.on_base(backbone())


def held_bytes(model: nn.Module) -> int:
    """Of the backbone's values that lie with the model."""
    kept = model.__dict__.get("_tombola_tasks")
    return 0 if kept is None else sum(value.nbytes for value in kept.saved.values())


# ---- the same as built


def test_tasks_in_turn_are_what_build_gives_and_the_backbone_comes_back() -> None:
    model, tasks = backbone(), [on(task(10, seed=1)), on(task(3, seed=2)), on(task(10, seed=3)), on(task(5, seed=4))]
    own = {name: value.data_ptr() for name, value in model.named_parameters()}
    head, x = model[6], torch.randn(4, 1, 8, 8)
    before = backbone().eval()(x)
    for ticket in (*tasks, None, *reversed(tasks), tasks[1], tasks[1], None):
        tb.switch(model, ticket)
        expected = backbone() if ticket is None else ticket.build(base=backbone())
        assert same_networks(model, expected)
        assert torch.equal(model.eval()(x), expected.eval()(x))
        body = {name: value.data_ptr() for name, value in model.named_parameters() if not name.startswith("6.")}
        assert body == {name: place for name, place in own.items() if not name.startswith("6.")}
    assert model[6] is head
    assert torch.equal(model.eval()(x), before)
    assert held_bytes(model) == 0


@given(tickets())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_ticket_on_its_base(ticket: Ticket) -> None:
    base = ticket.origin.state_dict()
    model = module_of(base)
    on_base = ticket.on_base(model)
    expected = on_base.build(base=model)
    with tb.switch(model, on_base):
        assert same_networks(model, expected)
    assert same_networks(model, module_of(base))


def module_of(state: dict[str, torch.Tensor]) -> nn.Module:
    """Modules that hold these tensors as buffers."""
    model = nn.Module()
    for name, value in state.items():
        path, _, leaf = name.rpartition(".")
        if path not in dict(model.named_children()):
            model.add_module(path, nn.Module())
        model.get_submodule(path).register_buffer(leaf, value.clone())
    return model


def test_negative_zeros_and_nan_of_the_backbone_come_back() -> None:
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.0, 1.0, float("nan")], [-1.0, float("inf"), -2.0]]))
    before = model.weight.detach().clone()
    keep = torch.tensor([[True, False, True], [False, False, True]])
    ticket = Ticket(origin=Origin.stored(model), mask=Mask({"weight": keep})).on_base(model)
    with tb.switch(model, ticket):
        assert same_bits(model.weight, torch.tensor([[-0.0, 0.0, float("nan")], [0.0, 0.0, -2.0]]))
    assert same_bits(model.weight, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_and_layouts(dtype: torch.dtype) -> None:
    model = nn.Conv2d(4, 6, 3).to(dtype=dtype, memory_format=torch.channels_last)
    keep = torch.rand(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    ticket = Ticket(origin=Origin.stored(model), mask=Mask({"weight": keep})).on_base(model)
    before = model.weight.detach().clone()
    with tb.switch(model, ticket):
        assert same_bits(model.weight, torch.where(keep, before, torch.zeros_like(before)))
        assert model.weight.stride() == before.stride()
    assert same_bits(model.weight, before)


def test_weights_under_two_names() -> None:
    torch.manual_seed(0)
    model = Tied()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.norm.weight.add_(1)
    mask = Mask({"first.weight": torch.eye(4) > 0})
    whole = Ticket.from_models(origin=Origin.stored(model), mask=mask, final_state=moved.state_dict(), provenance={})
    ticket, fresh = whole.on_base(model), copy.deepcopy(model)
    for _ in range(2):
        tb.switch(model, ticket)
        assert same_networks(model, ticket.build(base=fresh))
        tb.switch(model, ticket)
        assert model.again.weight is model.first.weight
    tb.switch(model, None)
    assert same_networks(model, fresh)


def test_masked_heads_of_other_sizes_and_signs() -> None:
    network = backbone(3)
    mask = Mask({"4.weight": torch.eye(64, 288) > 0, "6.weight": torch.eye(3, 64) > 0})
    ticket = on(Ticket(origin=Origin.stored(network), mask=mask))
    model = backbone()
    with tb.switch(model, ticket):
        assert same_networks(model, ticket.build(base=backbone()))
    assert same_networks(model, backbone())


def test_a_search_s_ticket_on_its_random_backbone() -> None:
    ticket = find("mlp", "digits", EdgePopup(), recipe={"length": "2it", "batch_size": 8})
    model = ticket.origin.network_module()
    on_base = ticket.on_base(model)
    with tb.switch(model, on_base):
        assert same_networks(model, ticket.build())


# ---- in place


def test_optimisers_go_on_and_what_they_wrote_under_a_task_is_lost() -> None:
    model, ticket = backbone(), on(task(10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tb.switch(model, ticket)
    model.eval()(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert not same_bits(model[4].weight, ticket.build(base=backbone())[4].weight)
    changed = model[0].bias.detach().clone()  # no task writes it
    tb.switch(model, None)
    assert same_bits(model[4].weight, backbone()[4].weight)
    assert same_bits(model[0].bias, changed)
    with pytest.raises(TicketError, match=r"differs from the one.*'0.bias'"):
        tb.switch(model, ticket)


def test_gradients_of_a_graph_from_before_are_refused_by_torch() -> None:
    model, ticket = backbone(), on(task(10))
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    loss = model.eval()(x).sum()
    tb.switch(model, ticket)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_copy_has_its_own_backbone() -> None:
    model = backbone()
    tb.switch(model, on(task(3)))
    twin = copy.deepcopy(model)
    tb.switch(model, None)
    tb.switch(twin, on(task(10)))
    assert same_networks(model, backbone())
    assert same_networks(twin, on(task(10)).build(base=backbone()))
    tb.switch(twin, None)
    assert same_networks(twin, backbone())


def test_memory_is_the_backbone_s_of_what_is_written_once() -> None:
    model = backbone()
    masked = model[0].weight.nbytes + model[4].weight.nbytes
    norm = model[1].running_mean.nbytes
    for ticket in itertools.islice(itertools.cycle([on(task(3, seed=seed)) for seed in range(4)]), 9):
        tb.switch(model, ticket)
        assert held_bytes(model) == masked + norm
    tb.switch(model, None)
    assert held_bytes(model) == 0


def test_hashes_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from tombola.ticket import base

    model, tasks = backbone(), [on(task(10, seed=seed)) for seed in range(3)]
    read: list[int] = []
    before = base.content_hash
    monkeypatch.setattr(base, "content_hash", lambda tensor: read.append(1) or before(tensor))
    tb.switch(model, tasks[0])
    assert len(read) == len(tasks[0].origin.base or {})
    for ticket in (tasks[1], None, tasks[2], tasks[0], None, tasks[1]):
        tb.switch(model, ticket)
    assert len(read) == len(tasks[0].origin.base or {})
    tb.switch(model, None)
    with torch.no_grad():
        model[2 + 2].weight.mul_(1)
    tb.switch(model, tasks[0])
    assert len(read) == len(tasks[0].origin.base or {}) + 1


# ---- what is refused


def test_other_backbones_and_tickets_are_refused_and_nothing_is_changed() -> None:
    model, ticket = backbone(), on(task(10))
    other = backbone()
    with torch.no_grad():
        other[4].weight[3, 5] = torch.nextafter(other[4].weight[3, 5], torch.tensor(9.0))
    before = copy.deepcopy(other)
    with pytest.raises(TicketError, match=r"differs from the one.*'4.weight' of 11 tensors"):
        tb.switch(other, ticket)
    assert same_networks(other, before)
    for wrong, words in (
        (task(10), "origin is stored: it names no base to switch on"),
        (replace(ticket, rewrites=({"kind": "binary-activations"},)), "rewrites the network"),
    ):
        with pytest.raises(TicketError, match=words):
            tb.switch(model, wrong)
    with pytest.raises(TicketError, match=r"the base lacks '4.weight'"):
        tb.switch(model[:4], ticket)
    with pytest.raises(TicketError, match=r"knows no '7.weight'"):
        tb.switch(nn.Sequential(*backbone(), nn.Linear(10, 10)), ticket)
    with tb.hold(model, {"4.weight": torch.ones(64, 288) > 0}), pytest.raises(TombolaError, match="a mask is held"):
        tb.switch(model, ticket)
    with pytest.raises(TombolaError, match="model is a dict, but it must be a Module"):
        tb.switch({"weight": torch.ones(2)}, ticket)  # type: ignore[arg-type]
    assert same_networks(model, backbone())


def test_a_refusal_leaves_the_task_that_is_on() -> None:
    model, ticket = backbone(), on(task(3))
    tb.switch(model, ticket)
    with pytest.raises(TicketError):
        tb.switch(model, task(10))
    assert same_networks(model, ticket.build(base=backbone()))


def test_norm_statistics_that_move_are_told() -> None:
    model, moved = backbone(), on(task(10))
    model.train()(torch.randn(4, 1, 8, 8))
    with pytest.raises(TicketError, match=r"'1.running_mean'"):
        tb.switch(model, moved)


def test_a_switch_within_a_switch_gives_back_the_outer_task() -> None:
    model, (outer, inner) = backbone(), (on(task(10, seed=1)), on(task(3, seed=2)))
    with tb.switch(model, outer):
        with tb.switch(model, inner):
            assert same_networks(model, inner.build(base=backbone()))
        assert same_networks(model, outer.build(base=backbone()))
        with tb.switch(model, None):
            assert same_networks(model, backbone())
        assert same_networks(model, outer.build(base=backbone()))
        tb.switch(model, inner).revert()
        assert same_networks(model, backbone())
    assert same_networks(model, backbone())
    assert held_bytes(model) == 0


def test_reverting_without_a_task_changes_nothing() -> None:
    model = backbone()
    tb.switch(model, None).revert()
    assert same_networks(model, backbone())
    assert "_tombola_tasks" not in model.__dict__
