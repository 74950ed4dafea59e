"""What deploy and compact give equals the network in eval mode for every input that it takes, or they say no."""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from clocks import NATIVE
from deployed_networks import ODD, Between, thinned
from tombola.compact import compact
from tombola.compact.checks import checks_of
from tombola.compact.compare import EQUAL, difference
from tombola.compact.inputs import inputs_like
from tombola.deploy.deploy import Deployed
from tombola.errors import TombolaError
from tombola.parameters import prunable

deploy = partial(tb.deploy, clock=NATIVE)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def seeded_call(network: Callable[..., Any], inputs: tuple[Tensor, ...], seed: int) -> Any:
    torch.manual_seed(seed)
    random.seed(seed)
    with torch.no_grad():
        return network(*(x.clone() for x in inputs))


def check(model: nn.Module, network: Callable[..., Any], *inputs: Tensor) -> None:
    """The same answers to the same calls, twice in a row, or a TombolaError, also where the model itself refuses."""
    for seed in (1, 2):
        try:
            want = seeded_call(model, inputs, seed)
        except Exception:
            return
        assert difference(want, seeded_call(network, inputs, seed)) <= EQUAL


def states() -> tuple[Any, ...]:
    found: Any = np.random.get_state()[1]
    return torch.get_rng_state().tolist(), random.getstate(), found.tolist()


@pytest.mark.parametrize("make", [pair[0] for pair in ODD.values()], ids=ODD.keys())
def test_odd_networks_are_equal_or_refused(make: Callable[[], nn.Module], request: pytest.FixtureRequest) -> None:
    shape = ODD[request.node.callspec.id][1]
    model = thinned(make())
    reference, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    modes, random_states = [module.training for module in model.modules()], states()
    deployed = deploy(model, torch.zeros(shape), threads=1)  # the example hides all that it can
    assert states() == random_states
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for batch in (shape[0], 5, 1, 0):
        inputs = torch.randn(batch, *shape[1:])
        refused = contextlib.nullcontext() if batch == shape[0] else contextlib.suppress(TombolaError)
        with refused:
            check(reference, deployed, inputs)


@pytest.mark.parametrize("make", [pair[0] for pair in ODD.values()], ids=ODD.keys())
def test_odd_networks_are_compacted_exactly(make: Callable[[], nn.Module], request: pytest.FixtureRequest) -> None:
    shape = ODD[request.node.callspec.id][1]
    model = thinned(make())
    reference, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    found = compact(model, torch.zeros(shape))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.report.error <= EQUAL
    for batch in (shape[0], 5):
        check(reference, found.module, torch.randn(batch, *shape[1:]))


def test_what_a_network_is_not_read_whole_for_is_said() -> None:
    model = thinned(ODD["a list that grows"][0]())
    report = deploy(model, torch.randn(4, 8), threads=1).report
    assert "changes the network's own attributes" in report.dense["the model"]


