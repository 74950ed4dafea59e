"""What a ticket builds: the trained subnetwork bit for bit, or the masked origin, as a plain module."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket import Ticket


def convnet() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def masked_training(model: nn.Module, mask: Mask) -> None:
    """A few masked SGD steps in place, so that weights, biases, norms and statistics all move."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        mask.apply_(model)
        torch.manual_seed(step)
        loss = model(torch.randn(8, 1, 4, 4)).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mask.apply_(model)


def random_mask(model: nn.Module, names: tuple[str, ...] = ("0.weight", "4.weight")) -> Mask:
    torch.manual_seed(5)
    parameters = dict(model.named_parameters())
    return Mask({name: torch.rand(parameters[name].shape) < 0.4 for name in names})


def trained_ticket() -> tuple[nn.Module, nn.Module, Ticket]:
    """(dense model before training, masked model after it, their ticket)."""
    before = convnet()
    after, mask = copy.deepcopy(before), random_mask(before)
    masked_training(after, mask)
    ticket = Ticket.from_models(origin=Origin.stored(before), mask=mask, final_state=after.state_dict(), provenance={})
    return before, after, ticket


def linear_ticket(weight: list[list[float]], keep: list[list[int]], **more: Any) -> Ticket:
    """A Linear without bias whose origin is `weight`; `final` in `more` is its trained weight."""
    origin = Origin.stored({"weight": torch.tensor(weight)})
    final = torch.tensor(more.pop("final", weight))
    return Ticket.from_models(
        origin=origin,
        mask=Mask({"weight": torch.tensor(keep, dtype=torch.bool)}),
        final_state={"weight": final},
        provenance={},
        **more,
    )


def built(ticket: Ticket, weights: Any = "final") -> list[list[float]]:
    shape = ticket.mask["weight"].shape
    model = nn.Linear(shape[1], shape[0], bias=False)
    again = Ticket.from_bytes(ticket.to_bytes())
    values: list[list[float]] = again.build(weights, model=model).weight.tolist()  # type: ignore[operator]
    return values


def test_final_is_the_trained_model() -> None:
    before, after, ticket = trained_ticket()
    ticket = pickle.loads(pickle.dumps(Ticket.from_bytes(ticket.to_bytes())))
    donor = convnet().half().float()  # other values, same architecture
    donor_state = {name: tensor.clone() for name, tensor in donor.state_dict().items()}
    module = ticket.build(model=donor)
    assert module.state_dict().keys() == after.state_dict().keys()
    assert all(same_bits(t, after.state_dict()[n]) for n, t in module.state_dict().items())
    assert all(torch.equal(t, donor_state[n]) for n, t in donor.state_dict().items())
    assert module.training
    assert [type(m) for m in module.modules()] == [type(m) for m in before.modules()]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad and p.grad is None for p in module.parameters())
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(module.eval()(x), after.eval()(x))
    assert ticket.state.keys() == {
        "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "4.bias",
    }  # fmt: skip


def test_origin_is_masked_and_otherwise_untouched() -> None:
    before, _, ticket = trained_ticket()
    module = ticket.build("origin", model=before)
    for name, tensor in module.state_dict().items():
        expected = before.state_dict()[name]
        if name in ticket.mask:
            expected = torch.where(ticket.mask[name], expected, 0.0)
            assert not torch.signbit(tensor[~ticket.mask[name]]).any()
        assert same_bits(tensor, expected)


