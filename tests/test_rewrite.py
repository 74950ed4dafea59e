"""Binary activations put into foreign networks, and rewrites as tickets hold them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear
from tombola.nn.rewrite import Replaced, apply_rewrites, binary_activations
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket import Ticket


class Functional(nn.Module):
    """Every way to call a ReLU as a function, with parameters that the forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(64, 8)
        self.fc2 = nn.Linear(8, 8)
        self.fc3 = nn.Linear(8, 8)
        self.fc4 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = torch.relu(self.bn2(self.conv2(x))).flatten(1)
        x = self.fc1(x).relu_()
        x = F.hardtanh(self.fc2(x), 0.0, 1.0)
        x = F.dropout(F.relu6(self.fc3(x)), 0.5, self.training)
        out: Tensor = self.fc4(x)
        return out


class Shared(nn.Module):
    """One ReLU module at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc3(self.relu(self.fc2(self.relu(self.fc1(x)))))
        return out


class Branching(Shared):
    """Control flow that depends on the data, with module activations only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return super().forward(x)


class BranchingFunctional(Shared):
    """Control flow that depends on the data, and a function in a helper method."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.helper(x)

    def helper(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc3(F.relu(self.fc2(self.relu(self.fc1(x)))))
        return out


class Block(nn.Module):
    """Its forward cannot be traced alone: an optional flag decides."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, active: bool = True) -> Tensor:
        x = self.fc(x)
        return F.relu(x) if active else x


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


class Call(nn.Module):
    """fc1, a function of (module, x), fc2."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.fc1, self.fc2, self.relu = nn.Linear(4, 4), nn.Linear(4, 2), nn.ReLU(inplace=True)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.function(self, self.fc1(x)))
        return out


def captured(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output of every BinaryActivation, in order of the calls; the model's statistics stay."""
    outputs: list[Tensor] = []
    model = copy.deepcopy(model)
    handles = [
        module.register_forward_hook(lambda m, args, out: outputs.append(out))
        for module in model.modules()
        if isinstance(module, BinaryActivation)
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return outputs


def reference(model: nn.Module, x: Tensor) -> Tensor:
    """The output of a model with every ReLU-like function taken for sign, by patching torch as it runs."""

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in ("relu", "relu_", "relu6", "hardtanh"):
                return torch.where(args[0] >= 0, 1.0, -1.0)
            return func(*args, **(kwargs or {}))

    with Mode():
        out: Tensor = model(x)
    return out


def test_resnet18_by_modules() -> None:
    torch.manual_seed(0)
    model = resnet18(num_classes=5)
    names, plain = [*model.state_dict()], copy.deepcopy(model)
    result, report = binary_activations(model)
    assert result is model
    assert type(model) is type(plain)
    assert [*model.state_dict()] == names
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert report.replaced[0] == Replaced("nn.ReLU", "relu", 1)
    assert report.replaced[1] == Replaced("nn.ReLU", "layer1.0.relu", 2)
    assert len(report.replaced) == 9
    assert any("'fc' sees other values than -1 and +1, from the average pool 'avgpool'" in r for r in report.remarks)
    assert any("'maxpool' takes the maximum of signs" in r for r in report.remarks)
    assert len(report.remarks) == 2
    assert "layer4.1.relu" in str(report)
    x = torch.randn(2, 3, 32, 32)
    outputs = captured(model, x)
    assert len(outputs) == 17
    assert all(((out == 1) | (out == -1)).all() for out in outputs)
    torch.testing.assert_close(model.eval()(x), reference(plain.eval(), x))


def test_functions_are_replaced_in_the_graph() -> None:
    torch.manual_seed(0)
    model = Functional()
    names, plain = [*model.state_dict()], copy.deepcopy(model)
    result, report = binary_activations(model)
    assert result is model
    assert isinstance(model, Functional)
    assert [*model.state_dict()] == names
    assert [(r.kind, r.where, r.times) for r in report.replaced] == [
        ("F.relu", "", 1),
        ("torch.relu", "", 1),
        ("Tensor.relu_", "", 1),
        ("F.hardtanh", "", 1),
        ("F.relu6", "", 1),
    ]
    assert [r.partition(" ")[0] for r in report.remarks] == ["'fc1'", "'fc2'", "'fc3'", "'fc4'"]
    assert "dropout" in report.remarks[-1]
    x = torch.randn(4, 1, 4, 4)
    assert len(captured(model, x)) == 5
    for training in (True, False):  # the dropout follows the mode, though torch.fx fixes it in each graph
        model.train(training)
        plain.train(training)
        torch.manual_seed(1)
        want = reference(plain, x)
        torch.manual_seed(1)
        torch.testing.assert_close(model(x), want)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))


def test_gradients_reach_every_weight() -> None:
    model, _ = binary_activations(Functional())
    model.eval()(torch.randn(4, 1, 4, 4) * 0.1).square().sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("unused"))


