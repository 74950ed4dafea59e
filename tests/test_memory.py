"""What compiled code is given: every address comes from one place, which checks dtype, device, layout and size."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tombola
from apart import NETWORK, run_apart
from tombola.deploy.kernels.gemv.gaps import Coding
from tombola.deploy.kernels.sparse import build
from tombola.deploy.kernels.sparse.choices import Choices, Flat, Lanes, Split
from tombola.deploy.ops import Conv, Linear, Region
from tombola.deploy.plan import Plan, RegionPlan
from tombola.errors import TombolaError
from tombola.machine.memory import address, array_address, given, made, within_words

SOURCES = sorted(Path(tombola.__file__).parent.rglob("*.py"))
ADDRESSES = ("data_ptr", "_data_ptr", "const_data_ptr", "mutable_data_ptr", "ctypes", "__array_interface__")
MAKERS = [
    "empty",
    "zeros",
    "ones",
    "full",
    "rand",
    "randn",
    "randint",
    "randperm",
    "arange",
    "linspace",
    "eye",
    "tensor",
    "as_tensor",
]
FLOATS = ("empty", "zeros", "ones", "rand", "randn", "linspace", "eye")


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """The calls of torch.NAME in a source file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                yield node.func.attr, node


def test_addresses_are_taken_in_one_place() -> None:
    odd = []
    for path in SOURCES:
        if path.parent.name == "machine" and path.name in (
            "memory.py",
            "loops.py",
        ):  # the second: of compiled functions
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ADDRESSES:
                odd.append(f"{path.name}:{node.lineno} {node.attr}")
    assert not odd, "addresses are taken by tombola.machine.memory alone"


def test_new_tensors_say_where_they_lie_and_of_what() -> None:
    odd = []
    for path in SOURCES:
        for name, call in calls(path):
            words = {word.arg for word in call.keywords}
            if name in MAKERS and "device" not in words and None not in words:
                odd.append(f"{path.name}:{call.lineno} torch.{name} without a device")
            elif name in FLOATS and "dtype" not in words and None not in words:
                odd.append(f"{path.name}:{call.lineno} torch.{name} without a dtype")
    assert not odd, "defaults of torch belong to the user: name device and dtype"


class Named(Tensor):
    """A subclass that is a plain tensor in all but name."""


CONTIGUOUS = torch.arange(24.0).reshape(1, 2, 3, 4)
SAME = {
    "plain": lambda x: x,
    "strided": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "negative bit": lambda x: torch._neg_view(-x),
    "subclass": lambda x: x.as_subclass(Named),
    "gradient": lambda x: x.clone().requires_grad_(),
    "parameter": lambda x: torch.nn.Parameter(x.clone()),
    "offset": lambda x: torch.cat([torch.zeros(1, 2, 3, 4), x])[1:],
    "misaligned": lambda x: torch.frombuffer(bytearray(b"\0" + x.numpy().tobytes()), dtype=x.dtype, offset=1).view(
        x.shape
    ),
}


@pytest.mark.parametrize("way", SAME)
def test_what_can_be_read_is_read(way: str) -> None:
    found, start = given(SAME[way](CONTIGUOUS), torch.float32, (2, 3, 4), "x")
    assert type(found) in (Tensor, torch.nn.Parameter)
    assert found.is_contiguous()
    assert not found.requires_grad
    assert start == address(found, torch.float32, 24)
    read = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 24).from_address(start))
    assert read.tolist() == CONTIGUOUS.flatten().tolist()


REFUSED = {
    "double": lambda: CONTIGUOUS.double(),
    "half": lambda: CONTIGUOUS.bfloat16(),
    "whole numbers": lambda: CONTIGUOUS.int(),
    "complex": lambda: CONTIGUOUS.to(torch.complex64).conj(),
    "meta": lambda: CONTIGUOUS.to("meta"),
    "sparse": lambda: CONTIGUOUS.to_sparse(),
    "mkldnn": lambda: CONTIGUOUS.to_mkldnn(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3, 4)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 3)], layout=torch.jagged),
    "another shape": lambda: CONTIGUOUS[:, :1],
    "fewer dimensions": lambda: CONTIGUOUS[0],
    "scalar": lambda: torch.tensor(1.0),
    "an array": lambda: CONTIGUOUS.numpy(),
    "nothing": lambda: None,
    "no storage": lambda: shrunken(),
    "fake": lambda: torch._subclasses.FakeTensorMode().from_tensor(CONTIGUOUS),
}


def shrunken() -> Tensor:
    x = CONTIGUOUS.clone()
    x.untyped_storage().resize_(0)
    return x


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_one_line(kind: str) -> None:
    with pytest.raises(TombolaError) as caught:
        given(REFUSED[kind](), torch.float32, (2, 3, 4), "the input")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_expanded_tensors_are_copied_and_empty_ones_have_no_entries() -> None:
    found, _ = given(torch.ones(1, 1, 1, 1).expand(5, 2, 3, 4), torch.float32, (2, 3, 4), "x")
    assert found.untyped_storage().nbytes() == 5 * 24 * 4
    assert given(torch.ones(0, 2, 3, 4), torch.float32, (2, 3, 4), "x")[0].numel() == 0


