"""Values that are joined and cut within a region: where they lie, and that they are what torch makes of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activations import PERHAPS
from tombola.deploy.kernels.kernel import reference
from tombola.deploy.kernels.sparse import build
from tombola.deploy.kernels.sparse.assemble import Join, assemble, pieces_of
from tombola.deploy.kernels.sparse.candidates import candidates, guess, splits
from tombola.deploy.kernels.sparse.choices import Choices, layers
from tombola.deploy.kernels.sparse.geometry import shapes_of
from tombola.deploy.ops import (
    RELU,
    Axis,
    Combine,
    Concat,
    Conv,
    Linear,
    Op,
    Pointwise,
    Pool,
    Region,
    Resize,
    Shuffle,
    Slice,
)


def close(region: Region, batch: int, choices: Choices) -> None:
    """Outputs as torch's, the same bits for 1 and 2 threads and at the second call."""
    inputs = [torch.randn(batch, *shape, generator=torch.manual_seed(0)) for shape in region.inputs.values()]
    wanted = reference(region, *inputs)
    first: tuple[Tensor, ...] = ()
    for threads in (1, 2):
        native = build(region, batch, threads, choices)
        found = native(*inputs)
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape
            assert one.is_contiguous()
            assert (one - other).abs().max() <= 1e-4 * max(1e-3, other.abs().max().item())
        first = first or found
        for one, other in zip(first, native(*inputs), strict=True):
            assert torch.equal(one, other)


