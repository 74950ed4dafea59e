"""Bits per weight and the bound of the file: one count, of what the file really holds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from supermask_searches import start_for
from tombola.mask import Mask
from tombola.methods import METHODS
from tombola.search.find import find
from tombola.ticket.codec import encode
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation
from tombola.ticket.storage import bits_per_weight, bound_bytes, entropy
from tombola.ticket.ticket import Ticket

QUICK = {"length": "2it", "batch_size": 32, "lr": 0.1, "eval_every": "2it"}
OPTIONS: dict[str, dict[str, Any]] = {
    "concrete": {"search": "2it"},
    "gem-miner": {"freeze_every": "1it"},  # as short as the training
    **{name: {"examples": 50, "budget": 5000} for name in ("anneal", "evolve", "random-search")},
    "early-bird": {"retrain": "scratch"},  # the other one begins with trained weights, which are stored
}
H = {share: entropy(round(1000 * share), 1000) for share in (0.1, 0.25, 0.3, 0.5)}


def content(ticket: Ticket) -> int:
    """Bytes of the file that hold tensors: no names, no provenance, no container."""
    return sum(ticket.info()["bytes_by_kind"].values())


def streams(ticket: Ticket) -> int:
    return len(ticket.mask) + len(ticket.multiplier or {}) + len(ticket.trained or {})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_count_is_that_of_the_file_for_every_method(name: str) -> None:
    """2 % and two words for each coded stream: what a coder takes for its probabilities and its end.

    test_ticket_alone has the same of stored origins.
    """
    start = start_for(name, "mlp", "digits")
    ticket = find("mlp", "digits", METHODS[name](**OPTIONS.get(name, {})), recipe=QUICK, start=start)
    assert ticket.origin.kind == "seeded"
    bound, size = bound_bytes(ticket), content(ticket)
    assert size <= 1.02 * bound + 8 * streams(ticket), ticket.info()
    if name != "early-bird" and not encode(ticket)[0]["floats"]:  # whole channels, coded values: less than counted
        assert size >= 0.97 * bound - 8 * streams(ticket), ticket.info()
    rest = sum(tensor.nbytes for tensor in ticket.state.values())
    assert bound == pytest.approx(bits_per_weight(ticket) * ticket.mask.total / 8 + rest)
    assert ticket.info()["bits_per_weight"] == bits_per_weight(ticket)


def found(method: str, **options: Any) -> float:
    return bits_per_weight(find("mlp", "digits", METHODS[method](**options), recipe=QUICK))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_seeded_constants_cost_a_mask_and_no_values() -> None:
    assert found("edge-popup", density=0.5) == pytest.approx(1.0, abs=1e-3)  # each weight: kept or not
    assert found("edge-popup", density=0.3) == pytest.approx(H[0.3], abs=1e-3)
    # of weights drawn anew the signs are new too
    assert H[0.5] - 0.01 < found("iterand", density=0.5, every="1it", probability=1.0) < H[0.5] + 0.51
    assert found("learned-mask", weights="signed_constant") < 1.01
    assert found("signed-supermask") < math.log2(3) + 0.01  # -1, 0 or 1
    assert found("multicoat") < H[0.3] + 0.3 * math.log2(3) + 0.01  # pruned, or one of three coats
    assert found("multi-prize", density=0.3) == pytest.approx(H[0.3], abs=0.01)
    assert found("binary-weights") == pytest.approx(1.0, abs=0.02)  # trained signs
    # layers of which no sign has flipped cost nothing
    assert H[0.3] - 0.01 < found("joint", density=0.3, weights="binary") < H[0.3] + 0.3 + 0.01
    assert found("imp", density=0.3, rounds=1) == pytest.approx(H[0.3] + 0.3 * 32, abs=0.02)
    assert found("dense") == 32.0


# ---- by hand


WEIGHT = torch.arange(1.0, 9.0).reshape(2, 4)
KEEP = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
SEEDED = Origin(init="kaiming_normal", seed=0, weights_hash="0" * 64)
MASK = 8 * entropy(2, 8)


def made(origin: Origin = SEEDED, **more: Any) -> Ticket:
    return Ticket(origin=origin, mask=Mask({"w": KEEP}), **more)


@pytest.mark.parametrize(
    ("more", "bits"),
    [
        ({}, MASK),
        ({"trained": {"w": torch.ones(2)}}, MASK + 2 * 32),
        ({"trained": {"w": torch.ones(2, dtype=torch.bfloat16)}}, MASK + 2 * 16),
        ({"trained": {"w": torch.ones(2, dtype=torch.float64)}}, MASK + 2 * 64),
        ({"multiplier": {"w": KEEP.to(torch.int8) * torch.tensor([[1], [-1]], dtype=torch.int8)}}, MASK + 2),
        ({"multiplier": {"w": KEEP.to(torch.int8)}}, MASK),  # always 1: nothing to say
        ({"pruned_values": {"w": torch.tensor(3.0)}}, MASK + 32),
        ({"pruned_values": {"w": torch.ones(6)}}, MASK + 6 * 32),
        ({"representation": Representation("rescaled", {"w": torch.ones(2)})}, MASK + 2 * 32),
        (
            {
                "representation": Representation("binary", {"w": torch.tensor(0.5)}),
                "trained": {"w": torch.tensor([1, -1], dtype=torch.int8)},
            },
            MASK + 32 + 2,
        ),
    ],
    ids=["mask", "float32", "bfloat16", "float64", "signs", "ones", "constant", "pruned", "scales", "binary"],
)
def test_masked_layers_by_hand(more: dict[str, Any], bits: float) -> None:
    ticket = made(**more)
    assert bits_per_weight(ticket) == pytest.approx(bits / 8)
    assert bound_bytes(ticket) == pytest.approx(bits / 8)


def test_state_and_a_stored_origin() -> None:
    """The file holds the origin; bits per weight are those of the file without it."""
    state: dict[str, Tensor] = {"w": WEIGHT, "b": torch.zeros(3), "n": torch.tensor(5)}
    ticket = made(Origin.stored(state), state={"b": torch.ones(3)})
    assert bound_bytes(ticket) == pytest.approx(MASK / 8 + 12 + (32 + 12 + 8))
    assert bits_per_weight(ticket) == pytest.approx((MASK + 2 * 32) / 8)  # kept, as they were before
    trained = made(Origin.stored(state), trained={"w": torch.ones(2)})
    assert bits_per_weight(trained) == pytest.approx((MASK + 2 * 32) / 8)
    alone = trained.without_origin()
    assert bound_bytes(alone) == pytest.approx(MASK / 8 + 2 * 4 + 12 + 8)
    assert bits_per_weight(alone) == bits_per_weight(trained)
    frozen = made(Origin.stored(state), pruned_rule="origin")
    assert bits_per_weight(frozen) == pytest.approx((MASK + 8 * 32) / 8)  # pruned ones stay there too


def test_a_mask_over_nothing() -> None:
    assert bits_per_weight(Ticket(origin=SEEDED, mask=Mask({}))) == 0.0


def test_signed_constants_that_change_their_signs_take_a_bit_each() -> None:
    """Only where the origin's whole layer has that size too: else the weights at the origin would change."""
    constant, other = WEIGHT.sign() * 0.25, WEIGHT * 0.25
    flipped = constant * torch.tensor([[-1.0], [1.0]])
    origin = Origin.stored({"w": constant, "v": other})
    ticket = Ticket.from_models(
        origin=origin,
        mask=Mask({"w": KEEP, "v": KEEP}),
        final_state={"w": flipped, "v": torch.full_like(other, 0.5)},
        provenance={},
    )
    assert ticket.trained is not None
    assert ticket.trained["w"].tolist() == [-1, 1]
    assert ticket.trained["v"].tolist() == [0.5, 0.5]
    assert {name: scale.tolist() for name, scale in ticket.representation.scales.items()} == {"w": 0.25}
    for name, final in (("w", flipped), ("v", torch.full_like(other, 0.5))):
        expected = torch.where(KEEP, final, torch.zeros_like(final))
        assert torch.equal(ticket.effective(name, origin.views()[name], ticket.trained[name]), expected)
        before = torch.where(KEEP, origin.views()[name], torch.zeros_like(final))
        assert torch.equal(ticket.effective(name, origin.views()[name], None), before)
    assert Ticket.from_bytes(ticket.to_bytes()) == ticket
