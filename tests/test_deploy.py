"""deploy: equal outputs for every kind of network and ticket, plans that are kept, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

import tombola as tb
from clocks import NATIVE, QUICK, InOrder, Never
from tombola.bench.timing import Clock
from tombola.deploy.deploy import TOLERANCE, Deployed
from tombola.deploy.kernels import cuda
from tombola.deploy.kernels.sparse.choices import Choices, Split
from tombola.deploy.plan import Plan, RegionPlan
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.models.registry import build_network
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear
from tombola.parameters import prunable
from tombola.select import select
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.representation import Representation
from tombola.ticket.ticket import Ticket

deploy = partial(tb.deploy, clock=QUICK)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def drawn(model: nn.Module, density: float = 0.2) -> Mask:
    return select({name: torch.rand_like(w) for name, w in prunable(model).items()}, density=density)


def zeroed(model: nn.Module, density: float = 0.2) -> nn.Module:
    """Most weights 0, and norms as after training."""
    with torch.no_grad():
        for name, keep in drawn(model, density).items():
            model.get_parameter(name).mul_(keep)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert isinstance(module.running_mean, Tensor)
                assert isinstance(module.running_var, Tensor)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def leaves(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [x for one in (outputs.values() if isinstance(outputs, dict) else outputs) for x in leaves(one)]


def check_equal(model: nn.Module, deployed: Deployed, *inputs: Tensor) -> None:
    with torch.no_grad():
        want, have = model(*inputs), deployed(*inputs)
    assert type(want) is type(have)
    for a, b in zip(leaves(want), leaves(have), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if a.numel():
            assert float((a.double() - b.double()).abs().max()) <= TOLERANCE * max(1e-30, float(a.abs().max()))
        assert not b.requires_grad


def check(model: nn.Module, *example: Tensor, clock: Clock = QUICK) -> Deployed:
    """Outputs are the model's, at other batch sizes too, and the model is left alone."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    deployed = deploy(model, *example, threads=1, clock=clock)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model = copy.deepcopy(model).eval()
    check_equal(model, deployed, *example)
    for batch in (1, 5):
        check_equal(model, deployed, *(torch.randn(batch, *x.shape[1:]) for x in example))
    json.dumps(deployed.report.as_dict())
    assert str(deployed.report)
    assert deployed.report.error <= TOLERANCE
    return deployed


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "always"), [("lenet-300-100", True), ("conv-2", True), ("conv-2", False), ("resnet-20", True)]
)
def test_networks_of_the_field(name: str, always: bool) -> None:
    model = zeroed(build_network(name, input_shape=(3, 8, 8), classes=4))
    deployed = check(model, torch.randn(3, 3, 8, 8), clock=NATIVE if always else QUICK)
    assert not deployed.report.dense
    if always:
        assert {part.engine for part in deployed.plan.parts} == {"native"}
        assert deployed.nbytes < 0.8 * deployed.report.bytes["model"]


