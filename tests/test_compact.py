"""Compaction: what goes, what stays, and that the outputs are the network's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola.compact import Compacted, compact
from tombola.errors import TombolaError
from tombola.models.registry import build_network
from tombola.nn.binary import BinaryActivation, BinaryLinear, use_binary_layers_
from tombola.parameters import prunable


def check(model: nn.Module, *example: Tensor, **options: bool) -> Compacted:
    """Compact, and compare on the example, on large inputs and on another batch size."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = compact(model, *example, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        for inputs in (example, tuple(1000 * x for x in example), tuple(torch.cat([x, x]) for x in example)):
            want, have = model(*inputs), found.module(*inputs)
            assert float((want - have).abs().max()) <= 1e-4 * max(float(want.abs().max()), 1e-30)
    assert found.report.error <= 1e-4
    return found


def units(found: Compacted) -> dict[str, tuple[int, int]]:
    return {layer.name: layer.units for layer in found.report.layers}


def set_(layer: nn.Linear | nn.Conv2d, weight: list[list[float]], bias: list[float] | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(torch.tensor(bias))


def shape(found: Compacted, name: str) -> tuple[int, ...]:
    return tuple(found.module.get_parameter(f"{name}.weight").shape)


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_an_unread_unit_and_a_constant_one() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    # unit 1 has no input: relu(3) = 3; unit 2 has none either: relu(-1) = 0; nobody reads unit 3
    set_(model[0], [[1, 2], [0, 0], [0, 0], [5, 6]], [0.5, 3, -1, 0])
    set_(model[2], [[1, 2, 7, 0], [3, -1, 7, 0]], [10, 20])
    found = check(model, torch.randn(5, 2))
    assert found.module.get_parameter("0.weight").tolist() == [[1, 2]]
    assert found.module.get_parameter("2.weight").tolist() == [[1], [3]]
    assert found.module.get_parameter("2.bias").tolist() == [16, 17]  # 10 + 2·3, 20 - 1·3
    assert found.report.constants == {"2": 1}
    assert units(found) == {"0": (4, 1), "2": (2, 2)}


def test_removal_makes_others_dead() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    set_(model[0], [[1, 1], [1, -1]])
    set_(model[2], [[1, 0], [0, 1]])
    set_(model[4], [[1, 0]])  # nobody reads unit 1 of the second layer, so nobody needs unit 1 of the first
    assert units(check(model, torch.randn(3, 2))) == {"0": (2, 1), "2": (2, 1), "4": (1, 1)}


def test_a_norm_is_folded_with_its_eps() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1.0))
    set_(model[0], [[2.0]], [1])
    norm = model[1]
    for tensor, value in ((norm.running_mean, 3), (norm.running_var, 3), (norm.weight, 5), (norm.bias, 7)):
        tensor.data.fill_(value)
    found = check(model, torch.randn(2, 1, 4, 4))
    assert found.report.folded == ("1",)
    # 5 / sqrt(3 + 1) = 2.5; weight 2·2.5, bias 7 + (1 - 3)·2.5
    assert found.module.get_parameter("0.weight").item() == 5.0
    assert found.module.get_parameter("0.bias").item() == 2.0


def test_a_constant_passes_a_norm_with_its_eps() -> None:
    pool = nn.MaxPool2d(2)  # between layer and norm, so that the norm stays
    model = nn.Sequential(nn.Conv2d(1, 2, 1), pool, nn.BatchNorm2d(2, eps=1.0), nn.Conv2d(2, 1, 1))
    set_(model[0], [[1.0], [0.0]], [0, 7])  # channel 1 sends 7
    norm = model[2]
    for tensor, value in ((norm.running_mean, 3), (norm.running_var, 3), (norm.weight, 5), (norm.bias, 1)):
        tensor.data.fill_(value)
    set_(model[3], [[1.0, 2.0]], [0.5])
    found = check(model, torch.randn(2, 1, 4, 4))
    assert units(found)["0"] == (2, 1)
    # (7 - 3)·5 / sqrt(3 + 1) + 1 = 11
    assert found.module.get_parameter("3.bias").item() == 0.5 + 2 * 11


@pytest.mark.parametrize("padding", [0, 1])
def test_a_padded_convolution_keeps_a_constant_but_zero(padding: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 3, padding=padding), nn.ReLU())
    set_(model[0], [[1.0], [0.0], [0.0]], [0.5, 2, 0])  # channel 1 sends 2, channel 2 sends 0
    assert units(check(model, torch.randn(2, 1, 5, 5)))["0"] == ((3, 2) if padding else (3, 1))


def test_norms_are_folded_and_constants_pass_them() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[0].weight[1] = 0
        for value in (model[1].running_mean, model[1].running_var, model[1].weight, model[1].bias):
            value.uniform_(0.5, 2)  # type: ignore[union-attr]
    found = check(model, torch.randn(2, 1, 5, 5))
    assert found.report.folded == ("1",)
    assert units(found)["0"] == (3, 2)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in found.module.modules())