def conv(source: str, target: str, inputs: int, out: int, size: int = 3, stride: int = 1) -> Conv:
    g = torch.Generator().manual_seed(out)
    weight = torch.randn(out, inputs, size, size, generator=g)
    weight *= torch.rand(weight.shape, generator=g) < 0.3
    return Conv(target, source, target, weight, torch.randn(out, generator=g), (stride, stride), (size // 2,) * 2)


def copied(region: Region, batch: int = 1) -> int:
    """How many pieces of joined values are copied."""
    choices = guess(region, batch, 1)
    assembly = assemble(region, choices.layers, choices.split.images)
    count = 0
    for node in assembly.nodes:
        if isinstance(node, Join):
            here, first = assembly.place(node.target)
            count += sum((whole, start) != (here, first + at) for whole, start, _, at in pieces_of(node, assembly))
    return count


def split_and_joined() -> Region:
    """The block of detection networks: halves, one of them on through layers, all of them joined."""
    ops: tuple[Op, ...] = (
        conv("x", "a", 3, 16, 1),
        Slice("a1", "a", "a1", 0, 8),
        Slice("a2", "a", "a2", 8, 16),
        conv("a2", "b", 8, 8),
        conv("b", "c", 8, 8),
        Pointwise("d", "c", "d", residual="a2"),
        Concat("j", ("a1", "a2", "d"), "j"),
        conv("j", "y", 24, 16, 1),
    )
    return Region({"x": (3, 6, 7)}, ops, ("y",))


def grown() -> Region:
    """Dense connections: each layer reads all that came before."""
    ops: list[Op] = [conv("x", "f0", 3, 8)]
    parts = ["f0"]
    for i in range(1, 4):
        ops += [Concat(f"j{i}", tuple(parts), f"j{i}"), conv(f"j{i}", f"f{i}", 8 * i, 8)]
        parts.append(f"f{i}")
    return Region({"x": (3, 5, 5)}, (*ops, Concat("j", tuple(parts), "j")), ("j",))


@pytest.mark.parametrize("batch", [1, 8, 13])
@pytest.mark.parametrize(("region", "copies"), [(split_and_joined(), 0), (grown(), 0)], ids=["split", "grown"])
def test_layers_write_where_they_are_joined(region: Region, copies: int, batch: int) -> None:
    assert copied(region, batch) == copies
    close(region, batch, guess(region, batch, 2))


def test_what_is_joined_twice_in_other_orders_is_copied() -> None:
    ops = (
        conv("x", "a", 2, 8),
        conv("x", "b", 2, 8),
        Concat("j", ("a", "b"), "j"),
        Concat("k", ("b", "a"), "k"),
        Concat("l", ("b", "a", "b"), "l"),  # of which the last two lie side by side
    )
    region = Region({"x": (2, 4, 4)}, ops, ("j", "k", "l", "a"))
    assert copied(region) == 3
    for batch in (1, 8):
        close(region, batch, guess(region, batch, 1))


def test_joined_inputs_and_vectors() -> None:
    g = torch.manual_seed(0)
    ops = (
        Linear("l", "v", "h", torch.randn(5, 4, generator=g), None, RELU),
        Concat("j", ("h", "v", "w", "h"), "j"),
        Slice("s", "j", "s", 3, 11),
        Linear("m", "s", "y", torch.randn(3, 8, generator=g)),
        Concat("k", ("p", "q"), "k"),
    )
    region = Region({"v": (4,), "w": (2,), "p": (3, 2, 2), "q": (1, 2, 2)}, ops, ("y", "j", "k"))
    for batch in (1, 3, 8):
        close(region, batch, guess(region, batch, 1))


KINDS = ("conv", "conv", "pool", "join", "join", "cut", "add", "combine", "combine", "mean", "resize", "shuffle")


def _axis(size: int, blend: bool, seed: int) -> Axis:
    """Positions, and what they count, at random."""
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randint(size, (2, size), generator=g)
    return Axis(first, second, torch.rand(2, size, generator=g) if blend else None)


@st.composite
def joined(draw: st.DrawFn) -> Region:
    """Layers, pools, joins and cuts of maps of one size, of odd numbers of channels too; any values as outputs."""
    sizes = {"x": draw(st.integers(1, 9)), "z": draw(st.integers(1, 9))}
    inputs = {name: (count, 5, 6) for name, count in sizes.items()}
    narrow: dict[str, int] = {}  # of one row or column
    ops: list[Op] = []
    for i in range(draw(st.integers(1, 9))):
        name, source = f"v{i}", draw(st.sampled_from(sorted(sizes)))
        match draw(st.sampled_from(KINDS)):
            case "conv":
                out = draw(st.sampled_from([1, 4, 6, 8, 16]))
                ops.append(conv(source, name, sizes[source], out, draw(st.sampled_from([1, 3]))))
                sizes[name] = out
            case "pool":
                ops.append(Pool(name, source, name, "max", (3, 3), (1, 1), (1, 1)))
                sizes[name] = sizes[source]
            case "join":
                parts = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=4))
                ops.append(Concat(name, tuple(parts), name))
                sizes[name] = sum(sizes[part] for part in parts)
            case "cut":
                start = draw(st.integers(0, sizes[source] - 1))
                stop = draw(st.integers(start + 1, sizes[source]))
                ops.append(Slice(name, source, name, start, stop))
                sizes[name] = stop - start
            case "combine":
                kind = draw(st.sampled_from(["add", "sub", "mul"]))
                others = [one for one in [*sizes, *narrow] if {**sizes, **narrow}[one] in (1, sizes[source])]
                ops.append(Combine(name, source, draw(st.sampled_from(others)), name, kind, draw(PERHAPS)))
                sizes[name] = sizes[source]
            case "mean":
                window = draw(st.sampled_from([(5, 6), (5, 1), (1, 6)]))
                ops.append(Pool(name, source, name, "mean", window, window))
                narrow[name] = sizes[source]
            case "resize":
                rows, columns = (_axis(n, draw(st.booleans()), draw(st.integers(0, 9))) for n in (5, 6))
                ops.append(Resize(name, source, name, rows, columns, draw(PERHAPS)))
                sizes[name] = sizes[source]
            case "shuffle":
                ops.append(conv(source, f"{name}c", sizes[source], 12, 1))
                ops.append(Shuffle(f"{name}s", f"{name}c", f"{name}s", (2, 3), (9, 17), draw(PERHAPS)))
                ops.append(Pool(name, f"{name}s", name, "max", (3, 4), (2, 3), (1, 1), end=(1, 2)))
                sizes[name] = 2
            case _:
                ops.append(Pointwise(name, source, name, None, None, RELU, source))
                sizes[name] = sizes[source]
    outputs = draw(st.lists(st.sampled_from([op.target for op in ops]), min_size=1, max_size=3))
    ops.append(conv(list(sizes)[-1], "last", list(sizes.values())[-1], 3, stride=2))
    return Region(inputs, tuple(ops), (*outputs, "last"))


@settings(deadline=None, max_examples=40)
@given(region=joined(), batch=st.sampled_from([1, 3, 8, 13]), data=st.data())
def test_any_order_of_joins_and_cuts(region: Region, batch: int, data: st.DataObject) -> None:
    split = data.draw(st.sampled_from(splits(region, batch, 2)))
    shapes = shapes_of(region)
    chosen = {op.target: data.draw(st.sampled_from(candidates(op, shapes[op.target], split))) for op in layers(region)}
    close(region, batch, Choices(split, chosen))