def test_a_shared_module_is_one_line() -> None:
    model, report = binary_activations(Shared())
    assert report.replaced == (Replaced("nn.ReLU", "relu", 2),)
    assert len(captured(model, torch.randn(3, 4))) == 2
    relu = nn.ReLU()
    chain, report = binary_activations(
        nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu, nn.Linear(2, 1))
    )  # fmt: skip
    assert report.replaced == (Replaced("nn.ReLU", "1", 2),)
    assert [type(chain.get_submodule(name)) for name in "13"] == [BinaryActivation] * 2


def test_control_flow_with_modules_only() -> None:
    model, report = binary_activations(Branching())
    assert type(model) is Branching
    assert report.replaced == (Replaced("nn.ReLU", "relu", None),)
    assert "?" in str(report)
    assert len(captured(model, torch.randn(3, 4))) == 2


def test_control_flow_with_functions_is_refused() -> None:
    model = BranchingFunctional()
    named = copy.deepcopy(model)
    for act in (F.relu, torch.relu, F.gelu):
        named.helper = act  # type: ignore[method-assign, assignment]
        with pytest.raises(TombolaError, match=r"own forward calls [rg]elu"):
            binary_activations(named)
    with pytest.raises(TombolaError, match=r"the model's own forward calls relu .* nn.ReLU submodules") as caught:
        binary_activations(model)
    assert "\n" not in str(caught.value)
    assert type(model.relu) is nn.ReLU


def test_a_block_that_cannot_be_traced_alone_is_traced_with_its_caller() -> None:
    torch.manual_seed(0)
    model = Blocks()
    names, plain = [*model.state_dict()], copy.deepcopy(model)
    _, report = binary_activations(model)
    assert report.replaced == (Replaced("F.relu", "", 2),)
    assert [*model.state_dict()] == names
    x = torch.randn(3, 4)
    torch.testing.assert_close(model(x), reference(plain, x))


def test_functions_below_a_model_that_cannot_be_traced() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Functional()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(-x if x.sum() > 0 else x)
            return out

    torch.manual_seed(0)
    model = Outer().eval()
    plain, x = copy.deepcopy(model), torch.randn(4, 1, 4, 4)
    _, report = binary_activations(model)
    assert type(model) is Outer
    assert {r.where for r in report.replaced} == {"inner"}
    torch.testing.assert_close(model(x), reference(plain, x))
    odd = Outer()
    odd.inner = Call(lambda m, x: m.relu(x) * x.sigmoid())  # type: ignore[assignment]
    with pytest.raises(TombolaError, match=r"Tensor.sigmoid in 'inner'"):
        binary_activations(odd)


def test_mode_and_attributes_survive_tracing() -> None:
    class Remembers(Shared):
        last: Any = None

        def __init__(self) -> None:
            super().__init__()
            self.last = None
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1  # type: ignore[operator]
            self.last = x
            return super().forward(x)

    model = Remembers()
    model.fc2.eval()
    binary_activations(model)
    assert (model.last, int(model.calls), model.training, model.fc2.training) == (None, 0, True, False)  # type: ignore[arg-type]

    class RemembersFunctional(Remembers):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(super().forward(x))

    with pytest.raises(TombolaError, match="sets attributes of its own"):
        binary_activations(RemembersFunctional())


def test_what_cannot_be_done_right_is_refused() -> None:
    linear = nn.Linear(4, 4)
    cases: list[tuple[nn.Module, str]] = [
        (nn.Sequential(linear, linear), "no ReLU, ReLU6 or Hardtanh to replace"),
        (nn.Sequential(linear, nn.ReLU()), "'1' is the network's output"),
        (nn.Sequential(linear, nn.ReLU(), nn.Flatten(), nn.Dropout()), "'1' is the network's output"),
        (nn.ReLU(), "is the network's output"),
        *(
            (nn.Sequential(linear, nn.ReLU(), linear, other, linear), rf"'3' \(nn\.{type(other).__name__}\)")
            for other in (nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.ELU(), nn.LeakyReLU(), nn.PReLU(),
                          nn.Softmax(1), nn.Hardswish(), nn.Softplus())
        ),
        (Call(lambda m, x: F.gelu(m.relu(x))), "F.gelu in the model's own forward"),
        (Call(lambda m, x: m.relu(x) * x.sigmoid()), "Tensor.sigmoid"),
        (Call(lambda m, x: m.relu(x).clamp(min=0)), "Tensor.clamp"),
        (Call(lambda m, x: m.relu(x) + x), "'relu' works in place and its input is used again"),
        (Call(lambda m, x: (x.relu_(), x)[1]), "Tensor.relu_ in the model's own forward works in place"),
        (Call(lambda m, x: F.relu(x + torch.ones(4))), "makes tensors"),
        (torch.jit.script(nn.Sequential(linear, nn.ReLU(), linear)), "scripted"),
    ]  # fmt: skip
    for model, message in cases:
        before = str(model)
        with pytest.raises(TombolaError, match=message) as caught:
            binary_activations(model)
        assert "\n" not in str(caught.value)
        assert str(model) == before


