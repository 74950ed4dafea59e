"""What a caller from Python gives by mistake is refused in one line, whichever type it has."""

import numpy as np
import pytest
import torch
from torch import nn

import tombola as tb
from tombola.methods import METHODS
from tombola.search.request import make_request

IMP = tb.IterativePruning(density=0.5, rounds=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"density": "0.1"}, "density is '0.1', but it must be a number or None"),
        ({"density": True}, "density is True"),
        ({"rounds": 1.5}, "rounds is 1.5, but it must be a whole number"),
        ({"levels": 2.0}, "levels is 2.0"),
        ({"rounds": torch.tensor([1, 2])}, "rounds is tensor"),
        ({"rate": None}, "rate is None"),
        ({"rewind": 5}, "rewind is 5, but it must be a text"),
        ({"exclude": "fc.*"}, "exclude is 'fc.*', but it must be a list"),
    ],
)
def test_fields_of_a_method_have_their_types(given, message):
    with pytest.raises(tb.TombolaError, match=message.replace("*", r"\*")):
        tb.IterativePruning(**given)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_text_for_a_number_and_a_number_for_text(name):
    from dataclasses import fields

    for field in fields(METHODS[name]):
        if isinstance(field.default, bool | int | float | str):
            wrong = 5 if isinstance(field.default, str) else "x"
            with pytest.raises(tb.TombolaError, match=field.name):
                METHODS[name](**{field.name: wrong})


@pytest.mark.parametrize("given", [{"length": 3}, {"batch_size": "60"}, {"batch_size": 60.0}, {"lr": "fast"}])
def test_fields_of_a_recipe_have_their_types(given):
    with pytest.raises(tb.TombolaError, match=f"{next(iter(given))}.* {next(iter(given.values()))!r}"):
        tb.Recipe(**given)


def test_numbers_of_numpy_are_numbers():
    assert tb.IterativePruning(density=np.float32(0.5), rounds=np.int64(2)).rounds == 2
    assert tb.Recipe(lr=1, batch_size=np.int32(8)).batch_size == 8


@pytest.mark.parametrize(
    ("model", "method", "options", "message"),
    [
        ("mlp", IMP, {"recipe": {"lenght": "1ep"}}, r"unknown field 'lenght' \(did you mean length\?\)"),
        ("mlp", IMP, {"recipe": "1ep"}, "Recipe is given as '1ep'; give a Recipe, or a mapping of its fields"),
        ("mlp", IMP, {"recipe": ["1ep"]}, "Recipe is given as a list"),
        ("mlp", IMP, {"recipe": {"length": 1}}, "length 1 is not understood"),
        ("mlp", IMP, {"seed": 1.5}, "seed is 1.5, but it must be a whole number"),
    ],
)
def test_what_is_no_search_is_refused_in_one_line(model, method, options, message):
    with pytest.raises(tb.TombolaError, match=message) as error:
        make_request(model, "digits", method, **options)
    assert "\n" not in str(error.value)


def test_a_printed_ticket_is_one_short_line():
    net = nn.Sequential(nn.Linear(4, 3))
    mask = tb.Mask({"0.weight": torch.eye(3, 4).bool()})
    from tombola.ticket.origin import Origin

    ticket = tb.Ticket.from_models(
        origin=Origin.stored(net.state_dict()),
        mask=mask,
        final_state=net.state_dict(),
        provenance={"method": {"name": "imp"}},
    )
    assert repr(ticket) == "Ticket(found by imp, 3 of 12 kept, density 0.25)"
