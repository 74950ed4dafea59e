"""Outputs of any nesting, dtypes that agree: what goes into a network and comes out of it."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.compact import compact
from tombola.compact.compare import largest_error
from tombola.nn.forward import described, input_dtype, leaves, mapped, path_to_tensor, typed, widened
from tombola.nn.rewrite import binary_activations


class Pair(NamedTuple):
    logits: Tensor
    aux: Any


@dataclass
class Plain:
    loss: Tensor | None
    logits: Tensor


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    note: str = "kept"


@dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As in Hugging Face: a mapping whose items are its dataclass fields, those that are None left out."""

    loss: Tensor | None = None
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                super().__setitem__(field.name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


def one(dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.ones(2, dtype=dtype)


NESTED = [
    (one(), "output", "a float16 tensor of shape (2,)"),
    ((one(), None), "output[0]", "a tuple of [0] (2,), [1] (NoneType)"),
    ([None, [one()]], "output[1][0]", "a list of [0] (NoneType), [1] (list)"),
    ({"out": one(), "n": 3}, "output['out']", "a dict of 'out' (2,), 'n' (int)"),
    (OrderedDict(out=one()), "output['out']", "an OrderedDict of 'out' (2,)"),
    (defaultdict(list, out=one()), "output['out']", "a defaultdict of 'out' (2,)"),
    (Pair(one(), {"a": 1}), "output.logits", "a Pair of logits (2,), aux (dict)"),
    (Plain(None, one()), "output.logits", "a Plain of loss (NoneType), logits (2,)"),
    (Frozen(one()), "output.logits", "a Frozen of logits (2,), note (str)"),
    (ModelOutput(logits=one()), "output.logits", "a ModelOutput of logits (2,)"),
    (torch.max(torch.ones(1, 2, dtype=torch.float16), 0), "output[0]", "a max of [0] (2,), [1] (2,)"),
]


@pytest.mark.parametrize(("output", "path", "words"), NESTED)
def test_outputs_of_every_kind(output: Any, path: str, words: str) -> None:
    assert described(output) == words
    assert path_to_tensor(output) == path
    before = leaves(output)
    wide = widened(output)
    assert type(wide) is type(output)
    assert eval(path, {"output": wide}).dtype == torch.float32
    assert eval(path, {"output": output}).dtype == torch.float16  # the network's own output is not written to
    assert [leaf.dtype for leaf in leaves(wide)] == [
        torch.float32 if leaf.is_floating_point() else leaf.dtype for leaf in before
    ]
    assert widened(wide) is wide
    assert all(torch.equal(a.double(), b.double()) for a, b in zip(before, leaves(wide), strict=True))


def test_only_half_precision_is_widened() -> None:
    for dtype in (torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64):
        output = {"a": one(dtype)}
        assert widened(output) is output
    assert widened(one(torch.bfloat16)).dtype == torch.float32


def test_gradients_pass_a_widened_output() -> None:
    weight = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    widened((weight * 3,))[0].sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [3, 3]


def test_what_is_no_container_stays() -> None:
    thing = object()
    assert mapped(lambda tensor: tensor + 1, {"a": thing})["a"] is thing
    assert leaves(thing) == []
    assert path_to_tensor(thing) is None
    assert described(thing) == "an object"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_batches_are_of_the_networks_dtype(dtype: torch.dtype, given: torch.dtype) -> None:
    model = nn.Linear(2, 1).to(dtype)
    assert input_dtype(model) == dtype
    ((x, y),) = typed([(torch.ones(1, 2, dtype=given), torch.ones(1, dtype=given))], model)
    assert (x.dtype, y.dtype) == (dtype, torch.float64 if dtype == torch.float64 else torch.float32)
    ((x, y),) = typed([(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, dtype=torch.int64))], model)
    assert (x.dtype, y.dtype) == (torch.int64, torch.int64)


def test_a_network_without_parameters_takes_single_precision() -> None:
    assert input_dtype(nn.ReLU()) == torch.float32


def test_outputs_of_dataclasses_are_compared() -> None:
    one = torch.tensor([1.0, 2.0])
    assert largest_error(Plain(None, one), Plain(None, one)) == 0
    assert largest_error(Plain(None, one), Plain(None, one + 1)) == 0.5
    assert largest_error((one, None, 3), [one + 1]) == 0.5
    for other in ((one, one), (), (one[:1],)):
        assert largest_error((one,), other) == float("inf")
    assert largest_error(object(), object()) == float("inf")  # nothing that can be compared is equal


class Named(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.first, self.last, self.kind = nn.Linear(3, 4), nn.Linear(4, 2), kind

    def forward(self, x: Tensor) -> Any:
        return self.kind(logits=self.last(self.first(x).relu()))


@pytest.mark.parametrize("kind", [ModelOutput, Frozen, OrderedDict, dict, lambda logits: Pair(logits, None)])
def test_networks_that_are_traced_return_what_they_did(kind: Any) -> None:
    model, x = Named(kind).eval(), torch.randn(4, 3)
    with torch.no_grad():
        want, compacted = model(x), compact(model, x).module(x)
        deployed = tb.deploy(model, x)(x) if kind is ModelOutput else compacted
        binary = binary_activations(model, x)[0](x)
    assert type(deployed) is type(compacted) is type(binary) is type(want)
    assert largest_error(want, compacted) <= 1e-4
    assert largest_error(want, deployed) <= 1e-4
    if hasattr(want, "logits"):
        assert binary.logits.shape == (4, 2)


def test_a_nonlinear_output_may_stand_in_a_container() -> None:
    class Probabilities(Named):
        def forward(self, x: Tensor) -> Any:
            return self.kind(logits=super().forward(x).logits.sigmoid())

    assert binary_activations(Probabilities(ModelOutput), torch.randn(4, 3))[1].replaced