def test_untrained_weights_are_not_stored() -> None:
    ticket = linear_ticket([[1.0, -2.0], [3.0, 4.0]], [[1, 0], [1, 1]])
    assert ticket.trained is None
    assert not ticket.state
    assert built(ticket) == built(ticket, "origin") == [[1.0, 0.0], [3.0, 4.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    model = convnet().to(dtype)
    final = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    ticket = Ticket.from_models(origin=Origin.stored(model), mask=random_mask(model), final_state=final, provenance={})
    module = Ticket.from_bytes(ticket.to_bytes()).build(model=model)
    for name, tensor in module.state_dict().items():
        assert same_bits(tensor, torch.where(ticket.mask[name], final[name], 0) if name in ticket.mask else final[name])
    with pytest.raises(TicketError, match=f"the model has torch.float32, the ticket {dtype}"):
        ticket.build(model=convnet())


# ---- values by hand

WEIGHT, KEEP = [[0.5, -2.0, 0.0], [-0.0, 3.0, -1.0]], [[1, 1, 1], [1, 1, 0]]
HALF = {"weight": torch.tensor(0.5)}
BY_OUTPUT = {"weight": torch.tensor([2.0, 4.0])}


@pytest.mark.parametrize(
    ("kind", "scales", "expected"),
    [
        ("signed_constant", HALF, [[0.5, -0.5, 0.0], [0.0, 0.5, 0.0]]),
        ("binary", HALF, [[0.5, -0.5, 0.5], [0.5, 0.5, 0.0]]),
        ("binary", BY_OUTPUT, [[2.0, -2.0, 2.0], [4.0, 4.0, 0.0]]),
        ("rescaled", HALF, [[0.25, -1.0, 0.0], [0.0, 1.5, 0.0]]),
        ("rescaled", {"weight": torch.tensor([[1.0, 2.0, 4.0]])}, [[0.5, -4.0, 0.0], [0.0, 6.0, 0.0]]),
    ],
)
def test_representations(kind: Any, scales: dict[str, Tensor], expected: list[list[float]]) -> None:
    ticket = linear_ticket(WEIGHT, KEEP, representation=Representation(kind, scales))
    assert built(ticket) == built(ticket, "origin") == expected


def test_sign_representations_store_int8_signs() -> None:
    rep = Representation("binary", HALF)
    same = linear_ticket(WEIGHT, KEEP, final=[[9.0, -9.0, 0.1], [0.0, 9.0, 9.0]], representation=rep)
    assert same.trained is None  # another latent weight, the same signs
    flipped = linear_ticket(WEIGHT, KEEP, final=[[-9.0, 9.0, -0.1], [0.0, 9.0, 9.0]], representation=rep)
    assert flipped.trained is not None
    assert flipped.trained["weight"].tolist() == [-1, 1, -1, 0, 1]
    assert flipped.trained["weight"].dtype == torch.int8
    assert built(flipped) == [[-0.5, 0.5, -0.5], [0.5, 0.5, 0.0]]


def test_representation_of_the_origin_only() -> None:
    rep = Representation("signed_constant", HALF, on="origin")
    ticket = linear_ticket(WEIGHT, KEEP, final=[[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]], representation=rep)
    assert built(ticket, "origin") == [[0.5, -0.5, 0.0], [0.0, 0.5, 0.0]]
    assert built(ticket) == [[7.0, 7.0, 7.0], [7.0, 7.0, 0.0]]


def test_multiplier() -> None:
    factor = {"weight": torch.tensor([[-1, 2, 1], [1, -3, 0]], dtype=torch.int8)}
    ticket = linear_ticket(WEIGHT, KEEP, multiplier=factor)
    assert built(ticket) == [[-0.5, -4.0, 0.0], [0.0, -9.0, 0.0]]
    assert ticket.layers()[0].bytes == 6 + 24  # int8 multiplier in place of packed bits, stored origin
    factor["weight"][0, 0] = 0
    with pytest.raises(TicketError, match="nonzero exactly where the mask keeps"):
        linear_ticket(WEIGHT, KEEP, multiplier=factor)


def test_pruned_values() -> None:
    weight, keep = [[1.0, 2.0], [3.0, 4.0]], [[1, 0], [0, 1]]
    final = [[10.0, 20.0], [30.0, 40.0]]
    assert built(linear_ticket(weight, keep, final=final)) == [[10.0, 0.0], [0.0, 40.0]]
    assert built(linear_ticket(weight, keep, final=final, pruned_rule="origin")) == [[10.0, 2.0], [3.0, 40.0]]
    listed = linear_ticket(weight, keep, final=final, pruned_values={"weight": torch.tensor([5.0, 6.0])})
    assert built(listed) == [[10.0, 5.0], [6.0, 40.0]]
    assert built(listed, "origin") == [[1.0, 5.0], [6.0, 4.0]]
    one = linear_ticket(weight, keep, final=final, pruned_values={"weight": torch.tensor(-1.0)})
    assert built(one) == [[10.0, -1.0], [-1.0, 40.0]]
    with pytest.raises(TicketError, match="give one number or 2"):
        linear_ticket(weight, keep, pruned_values={"weight": torch.ones(3)})


def test_nan_and_infinity_under_the_mask_do_not_leak() -> None:
    nan, infinity = float("nan"), float("inf")
    ticket = linear_ticket([[nan, 1.0, infinity]], [[0, 1, 0]], final=[[infinity, 2.0, nan]])
    assert built(ticket) == [[0.0, 2.0, 0.0]]
    assert built(ticket, "origin") == [[0.0, 1.0, 0.0]]


def test_empty_layer() -> None:
    ticket = linear_ticket([[1.0, 2.0]], [[0, 0]], final=[[3.0, 4.0]])
    assert ticket.density == 0
    assert built(ticket) == [[0.0, 0.0]]


# ---- tied weights


class Tied(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        if tied:
            self.second.weight = self.first.weight


@pytest.mark.parametrize("cloned", [False, True])
def test_tied_weights(cloned: bool) -> None:
    model = Tied()
    origin = Origin.stored(model)
    assert origin.tied == {"second.weight": "first.weight"}
    trained = copy.deepcopy(model)
    with torch.no_grad():
        trained.first.weight.add_(1)
    keep = torch.eye(3) > 0
    final = {name: t.clone() if cloned else t for name, t in trained.state_dict().items()}
    ticket = Ticket.from_models(origin=origin, mask=Mask({"first.weight": keep}), final_state=final, provenance={})
    assert ticket.tied == {"second.weight": "first.weight"}
    assert not ticket.state
    expected = torch.where(keep, trained.first.weight, 0.0)
    for tied in (True, False):  # also right where the receiving model has the tie undone
        module = Ticket.from_bytes(ticket.to_bytes()).build(model=Tied(tied))
        assert isinstance(module, Tied)
        assert torch.equal(module.first.weight, expected)
        assert torch.equal(module.second.weight, expected)
        assert (module.first.weight is module.second.weight) == tied
    module = ticket.build("origin", model=model)
    assert torch.equal(module.state_dict()["second.weight"], torch.where(keep, model.first.weight, 0.0))


# ---- refusals


def test_models_that_do_not_fit() -> None:
    _, _, ticket = trained_ticket()
    wrong = convnet()
    wrong[4] = nn.Linear(16, 5)
    with pytest.raises(TicketError) as caught:
        ticket.build(model=wrong)
    assert "'4.weight': the model has shape (5, 16), the ticket (3, 16)" in str(caught.value)
    assert "'4.bias'" in str(caught.value)
    with pytest.raises(TicketError, match=r"is not in the model.*and \d+ more"):
        ticket.build(model=nn.Linear(2, 2))
    with pytest.raises(TicketError, match=r"'5\.weight' is not in the ticket"):
        ticket.build(model=nn.Sequential(*convnet(), nn.PReLU()))
    with pytest.raises(TicketError, match="pass a model of that architecture"):
        ticket.build()
    with pytest.raises(TombolaError, match="model is an OrderedDict, but it must be a Module or None"):
        ticket.build(model=convnet().state_dict())  # type: ignore[arg-type]
    with pytest.raises(TicketError, match="not an initialised tensor"):
        ticket.build(model=nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(TicketError, match="not an initialised tensor"):
        ticket.build(model=convnet().to("meta"))
    with pytest.raises(TicketError, match="use one of"):
        ticket.build("best", model=convnet())  # type: ignore[arg-type]


def test_wrapped_models_are_unwrapped() -> None:
    _, after, ticket = trained_ticket()
    module = ticket.build(model=nn.DataParallel(convnet()))
    assert module.state_dict().keys() == after.state_dict().keys()


def test_unknown_rewrite_is_named() -> None:
    ticket = linear_ticket([[1.0, 2.0]], [[1, 0]], rewrites=[{"kind": "binary_activations", "slope": 0.5}])
    assert Ticket.from_bytes(ticket.to_bytes()).rewrites == ({"kind": "binary_activations", "slope": 0.5},)
    with pytest.raises(TicketError, match="'binary_activations'"):
        ticket.build(model=nn.Linear(2, 1, bias=False))


def test_parts_that_do_not_fit() -> None:
    origin, keep = (
        Origin.stored({"w": torch.ones(2, 2), "b": torch.ones(2)}),
        Mask({"w": torch.ones(2, 2) > 0}),
    )
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mask": Mask({"x": torch.ones(2) > 0})}, "masked 'x' is not in the model"),
        ({"mask": Mask({"w": torch.ones(2) > 0})}, r"mask of 'w' has shape \(2,\)"),
        ({"state": {"c": torch.ones(1)}}, "'c' is not in the model"),
        ({"state": {"w": torch.ones(2, 2)}}, "stored twice"),
        ({"trained": {"w": torch.ones(3)}}, "the mask keeps 4"),
        ({"trained": {"b": torch.ones(2)}}, "has no mask"),
        ({"representation": Representation("rescaled", {"b": torch.ones(())})}, "has no mask"),
        ({"representation": Representation("rescaled", {"w": torch.ones(3)})}, "does not fit the weight"),
        ({"pruned_rule": "frozen"}, "pruned rule 'frozen' is unknown"),
        ({"rewrites": ({"name": "x"},)}, "kind"),
        ({"provenance": [1]}, "provenance is not a mapping"),
    ]
    for change, message in cases:
        with pytest.raises(TicketError, match=message):
            Ticket(**{"origin": origin, "mask": keep, **change})
    with pytest.raises(TicketError, match="does not fit the origin"):
        Ticket.from_models(origin=origin, mask=keep, final_state={"w": torch.ones(2, 2)}, provenance={})
    for kind, scales in (("identity", {"w": torch.ones(())}), ("binary", {}), ("odd", {})):
        with pytest.raises(TicketError, match="representation"):
            Representation(kind, scales)  # type: ignore[arg-type]


def test_a_ticket_keeps_its_own_copies() -> None:
    model = convnet()
    ticket = Ticket.from_models(
        origin=Origin.stored(model), mask=random_mask(model), final_state=model.state_dict(), provenance={}
    )
    before = ticket.digest
    with torch.no_grad():
        for tensor in (*model.state_dict().values(), *ticket.origin.state_dict().values()):
            tensor.add_(1)
        for parameter in ticket.build(model=model).parameters():
            parameter.add_(1)
    assert ticket.digest == before
    assert hash(ticket) == hash(copy.deepcopy(ticket))