class Laid(nn.Module):
    def __init__(self, ask: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.a, self.ask = nn.Conv2d(3, 4, 3, padding=1), ask

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return 2 * y if self.ask(x) else y


@pytest.mark.parametrize(
    "ask",
    [Tensor.is_contiguous, lambda x: x.stride(1) == 1, lambda x: x.contiguous().data_ptr() == x.data_ptr()],
    ids=["is_contiguous", "stride", "data_ptr"],
)
def test_what_depends_on_the_layout_of_its_inputs(ask: Callable[[Tensor], bool]) -> None:
    model = thinned(Laid(ask)).eval()
    x = torch.randn(2, 3, 4, 4)
    deployed, small = deploy(model, x, threads=1, clock=NATIVE), compact(model, x).module
    for inputs in (x, x.to(memory_format=torch.channels_last), torch.randn(5, 3, 4, 4)):
        check(model, deployed, inputs)
        check(model, small, inputs)


# ---- the state of others ---------------------------------------------------------------------------------------------


def test_a_network_with_state_goes_on_from_where_it_is_and_by_itself() -> None:
    model = thinned(ODD["a buffer that counts"][0]())
    x = torch.randn(3, 8)
    with torch.no_grad():
        model(x)
    deployed = deploy(model, x, threads=1)
    with torch.no_grad():
        assert difference(model(x), deployed(x)) <= EQUAL
        deployed(x)
    assert float(model.c) == 2  # type: ignore[arg-type]


class Shared(nn.Module):
    """A helper that a function of the model calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(8, 4), nn.Dropout(0.5)
        self.helper = lambda x: self.drop(self.layer(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.helper(x)


def test_functions_that_hold_the_model_see_the_copy() -> None:
    model, x = Shared().train(), torch.randn(3, 8)
    deployed = deploy(model, x, threads=1)
    want = model.eval()(x)
    with torch.no_grad():
        model.layer.weight.zero_()
    model.train()
    torch.testing.assert_close(deployed(x), want.detach())


NET = nn.Sequential(nn.Linear(8, 4))


def test_functions_that_use_the_model_by_a_global_name_are_refused() -> None:
    NET.forward = lambda x: NET[0](x) * 2  # type: ignore[method-assign]
    with pytest.raises(TombolaError, match="by a global name") as caught:
        deploy(NET, torch.randn(2, 8))
    assert len(str(caught.value).splitlines()) == 1


def test_an_attribute_may_be_called_as_a_global_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Coded(nn.Module):
        def __init__(self, code: Callable[[Any, Tensor], Tensor]) -> None:
            super().__init__()
            self.code, self.NET = code, nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.code(self, x)

    model, x = Coded(lambda self, x: self.NET(x)).eval(), torch.randn(2, 8)
    monkeypatch.setitem(globals(), "NET", model)
    with torch.no_grad():
        assert difference(model(x), deploy(model, x, threads=1)(x)) <= EQUAL
    model.code = lambda self, x: (lambda y: NET.NET(y))(x)
    with pytest.raises(TombolaError, match="by a global name"):
        deploy(model, x)


def test_what_cannot_be_copied_is_one_line() -> None:
    import threading

    model = nn.Sequential(nn.Linear(8, 4))
    model.lock = threading.Lock()  # type: ignore[assignment]
    for call in (deploy, compact):
        with pytest.raises(TombolaError, match="cannot be copied") as caught:
            call(model, torch.randn(2, 8))  # type: ignore[operator]
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(TombolaError, match="lazy layer"):
        deploy(nn.LazyLinear(3), torch.randn(2, 8))


CALLS = [0]


def test_a_network_that_nothing_can_be_said_of_is_refused() -> None:
    def call(net: Any, x: Tensor) -> Tensor:
        CALLS[0] += 1
        out: Tensor = net.b(net.a(x)) * CALLS[0]
        return out

    with pytest.raises(TombolaError, match="other outputs for the same inputs"):
        deploy(thinned(Between(call)), torch.randn(4, 8), threads=1)


# ---- in inference mode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("made_within", [False, True])
def test_all_verbs_work_without_gradients(mode: Callable[[], Any], made_within: bool) -> None:
    def made() -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        return thinned(model)

    model = None if made_within else made()
    with mode():
        model = made() if model is None else model
        x = torch.randn(3, 8)
        deployed = deploy(model, x, threads=1)
        assert difference(model(x), deployed(x)) <= EQUAL
        assert difference(model(x), compact(model, x).module(x)) <= EQUAL
    with torch.no_grad():
        torch.testing.assert_close(deployed(x.clone()), model(x.clone()))
    assert not any(p.is_inference() for p in (*deployed.compacted.parameters(), *deployed.compacted.buffers()))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_masks_are_held_attached_and_deployed_without_gradients(mode: Callable[[], Any]) -> None:
    with mode():
        for model in (thinned(nn.Linear(8, 4)), nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))):
            x = torch.randn(3, 8)
            with tb.hold(model, {name: torch.rand_like(w) < 0.5 for name, w in prunable(model).items()}):
                assert difference(model.eval()(x), deploy(model, x, threads=1)(x)) <= EQUAL
            tb.attach(model)
            tb.refresh(model)
            assert difference(model.eval()(x), deploy(model, x, threads=1)(x)) <= EQUAL
            tb.make_permanent(model)
            assert difference(model(x), deploy(model, x, threads=1)(x)) <= EQUAL


def test_state_within_inference_mode() -> None:
    with torch.inference_mode():
        model = thinned(ODD["a buffer that counts"][0]())
        x = torch.randn(3, 8)
        deployed = deploy(model, x, threads=1)
        assert difference(model(x), deployed(x)) <= EQUAL


# ---- batches and inputs ----------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Linear(8, 6), nn.Linear(6, 3), join

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.b(torch.relu(self.join(self.a(x), scale)))


@pytest.mark.parametrize(
    ("shapes", "join"),
    [
        (((4, 8), (1, 6)), torch.add), (((1, 8), (1, 6)), torch.add), (((4, 8), (6,)), torch.mul),
        (((6, 8), (6,)), torch.mul), (((4, 8), ()), torch.mul), (((1, 8), (6,)), torch.add),
        (((4, 8), (4, 6)), torch.add), (((4, 8), (4, 1)), torch.mul), (((2, 8), (3, 6)), lambda a, s: a + s.sum(0)),
    ],
)  # fmt: skip
def test_second_inputs(shapes: tuple[tuple[int, ...], ...], join: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = thinned(Two(join))
    deployed = deploy(model, *(torch.randn(shape) for shape in shapes), threads=1)
    calls = 0
    for batch in (*shapes[0][:1], 1, 5, 0):
        for own in (True, False):
            second = (batch, *shapes[1][1:]) if own and shapes[1] else shapes[1]
            with contextlib.suppress(TombolaError):
                check(model, deployed, torch.randn(batch, 8), torch.randn(second))
                calls += 1
    assert calls >= 4


def test_a_network_of_one_batch_size_says_so() -> None:
    model = thinned(Between(lambda n, x: n.b(n.a(x)).view(2, 2, 4)))
    deployed = deploy(model, torch.randn(4, 8), threads=1)
    check(model, deployed, torch.randn(4, 8))
    with pytest.raises(TombolaError, match=r"deployed for \(4, 8\), a batch of 4 alone \(it refuses 5: RuntimeError"):
        deployed(torch.randn(5, 8))
    assert "a batch of 4 only" in str(deployed.report)
    assert deployed.report.as_dict()["batch"].startswith("a batch of 4 only")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d, x: d(x, y=x), "an input named 'y' is given"),
        (lambda d, x: d(x.double()), "an input is float64 on cpu; this network was deployed for float32 on cpu"),
        (lambda d, x: d(x.long()), "an input is int64"),
        (lambda d, x: d(x.numpy()), "an input is of type ndarray"),
        (lambda d, x: d(x[0]), "inputs of shape (8,)"),
        (lambda d, x: d(x[None]), "inputs of shape (1, 3, 8)"),
        (lambda d, x: d(None), "an input is of type NoneType"),
        (lambda d, x: d([x]), "an input is of type list"),
        (lambda d, x: d(input=x.tolist()), "an input is of type list"),
        (lambda d, x: d(x.to_sparse()), "an input is torch.float32 (3, 8) on cpu (torch.sparse_coo)"),
        (lambda d, x: d(torch.nested.nested_tensor(list(x))), "an input is nested torch.float32 on cpu"),
        (lambda d, x: d(x.to("meta")), "an input is float32 on meta"),
        (lambda d, x: d(), "0 inputs given; this network was deployed for 1 input (input) of shape (2, 8), any batch"),
        (lambda d, x: d(x, x), "2 inputs given; this network was deployed for 1 input (input)"),
    ],
)
def test_other_inputs_are_one_line(call: Callable[[Deployed, Tensor], object], said: str) -> None:
    deployed = deploy(thinned(nn.Sequential(nn.Linear(8, 4))), torch.randn(2, 8), threads=1)
    with pytest.raises(TombolaError) as caught:
        call(deployed, torch.randn(3, 8))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_inputs_by_name() -> None:
    model = thinned(Two(torch.add))
    x, scale = torch.randn(4, 8), torch.randn(4, 6)
    deployed = deploy(model, x, scale, threads=1)
    assert torch.equal(deployed(x, scale=scale), deployed(x, scale))
    assert torch.equal(deployed(scale=scale, x=x), deployed(x, scale))


class Words(nn.Module):
    """Integers and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(7, 8), nn.Linear(8, 3)

    def forward(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = (self.table(words) * mask[..., None]).sum(1)
        return self.out(x), mask.any(1)


def test_integer_and_bool_inputs() -> None:
    model = thinned(Words())
    words, mask = torch.randint(0, 7, (4, 5)), torch.ones(4, 5, dtype=torch.bool)
    deployed = deploy(model, words, mask, threads=1)
    for batch in (4, 1, 6):
        check(model, deployed, torch.randint(0, 7, (batch, 5)), torch.rand(batch, 5) < 0.5)


@pytest.mark.parametrize("layout", ["turned", "expanded", "every other", "channels last"])
def test_inputs_in_other_layouts(layout: str) -> None:
    model = thinned(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)))
    deployed = deploy(model, torch.randn(2, 2, 4, 4), threads=1)
    x = {
        "turned": torch.randn(3, 2, 4, 4).transpose(2, 3),
        "expanded": torch.randn(1, 2, 4, 4).expand(3, -1, -1, -1),
        "every other": torch.randn(6, 2, 4, 4)[::2],
        "channels last": torch.randn(3, 2, 4, 4).contiguous(memory_format=torch.channels_last),
    }[layout]
    check(model, deployed, x)