class Branches(nn.Module):
    """Residual, concatenation, a shared layer, functions, two inputs, outputs in a dict, a module without a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.gate = nn.BatchNorm2d(4), nn.Tanh()
        self.shared, self.last = nn.Linear(8, 8), nn.Linear(11, 2)

    def forward(self, image: Tensor, extra: Tensor) -> dict[str, Any]:
        x = F.relu(self.one(image))
        x = F.relu(self.norm(self.two(x)) + x)
        maps = F.max_pool2d(x, 2)
        y = F.adaptive_avg_pool2d(self.gate(maps), (2, 1)).flatten(1)
        y = torch.relu(self.shared(torch.relu(self.shared(y))))
        return {"logits": self.last(torch.cat([y, extra], 1)), "more": (maps, y)}


@pytest.mark.parametrize("always", [True, False])
def test_branches(always: bool) -> None:
    clock = NATIVE if always else QUICK
    deployed = check(zeroed(Branches(), 0.5), torch.randn(2, 2, 8, 8), torch.randn(2, 3), clock=clock)
    assert list(deployed.report.dense.values()) == ["tanh has no kernel of its own"]
    assert [layer.name for part in deployed.report.parts for layer in part.layers] == [
        "one", "two", "shared", "shared", "last",
    ]  # fmt: skip


class Added(nn.Module):
    """A parameter that is added: its first dimension is 1, as that of a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.layer = nn.Parameter(torch.randn(1, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + self.place
        return out


class Odd(nn.Module):
    """Flow that torch.export cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) if x.sum() > 0 else -self.layer(x)
        return out


class Overwriting(nn.Module):
    """The input is read flattened within and outside; in-place calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.act = nn.Linear(6, 6), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        flat = x.flatten(1)
        y = self.act(self.layer(flat))
        y += flat
        return [flat, y, y.relu_()]


VALUES = "torch.export cannot follow it: it depends on the values of a tensor (an if, a loop, an item or a shape)"


@pytest.mark.parametrize(
    ("model", "shape", "dense"),
    [
        (Added(), (1, 6), set()),
        (Odd(), (2, 6), {VALUES}),
        (Overwriting(), (2, 3, 1, 2), set()),
        (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)), (2, 6), {"1"}),
        (nn.Sequential(nn.Conv3d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)), (2, 2, 3, 3, 6), {"0"}),
        (nn.Sequential(nn.Linear(6, 4), nn.Softmax(1)).train(), (2, 6), {"1"}),
        (nn.Identity(), (2, 3), set()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_stays_is_named_and_right(model: nn.Module, shape: tuple[int, ...], dense: set[str]) -> None:
    deployed = check(model, torch.randn(shape), clock=NATIVE)
    assert dense <= {*deployed.report.dense, *deployed.report.dense.values()}


def test_other_dtypes_stay() -> None:
    model, x = zeroed(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).double()), torch.randn(2, 4).double()
    deployed = deploy(model, x)
    check_equal(model, deployed, x)
    assert "float64" in deployed.report.dense["0"]


def test_empty_and_full_layers() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 2))
    with torch.no_grad():
        assert isinstance(model[3], nn.Linear)
        model[3].weight.zero_()
    check(model, torch.randn(2, 2, 4, 4), clock=NATIVE)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "grouped": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
    "relu": lambda: nn.ReLU(inplace=True),
    "norm": lambda: nn.BatchNorm2d(4),
    "silu": lambda: nn.SiLU(inplace=True),
    "tanh": nn.Tanh,
    "pool": lambda: nn.MaxPool2d(2, 1),
    "mean": lambda: nn.AvgPool2d(2, 1),
}


@settings(max_examples=6, deadline=None)
@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=5), st.sampled_from([0.05, 0.3, 1.0]), st.integers(1, 9))
def test_random_networks(kinds: list[str], density: float, batch: int) -> None:
    layers = [KINDS[kind]() for kind in kinds]
    model = nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.Flatten(), nn.LazyLinear(3)).eval()
    x = torch.randn(batch, 1, 9, 9)
    model(x)
    check(zeroed(model, density), x, clock=NATIVE)


# ---- tickets and attached masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["identity", "signed_constant", "binary"])
def test_tickets_of_each_representation(kind: str) -> None:
    network = build_network("lenet-300-100", input_shape=(1, 6, 6), classes=4)
    origin = Origin.seeded(NetworkSpec("lenet-300-100", {}, (1, 6, 6), 4), "kaiming_normal", 1)
    mask = drawn(network)
    representation = None
    if kind != "identity":
        scales = {name: torch.full((), 0.1) for name in mask}
        representation = Representation(kind, scales)  # type: ignore[arg-type]
    ticket = Ticket.from_models(
        origin=origin, mask=mask, final_state=origin.state_dict(), provenance={}, representation=representation
    )
    x = torch.randn(3, 1, 6, 6)
    check_equal(ticket.build().eval(), deploy(ticket, x), x)


def test_effective_weights_of_supermasks() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    tb.attach(model)
    check(model, torch.randn(2, 6))


def test_effective_weights_of_held_masks() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with tb.hold(model, drawn(model)):
        model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
        deployed = deploy(model, torch.randn(2, 6))
        check_equal(model, deployed, torch.randn(2, 6))


def test_effective_weights_of_other_attachments() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    prune.random_unstructured(model[0], "weight", 0.5)  # type: ignore[no-untyped-call]
    nn.utils.parametrizations.weight_norm(model[2])
    deploy(model, torch.randn(2, 6))
    assert model[0].weight.requires_grad  # computed with a history: left alone
    with torch.no_grad():
        model(torch.randn(2, 6))  # without one: this test copies it
    check(model, torch.randn(2, 6))
    assert hasattr(model[0], "weight_orig")


# ---- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_is_saved_and_gives_the_same_bits(tmp_path: Path) -> None:
    model, x = zeroed(build_network("conv-2", input_shape=(3, 8, 8), classes=4)), torch.randn(4, 3, 8, 8)
    first = deploy(model, x, threads=1, clock=NATIVE)
    first.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == first.plan
    for threads in (None, 1, 2):
        again = deploy(model, x, threads=threads, plan=tmp_path / "plan.json", clock=Never())
        assert torch.equal(first(x), again(x))
        assert again.plan == msgspec.structs.replace(first.plan, threads=threads or 1)


