"""Networks that cannot be read whole: their children are, and what cannot be stays as it is and is named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clocks import NATIVE, InOrder
from tombola.compact import Compacted, compact
from tombola.compact.compact import UnreadWarning
from tombola.compact.compare import difference
from tombola.deploy import deploy
from tombola.deploy.deploy import Deployed
from tombola.deploy.plan import Plan
from tombola.errors import TombolaError

EQUAL = 1e-4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Block(nn.Module):
    """Half of the units between its convolutions are dead."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        with torch.no_grad():
            self.first.weight[: channels // 2] = 0
            self.first.bias[: channels // 2] = 0  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(torch.relu(self.first(x)))
        return out


class Around(nn.Module):
    """A block, called by code that torch.export cannot follow."""

    def __init__(self, code: Callable[[Any, Tensor], Any], block: nn.Module | None = None) -> None:
        super().__init__()
        self.code, self.block, self.head = code, block or Block(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


def branches(self: Any, x: Tensor) -> Tensor:
    x = self.block(x)
    if x.sum() > 0:
        x = 2 * x
    out: Tensor = self.head(x.mean((2, 3)))
    return out


def units(found: Compacted, name: str = "block.first") -> tuple[int, int]:
    return next(layer.units for layer in found.report.layers if layer.name == name)


def both(model: nn.Module, x: Tensor) -> tuple[Compacted, Deployed]:
    """The model compacted and deployed, which answer as it does: to any values, at several batch sizes."""
    model = model.eval()
    before = copy.deepcopy(model.state_dict())
    found, deployed = compact(model, x), deploy(model, x, threads=1, clock=NATIVE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for inputs in (x, -x, torch.randn_like(x), torch.randn(5, *x.shape[1:]), torch.randn(1, *x.shape[1:])):
            want = model(inputs)
            assert difference(want, found.module(inputs)) <= EQUAL
            assert difference(want, deployed(inputs)) <= EQUAL
    return found, deployed


# ---- which are read --------------------------------------------------------------------------------------------------


def test_one_branch_on_values_costs_its_own_module() -> None:
    found, deployed = both(Around(branches), torch.randn(2, 4, 5, 5))
    assert [part.path for part in found.parts] == ["block", "head"]
    assert units(found) == (4, 2)
    assert [[layer.name for layer in part.layers] for part in deployed.report.parts] == [
        ["block.first", "block.second"],
        ["head"],
    ]
    (place,) = found.left
    assert place.startswith("the model (line ")
    assert place.endswith("of test_graph_parts.py)")
    assert "depends on the values" in found.left[place]
    assert place in str(found.report)
    assert place in str(deployed.report)


def test_what_is_not_read_is_warned_of_once() -> None:
    model, x = Around(branches).eval(), torch.randn(2, 4, 5, 5)
    with pytest.warns(UnreadWarning, match=r"the model \(line \d+ of test_graph_parts.py\): .* values") as found:
        compact(model, x)
    assert len(found) == 1


def test_what_cannot_be_read_within_children_is_read_at_theirs() -> None:
    inner = nn.ModuleList([nn.ModuleDict({"odd": Around(branches, Block()), "even": nn.Linear(4, 4)})])

    def calls(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.block[0]["even"](self.block[0]["odd"](x)[:, [0, 1, 0, 1]])
        return out

    found, _ = both(Around(calls, inner), torch.randn(2, 4, 5, 5))
    assert [part.path for part in found.parts] == [
        "block.0.odd.block",
        "block.0.odd.head",
        "block.0.even",
    ]
    assert next(iter(found.left)).startswith("block.0.odd (line ")


def test_children_get_what_they_get_in_the_network() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block()

        def forward(self, values: Mapping[str, Any], scale: float, *, more: Tensor | None = None) -> dict[str, Any]:
            y = self.inner(values["x"][0]) * scale
            return {"y": [y if more is None else y + more], "scale": scale}

    def calls(self: Any, x: Tensor) -> Tensor:
        one = self.block({"x": (x,)}, 0.5, more=x)["y"][0]
        if one.sum() > 0:
            one = self.block({"x": (one,)}, 0.25)["y"][0]  # another call: that of the module itself
        out: Tensor = one + self.block({"x": (x,)}, 2.0, more=x)["y"][0]
        return out

    found, deployed = both(Around(calls, Wide()), torch.randn(2, 4, 5, 5))
    assert [part.path for part in found.parts] == ["block"]
    assert units(found, "block.inner.first") == (4, 2)
    assert deployed.plan.parts


def test_calls_of_other_sizes_are_the_modules_own() -> None:
    def calls(self: Any, x: Tensor) -> Tensor:
        if x[0, 0, 0, 0] > 0:
            x = x[:, :, ::2]
        out: Tensor = self.block(x).mean((2, 3))
        return out

    x = torch.ones(2, 4, 6, 6)
    _, deployed = both(Around(calls), x)
    assert deployed.plan.parts


@pytest.mark.parametrize("which", ["input", "buffer", "attribute", "weights elsewhere", "returns"])
def test_what_is_no_part(which: str) -> None:
    class Odd(Block):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.count = 0

        def forward(self, x: Tensor) -> Any:
            if which == "input":
                x.mul_(2)
            elif which == "buffer":
                self.seen += 1
            elif which == "attribute":
                self.count += 1
            out = super().forward(x)
            return (out, self.seen.add) if which == "returns" else out

    def calls(self: Any, x: Tensor) -> Tensor:
        y = x + 1
        out = self.block(y)
        if which == "weights elsewhere":
            out = out + self.block.second.weight.sum()
        out = out[0] if which == "returns" else out
        if x.sum() > 0:
            out = 2 * out
        return self.head((out + y).mean((2, 3)))  # type: ignore[no-any-return]

    model = Around(calls, Odd())
    if which == "weights elsewhere":
        model.second = model.block.second  # type: ignore[union-attr, assignment]
    found, _ = both(model, torch.randn(2, 4, 5, 5))
    assert "block" not in [part.path for part in found.parts] or which == "weights elsewhere"
    if which == "weights elsewhere":
        assert found.report.opaque["block"] == "its weights are used in another place too"
        assert units(found) == (4, 4)


def test_hooks_of_a_part_run_once() -> None:
    model = Around(branches)
    model.block.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.block.register_forward_hook(lambda module, args, output: 3 * output)
    model.block.first.register_forward_hook(lambda module, args, output: output + 1)  # type: ignore[union-attr]
    found, _ = both(model, torch.randn(2, 4, 5, 5))
    assert [part.path for part in found.parts] == ["block", "head"]


def test_a_part_called_twice_and_in_no_order() -> None:
    def calls(self: Any, x: Tensor) -> Tensor:
        y = self.head(self.block(self.block(x)).mean((2, 3)))
        out: Tensor = y if y.sum() > 0 else self.head(self.block(x).amax((2, 3))) - y
        return out

    found, _ = both(Around(calls), torch.randn(2, 4, 5, 5))
    assert units(found) == (4, 2)


def test_the_instances_own_forward_is_what_is_read() -> None:
    model = Around(branches)
    block = model.block

    def forward(x: Tensor) -> Tensor:
        return torch.tanh(Block.forward(block, x))  # type: ignore[arg-type]

    block.forward = forward  # type: ignore[method-assign]
    both(model, torch.randn(2, 4, 5, 5))


# ---- what is made of them --------------------------------------------------------------------------------------------


class Never(InOrder):
    """Nothing is to be measured."""

    def measure(self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None) -> Any:
        pytest.fail("measured")

    fastest = measure


def test_a_plan_of_parts_gives_the_same_bits(tmp_path: Path) -> None:
    model, x = Around(branches).eval(), torch.randn(2, 4, 5, 5)
    first = deploy(model, x, threads=1, clock=NATIVE)
    first.plan.save(tmp_path / "plan.json")
    again = deploy(model, x, plan=tmp_path / "plan.json", clock=Never())
    assert again.plan == first.plan
    assert torch.equal(again(x), first(x))
    with pytest.raises(TombolaError, match="of another network"):
        deploy(nn.Sequential(Block()).eval(), x, plan=tmp_path / "plan.json")


def test_copies_of_a_network_in_parts() -> None:
    model, x = Around(branches).eval(), torch.randn(2, 4, 5, 5)
    deployed = deploy(model, x, threads=1, clock=NATIVE)
    twin = copy.deepcopy(deployed)
    assert torch.equal(twin(x), deployed(x))
    with torch.no_grad():
        assert difference(model(x), deployed.compacted(x)) <= EQUAL


def test_parts_that_were_read_with_tensors_of_another_class_are_copied() -> None:
    class Other(Tensor):
        pass

    model, x = Around(branches).eval(), torch.randn(2, 4, 5, 5)
    deployed = deploy(model, x.as_subclass(Other), threads=1, clock=NATIVE)
    with torch.no_grad():
        assert difference(model(x), copy.deepcopy(deployed)(x)) <= EQUAL


def test_a_network_compacted_in_parts_trains_on() -> None:
    model, x = Around(branches), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        model.block.second.weight[:, :2] = 0  # type: ignore[union-attr, operator]
    found = compact(model, x, fold_norms=False, fold_constants=False)
    assert units(found) == (4, 2)
    found.module.train()(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in found.module.parameters())


# ---- what is read whole ----------------------------------------------------------------------------------------------


class State(nn.Module):
    """A cache, a running mean by lerp_, a counter and a result by `out=`, all in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("past", torch.zeros(1, 4))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))
        with torch.no_grad():
            self.first.weight[:4] = 0
            self.first.bias[:4] = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x + self.past)))
        self.past.lerp_(x.mean(0, keepdim=True), 0.5)
        self.calls += 1
        torch.add(y[0], self.calls, out=self.last)
        out: Tensor = y + self.last
        return out


def test_state_in_buffers_goes_on() -> None:
    model, x = State().eval(), torch.randn(3, 4)
    with torch.no_grad():
        model(x)
    found, deployed = compact(model, x), deploy(model, x, threads=1, clock=NATIVE)
    assert units(found, "first") == (8, 4)
    assert [part.path for part in found.parts] == [""]
    assert deployed.plan.parts
    compacted = deployed.compacted
    assert float(model.calls) == 1  # type: ignore[arg-type]
    with torch.no_grad():
        for i in range(5):
            inputs = torch.randn(1 + i, 4)
            want = model(inputs)
            for network in (found.module, deployed, compacted):
                assert difference(want, network(inputs)) <= EQUAL


def test_state_in_attributes_stays_with_the_networks_own_code() -> None:
    def calls(self: Any, x: Tensor) -> Tensor:
        self.number = getattr(self, "number", 0) + 1
        out: Tensor = self.block(x) * (1 if self.number < 100 else 2)
        return out

    model, x = Around(calls).eval(), torch.randn(2, 4, 5, 5)
    deployed = deploy(model, x, threads=1, clock=NATIVE)
    assert deployed.plan.parts
    with torch.no_grad():
        for _ in range(120):
            assert difference(model(x), deployed(x)) <= EQUAL


class Rotary(nn.Module):
    """Slices and views of buffers, as rotary position embeddings and frozen norms have them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("angles", torch.randn(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        turns = self.angles[: y.shape[1]].view(1, -1, 4)
        out: Tensor = y * turns.cos() + torch.cat([-y[..., 2:], y[..., :2]], -1) * turns.sin()
        return out


def splits(self: Any, x: Tensor) -> Tensor:
    parts = list(self.block(x).chunk(2, 1))
    parts.extend(part + 1 for part in parts[-1:])
    return torch.cat(parts, 1)


def asserts(self: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == 4
    batch, *_ = x.shape
    out: Tensor = self.block(x).reshape(batch, -1)
    return out


def lengths(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.block(x).reshape(len(x), -1) * x.shape[1]
    return out


def rows(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.block(*[x]).squeeze()
    return out


@pytest.mark.parametrize("code", [splits, asserts, lengths, rows], ids=lambda code: code.__name__)
def test_constructs_that_are_read_whole(code: Callable[[Any, Tensor], Any]) -> None:
    found, deployed = both(Around(code), torch.randn(2, 4, 5, 5))
    assert [part.path for part in found.parts] == [""]
    assert units(found) == (4, 2)
    assert deployed.plan.parts


def test_views_of_buffers_are_read_whole() -> None:
    found, _ = both(Rotary(), torch.randn(2, 7, 4))
    assert [part.path for part in found.parts] == [""]


def test_transformer_encoders_and_wrappers_are_read_whole() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found, _ = both(nn.TransformerEncoder(layer, 2), torch.randn(3, 5, 8))
    assert [part.path for part in found.parts] == [""]
    wrapped = nn.DataParallel(Around(splits))
    compiled = torch.compile(Around(splits), backend="eager")
    for model in (wrapped, compiled):
        assert isinstance(model, nn.Module)
        found = compact(model.eval(), torch.randn(2, 4, 5, 5))
        assert units(found) == (4, 2)


# ---- what the example does not show ----------------------------------------------------------------------------------


def always(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.block(x)
    return 3 * out if len(x) > 16 else out


def evenly(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.block(x)
    return 3 * out if x.shape[0] % 2 == 0 and x.shape[0] > 8 else out


def test_branches_on_the_size_of_the_batch() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = self.block(x).flatten(1) + self.block(y).flatten(1)
            return out

    def halves(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.block(x, x + 1) + self.head.weight.sum()
        return 2 * out if x.sum() > 0 else out

    x = torch.randn(4, 4, 5, 5)
    for code, paths in ((always, ["block"]), (evenly, ["block"]), (halves, ["block"])):
        model = Around(code, Halves() if code is halves else None)
        found, deployed = both(model, x)
        assert [part.path for part in found.parts] == paths
        assert deployed.plan.parts
        for batch in (2, 7, 16, 17, 34):
            inputs = torch.randn(batch, 4, 5, 5)
            with torch.no_grad():
                for network in (found.module, deployed, copy.deepcopy(deployed)):
                    assert difference(model(inputs), network(inputs)) <= EQUAL
    inner, _ = both(Around(branches, Around(always)), x)
    assert [part.path for part in inner.parts] == ["block", "head"]


@pytest.mark.parametrize("what", ["number", "tensor", "list", "buffer", "child", "weight"])
def test_what_the_network_changes_of_a_child_before_it_calls_it(what: str) -> None:
    class Told(Block):
        def __init__(self) -> None:
            super().__init__()
            self.number, self.list = 1.0, [1.0]
            self.tensor: Tensor | None = None
            self.register_buffer("buffer", torch.ones(()))
            self.child = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.number * self.list[0] * self.buffer
            return super().forward(self.child(x if self.tensor is None else x * self.tensor))

    def calls(self: Any, x: Tensor) -> Tensor:
        block = self.block
        if x.mean() > 5:
            if what == "number":
                block.number = 2.0
            elif what == "tensor":
                block.tensor = x
            elif what == "list":
                block.list[0] = 3.0
            elif what == "buffer":
                block.buffer.fill_(2.0)
            elif what == "child":
                block.child = nn.Tanh()
            else:
                block.first.weight.mul_(2.0)
        y = block(x)
        if x.mean() > 5:
            block.number, block.list[0], block.tensor, block.child = 1.0, 1.0, None, nn.Identity()
            block.buffer.fill_(1.0)
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]

    model = Around(calls, Told()).eval()
    deployed = deploy(model, torch.randn(2, 4, 5, 5), threads=1, clock=NATIVE)
    assert deployed.plan.parts
    networks = deployed, copy.deepcopy(deployed)
    for more in (0, 10, 0, 20):
        inputs = torch.randn(3, 4, 5, 5) + more
        with torch.no_grad():
            want = model(inputs)
            for network in networks:
                assert difference(want, network(inputs)) <= EQUAL


@pytest.mark.parametrize("what", ["layer", "size", "children", "parameters"])
def test_code_that_reaches_into_a_part_finds_what_the_network_has(what: str) -> None:
    def calls(self: Any, x: Tensor) -> Tensor:
        y = self.head(self.block(x).mean((2, 3)))
        if x.mean() > 5:
            if what == "layer":
                y = y + self.block.first(x).mean()
            elif what == "size":
                y = y * self.block.first.out_channels
            elif what == "children":
                y = y + sum(child(x).mean() for child in self.block.children())
            else:
                y = y * sum(p.numel() for p in self.block.parameters())
        out: Tensor = y
        return out

    model = Around(calls).eval()
    deployed = deploy(model, torch.randn(2, 4, 5, 5), threads=1, clock=NATIVE)
    assert deployed.plan.parts
    for more in (0, 10):
        inputs = torch.randn(3, 4, 5, 5) + more
        with torch.no_grad():
            assert difference(model(inputs), deployed(inputs)) <= EQUAL


def picks(self: Any, x: Tensor) -> Any:
    x = self.block(x)
    rows = x.sum((1, 2, 3)) > 0
    return self.head(x[rows].mean((2, 3))), rows.nonzero()


def makes(self: Any, x: Tensor) -> Any:
    return {"made": map(torch.relu, [self.head(self.block(x).mean((2, 3)))])}


def counts(self: Any, x: Tensor) -> Any:
    return self.head(self.block(x).mean((2, 3))), x.shape[0], {"rows": len(x)}


@pytest.mark.parametrize("code", [picks, makes, counts], ids=lambda code: code.__name__)
def test_outputs_that_no_graph_gives(code: Callable[[Any, Tensor], Any]) -> None:
    model = Around(code).eval()
    found, deployed = (
        compact(model, torch.randn(2, 4, 5, 5)),
        deploy(model, torch.randn(2, 4, 5, 5), threads=1, clock=NATIVE),
    )
    assert [part.path for part in found.parts] == ["block", "head"]
    for batch in (4, 2, 4):
        x = torch.randn(batch, 4, 5, 5)
        with torch.no_grad():
            want = model(x)
            for network in (found.module, deployed):
                have = network(x)
                if code is makes:
                    want, have = (list(one["made"]) if isinstance(one, dict) else one for one in (want, have))
                assert difference(want, have) <= EQUAL


# ---- arguments -------------------------------------------------------------------------------------------------------


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, batch: Mapping[str, Any], cache: None = None, *, scale: float = 1.0, mask: Any = None) -> Any:
        y = self.block(batch["x"]) * scale
        return {"y": y if mask is None else y.masked_fill(~mask, 0.0), "z": batch["z"][0] + 1}


def arguments(rows: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, 5, 5, generator=draw)
    return {"x": x, "z": (x[:, 0],)}, {"scale": 2.0, "mask": x > 0}


def test_dicts_constants_and_names_are_inputs() -> None:
    model = Named().eval()
    batch, named = arguments(2, 0)
    found = compact(model, batch, named=named)
    deployed = deploy(model, batch, named=named, threads=1, clock=NATIVE)
    assert units(found) == (4, 2)
    assert type(found.module) is type(deployed.compacted) is Named
    assert deployed.plan.parts
    for rows_, seed in ((2, 1), (5, 2)):
        batch, named = arguments(rows_, seed)
        with torch.no_grad():
            want = model(batch, **named)
            for network in (found.module, deployed, deployed.compacted):
                assert difference(want, network(batch, **named)) <= EQUAL


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d, b, n: d(b, None, **n), "another than it was deployed for"),
        (lambda d, b, n: d(b, **{**n, "scale": 3.0}), "scale=2.0, mask=(2, 4, 5, 5)"),
        (lambda d, b, n: d(b["x"]), "deploy it with an example of this call"),
        (lambda d, b, n: d({"x": b["x"][:, :, 1:], "z": b["z"]}, **n), "inputs of shape"),
        (lambda d, b, n: deploy(Named(), b, named={"cache": object()}), "the example holds a object"),
    ],
)
def test_other_calls_are_one_line(call: Callable[..., object], said: str) -> None:
    batch, named = arguments(2, 0)
    deployed = deploy(Named().eval(), batch, named=named, threads=1, clock=NATIVE)
    with pytest.raises(TombolaError) as error:
        call(deployed, batch, named)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_plans_are_of_the_tensors_of_a_call(tmp_path: Path) -> None:
    batch, named = arguments(2, 0)
    model = Named().eval()
    first = deploy(model, batch, named=named, threads=1, clock=NATIVE)
    first.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").inputs == ((2, 4, 5, 5), (2, 5, 5), (2, 4, 5, 5))
    again = deploy(model, batch, named=named, plan=tmp_path / "plan.json", clock=Never())
    assert torch.equal(again(batch, **named)["y"], first(batch, **named)["y"])


class Kept:
    """A cache, as transformers give one."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


def test_a_network_that_returns_objects_is_read_in_parts() -> None:
    def calls(self: Any, x: Tensor) -> Any:
        y = self.block(x)
        return self.head(y.mean((2, 3))), Kept(y)

    model, x = Around(calls).eval(), torch.randn(2, 4, 5, 5)
    found, deployed = compact(model, x), deploy(model, x, threads=1, clock=NATIVE)
    assert [part.path for part in found.parts] == ["block", "head"]
    assert deployed.plan.parts
    with torch.no_grad():
        (want, kept), (have, other) = model(-x), deployed(-x)
    assert difference(want, have) <= EQUAL
    assert difference(kept.keys, other.keys) <= EQUAL


def test_no_memory_is_no_reason_to_read_in_parts() -> None:
    def calls(self: Any, x: Tensor) -> Any:
        if type(x) is not Tensor:
            raise MemoryError
        return self.block(x)

    with pytest.raises(MemoryError):
        compact(Around(calls).eval(), torch.randn(2, 4, 5, 5))