def test_other_functions_are_fine_at_the_output() -> None:
    for last in (nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()):
        _, report = binary_activations(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), last, nn.Flatten()))
        assert [r.kind for r in report.replaced] == ["nn.ReLU"]


def test_remarks() -> None:
    good = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    assert binary_activations(good)[1].remarks == ()
    odd = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.Flatten())
    first, second = binary_activations(odd)[1].remarks
    assert "'0' goes to the activation '1' with no norm between" in first
    assert "'3' sees other values than -1 and +1, from the average pool '2'" in second
    added = binary_activations(Call(lambda m, x: torch.add(F.relu(x), F.relu(x))))[1].remarks
    assert any("'fc2' sees other values than -1 and +1, from torch.add" in remark for remark in added)
    joined = binary_activations(Call(lambda m, x: torch.cat([F.relu(x[:, :2]), F.relu(x[:, 2:])], 1)))[1].remarks
    assert not any("'fc2'" in remark for remark in joined)


# ---- rewrites of tickets


def binary_ticket(rewrites: list[dict[str, Any]], **more: Any) -> tuple[nn.Module, Ticket]:
    """A model with functions as activations, and a ticket of it with binary weights."""
    torch.manual_seed(4)
    model = Functional()
    names = ["conv1.weight", "conv2.weight", "fc1.weight"]
    mask = Mask({name: torch.rand(model.get_parameter(name).shape) < 0.5 for name in names})
    scales = {name: torch.tensor(0.25) for name in names}
    final = copy.deepcopy(model)
    with torch.no_grad():
        final.bn1.running_mean.add_(0.5)  # type: ignore[union-attr, operator]
    ticket = Ticket.from_models(
        origin=Origin.stored(model),
        mask=mask,
        final_state=final.state_dict(),
        representation=Representation("binary", scales),
        rewrites=rewrites,
        provenance={},
        **more,
    )
    return model, ticket


REWRITES: list[dict[str, Any]] = [
    {"kind": "binary-activations"},
    {"kind": "binary-layers", "names": ["conv1.weight", "conv2.weight", "fc1.weight"]},
]


@pytest.mark.parametrize("rewrites", [REWRITES, REWRITES[::-1]])
def test_rewritten_ticket_round_trip(rewrites: list[dict[str, Any]], tmp_path: Path) -> None:
    model, ticket = binary_ticket(rewrites)
    digest = ticket.save(tmp_path / "binary.ticket")
    loaded = Ticket.load(tmp_path / "binary.ticket")
    assert (loaded.digest, list(loaded.rewrites)) == (digest, rewrites)
    built, again = ticket.build(model=model), loaded.build(model=model)
    assert (type(again.conv2), type(again.fc1), type(again.fc2)) == (BinaryConv2d, BinaryLinear, nn.Linear)
    assert [*again.state_dict()] == [*model.state_dict()]
    assert set(again.conv2.weight.abs().unique().tolist()) == {0, 0.25}  # type: ignore[union-attr, operator]
    x = torch.randn(4, 1, 4, 4)
    assert same_bits(built.eval()(x), again.eval()(x))
    assert type(model.conv2) is nn.Conv2d  # the model passed is copied, not rewritten
    final = {name: value for name, value in again.state_dict().items() if "weight" not in name}
    assert same_bits(final["bn1.running_mean"], ticket.state["bn1.running_mean"])
    same = apply_rewrites(copy.deepcopy(model), rewrites)
    same.load_state_dict(again.state_dict())
    assert same_bits(same.eval()(x), again(x))


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        ({"kind": "binary-layers", "names": ["no.weight"]}, "no.weight"),
        ({"kind": "binary-layers", "names": ["bn1.weight"]}, "BatchNorm2d"),
        ({"kind": "binary-layers", "names": []}, "names must be a list"),
        ({"kind": "binary-layers", "names": "conv1.weight"}, "names must be a list"),
        ({"kind": "binary-layers", "names": [1]}, "names must be a list"),
        ({"kind": "binary-layers", "names": ["w" * 10_000]}, "names must be a list"),
        ({"kind": "binary-layers", "names": {"conv1.weight": 1}}, "names must be a list"),
        ({"kind": "binary-layers"}, "'names' is missing"),
        ({"kind": "binary-layers", "names": ["conv1.weight"], "bits": 1}, "'bits' is unknown"),
        ({"kind": "binary-activations", "names": []}, "'names' is unknown"),
        ({"kind": "binary-\nactivations"}, "does not know the rewrite"),
        ({"kind": "x" * 10_000}, "does not know the rewrite"),
    ],
)
def test_hostile_rewrites(rewrite: dict[str, Any], message: str) -> None:
    model, ticket = binary_ticket([rewrite])
    with pytest.raises(TicketError, match=message) as caught:
        Ticket.from_bytes(ticket.to_bytes()).build(model=model)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_rewrite_twice_is_refused() -> None:
    model, ticket = binary_ticket([{"kind": "binary-activations"}] * 2)
    with pytest.raises(TicketError, match="to replace"):
        ticket.build(model=model)
