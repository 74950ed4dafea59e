"""The reader of networks: what torch.export gives, as one functional graph over the model's own tensors."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola.graph.functional import mutable
from tombola.graph.node import batch_axes, is_batched, operation, place, shape_of
from tombola.graph.ops import Norm, OpaqueOp, WeightLayer
from tombola.graph.read import channel_ops
from tombola.graph.reshape import regrouped
from tombola.graph.trace import Untraceable, same_in_training, traced
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear
from tombola.nn.forward import leaves


def read(model: nn.Module, *inputs: Tensor, sizes: tuple[int, ...] = (1, 2, 5)) -> Any:
    """The graph of a model, which gives the model's outputs at other batch sizes."""
    model.eval()
    network = traced(model, inputs, [True] * len(inputs))
    for size in sizes:
        drawn = [torch.randn(size, *x.shape[1:]) for x in inputs]
        with torch.no_grad():
            want, have = copy.deepcopy(model)(*drawn), copy.deepcopy(network)(*drawn)
        assert type(want) is type(have)
        torch.testing.assert_close(leaves(have), leaves(want), rtol=1e-4, atol=1e-5)
    return network


def calls(network: Any) -> list[str]:
    return [operation(node) for node in network.graph.nodes if node.op == "call_function"]


class Of(nn.Module):
    """A function of one input after a convolution."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


# ---- what is read ----------------------------------------------------------------------------------------------------

VISION: dict[str, Callable[[], nn.Module]] = {
    "resnet-18": torchvision.models.resnet18,
    "mobilenet-v2": torchvision.models.mobilenet_v2,
    "mobilenet-v3": torchvision.models.mobilenet_v3_small,
    "efficientnet-b0": torchvision.models.efficientnet_b0,
    "convnext-tiny": torchvision.models.convnext_tiny,
    "vit": lambda: torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    ),
}


@pytest.mark.parametrize("name", VISION)
def test_torchvision_networks_are_read_whole(name: str) -> None:
    model = VISION[name]()
    network = read(model, torch.randn(2, 3, 64, 64), sizes=(1, 3))
    assert dict(network.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert all(p is dict(model.named_parameters())[n] for n, p in network.named_parameters())
    assert not any(mutable(node) for node in network.graph.nodes)
    assert not {"_native_batch_norm_legit_no_training", "getitem"} & set(calls(network))


def test_resnet_18_has_eight_operations() -> None:
    network = traced(torchvision.models.resnet18().eval(), (torch.randn(2, 3, 64, 64),), [True])
    assert Counter(calls(network)) == {
        "conv2d": 20, "batch_norm": 20, "relu": 17, "add": 8, "max_pool2d": 1, "adaptive_avg_pool2d": 1, "flatten": 1,
        "linear": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "shape", "name"),
    [
        (nn.LSTM(3, 4, batch_first=True), (2, 5, 3), "lstm"),
        (nn.GRU(3, 4, batch_first=True), (2, 5, 3), "gru"),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8), "scaled_dot_product_attention"),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.Hardswish()), (2, 2, 9), "hardswish"),
        (nn.Sequential(nn.Conv3d(2, 3, 3), nn.GroupNorm(3, 3)), (2, 2, 5, 5, 5), "group_norm"),
        (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU()), (2, 3, 4), "layer_norm"),
        (nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.SiLU()), (2, 2, 5, 5), "conv_transpose2d"),
    ],
)
def test_operations_keep_their_names(model: nn.Module, shape: tuple[int, ...], name: str) -> None:
    assert name in calls(read(model, torch.randn(shape)))


def in_place_then_view(y: Tensor) -> Any:
    z = y[:, :2]
    y += 1
    return z, y.relu_()


def sliced_write(y: Tensor) -> Tensor:
    y[:, 1] = 0
    return y * 2


@pytest.mark.parametrize(
    "function",
    [
        in_place_then_view,
        sliced_write,
        lambda y: y.add_(1).relu_().mul_(2),
        lambda y: F.dropout(F.hardtanh(y, inplace=True), 0.5, training=False, inplace=True),
        lambda y: y.flatten(1).clamp_(min=0),
        lambda y: torch.addcmul(y, y, y).transpose_(1, 2),
    ],
)
def test_writes_become_values(function: Callable[[Tensor], Any]) -> None:
    network = read(Of(function), torch.randn(2, 3, 6, 6))
    assert not any(mutable(node) for node in network.graph.nodes)


class Counting(nn.Module):
    """A buffer that every call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.lerp_(x.mean(0), 0.5)
        out: Tensor = self.layer(x) + self.seen
        return out


def test_buffers_go_on() -> None:
    model = Counting().eval()
    network, x = traced(model, (torch.randn(2, 3),), [True]), torch.randn(4, 3)
    other = copy.deepcopy(network)
    for _ in range(3):
        torch.testing.assert_close(other(x), model(x))
    torch.testing.assert_close(dict(other.named_buffers())["seen"], model.seen)


@dataclass
class Answer:
    scores: Tensor
    more: dict[str, Tensor]