def test_binary_layers_are_packed_and_planned() -> None:
    last = BinaryLinear(64, 4)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), BinaryActivation(), BinaryConv2d(4, 4, 3, padding=1), nn.MaxPool2d(2),
        nn.BatchNorm2d(4), BinaryActivation(), nn.Flatten(), BinaryLinear(64, 64), BinaryActivation(), last,
    )  # fmt: skip
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, BinaryConv2d | BinaryLinear):
                layer.weight.copy_(torch.randn_like(layer.weight).sign() * (torch.rand_like(layer.weight) < 0.5) / 8)
    x = torch.randn(3, 1, 10, 10)
    deployed = check(zeroed(model, 1.0), x, clock=NATIVE)
    assert deployed.plan.packed == {"3": "packed", "8": "packed", "10": "packed"}
    assert [one.name for one in deployed.report.packed] == ["3", "8", "10"]
    again = deploy(model, x, threads=1, plan=deployed.plan)
    assert again.plan == deployed.plan
    assert torch.equal(again(x), deployed(x))
    with pytest.raises(TombolaError, match="other binary layers"):
        deploy(model, x, plan=msgspec.structs.replace(deployed.plan, packed={"3": "packed"}))


class Times(InOrder):
    """Torch is by far the fastest for the layer of 9 outputs, and the network with that one apart for the whole."""

    def measure(
        self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None
    ) -> dict[Any, list[float]]:
        if "0" in runs:  # drafts
            return {name: [{"0": 2.0, "1": 1.0}.get(name, 3.0)] for name in runs}
        return super().measure(runs, rounds=rounds, threads=threads, seconds=seconds)

    def fastest(self, runs: Sequence[Any], *, seconds: float, rounds: int) -> list[float]:
        if getattr(runs[0], "func", None) is F.linear:  # a layer in torch
            return [1e-9 if len(runs[0].args[1]) == 9 else 100.0]
        return super().fastest(runs, seconds=seconds, rounds=rounds)


def test_isolated_layers() -> None:
    """A layer that dense runs faster leaves its region, if the whole gets faster."""
    model = zeroed(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 9), nn.Linear(9, 8)), 0.5)
    x = torch.randn(2, 8)
    deployed = deploy(model, x, threads=1, clock=Times())
    assert deployed.plan.isolated == ("1",)
    assert [(part.layers, part.engine) for part in deployed.plan.parts] == [
        (("0",), "native"), (("1",), "torch"), (("2",), "native"),
    ]  # fmt: skip
    check_equal(model, deployed, x)
    again = deploy(model, x, plan=deployed.plan)
    assert torch.equal(again(x), deployed(x))


