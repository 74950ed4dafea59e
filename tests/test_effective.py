"""Whatever computes, ties or holds a network's weights: deployed and compacted it gives what it gave."""

from __future__ import annotations

import functools
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import tombola
import weight_kinds
from clocks import NATIVE
from tombola.compact import compact
from tombola.compact.effective import plain_copy
from tombola.errors import TombolaError

deploy = partial(tombola.deploy, clock=NATIVE)


def state(model: nn.Module) -> list[Any]:
    """What may not change: values, names, modes, hooks."""
    parts = model.named_modules()
    return [
        {name: value.clone() for name, value in model.state_dict().items()},
        [(name, type(part), part.training, len(part._forward_pre_hooks)) for name, part in parts],
    ]


@pytest.mark.parametrize("kind", weight_kinds.CHANGES)
def test_outputs_are_the_networks_own(kind: str) -> None:
    model = weight_kinds.build(kind)
    x, other = torch.randn(3, weight_kinds.WIDTH), torch.randn(5, weight_kinds.WIDTH)
    before = state(model)
    small, fast = compact(model, x).module, deploy(model, x, threads=1)
    after = state(model)
    assert after[1] == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in after[0].items())
    model.eval()
    with torch.no_grad():
        for y in (x, other):
            want = model(y)
            for network in (small, fast):
                assert float((network(y) - want).abs().max()) <= 1e-5 * float(want.abs().max())


@pytest.mark.parametrize("kind", [kind for kind in weight_kinds.CHANGES if kind not in ("assigned", "plain attribute")])
def test_nothing_is_attached_any_more(kind: str) -> None:
    plain = plain_copy(weight_kinds.build(kind), [torch.randn(2, weight_kinds.WIDTH)])
    assert not any(map(parametrize.is_parametrized, plain.modules()))
    names = set(dict(plain.named_parameters()))
    assert not [name for name in names if name.endswith(("_orig", "_g", "_v"))]
    assert not [name for name, _ in plain.named_buffers() if name.endswith(("_mask", "_u"))]


def test_a_computed_weight_is_tied_to_nothing_and_trains_as_before() -> None:
    model = weight_kinds.build("tied, head pruned")
    plain = plain_copy(model, [torch.randn(2, weight_kinds.WIDTH)])
    assert plain.head.weight is not plain.first.weight
    assert int((plain.head.weight == 0).sum()) > int((plain.first.weight == 0).sum())
    assert plain.head.weight.requires_grad
    assert plain_copy(weight_kinds.build("tied"), [torch.randn(2, 6)]).head.weight.requires_grad
    both = plain_copy(weight_kinds.build("tied parametrisations"), [torch.randn(2, 6)])
    assert both.head.weight is both.first.weight


def test_buffers_that_are_parametrised_stay_buffers() -> None:
    model = nn.BatchNorm1d(3)
    parametrize.register_parametrization(model, "running_mean", weight_kinds.Twice())
    assert "running_mean" in dict(plain_copy(model, [torch.randn(2, 3)]).named_buffers())


def test_wrapped_models_are_what_they_are_of() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.DataParallel(nn.Linear(4, 2)))
    plain = plain_copy(nn.DataParallel(model), [torch.randn(2, 4)])
    assert set(plain.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}