def test_tensors_within_torch_func_are_one_line() -> None:
    def inner(x: Tensor) -> Tensor:
        given(x, torch.float32, (2,), "x")
        return x

    with pytest.raises(TombolaError, match=r"torch\.func"):
        torch.func.vmap(inner)(torch.ones(3, 1, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_what_is_made_is_as_asked_whatever_the_defaults(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            found, start = made((2, 3), torch.float32)
    finally:
        torch.set_default_dtype(before)
    assert (found.dtype, found.device.type, start != 0) == (torch.float32, "cpu", True)


def test_counts_and_gaps_are_checked() -> None:
    x = torch.ones(4, 6)
    assert address(x.t(), torch.float32, 24) == address(x, torch.float32, 24) if x.t().is_contiguous() else True
    for bad, count in ((x, 23), (x[:, :3], 12), (x[:, :1].expand(4, 6), 24), (torch._neg_view(x), 24)):
        with pytest.raises(TombolaError):
            address(bad, torch.float32, count)


def test_arrays_with_gaps_are_refused() -> None:
    x = np.arange(12, dtype=np.float32)
    for bad in (x[::2], x[::-1], x.reshape(3, 4).T, x.astype(">f4"), np.ma.masked_array(x)):
        with pytest.raises(TombolaError):
            array_address(bad)
    assert array_address(x)


def test_offsets_beyond_32_bits_are_refused() -> None:
    assert within_words(np.array([2**31 - 1, -5]), "inputs").dtype == np.int32
    for far in (2**31, -(2**31)):
        with pytest.raises(TombolaError, match="too large"):
            within_words(np.array([far]), "inputs")


def test_defaults_of_torch_change_nothing_in_a_deployed_network() -> None:
    script = (
        NETWORK
        + """
fast = tb.deploy(model, x, plan=PLAN)
for name, setting in SETTINGS.items():
    with setting():
        for _ in range(20):
            found = [fast(x), fast(x.expand(5, -1, -1, -1))]
            junk = [torch.ones(100, dtype=torch.float64, device="cpu") for _ in range(50)]
        made = tb.deploy(model, x, plan=PLAN)
        found.append(made(x))
    for one in found:
        assert one.dtype == torch.float32 and one.device.type == "cpu", name
        assert (one - want).abs().max() < 1e-4, name
with dtype(torch.bfloat16), torch.device("meta"):
    measured = tb.deploy(model, x, threads=1)
assert (measured(x) - want).abs().max() < 1e-4
print("done")
"""
    )
    assert "done" in run_apart(script)


CRAFTED: dict[str, Callable[[], dict[str, Any]]] = {
    "rows that divide no 8": lambda: {"_1": Flat(1, 3)},
    "too many accumulators": lambda: {"_1": Flat(32, 8)},
    "more panels than inputs": lambda: {"_1": Flat(8, panels=9)},
    "chunks of a larger batch": lambda: {"region": Split("chunks", 256)},
    "lanes for one image": lambda: {"_1": Lanes(1, 1, 1)},
    "a linear form for a convolution": lambda: {"_1": Coding(4, 1, False)},
    "signs of other weights": lambda: {"_3": Coding(4, 1, True)},
    "a layer that is not there": lambda: {"_9": Flat(8)},
    "a coding of no word": lambda: {"_3": Coding(33, 1, False)},
}


@pytest.mark.parametrize("what", CRAFTED)
def test_a_crafted_plan_reaches_no_compiled_code(what: str) -> None:
    weight = torch.randn(8, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    flat = torch.randn(10, 512, generator=torch.Generator().manual_seed(1))
    ops = (Conv("a", "x", "_1", weight, padding=(1, 1)), Linear("b", "_1", "_3", flat))
    region = Region({"x": (1, 8, 8)}, ops, ("_3",))
    good: dict[str, Any] = {"region": Split("rows", 1), "_1": Flat(8), "_3": Coding(4, 1, False)}

    def made(change: dict[str, Any]) -> None:
        layers = good | change
        build(region, 1, 1, Choices(layers.pop("region"), layers))

    made({})
    with pytest.raises(TombolaError) as caught:
        made(CRAFTED[what]())
    assert "\n" not in str(caught.value)


class Branches(torch.nn.Module):
    """A network that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) if x.sum() > -1e9 else -self.out(x)


@pytest.mark.parametrize("names", [{"isolated": ("9",)}, {"packed": {"9": "any"}}], ids=str)
@pytest.mark.parametrize("model", [torch.nn.Sequential(torch.nn.Linear(4, 2)), Branches()], ids=["traced", "not"])
def test_a_plan_of_layers_that_are_not_there_is_refused(model: torch.nn.Module, names: dict[str, Any]) -> None:
    with pytest.raises(TombolaError, match="the plan is of another network"):
        tombola.deploy(model.eval(), torch.ones(1, 4), plan=Plan(1, ((1, 4),), (), **names))


def test_an_engine_of_another_device_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 2)).eval()
    plan = Plan(1, ((1, 4),), (RegionPlan(("0",), "blocks-16"),))
    with pytest.raises(TombolaError, match="blocks-16"):
        tombola.deploy(model, torch.ones(1, 4), plan=plan)