# ---- the inputs that are drawn ---------------------------------------------------------------------------------------


def test_what_is_drawn_is_like_the_example() -> None:
    example = (torch.full((4, 3), 50.0), torch.tensor([[2], [5], [3], [2]]), torch.tensor([True] * 4), torch.zeros(2))
    drawn, batch = inputs_like(lambda *inputs: inputs[0], example, example[0])
    assert batch.carries == (True, True, True, False)
    assert [one.what for one in drawn] == [
        "the example", "the example again", "drawn inputs", "a batch of 5", "a batch of 1", "a batch of 0",
    ]  # fmt: skip
    assert [len(one.inputs[0]) for one in drawn] == [4, 4, 4, 5, 1, 0]
    for one in drawn[2:]:
        assert [x.dtype for x in one.inputs] == [x.dtype for x in example]
        assert all(2 <= int(n) <= 5 for n in one.inputs[1].flatten())
        assert one.inputs[3].shape == (2,)
    spread = float(drawn[2].inputs[0].std())
    assert 25 < spread < 100  # of the example's scale
    assert float(drawn[2].inputs[3].abs().max()) > 0  # an example of zeros: standard normal


def test_values_that_the_network_refuses_are_not_drawn() -> None:
    def run(x: Tensor) -> Tensor:
        if float(x.min()) < 0:
            raise ValueError("negative")
        return x

    example = torch.rand(4, 3) + 2
    drawn, _ = inputs_like(run, (example,), example)
    assert all(
        float(one.inputs[0].min()) >= 2 and float(one.inputs[0].max()) <= 3
        for one in drawn
        if one.what != "a batch of 0"
    )
    drawn, _ = inputs_like(torch.log, (example,), example.log())
    assert float(drawn[2].inputs[0].min()) >= 2


def test_outputs_are_compared_strictly() -> None:
    one = torch.ones(2)
    assert difference([one, None, "a", 1.0], [one, None, "a", 1.0]) == 0
    assert difference({"a": one}, {"a": one * 1.00001}) < EQUAL
    nan = torch.tensor([math.nan, 1.0])
    assert difference(nan, nan.clone()) == 0
    for want, have in (
        (one, (one,)), (one, one.double()), (one, torch.ones(3)), (nan, torch.tensor([0.0, 1.0])),
        (torch.tensor([40000]), torch.tensor([40001])), (torch.tensor([True]), torch.tensor([False])),
        ({"a": one}, {"b": one}), ([one], [one, one]), (None, one), ("a", "b"),
        (torch.tensor([math.inf]), torch.tensor([-math.inf])),
    ):  # fmt: skip
        assert difference(want, have) == math.inf
    assert difference(torch.tensor([1j]), torch.tensor([2j])) == 1


def test_checks_do_not_call_the_model() -> None:
    model = thinned(ODD["a list that grows"][0]())
    checks = checks_of(model, (torch.randn(4, 8),))
    assert not checks.stateless
    assert model.seen == []