class Counting(prune.BasePruningMethod):
    """A mask that is another one at every call."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask

    def apply_mask(self, module: nn.Module) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        weight: Tensor = module.weight_orig
        return weight * self.calls


def test_weights_that_change_from_call_to_call_are_refused() -> None:
    model = nn.Linear(3, 3)
    Counting.apply(model, "weight")

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.inner(x)

    with pytest.raises(TombolaError, match=r"\(inner\.weight\) .* not the same at every call") as caught:
        deploy(Outer(), torch.randn(2, 3))
    assert "\n" not in str(caught.value)


class Stateful(nn.Module):
    """Counts its calls in a buffer, in an attribute and in a list; its weight is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.mean, self.seen = torch.zeros(()), [1.0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.a(x)
        self.mean = 0.5 * self.mean + y.mean()
        self.seen.append(float(len(self.seen)))
        return y * self.calls + self.mean + sum(self.seen)


def test_a_pruned_network_goes_on_from_its_present_state() -> None:
    model, other = Stateful().eval(), Stateful().eval()
    other.load_state_dict(model.state_dict())
    for one in (model, other):
        prune.l1_unstructured(one.a, "weight", 0.5)
    x = torch.randn(5, 4)
    plain, deployed = plain_copy(model, (x,)), deploy(model, x, threads=1)
    assert (float(model.calls), len(model.seen), float(model.mean)) == (0, 1, 0)
    with torch.no_grad():
        for _ in range(3):
            want = other(x)
            assert torch.equal(plain(x), want)
            torch.testing.assert_close(deployed(x), want)


class Child(nn.Module):
    """Reads its parent by a weak reference, as many libraries do to leave it out of the state dict."""

    def __init__(self, parent: nn.Module, kind: str) -> None:
        super().__init__()
        ref = weakref.ref(parent)
        self.held: Any = {"plain": ref, "list": [ref], "tuple": (ref,), "dict": {"parent": ref}}[kind]

    def forward(self, x: Tensor) -> Tensor:
        held = self.held["parent"] if isinstance(self.held, dict) else self.held
        return (held[0] if isinstance(held, list | tuple) else held)().b(x)


class Parent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.child = Child(self, kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.child(self.a(x).relu())


@pytest.mark.parametrize("kind", ["plain", "list", "tuple", "dict"])
def test_a_copy_does_not_call_the_model_by_weak_references(kind: str) -> None:
    model, x = Parent(kind), torch.randn(5, 4)
    deployed = deploy(model, x, threads=1)
    with torch.no_grad():
        want = model(x)
        model.b.weight.zero_()
        torch.testing.assert_close(deployed(x), want)
    del model
    torch.testing.assert_close(deployed(x), want)


def test_a_cached_method_that_would_call_the_model_is_refused() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)
            self.total = functools.lru_cache(self.of)

        def of(self, power: int) -> float:
            return float(self.a.weight.detach().sum()) ** power

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * self.total(2)

    with pytest.raises(TombolaError, match="would go on calling the original") as caught:
        deploy(Cached(), torch.randn(2, 4))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_copied_is_one_line() -> None:
    import threading

    model = nn.Linear(3, 3)
    model.lock = threading.Lock()
    for call in (deploy, compact):
        with pytest.raises(TombolaError, match="cannot be copied: TypeError") as caught:
            call(model, torch.randn(2, 3))
        assert "\n" not in str(caught.value)


class Narrow(nn.Module):
    """Layers without units."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(*sizes[:2]), nn.Linear(*sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).relu())
        return out


def sparse_weights() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].weight = nn.Parameter(model[0].weight.detach().to_sparse_csr(), requires_grad=False)
    return model


def exported() -> nn.Module:
    return torch.export.export(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (torch.randn(2, 4),)).module()


@pytest.mark.parametrize(
    ("make", "width"),
    [
        (lambda: Narrow((4, 0, 3)), 4),
        (lambda: Narrow((4, 3, 0)), 4),
        (lambda: Narrow((0, 3, 2)), 0),
        (sparse_weights, 4),
        (exported, 4),
        (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU())), 4),
    ],
    ids=["no units", "no outputs", "no inputs", "sparse weights", "exported", "traced"],
)
def test_odd_modules_work(make: Any, width: int) -> None:
    model, x = make(), torch.randn(2, width)
    want = model(x).detach()
    for network in (compact(model, x).module, deploy(model, x, threads=1)):
        torch.testing.assert_close(network(x), want)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.jit.script(nn.Linear(4, 3)), "the model is TorchScript"),
        (lambda: nn.Sequential(torch.jit.trace(nn.Linear(4, 3), torch.randn(2, 4))), "0 is TorchScript"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "'0.weight' has no shape yet"),
        (lambda: nn.Linear(4, 3).state_dict(), "cannot be deployed|must be a Ticket or a Module"),
        (lambda: nn.Linear, "cannot be deployed|must be a Ticket or a Module"),
    ],
    ids=["script", "a part", "lazy", "state_dict", "class"],
)
def test_what_is_no_network_is_one_line(make: Any, said: str) -> None:
    model, x = make(), torch.randn(2, 4)
    for call in (deploy, compact):
        with pytest.raises(TombolaError) as caught:
            call(model, x)
        assert any(words in str(caught.value) for words in said.split("|"))
        assert "\n" not in str(caught.value)