def test_norms_that_compute_statistics_stop_what_passes_them() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[0].weight[1] = 0  # a constant in eval mode only
        model[3].weight[:, 2] = 0  # unread in any mode
    found = check(model, torch.randn(2, 1, 5, 5), fold_norms=False)
    assert found.report.folded == ()
    assert units(found)["0"] == (3, 2)
    norm = found.module.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_features == 2
    x = torch.randn(4, 1, 5, 5)
    torch.testing.assert_close(found.module.train()(x), model.train()(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 1)
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(F.relu(self.one(x) + self.two(x)))
        return out


def test_an_addition_keeps_what_one_branch_sends() -> None:
    model = Residual()
    with torch.no_grad():
        model.one.weight[0] = model.one.bias[0] = 0  # dead on one branch only
        for layer in (model.one, model.two):
            layer.weight[1] = layer.bias[1] = 0  # dead on both
        model.last.weight[:, 2] = 0  # unread
    assert units(check(model, torch.randn(2, 2, 4, 4))) == {"one": (3, 1), "two": (3, 1), "last": (2, 2)}


class Concatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(2, 3), nn.Linear(2, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.cat([self.one(x).relu(), self.two(x)], 1))
        return out


def test_concatenated_channels_go_one_by_one() -> None:
    model = Concatenation()
    with torch.no_grad():
        model.last.weight[:, [1, 4]] = 0
    found = check(model, torch.randn(3, 2))
    assert units(found) == {"one": (3, 2), "two": (2, 1), "last": (2, 2)}
    assert shape(found, "last") == (2, 3)


def test_flattened_channels_are_runs_of_features() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model[3].weight[:, 4:8] = 0  # all of channel 1
        model[3].weight[:, 8:11] = 0  # some of channel 2
    assert shape(check(model, torch.randn(2, 1, 6, 6)), "3") == (2, 8)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.layer(self.layer(x).relu()))
        return out


def test_a_shared_layer_holds_for_all_its_calls() -> None:
    model = Shared()
    with torch.no_grad():
        model.last.weight[:, 0] = 0  # unread here, but the input x[0] is read by the same layer
    assert units(check(model, torch.randn(4, 3)))["layer"] == (3, 3)


def test_depthwise_and_grouped_convolutions_go_by_groups() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[3].weight[:, 2] = 0
    found = check(model, torch.randn(2, 1, 4, 4))
    assert units(found) == {"0": (4, 3), "1": (4, 3), "3": (2, 2)}
    assert found.module.get_submodule("1").groups == 3
    pairs = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        pairs[2].weight[:, 2] = 0  # half of a group stays whole
    assert units(check(pairs, torch.randn(2, 1, 4, 4)))["1"] == (4, 4)
    with torch.no_grad():
        pairs[2].weight[:, 3] = 0
        pairs[1].weight[2:] = 0
    assert units(check(pairs, torch.randn(2, 1, 4, 4)))["1"] == (4, 2)


def test_dead_units_before_signs_send_plus_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3), BinaryActivation(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1] = model[0].bias[1] = 0
    found = check(model, torch.randn(6, 3))
    assert units(found)["0"] == (3, 2)  # sign(0) = +1 went into the bias
    assert found.report.constants == {"2": 1}


def test_binary_layers_take_no_constants() -> None:
    model = nn.Sequential(nn.Linear(3, 3), BinaryActivation(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1] = model[0].bias[1] = 0
        model[2].weight.copy_(0.5 * torch.tensor([[1, -1, 0], [1, 1, 0]]))
    use_binary_layers_(model, ["2.weight"])
    found = check(model, torch.randn(6, 3))
    assert units(found)["0"] == (3, 2)  # only the unread one
    assert isinstance(found.module.get_submodule("2"), BinaryLinear)


def test_a_dead_network_is_a_constant() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight.zero_()
    found = check(model, torch.randn(4, 3))
    assert units(found) == {"0": (5, 1), "2": (2, 2)}
    assert found.module(torch.randn(7, 3)).shape == (7, 2)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2, 4))
        self.bias = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.sigmoid(F.linear(x, self.first)), self.second, self.bias)


def test_functional_layers() -> None:
    model = Functional()
    with torch.no_grad():
        model.first[0] = 0  # sends sigmoid(0) = 0.5
        model.second[:, 1] = 0
    found = check(model, torch.randn(4, 3))
    assert found.module.get_parameter("first").shape == (2, 3)
    assert found.module.get_parameter("second").shape == (2, 2)


@pytest.mark.parametrize("opaque", [nn.LayerNorm(4), nn.Softmax(1)])
def test_opaque_operations_stay_whole_and_are_named(opaque: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 4), opaque, nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    found = check(model, torch.randn(3, 2))
    assert units(found)["0"] == (4, 4)
    assert list(found.report.opaque) == ["1"]
    why = {nn.LayerNorm: "its statistics are of all channels", nn.Softmax: "softmax is not known"}[type(opaque)]
    assert f"1 stays whole: {why}" in str(found.report)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_is_left() -> None:
    found = compact(Branching(), torch.ones(2))
    assert found.report.reason
    assert "not compacted" in str(found.report)
    assert found.module(-torch.ones(2)).tolist() == [1, 1]