@pytest.mark.parametrize(
    "function",
    [
        lambda y: {"a": y, "b": (y.relu(), [y + 1])},
        lambda y: Answer(y, {"twice": 2 * y}),
        lambda y: (y, None, 3),
        lambda y: [y.chunk(2, 1)[0]],
    ],
)
def test_outputs_keep_their_containers(function: Callable[[Tensor], Any]) -> None:
    read(Of(function), torch.randn(2, 3, 6, 6))


def test_tied_weights_have_the_first_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    network = read(model, torch.randn(2, 3))
    assert {name for name, _ in network.named_parameters()} == {"0.weight", "0.bias", "2.bias"}


def test_binary_layers_stay_whole() -> None:
    model = nn.Sequential(
        BinaryConv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), BinaryActivation(), nn.Flatten(), BinaryLinear(64, 3)
    )
    assert calls(read(model, torch.randn(2, 2, 4, 4))) == [
        "binary_layer",
        "batch_norm",
        "binary_sign",
        "flatten",
        "binary_layer",
    ]


def test_hooks_are_part_of_what_is_read() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, args, out: out * 2)
    model[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    assert calls(read(model, torch.randn(2, 3))) == ["linear", "mul", "add", "linear"]


# ---- the batch -------------------------------------------------------------------------------------------------------


def test_the_batch_is_a_symbol() -> None:
    network = read(Of(lambda y: y.mean((2, 3))), torch.randn(1, 3, 6, 6))
    values = [node for node in network.graph.nodes if shape_of(node) and node.op != "get_attr"]
    assert all(is_batched(node) and batch_axes(node) == (0,) for node in values)
    assert {shape_of(node) for node in values} == {(2, 3, 6, 6), (2, 4, 4, 4), (2, 4)}


def test_a_batch_in_the_code_is_fixed() -> None:
    model = Of(lambda y: y.view(2, 64)).eval()
    network = traced(model, (torch.randn(2, 3, 6, 6),), [True])
    assert not any(batch_axes(node) for node in network.graph.nodes)
    assert torch.equal(network(x := torch.randn(2, 3, 6, 6)), model(x))


def test_what_depends_on_values_cannot_be_read() -> None:
    with pytest.raises(Untraceable, match="cannot follow it"):
        traced(Of(lambda y: y if y.sum() > 0 else -y).eval(), (torch.randn(2, 3, 6, 6),), [True])


def test_the_model_is_left_as_it_is() -> None:
    model = Of(lambda y: y.relu_()).train()
    before = copy.deepcopy(model.state_dict())
    traced(model.eval(), (torch.randn(2, 3, 6, 6),), [True])
    assert {name: type(module) for name, module in model.named_modules()} == {"": Of, "conv": nn.Conv2d}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Moody(nn.Module):
    """Another network in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x))
        return out.relu() if self.training else out


@pytest.mark.parametrize(("model", "same"), [(Moody(), False), (nn.Sequential(Moody().norm, nn.Dropout()), True)])
def test_whether_train_mode_is_the_same(model: nn.Module, same: bool) -> None:
    x = (torch.randn(2, 3),)
    network = traced(model.eval(), x, [True])
    if same:
        same_in_training(model, network, x)
        return
    with pytest.raises(Untraceable, match="depends on the mode"):
        same_in_training(model, network, x)


# ---- the table -------------------------------------------------------------------------------------------------------


def test_layers_and_norms_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.Softmax(1)).eval()
    network = traced(model, (torch.randn(2, 2, 5, 5),), [True])
    ops = [op for op in channel_ops(network, model, training=False).values()]
    (layer,) = (op for op in ops if isinstance(op, WeightLayer))
    assert (layer.name, layer.weight_name, layer.bias_name) == ("0", "0.weight", "0.bias")
    assert (layer.groups, layer.unpadded, layer.axis, layer.module) == (2, False, 1, True)
    (norm,) = (op for op in ops if isinstance(op, Norm))
    assert (norm.name, norm.fixed, norm.channels, norm.module) == ("1", True, 4, True)
    (opaque,) = (op for op in ops if isinstance(op, OpaqueOp))
    assert opaque.reason == "softmax is not known"


def test_places_name_module_and_line() -> None:
    network = traced(nn.Sequential(Of(lambda y: y.cumsum(1))).eval(), (torch.randn(2, 3, 6, 6),), [True])
    where = {operation(node): place(node) for node in network.graph.nodes if node.op == "call_function"}
    assert where["conv2d"] == "0.conv"
    assert where["cumsum"].startswith("0 (line ")
    assert where["cumsum"].endswith("of test_graph.py)")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_labels_follow_a_reshape(before: list[int], data: st.DataObject) -> None:
    """A value whose entries are their own label, reshaped, has the labels along the axis where they are said to be."""
    total, after = prod(before), list[int]()
    while total > 1:
        after.append(data.draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0 and n > 1])))
        total //= after[-1]
    after = after or [1]
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(before) - 1), min_size=1))))
    labels = torch.arange(prod(before[axis] for axis in axes)).reshape([before[axis] for axis in axes])
    value = labels.reshape([n if i in axes else 1 for i, n in enumerate(before)]).expand(before)
    moved = regrouped(tuple(before), tuple(after)).moved(axes, labels)
    assert moved is not None
    where, along = moved
    want = along.reshape([n if i in where else 1 for i, n in enumerate(after)]).expand(after)
    assert torch.equal(value.reshape(after), want)
