"""Binary activations put into foreign networks, and rewrites as tickets hold them."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

from tombola.errors import TicketError, TombolaError
from tombola.graph.trace import traced
from tombola.mask import Mask
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear, binary_sign
from tombola.nn.rewrite import Replaced, apply_rewrites, binary_activations
from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket import Ticket

DRAW = torch.Generator().manual_seed(0)
IMAGES, ROWS = torch.randn(4, 1, 4, 4, generator=DRAW), torch.randn(3, 4, generator=DRAW)


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
    """An optional flag decides what its forward does."""

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


def twin(x: Tensor, model: Any, drop: bool = False) -> Tensor:
    """The output of `Functional` with binary activations, written by hand."""
    x = binary_sign(model.bn1(model.conv1(x)))
    x = binary_sign(model.bn2(model.conv2(x))).flatten(1)
    x = binary_sign(model.fc2(binary_sign(model.fc1(x))))
    out: Tensor = model.fc4(F.dropout(binary_sign(model.fc3(x)), 0.5, drop))
    return out


def functional() -> tuple[nn.Module, Tensor]:
    """A network in eval mode, and what its binary form makes of the images."""
    torch.manual_seed(0)
    model = Functional().eval()
    return model, twin(IMAGES, model)


def test_resnet18_by_modules() -> None:
    torch.manual_seed(0)
    model, x = resnet18(num_classes=5), torch.randn(2, 3, 32, 32)
    names, plain = [*model.state_dict()], copy.deepcopy(model)
    result, report = binary_activations(model, x)
    assert result is model
    assert isinstance(model, type(plain))
    assert [*model.state_dict()] == names
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert report.replaced[0] == Replaced("nn.ReLU", "relu", 1)
    assert report.replaced[1] == Replaced("nn.ReLU", "layer1.0.relu", 2)
    assert len(report.replaced) == 9
    assert any("'fc' sees other values than -1 and +1, from the average pool 'avgpool'" in r for r in report.remarks)
    assert any("'maxpool' takes the maximum of signs" in r for r in report.remarks)
    assert len(report.remarks) == 2
    assert "layer4.1.relu" in str(report)
    outputs: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, BinaryActivation):
            module.register_forward_hook(lambda m, args, out: outputs.append(out))
    found = model.eval()(x)
    assert len(outputs) == 17
    assert all(((out == 1) | (out == -1)).all() for out in outputs)
    for module in plain.eval().modules():
        if isinstance(module, nn.ReLU):
            module.forward = binary_sign
    assert torch.equal(found, plain(x))


def test_functions_are_replaced_as_they_are_called() -> None:
    model, _ = functional()
    names, plain = [*model.state_dict()], copy.deepcopy(model)
    result, report = binary_activations(model, IMAGES)
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
    for training in (True, False):
        model.train(training)
        plain.train(training)
        torch.manual_seed(1)
        want = twin(IMAGES, plain, training)
        torch.manual_seed(1)
        found = model(IMAGES)
        assert torch.equal(found, want)
        have, expected = (
            torch.autograd.grad(out.square().sum(), list(net.fc1.parameters()))  # type: ignore[union-attr, operator]
            for out, net in ((found, model), (want, plain))
        )
        assert all(map(torch.equal, have, expected))


@pytest.mark.parametrize(
    "call",
    [F.relu, torch.relu, Tensor.relu, Tensor.relu_, torch.relu_, F.relu_, F.relu6, F.hardtanh, F.hardtanh_,
     lambda x: F.relu(input=x, inplace=True), torch.ops.aten.relu, torch.ops.aten.relu.default],
)  # fmt: skip
def test_every_form_of_a_relu(call: Any) -> None:
    model = Call(lambda m, x: call(x))
    want = model.fc2(binary_sign(model.fc1(ROWS)))
    assert torch.equal(binary_activations(model, ROWS)[0](ROWS), want)


@pytest.mark.parametrize("example", [(), (IMAGES,)], ids=["untried", "tried"])
class TestWhatIsDoneWithIt:
    """Of a network whose first call is checked, and of one that was tried."""

    def test_copied_and_pickled(self, example: Any) -> None:
        plain, want = functional()
        model, _ = binary_activations(plain, *example)
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert isinstance(again, Functional)
            assert torch.equal(again(IMAGES), want)
            with torch.no_grad():
                again.fc4.weight.zero_()  # the copy's own
        assert torch.equal(model(IMAGES), want)

    def test_exported_and_read(self, example: Any) -> None:
        plain, want = functional()
        model, _ = binary_activations(plain, *example)
        assert torch.equal(torch.export.export(model, (IMAGES,)).module()(IMAGES), want)
        graph = traced(copy.deepcopy(model), [IMAGES]).graph
        assert sum(node.target is binary_sign for node in graph.nodes) == 5

    def test_compiled(self, example: Any) -> None:
        plain, want = functional()
        model, _ = binary_activations(plain, *example)
        graphs: list[Any] = []

        def backend(graph: Any, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(model, backend=backend)
        for _ in range(2):
            assert torch.equal(compiled(IMAGES), want)
        assert len(graphs) == 1  # of the whole, be it from the second call on
        torch._dynamo.reset()
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(IMAGES), want)

    def test_called_by_torch_func(self, example: Any) -> None:
        plain, want = functional()
        model, _ = binary_activations(plain, *example)
        state = dict(model.named_parameters())
        stacked = {name: torch.stack([value, 2 * value]).detach() for name, value in state.items()}

        def called(parameters: Any) -> Tensor:
            out: Tensor = torch.func.functional_call(model, parameters, (IMAGES,))
            return out

        torch.testing.assert_close(torch.vmap(called)(stacked)[0], want)
        torch.testing.assert_close(called(state), want)

    def test_called_in_threads(self, example: Any) -> None:
        plain, want = functional()
        model, _ = binary_activations(plain, *example)
        with ThreadPoolExecutor(4) as pool:
            assert all(torch.equal(found, want) for found in pool.map(model, [IMAGES] * 40))

    def test_its_parts_called_alone(self, example: Any) -> None:
        plain, want = functional()
        model, _ = binary_activations(nn.Sequential(plain, nn.Flatten()), *example)
        assert torch.equal(model[0](IMAGES), want)  # type: ignore[index]
        assert torch.equal(model[0].forward(IMAGES), want)  # type: ignore[index]


def test_a_shared_module_is_one_line() -> None:
    model, report = binary_activations(Shared(), ROWS)
    assert report.replaced == (Replaced("nn.ReLU", "relu", 2),)
    want = model.fc3(binary_sign(model.fc2(binary_sign(model.fc1(ROWS)))))  # type: ignore[operator]
    assert torch.equal(model(ROWS), want)
    relu = nn.ReLU()
    chain, report = binary_activations(
        nn.Sequential(nn.Linear(4, 2), relu, nn.Linear(2, 2), relu, nn.Linear(2, 1)), ROWS
    )  # fmt: skip
    assert report.replaced == (Replaced("nn.ReLU", "1", 2),)
    assert [type(chain.get_submodule(name)) for name in "13"] == [BinaryActivation] * 2
    assert type(chain) is nn.Sequential  # tried, and without a forward of a user's


@pytest.mark.parametrize("kind", [Branching, BranchingFunctional])
def test_control_flow_that_depends_on_values(kind: type[Shared]) -> None:
    model = kind()
    _, report = binary_activations(model, ROWS)
    assert sum(row.times or 0 for row in report.replaced) == 2
    for x in (ROWS.abs(), -ROWS.abs()):
        hidden = binary_sign(model.fc2(binary_sign(model.fc1(-x if x.sum() > 0 else x))))
        assert torch.equal(model(x), model.fc3(hidden))


def test_a_path_that_the_example_did_not_take_is_binary_too() -> None:
    model = Call(lambda m, x: F.relu(x) if x.sum() > 0 else m.relu(-x).relu())
    model.fc1 = nn.Identity()  # type: ignore[assignment]
    _, report = binary_activations(model, ROWS.abs())
    assert [(row.kind, row.times) for row in report.replaced] == [("nn.ReLU", 0), ("F.relu", 1)]
    x = -ROWS.abs()
    assert torch.equal(model(x), model.fc2(binary_sign(binary_sign(-x))))


def test_optional_inputs_and_modules_within() -> None:
    torch.manual_seed(0)
    model = Blocks()
    names = [*model.state_dict()]
    _, report = binary_activations(model, ROWS)
    assert report.replaced == (Replaced("F.relu", "blocks.0", 1), Replaced("F.relu", "blocks.1", 1))
    assert [*model.state_dict()] == names
    first, second = model.blocks
    assert torch.equal(model(ROWS), model.head(binary_sign(second.fc(binary_sign(first.fc(ROWS))))))  # type: ignore[union-attr, operator]
    assert torch.equal(first(ROWS, active=False), first.fc(ROWS))  # type: ignore[union-attr, operator]


def test_a_forward_of_the_instances_own() -> None:
    model: Any = Call(None)
    model.forward = MethodType(lambda self, x: self.fc2(F.relu(self.fc1(x))), model)
    model.fc1.forward = MethodType(lambda self, x: F.relu(F.linear(x, self.weight)), model.fc1)
    _, report = binary_activations(model, ROWS)
    assert {row.where for row in report.replaced if row.times} == {"", "fc1"}
    for one in (model, copy.deepcopy(model)):
        with torch.no_grad():
            one.fc1.weight.mul_(-1)
        want = one.fc2(binary_sign(binary_sign(F.linear(ROWS, one.fc1.weight))))
        assert torch.equal(one(ROWS), want)


def test_a_class_that_asks_something_of_its_subclasses() -> None:
    class Strict(Shared):
        def __init_subclass__(cls, *, key: str) -> None:
            raise AssertionError(f"{key} was never given")

    model = binary_activations(Strict(), ROWS)[0]
    assert isinstance(model, Strict)
    assert isinstance(model.relu, BinaryActivation)


def test_checkpointed_functions() -> None:
    inside = Call(lambda m, x: checkpoint(m.block, x, use_reentrant=False))
    inside.block = Block()
    plain = copy.deepcopy(inside)
    plain.block.forward = lambda x: binary_sign(plain.block.fc(x))  # type: ignore[union-attr, operator]
    model = binary_activations(inside, ROWS)[0]
    for net in (model, plain):
        net(ROWS).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), plain.parameters(), strict=True))  # type: ignore[arg-type]
    with pytest.raises(TombolaError, match=r"F\.relu in the model's own forward is called within torch\.utils"):
        binary_activations(Call(lambda m, x: checkpoint(F.relu, x, use_reentrant=False)), ROWS)


def test_the_model_is_tried_on_a_copy() -> None:
    class Remembers(Shared):
        last: Any = None

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1  # type: ignore[operator]
            self.last = x
            return super().forward(F.dropout(F.relu(self.norm(x)), training=self.training))

    model = Remembers()
    model.fc2.eval()
    state, drawn = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    _, report = binary_activations(model, ROWS[:1])  # one example has no statistics
    assert [row.times for row in report.replaced] == [2, 1]
    assert (model.last, model.training, model.fc2.training) == (None, True, False)
    assert all(torch.equal(value, drawn[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    model(ROWS)
    assert (int(model.calls), model.last is ROWS) == (1, True)  # type: ignore[arg-type]


def refused() -> list[tuple[nn.Module, str]]:
    linear = nn.Linear(4, 4)
    encoder = nn.TransformerEncoderLayer(4, 2, 8)
    return [
        (nn.Sequential(linear, nn.ReLU()), "'1' is the network's output"),
        (nn.Sequential(linear, nn.ReLU(), nn.Flatten(), nn.Dropout()), "'1' is the network's output"),
        (nn.ReLU(), "is the network's output"),
        *(
            (nn.Sequential(linear, nn.ReLU(), linear, other, linear), rf"'3' \(nn\.{type(other).__name__}\)")
            for other in (nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.ELU(), nn.LeakyReLU(), nn.PReLU(),
                          nn.Softmax(1), nn.Hardswish(), nn.Softplus(), nn.LogSigmoid(), nn.Threshold(0.1, 1))
        ),
        (nn.Sequential(encoder, nn.ReLU(), linear), r"'0.self_attn' \(nn.MultiheadAttention\)"),
        (Call(lambda m, x: nn.RNN(4, 4, nonlinearity="relu")(m.relu(x))[0]), "torch.rnn_relu"),
        (Call(lambda m, x: F.gelu(m.relu(x))), "F.gelu in the model's own forward"),
        (Call(lambda m, x: m.relu(x) * x.sigmoid()), "Tensor.sigmoid"),
        (Call(lambda m, x: m.relu(x).clamp(min=0)), "Tensor.clamp"),
        (Call(lambda m, x: m.relu(x) + x), "'relu' works in place and its input is used again"),
        (Call(lambda m, x: (x.relu_(), x)[1]), "Tensor.relu_ in the model's own forward works in place"),
        (Call(lambda m, x: (x.view(-1).relu_(), x)[1]), "Tensor.relu_ in the model's own forward works in place"),
        (Call(lambda m, x: (F.relu(x, inplace=True), x.T)[1].T), "F.relu in the model's own forward works in place"),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(len(refused())))
def test_what_cannot_be_done_right_is_refused(case: int) -> None:
    model, message = refused()[case]
    before = str(model)
    with pytest.raises(TombolaError, match=message) as caught:
        binary_activations(model, ROWS)
    assert "\n" not in str(caught.value)
    assert str(model) == before
    _, report = binary_activations(model)
    assert "when it is called" in report.remarks[0]
    for _ in range(2):
        with pytest.raises(TombolaError, match=message):
            model(ROWS)


def test_what_is_refused_without_a_call() -> None:
    linear = nn.Linear(4, 4)
    plain = nn.Sequential(linear, nn.ReLU(), linear)
    for model, message in (
        (nn.Sequential(linear, linear), "no ReLU, ReLU6 or Hardtanh to replace"),
        (torch.jit.script(plain), "scripted"),
        (nn.Sequential(torch.jit.script(plain), nn.ReLU(), linear), "'0' is scripted"),
        (torch.fx.symbolic_trace(plain), "a graph of torch.fx"),
    ):
        for example in ((), (ROWS,)):
            with pytest.raises(TombolaError, match=message):
                binary_activations(model, *example)
    for model, message in (
        (Call(lambda m, x: x), "no ReLU, ReLU6 or Hardtanh to replace"),
        (plain, "cannot be called on the example: RuntimeError: mat1"),
    ):
        if isinstance(model, Call):
            del model.relu
        with pytest.raises(TombolaError, match=message) as caught:
            binary_activations(model, ROWS[:, :3] if model is plain else ROWS)
        assert "\n" not in str(caught.value)
    with pytest.raises(TombolaError, match=r"torch\.fx cannot trace"):
        torch.fx.symbolic_trace(binary_activations(Shared(), ROWS)[0])


def test_the_first_call_in_each_mode_is_checked() -> None:
    model = Call(lambda m, x: F.gelu(F.relu(x)) if m.training else F.relu(x))
    binary_activations(model)
    model.eval()(ROWS)
    for _ in range(2):
        with pytest.raises(TombolaError, match=r"F\.gelu"):
            model.train()(ROWS)
    assert torch.equal(model.eval()(ROWS), model.fc2(binary_sign(model.fc1(ROWS))))
    with pytest.raises(TombolaError, match=r"F\.gelu"):
        binary_activations(Call(lambda m, x: F.gelu(F.relu(x)) if m.training else F.relu(x)), ROWS)


def test_other_functions_are_fine_at_the_output_and_on_parameters() -> None:
    for last in (nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), last, nn.Flatten())
        _, report = binary_activations(model, ROWS)
        assert [r.kind for r in report.replaced] == ["nn.ReLU"]
    gated = Call(lambda m, x: m.relu(x) * m.fc1.bias.sigmoid() + F.softplus(torch.zeros(4)))
    want = gated.fc2(binary_sign(gated.fc1(ROWS)) * gated.fc1.bias.sigmoid() + F.softplus(torch.zeros(4)))
    assert torch.equal(binary_activations(gated, ROWS)[0](ROWS), want)


def test_remarks() -> None:
    x = torch.randn(2, 1, 4, 4)
    good = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    assert binary_activations(good, x)[1].remarks == ()
    odd = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.Flatten())
    first, second = binary_activations(odd, x)[1].remarks
    assert "'0' goes to the activation '1' with no norm between" in first
    assert "'3' sees other values than -1 and +1, from the average pool '2'" in second
    added = binary_activations(Call(lambda m, x: torch.add(F.relu(x), F.relu(x))), ROWS)[1].remarks
    assert any("'fc2' sees other values than -1 and +1, from torch.add" in remark for remark in added)
    joined = Call(lambda m, x: torch.cat([F.relu(x[:, :2]), F.relu(x[:, 2:])], 1))
    assert not any("'fc2'" in remark for remark in binary_activations(joined, ROWS)[1].remarks)


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