class InPlace(nn.Module):
    """y += x changes what z is, too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = z = self.one(x)
        y += x
        out: Tensor = F.relu(self.two(z) - 1e6) + y[:, :2] * 0
        return out


def test_what_is_written_in_place_is_seen_through_every_name() -> None:
    x = torch.ones(2, 3)
    model = InPlace()
    found = compact(model, x)
    assert found.report.reason is None
    with torch.no_grad():
        model.two.bias.fill_(2e6)  # the outputs were 0 all the same
        assert torch.equal(compact(model, x).module(x), model(x))


def test_what_would_change_the_outputs_is_left() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).eval()
    set_(model[0], [[1.0]], [1e6])
    with torch.no_grad():
        model[1].running_mean.fill_(1e6)  # type: ignore[union-attr, operator]
        model[1].running_var.fill_(1e6)  # type: ignore[union-attr, operator]
    found = compact(model, torch.tensor([[1 / 3]]))  # the bias and the mean cancel, but not their rounded product
    assert "would change" in str(found.report)  # as a whole: its layers are looked at one by one
    assert isinstance(found.module[1], nn.BatchNorm1d)  # type: ignore[index]


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(TombolaError, match=r"cannot run on inputs of shape \(2, 5\)"):
        compact(nn.Linear(3, 2), torch.zeros(2, 5))
    with pytest.raises(TombolaError, match="no example"):
        compact(nn.Linear(3, 2))


# ---- properties ------------------------------------------------------------------------------------------------------


def sparse_(model: nn.Module, density: float, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prunable(model).values():
            weight.mul_(torch.rand(weight.shape, generator=generator) < density)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for value in (module.running_mean, module.running_var, module.weight, module.bias):
                    if value is not None:
                        value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model.eval()


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(6, 6), nn.ReLU()))),
    "conv": lambda: nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3), nn.Tanh(),
        nn.AvgPool2d(2, padding=1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(24, 3),
    ),
    "resnet": lambda: build_network("resnet-20", input_shape=(2, 8, 8), classes=3, args={"width": 0.25}),
}  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(BUILDERS)), st.sampled_from([0.02, 0.1, 0.3]), st.integers(0, 1000))
def test_random_networks_keep_their_outputs(kind: str, density: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = sparse_(BUILDERS[kind](), density, seed)
    x = torch.randn(2, 6) if kind == "mlp" else torch.randn(2, 2, 8, 8)
    found = check(model, x)
    again = compact(found.module, x)
    assert [layer.weights[0] for layer in again.report.layers] == [layer.weights[1] for layer in again.report.layers]
    assert again.report.flops[0] == found.report.flops[1]


class Turned(nn.Module):
    """A square value that is read along its other axis: what the units send are not the next layer's inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(x).transpose(1, 2))
        return out


def test_channels_are_told_by_their_axis() -> None:
    model = Turned()
    with torch.no_grad():
        model.one.weight[1] = 0
    assert units(check(model, torch.randn(2, 4, 4))) == {"one": (4, 4), "two": (2, 2)}
    convolved = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Linear(4, 2))  # channels on axis 1, then on the last
    with torch.no_grad():
        convolved[0].weight[1] = 0
    assert units(check(convolved, torch.randn(2, 4, 4))) == {"0": (4, 4), "1": (2, 2)}


def test_two_norms_in_a_row_are_both_folded() -> None:
    model = sparse_(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)), 1.0, 0)
    assert check(model, torch.randn(2, 1, 5, 5)).report.folded == ("1", "2")


class Circle(nn.Module):
    """Two residual blocks; a channel that they hand on to each other and nobody else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.last = (nn.Linear(3, 3) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.one(x).relu()
        x = x + self.two(x).relu()
        out: Tensor = self.last(x)
        return out


def test_channels_that_only_feed_themselves_go() -> None:
    model = Circle()
    with torch.no_grad():
        model.last.weight[:, 1] = 0
        for layer in (model.one, model.two):
            layer.weight[[0, 2], 1] = 0  # channel 1 is read for channel 1 alone
    assert units(check(model, torch.randn(4, 3))) == {"first": (3, 2), "one": (3, 2), "two": (3, 2), "last": (3, 3)}


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_a_network_that_draws_gives_the_same_at_the_same_random_state() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2), Noisy())
    with torch.no_grad():
        model[0].weight[1:3], model[0].bias[1:3] = 0, 0
    found = compact(model, torch.randn(3, 2))
    assert units(found)["0"] == (4, 2)
    x = torch.randn(5, 2)
    torch.manual_seed(3)
    want = model(x)
    torch.manual_seed(3)
    torch.testing.assert_close(found.module(x), want)