class Convolutions(TorchDispatchMode):
    """Counts the convolutions of real values that torch runs."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "convolution" in str(func) and not any(isinstance(x, FakeTensor) for x in args)
        return func(*args, **(kwargs or {}))


def test_a_deployment_runs_the_network_a_few_times() -> None:
    """What it takes, that it gives the same compacted and deployed, its FLOPs, and the values between its regions."""
    model = zeroed(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    with Convolutions() as mode:
        deploy(model, torch.randn(2, 1, 8, 8), threads=1, clock=NATIVE)
    assert mode.count <= 2 * 14


def test_plans_that_do_not_fit(tmp_path: Path) -> None:
    model, x = zeroed(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))), torch.randn(2, 4)
    plan = deploy(model, x, clock=NATIVE).plan  # one region, whatever is the fastest
    with pytest.raises(TombolaError, match="another network"):
        deploy(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), x, plan=plan)
    with pytest.raises(TombolaError, match=r"the plan is for inputs \(2, 4\), not \(2, 5\)"):
        deploy(nn.Linear(5, 2), torch.randn(2, 5), plan=plan)
    part = RegionPlan(plan.parts[0].layers, "native", Choices(Split("rows", 1), {}))
    with pytest.raises(TombolaError, match="is in only one of them"):
        deploy(model, x, plan=msgspec.structs.replace(plan, parts=(part,)))
    with pytest.raises(TombolaError, match="no plan at"):
        deploy(model, x, plan=tmp_path / "none.json")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1}, {"format": "2"}, {"threads": 0}, {"threads": True}, {"inputs": [[-1]]}, {"inputs": 3},
        {"isolated": [1]}, {"packed": {"a": 1}}, {"machine": []}, {"more": 1}, {"parts": [{}]},
        {"parts": [{"layers": ["0"], "engine": "abacus"}]}, {"parts": [{"layers": "0", "engine": "torch"}]},
    ],
)  # fmt: skip
def test_plans_that_are_none(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    deploy(nn.Linear(4, 2), torch.randn(2, 4)).plan.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TombolaError, match="holds no plan of format 2") as caught:
        Plan.load(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[1", "[]", "null", "\x00"])
def test_files_that_are_no_plans(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(TombolaError):
        Plan.load(path)


# ---- the deployed network --------------------------------------------------------------------------------------------


def test_copies_and_modes() -> None:
    model, x = zeroed(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), torch.randn(2, 4)
    deployed = deploy(model, x)
    assert torch.equal(copy.deepcopy(deployed)(x), deployed(x))
    assert not deployed.train().training
    with pytest.raises(TombolaError, match="cannot be pickled"):
        pickle.dumps(deployed)
    with torch.no_grad():
        torch.testing.assert_close(deployed.compacted(x), model(x))
    with pytest.raises(TombolaError, match="keep_compacted"):
        _ = deploy(model, x, keep_compacted=False).compacted


def test_outputs_that_would_be_off_are_left_to_torch() -> None:
    """The example's sums are 0 but for roundings, which hang on their order."""
    model, x = nn.Sequential(nn.Linear(1000, 4, bias=False)), torch.ones(2, 1000)
    with torch.no_grad():
        weight = model[0].weight
        weight[:, -1] -= weight.sum(1)  # type: ignore[operator]
    deployed = deploy(model, x, clock=NATIVE)
    assert deployed.plan.parts[0].engine != "native"
    assert "would change outputs" in deployed.report.dense["all regions"]
    check_equal(model, deployed, x)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, x: deploy(m), "empty ones; give inputs"),
        (lambda m, x: deploy(m, torch.empty(0, 4)), "empty ones; give inputs"),
        (lambda m, x: deploy(m, x, threads=0), "threads is 0"),
        (lambda m, x: deploy(m, torch.randn(2, 7)), "cannot run on inputs of shape (2, 7)"),
        (lambda m, x: deploy("net", x), "subject is 'net', but it must be a Ticket or a Module"),
        (lambda m, x: deploy(m, x)(torch.randn(2, 5)), "deployed for (2, 4), any batch"),
        (lambda m, x: deploy(m, x)(x, x), "2 inputs given; this network was deployed for 1 input"),
    ],
)
def test_mistakes_are_one_line(call: Callable[..., object], said: str) -> None:
    with pytest.raises(TombolaError) as caught:
        call(nn.Linear(4, 2), torch.randn(2, 4))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# ---- CUDA ------------------------------------------------------------------------------------------------------------


def test_which_weights_fit_the_kernels_of_gpus() -> None:
    two_of_four = torch.tensor([1.0, 0, 2, 0]).repeat(32, 16).half()
    assert cuda.fits_two_of_four(two_of_four)
    assert not cuda.fits_two_of_four(two_of_four.float())
    assert not cuda.fits_two_of_four(two_of_four[:16])
    assert not cuda.fits_two_of_four(torch.ones(32, 64).half())
    blocks = torch.zeros(4, 4)
    blocks[:2, 2:] = 1
    assert cuda.fits_blocks(blocks, 2)
    assert not cuda.fits_blocks(blocks, 4)
    assert not cuda.fits_blocks(blocks, 3)


@pytest.mark.parametrize(("fast", "kernel"), [(0.5, "other"), (0.96, "torch"), (2.0, "torch")])
def test_gpu_kernels_are_kept_where_they_are_faster(fast: float, kernel: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 4)
    times = iter([1.0, fast, 1.0])

    def failing(weight: Tensor) -> Tensor:
        raise RuntimeError("not on this GPU")

    kernels = {
        "other": cuda.CudaKernel(lambda w: len(w) == 4, lambda w: w.to_sparse_csr()),
        "broken": cuda.CudaKernel(lambda w: True, failing),
    }
    want = model(x)
    chosen = cuda.choose_kernels(model, [x], kernels, lambda run: (run(), next(times))[1])
    assert [(one.name, one.kernel) for one in chosen] == [("0", kernel), ("2", "torch")]
    cuda.use_kernels(model, [(one.name, one.kernel) for one in chosen], kernels)
    torch.testing.assert_close(model(x), want)
    assert cuda.bytes_of(torch.zeros(4, 4).to_sparse_bsr((2, 2))) == 3 * 8
    with pytest.raises(TombolaError, match="another network"):
        cuda.use_kernels(model, [("1", "other")], kernels)
