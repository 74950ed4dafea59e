"""What is folded and what counts as a constant, where no comparison of outputs has to stop compaction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from test_compact_calls import equal, units
from tombola.nn.binary import BinaryActivation


def lively(*norms: nn.Module) -> None:
    """Norms that change what passes them."""
    for norm in norms:
        with torch.no_grad():
            for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                value.uniform_(0.5, 2)  # type: ignore[union-attr, operator]


class Calls(nn.Module):
    """Layers and norms that `forward` may call more than once."""

    def __init__(self, run: Callable[[Calls, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.one, self.two, self.three = (nn.Conv2d(2, 2, 1) for _ in range(3))
        self.norm, self.other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.sign, self.pool = BinaryActivation(), nn.MaxPool2d(2)
        lively(self.norm, self.other)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


FOLDS: dict[str, tuple[Callable[[Calls, Tensor], Tensor], tuple[str, ...]]] = {
    "each behind its layer": (lambda m, x: m.other(m.two(m.norm(m.one(x)).relu())), ("norm", "other")),
    "one norm of two layers": (lambda m, x: m.norm(m.two(m.norm(m.one(x)).relu())), ()),
    "one norm of three layers": (lambda m, x: m.norm(m.three(m.norm(m.two(m.norm(m.one(x)).relu())))), ()),
    "a shared norm, then one's own": (
        lambda m, x: m.other(m.three(m.norm(m.two(m.norm(m.one(x)).relu())).relu())),
        ("other",),
    ),
    "behind a pool, then behind a layer": (lambda m, x: m.other(m.two(m.norm(m.pool(m.one(x))).relu())), ("other",)),
    "of one of a layer's two calls": (lambda m, x: m.one(m.norm(m.one(x)).relu()), ()),
    "of one of a layer's three calls": (lambda m, x: m.one(m.one(m.norm(m.one(x)).relu())), ()),
    "of each of a layer's calls": (lambda m, x: m.other(m.one(m.norm(m.one(x)).relu())), ()),
    "of a layer read elsewhere too": (lambda m, x: m.norm(y := m.one(x)) + y, ()),
    "two of one layer": (lambda m, x: m.norm(y := m.one(x)) + m.other(y), ()),
    "of a layer read thrice": (lambda m, x: m.norm(y := m.one(x)) + y.relu() + y, ()),
    "read elsewhere, then one's own": (
        lambda m, x: m.other(m.two((m.norm(y := m.one(x)) + y).relu())),
        ("other",),
    ),
    "of the input": (lambda m, x: m.two(m.norm(x)), ()),
    "before a discontinuous function": (lambda m, x: m.two(m.sign(m.norm(m.one(x)))), ()),
    "before a discontinuous function, then one's own": (
        lambda m, x: m.other(m.two(m.sign(m.norm(m.one(x))))),
        ("other",),
    ),
}


@pytest.mark.parametrize(("run", "folded"), FOLDS.values(), ids=FOLDS.keys())
def test_a_norm_is_folded_that_alone_reads_a_layer_of_one_call(
    run: Callable[[Calls, Tensor], Tensor], folded: tuple[str, ...]
) -> None:
    assert equal(Calls(run), torch.randn(2, 2, 4, 4)).report.folded == folded


def test_a_norm_over_another_axis_than_the_layers_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    lively(model[1])
    assert equal(model, torch.randn(2, 3, 4)).report.folded == ()
    assert equal(model, torch.randn(2, 4)).report.folded == ("1",)


def test_what_norms_send() -> None:
    for bias in (True, False):
        model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.MaxPool2d(1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
        lively(model[2])
        with torch.no_grad():
            model[0].weight[1], model[0].bias[1] = 0, 4  # a constant enters channel 1
            model[2].weight[2], model[2].bias[2] = 0, 3  # a scale of 0 makes one of whatever enters channel 2
            model[3].weight.fill_(1.0)
            model[3].bias.zero_()
            if not bias:
                model[2].bias = None
            first, norm = model[0], model[2]
            shift = torch.zeros(3) if norm.bias is None else norm.bias
            sent = (4 - norm.running_mean[1]) * (norm.running_var[1] + norm.eps).rsqrt() * norm.weight[1] + shift[1]
            sent += shift[2]
        assert first.weight.shape == (3, 1, 1, 1)
        found = equal(model, torch.randn(2, 1, 4, 4))
        assert units(found, "0") == (3, 1)
        torch.testing.assert_close(found.module.get_parameter("3.bias"), sent[None])


def test_a_norm_without_scale_sends_constants_if_its_statistics_stand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.MaxPool2d(1), nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        model[0].weight[1] = 0
    assert units(equal(model, torch.randn(2, 1, 4, 4)), "0") == (3, 2)


def test_a_constant_is_a_run_of_features_once_flattened() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 2
    want = model[2].bias + 2 * model[2].weight[:, 4:8].sum(1)
    found = equal(model, torch.randn(2, 1, 4, 4))
    assert units(found, "0") == (3, 2)
    torch.testing.assert_close(found.module.get_parameter("2.bias"), want)


def test_constants_beside_a_jump_are_not_trusted() -> None:
    model = nn.Sequential(nn.Linear(2, 5), BinaryActivation(), nn.Linear(5, 1))
    with torch.no_grad():
        model[0].weight[1:] = 0
        model[0].bias[1:] = torch.tensor([0.0, 1e-6, -1e-6, -1e-3])  # 0 and the last are on their sides for sure
        model[2].weight.copy_(torch.tensor([[1.0, 2, 4, 8, 16]]))
        model[2].bias.zero_()
    found = equal(model, torch.randn(4, 2))
    assert units(found, "0") == (5, 3)
    assert found.module.get_parameter("2.weight").tolist() == [[1, 4, 8]]
    assert found.module.get_parameter("2.bias").tolist() == [2 - 16]


class Joined(nn.Module):
    """Two branches multiplied or added; the constants that their units send, None where one varies."""

    def __init__(self, left: list[float | None], right: list[float | None], *, product: bool) -> None:
        super().__init__()
        self.product = product
        self.a, self.b, self.last = nn.Linear(2, len(left)), nn.Linear(2, len(left)), nn.Linear(len(left), 1)
        with torch.no_grad():
            for layer, sent in ((self.a, left), (self.b, right)):
                for unit, constant in enumerate(sent):
                    if constant is not None:
                        layer.weight[unit], layer.bias[unit] = 0, constant
            self.last.weight.copy_(2.0 ** torch.arange(len(left))[None])
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return self.last(a * b if self.product else a + b)


def test_what_products_and_sums_send() -> None:
    left, right = [0, None, 1, None, 2, None], [None, 0, None, 1, 3, None]
    found = equal(Joined(left, right, product=True), torch.randn(4, 2))
    assert (units(found, "a"), units(found, "b")) == ((6, 3), (6, 3))
    assert found.module.get_parameter("last.weight").tolist() == [[4, 8, 32]]
    assert found.module.get_parameter("last.bias").tolist() == [16 * 6]
    found = equal(Joined(left, right, product=False), torch.randn(4, 2))
    assert (units(found, "a"), units(found, "b")) == ((6, 5), (6, 5))
    assert found.module.get_parameter("last.bias").tolist() == [16 * 5]


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_without_a_bias_is_given_one(bias: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2, bias=bias))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 2
    want = 2 * model[2].weight[:, 1] + (model[2].bias if bias else 0)
    found = equal(model, torch.randn(4, 2))
    assert units(found, "0") == (3, 2)
    torch.testing.assert_close(found.module.get_parameter("2.bias"), want)


class Function(nn.Module):
    """A layer called as a function, which has no place for a bias that it was not given."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(2, 4), nn.Parameter(torch.randn(2, 4))
        self.register_parameter("bias", nn.Parameter(torch.randn(2)) if bias else None)
        with torch.no_grad():
            self.first.weight[1:3] = 0
            self.first.bias[1:3] = torch.tensor([3.0, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.first(x), self.weight, self.bias)


def test_a_function_takes_constants_into_the_bias_it_has() -> None:
    assert units(equal(Function(True), torch.randn(4, 2)), "first") == (4, 2)
    assert units(equal(Function(False), torch.randn(4, 2)), "first") == (4, 3)


def test_a_layer_before_a_discontinuous_function_takes_no_constants() -> None:
    for discontinuous, left in ((True, 3), (False, 2)):
        model = nn.Sequential(
            nn.Linear(2, 4),
            nn.ReLU(),
            nn.Linear(4, 3),
            BinaryActivation() if discontinuous else nn.ReLU(),
            nn.Linear(3, 2),
        )
        with torch.no_grad():
            model[0].weight[1:3] = 0
            model[0].bias[1:3] = torch.tensor([3.0, 0.0])
        assert units(equal(model, torch.randn(4, 2)), "0") == (4, left)


class Twice(nn.Module):
    """One layer of two inputs, whose unit 0 sends a constant each time."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.a, self.b, self.shared, self.last = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 1)
        with torch.no_grad():
            for layer, constant in ((self.a, first), (self.b, second)):
                layer.weight[0], layer.bias[0] = 0, constant

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.a(x)).relu() - self.shared(self.b(x)).relu())


@pytest.mark.parametrize(("first", "second", "left"), [(2, 2, 2), (2, 3, 3), (2, 0, 3), (0, 0, 2)])
def test_a_shared_layer_takes_a_constant_that_is_the_same_each_time(first: float, second: float, left: int) -> None:
    found = equal(Twice(first, second), torch.randn(4, 2))
    assert (units(found, "a"), units(found, "b")) == ((3, left), (3, left))
