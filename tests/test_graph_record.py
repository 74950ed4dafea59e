"""The traced graph as data: it comes back equal, over the model's own tensors, and nothing else can be called by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torchvision
from torch import Tensor, nn

from clocks import NATIVE
from tombola.deploy import deploy
from tombola.deploy.plan import Plan
from tombola.errors import TombolaError
from tombola.graph.node import Value, batch_axes, operation, place, shape_of
from tombola.graph.record import GraphRecord, NodeRecord, rebuilt, recorded
from tombola.graph.trace import traced
from tombola.nn.binary import BinaryActivation, use_binary_layers_
from tombola.rng.seeds import generator


class Several(nn.Module):
    """Constants of many kinds, sizes of the batch, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x).clamp(min=-float("inf"), max=2.5).to(torch.float64).to(torch.float32)
        one, two = y.chunk(2, 1)
        flat = torch.cat([one, two * 0.5], 1).reshape(x.shape[0], 4, -1).transpose(1, 2)
        return self.linear(flat), flat.softmax(-1).mean(1)


def binary() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), BinaryActivation(), nn.Linear(8, 3))
    with torch.no_grad():
        model[3].weight.copy_(torch.sign(model[3].weight) * 0.5)  # type: ignore[union-attr, operator, arg-type]
    use_binary_layers_(model, ["3.weight"])
    return model


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "several": (Several, (2, 3, 5, 5)),
    "binary": (binary, (2, 8)),
    "resnet": (lambda: torchvision.models.resnet18(num_classes=3), (2, 3, 32, 32)),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), (2, 3, 32, 32)),
    "vit": (
        lambda: torchvision.models.VisionTransformer(
            image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16
        ),
        (2, 3, 32, 32),
    ),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
}


def read(record: Any) -> tuple[NodeRecord, ...]:
    """The record after it was written as JSON and read."""
    return msgspec.json.decode(msgspec.json.encode(record), type=GraphRecord)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_record_gives_the_same_graph(name: str) -> None:
    make, shape = NETWORKS[name]
    model = make().eval()
    network = traced(model, (torch.zeros(shape),), (True,))
    record = recorded(network, model)
    assert record is not None
    again = rebuilt(read(record), model)
    assert recorded(again, model) == record
    for one, other in zip(network.graph.nodes, again.graph.nodes, strict=True):
        assert (one.name, operation(one), place(one)) == (other.name, operation(other), place(other))
        assert (shape_of(one), batch_axes(one)) == (shape_of(other), batch_axes(other))
    own = dict(model.named_parameters())
    assert all(value is own[path] for path, value in again.named_parameters())
    x = torch.randn(3, *shape[1:], generator=generator(0, "inputs"))
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


SEEN: list[str] = []


class Told(nn.Module):
    """Tells what its inputs are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(type(x).__name__)
        out: Tensor = self.linear(x).relu()
        return out


def test_a_plan_that_is_loaded_is_not_traced_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Told().eval(), torch.randn(2, 4)
    SEEN.clear()
    first = deploy(model, x, threads=1, clock=NATIVE)
    assert "FakeTensor" in SEEN
    first.plan.save(tmp_path / "plan.json")
    SEEN.clear()
    again = deploy(model, x, plan=tmp_path / "plan.json")
    assert set(SEEN) == {"Tensor"}
    assert torch.equal(again(x), first(x))
    assert again.plan == first.plan == Plan.load(tmp_path / "plan.json")


def test_containers_and_constants_of_a_network_are_in_no_record() -> None:
    class Dict(Told):
        def forward(self, x: Tensor) -> Any:
            return {"y": self.linear(x)}

    class Constant(Told):
        def forward(self, x: Tensor) -> Any:
            return self.linear(x) + torch.arange(3)

    for model in (Dict().eval(), Constant().eval()):
        assert recorded(traced(model, (torch.zeros(2, 4),), (True,)), model) is None
        assert deploy(model, torch.zeros(2, 4), threads=1, clock=NATIVE).plan.graph is None


# ---- records that somebody sent --------------------------------------------------------------------------------------


def changed(record: tuple[NodeRecord, ...], op: str, **fields: Any) -> tuple[NodeRecord, ...]:
    """The record with other fields in the last node of that kind."""
    at = max(i for i, node in enumerate(record) if node.op == op)
    return (*record[:at], msgspec.structs.replace(record[at], **fields), *record[at + 1 :])


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("call_function", {"target": "from_file.default"}),
        ("call_function", {"target": "relu_.default"}),
        ("call_function", {"target": "as_strided.default"}),
        ("call_function", {"target": "__class__"}),
        ("call_function", {"target": "relu.__class__"}),
        ("call_function", {"name": "x, y=print('sent')"}),
        ("call_function", {"kwargs": {"x=print(1)": 1}}),
        ("call_function", {"args": [{"node": "nobody"}]}),
        ("call_function", {"args": [{"torch": "load"}]}),
        ("call_function", {"args": [{"eval": "1"}]}),
        ("call_function", {"args": [{"node": "x", "more": 1}]}),
        ("call_function", {"args": [{"device": "somewhere"}]}),
        ("placeholder", {"target": "x=print('sent')"}),
        ("placeholder", {"name": "def"}),
        ("get_attr", {"target": "linear.nothing"}),
        ("get_attr", {"target": "training"}),
        ("get_attr", {"value": None}),
        ("output", {"args": []}),
    ],
    ids=str,
)
def test_what_a_record_may_not_say(op: str, fields: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = Told().eval()
    record = recorded(traced(model, (torch.zeros(2, 4),), (True,)), model)
    assert record is not None
    with pytest.raises(TombolaError, match="of another network"):
        rebuilt(read(changed(record, op, **fields)), model)
    assert capsys.readouterr().out == ""


def test_a_graph_of_other_outputs_is_not_believed() -> None:
    model, x = Told().eval(), torch.randn(2, 4, generator=generator(0, "x"))
    first = deploy(model, x, threads=1, clock=NATIVE)
    assert first.plan.graph is not None
    wrong = msgspec.structs.replace(
        first.plan, graph=changed(first.plan.graph, "call_function", target="sigmoid.default")
    )
    again = deploy(model, x, plan=wrong)
    torch.testing.assert_close(again(x), first(x))
    assert again.plan.parts == first.plan.parts  # the model is read anew
    assert again.plan.graph == first.plan.graph


@pytest.mark.parametrize("shape", [(), (2, 3, 1, 1), (2**40, 3)])
def test_wrong_shapes_in_a_record_are_one_line(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(2, 4)
    plan = deploy(model, x, threads=1, clock=NATIVE).plan
    assert plan.graph is not None
    value = Value(shape, ("",) * len(shape), "float32", "cpu")
    graph = tuple(
        msgspec.structs.replace(node, value=value) if node.op == "call_function" else node for node in plan.graph
    )
    wrong = msgspec.structs.replace(plan, graph=graph)
    with pytest.raises(TombolaError, match="of another network") as caught:
        deploy(model, x, plan=wrong)
    assert "\n" not in str(caught.value)
