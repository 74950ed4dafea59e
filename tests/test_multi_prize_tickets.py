"""Tickets of binary networks: what is stored, what is built, what it weighs, and who goes on from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from multi_prize_models import RECIPE, levels, splits
from tombola.data.splits import make_splits
from tombola.errors import TicketError, TombolaError
from tombola.levels.learn import attached, make_ticket
from tombola.levels.search import Search
from tombola.methods.binary_weights import BinaryWeights
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.imp import IterativePruning
from tombola.methods.joint import Joint
from tombola.methods.multi_prize import MultiPrize
from tombola.models.spec import ModelSpec
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear
from tombola.nn.rewrite import has_binary_activations
from tombola.rng.seeds import derive
from tombola.search.find import find
from tombola.search.origin import start_from
from tombola.study.arms import ARMS, VerificationSetup
from tombola.study.verify import verify
from tombola.supermask import refresh
from tombola.supermask.layers import groups, layers
from tombola.ticket.export import export_state
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.storage import bits_per_weight
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options
from tombola.train.recipe import Recipe

OWN = {
    "lenet-300-100": {"width": 0.1},
    "conv-2": {"width": 0.06},
    "vgg-small": {"width": 0.06},
    "resnet-20": {"width": 0.25},
    "wrn-10-1": {},
}


class Functional(nn.Module):
    """A user's network whose ReLUs are functions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.hidden, self.out = nn.Linear(144, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.out(nn.functional.relu(self.hidden(x.flatten(1)), inplace=True))


def trained(name: str, method: Any, shape: tuple[int, ...] = (1, 8, 8)) -> tuple[nn.Module, Ticket]:
    """One of Tombola's own networks, attached and trained for two steps, in eval mode, and its ticket."""
    spec = method.network(ModelSpec(name, OWN[name]))
    nothing: Any = None
    origin = Origin.seeded(NetworkSpec(spec.name, spec.args, shape, 4), "kaiming_normal", 5)
    made = Search(nothing, origin, 0, {"from": "a test"})
    learning = method.learning(made.network())
    model = attached(made, learning)
    scores, weights = groups(model)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([*scores, *weights], lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        out = model(torch.randn(6, *shape))
        nn.functional.cross_entropy(out, torch.randint(4, (6,))).backward()
        optimizer.step()
        refresh(model)
    return model.eval(), make_ticket(made, model, learning.rewrites, 1)


# -- the same bits


METHODS = [
    MultiPrize(density=0.3),
    MultiPrize(density=0.3, norms="trained", scope="global", per_channel=True),
    Joint(density=0.3, weights="binary", weight_gradient="dense"),
    BinaryWeights(),
]


def named(method: Any) -> str:
    return f"{method.name} {getattr(method, 'norms', '')}"


@pytest.mark.filterwarnings("ignore:nothing is kept")
@pytest.mark.parametrize("activations", ["float", "binary"])
@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("name", OWN)
def test_what_is_saved_computes_the_same_bits(name: str, method: Any, activations: str, tmp_path: Path) -> None:
    method = type(method)(**{**vars(method), "activations": activations})
    model, ticket = trained(name, method)
    ticket.save(tmp_path / "a.ticket")
    loaded = Ticket.load(tmp_path / "a.ticket")
    assert loaded == ticket
    built = loaded.build().eval()
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(built(x), model(x))
    kinds = [type(module) for module in built.modules()]
    assert BinaryLinear in kinds
    assert (BinaryActivation in kinds) == (activations == "binary")
    for layer in layers(model):
        weight = dict(built.named_parameters())[layer.name].detach()
        assert torch.equal(weight, layer.supermask(layer.weight).detach())
        if not getattr(method, "per_channel", False):
            assert len(weight.abs().unique()) <= 2
            assert weight.abs().max() == layer.supermask.scale
    if isinstance(method, MultiPrize):
        sizes = loaded.info()["bytes_by_kind"]
        assert set(sizes) <= {"mask", "scale", "state"}  # seeded weights: neither values nor signs
        assert loaded.trained is None
    else:
        assert all(signs.dtype == torch.int8 for signs in (loaded.trained or {}).values())


def test_joint_binary_stores_signs_of_those_layers_alone_that_have_flipped() -> None:
    method = Joint(density=0.3, weights="binary")
    spec = method.network(ModelSpec("conv-2", OWN["conv-2"]))
    nothing: Any = None
    origin = Origin.seeded(NetworkSpec(spec.name, spec.args, (1, 8, 8), 4), "kaiming_normal", 5)
    made = Search(nothing, origin, 0, {})
    learning = method.learning(made.network())
    model = attached(made, learning)
    first, second, *_ = layers(model)
    with torch.no_grad():
        second.weight.mul_(1.7)  # other sizes, the same signs
        first.weight.neg_()
    refresh(model)
    ticket = make_ticket(made, model, learning.rewrites, 1)
    assert ticket.trained is not None
    assert set(ticket.trained) == {first.name}
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(ticket.build().eval()(x), model.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("method", [MultiPrize(0.5), Joint(0.5, weights="binary")], ids=named)
def test_zeros_count_as_positive_in_network_and_ticket(method: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
    model[0].weight.data[:, ::2] = 0.0
    model[0].weight.data[:, 1] = -0.0
    model[2].weight.data.zero_()  # alpha is 0 there
    nothing: Any = None
    made = Search(nothing, Origin.stored(model), 0, {}, architecture=model)
    learning = method.learning(model)
    on = attached(made, learning).eval()
    if isinstance(method, Joint):
        for layer in layers(on):
            layer.weight.data.neg_()  # 0.0 becomes -0.0, positive still
        refresh(on)
    ticket = make_ticket(made, on, learning.rewrites, 1)
    ticket.save(tmp_path / "a.ticket")
    built = Ticket.load(tmp_path / "a.ticket").build(model=model).eval()
    x = torch.randn(5, 6, dtype=dtype)
    assert torch.equal(built(x), on(x))
    first, second = built[0].weight, built[2].weight
    assert bool((first[:, ::2] >= 0).all())
    assert bool((first[:, 1] >= 0).all())
    assert not second.any()


def test_tuned_norms_are_kept_with_signs_and_scales(tmp_path: Path) -> None:
    both = levels(MultiPrize(norms="tuned", tune="3it", activations="binary"), ModelSpec("mlp", {"hidden": [9, 7]}))
    first, second = (level.ticket for level in both)
    second.save(tmp_path / "b.ticket")
    loaded = Ticket.load(tmp_path / "b.ticket")
    x = torch.randn(4, 1, 6, 6)
    assert torch.equal(loaded.build().eval()(x), second.build().eval()(x))
    before, after = first.build().state_dict(), loaded.build().state_dict()
    assert {name for name in after if not torch.equal(before[name], after[name])} >= {"bn1.weight", "bn1.bias"}
    assert all(torch.equal(before[name], after[name]) for name in first.mask)
    assert "trained" not in loaded.info()["bytes_by_kind"]


# -- what it weighs


def plain(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)


def test_bits_per_weight_by_hand() -> None:
    entropy = 0.25 * math.log2(4) + 0.75 * math.log2(4 / 3)  # H(1/4) of either layer: 36 of 144, 2 of 8
    quick = Recipe(length="2it", batch_size=8, lr=0.1, eval_every="2it")
    scales = 2 * 32 / 152
    for method in (EdgePopup(0.25), Joint(0.25)):
        ticket = find(plain(), splits(), method, recipe=quick)
        assert bits_per_weight(ticket) == pytest.approx(entropy + 0.25 * 32)
    for method in (MultiPrize(0.25), Joint(0.25, weights="binary")):  # signs of so few weights are not quite even
        ticket = find(plain(), splits(), method, recipe=quick)
        assert 0.9 * 0.25 < bits_per_weight(ticket) - entropy - scales <= 0.25
    assert 0.9 < bits_per_weight(find(plain(), splits(), MultiPrize(1.0), recipe=quick)) - scales <= 1.0


@pytest.mark.parametrize("method", [EdgePopup(0.25), Joint(0.25)], ids=lambda m: m.name)
def test_bits_of_values_are_those_of_their_dtype(method: Any) -> None:
    entropy = 0.25 * math.log2(4) + 0.75 * math.log2(4 / 3)
    model = plain(torch.float64)
    nothing: Any = None
    made = Search(nothing, Origin.stored(model), 0, {}, architecture=model)
    learning = method.learning(model)
    attached_model = attached(made, learning)
    for layer in layers(attached_model):
        layer.weight.data.mul_(1.5 if isinstance(method, Joint) else 1)
    assert bits_per_weight(make_ticket(made, attached_model, (), 1)) == pytest.approx(entropy + 0.25 * 64)


# -- exports


@pytest.mark.parametrize("activations", ["float", "binary"])
@pytest.mark.parametrize("model", [None, Functional()], ids=["by name", "functional"])
def test_exports_of_a_built_ticket(model: nn.Module | None, activations: str, tmp_path: Path) -> None:
    ticket = find(
        model or ModelSpec("conv-2", OWN["conv-2"]), splits(), MultiPrize(activations=activations), recipe=RECIPE
    )
    built = ticket.build(model=model).eval()
    x = torch.randn(3, 1, 6, 6)
    want = built(x)
    assert torch.equal(torch.export.export(built, (x,)).module()(x), want)
    export_state(ticket, tmp_path / "a.safetensors", model=model)
    state = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert state.keys() == built.state_dict().keys()
    other = ticket.build("origin", model=model)
    other.load_state_dict(state)
    assert torch.equal(other.eval()(x), want)
    for name in ticket.mask:
        assert len(state[name].abs().unique()) == 2
    if activations == "float":  # then a plain network computes the same, up to rounding
        fresh = model or ticket.origin.network_module()
        fresh.load_state_dict(state)
        torch.testing.assert_close(fresh.eval()(x), want, rtol=1e-4, atol=1e-5)


# -- networks of others


@pytest.mark.parametrize("method", [MultiPrize(activations="binary"), Joint(weights="binary", activations="binary")])
def test_functional_relus_are_rewritten_in_search_and_ticket(method: Any, tmp_path: Path) -> None:
    model = Functional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ticket = find(model, splits(), method, recipe=RECIPE)
    assert type(model) is Functional  # the user's own is untouched
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [rewrite["kind"] for rewrite in ticket.rewrites] == ["binary-activations", "binary-layers"]
    ticket.save(tmp_path / "a.ticket")
    loaded = Ticket.load(tmp_path / "a.ticket")
    with pytest.raises(TicketError, match="model="):
        loaded.build()
    built = loaded.build(model=model).eval()
    seen: list[Tensor] = []
    for layer in (built.hidden, built.out):
        assert isinstance(layer, BinaryLinear)
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert isinstance(built.conv, BinaryConv2d)
    built(torch.randn(3, 1, 6, 6))
    assert [set(x.unique().tolist()) for x in seen] == [{-1.0, 1.0}] * 2


def test_relus_beside_binary_activations_are_rewritten_too() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), BinaryActivation(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    ticket = find(model, splits(), MultiPrize(activations="binary"), recipe=RECIPE)
    assert not any(isinstance(module, nn.ReLU) for module in ticket.build(model=model).modules())


def test_a_network_by_import_path() -> None:
    recipe = Recipe(length="1it", batch_size=8, lr=0.1, eval_every="1it")
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 3, 8, 8, generator=draw), torch.arange(24) % 2
    data = make_splits((x[:8], y[:8]), (x[8:16], y[8:16]), (x[16:], y[16:]))
    spec = ModelSpec("torchvision.models.mobilenet_v2", {"width_mult": 0.1})
    ticket = find(
        spec,
        data,
        MultiPrize(density=0.2, activations="binary", norms="trained", exclude=("classifier.*",)),
        recipe=recipe,
    )
    with pytest.raises(TicketError, match="trust"):
        ticket.build()
    built = ticket.build(trusted=("torchvision.models",))
    assert sum(isinstance(module, BinaryConv2d) for module in built.modules()) == len(ticket.mask)
    assert not any(isinstance(module, nn.ReLU6) for module in built.modules())
    assert type(built.classifier[1]) is nn.Linear
    assert ticket.origin.kind == "seeded"
    assert ticket.info()["bytes_by_kind"].keys() == {"mask", "scale", "state"}


class Gelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(36, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.functional.gelu(self.a(x.flatten(1))))


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.att, self.out = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        return self.out(self.att(x, x, x)[0].flatten(1))


def transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))


BINARISERS = [MultiPrize, BinaryWeights, lambda **more: Joint(weights="binary", **more)]


@pytest.mark.parametrize("method", BINARISERS)
@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (Gelu(), {"activations": "binary"}, "gelu.*no binary form"),
        (Attentive(), {}, "'att.in_proj_weight'.*leave it out"),
        (transposed(), {}, "'0.weight'.*ConvTranspose2d"),
        (transposed(), {"exclude": ("0.*",), "include": ("3.bias",)}, "'3.bias'.*bias"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), {"activations": "binary"}, "no ReLU"),
    ],
    ids=["gelu", "attention", "transposed", "bias", "no relu"],
)
def test_what_cannot_be_binary_is_refused_in_one_line(model: Any, options: Any, said: str, method: Any) -> None:
    with pytest.raises(TombolaError, match=said) as told:
        find(model, splits(), method(**options), recipe=RECIPE)
    assert "\n" not in str(told.value)
    if "attention" in said or "Transpose" in said:
        find(model, splits(), method(exclude=("att.*", "0.*")[isinstance(model, nn.Sequential) :][:1]), recipe=RECIPE)


# -- who goes on from it


def test_a_search_goes_on_from_the_effective_weights_in_the_tickets_form() -> None:
    spec = ModelSpec("mlp", {"hidden": [12, 8]})
    ticket = find(spec, splits(), MultiPrize(density=0.5, activations="binary"), recipe=RECIPE)
    built = ticket.build().state_dict()
    for method in (
        Joint(weights="binary", activations="binary"),
        MultiPrize(density=0.25, activations="binary"),
        IterativePruning(density=0.2, rounds=1),
        BinaryWeights(activations="binary"),
    ):
        start = start_from(spec, splits(), seed=0, method=method, ticket=ticket)
        state = start.origin.state_dict()
        for name, value in built.items():
            kept = ticket.mask[name] if name in ticket.mask else torch.ones_like(value, dtype=torch.bool)
            assert torch.equal(state[name][kept], value[kept])
        assert any(isinstance(module, BinaryActivation) for module in start.network().modules())
        on = find(spec, splits(), method, recipe=RECIPE, start=ticket)
        if method.name == "imp":
            assert on.mask.nested_in(ticket.mask)


def test_joint_training_begins_with_what_the_multi_prize_ticket_computes() -> None:
    spec = ModelSpec("mlp", {"hidden": [12, 8]})
    ticket = find(spec, splits(), MultiPrize(density=0.5), recipe=RECIPE)
    method = Joint(density=0.5, weights="binary")
    start = start_from(spec, splits(), seed=0, method=method, ticket=ticket)
    nothing: Any = None
    made = Search(nothing, start.origin, 0, {}, mask=ticket.mask)
    model = attached(made, method.learning(made.network())).eval()
    x = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(model(x), ticket.build().eval()(x), rtol=1e-5, atol=1e-6)


def test_binary_activations_put_in_by_rewrites_are_not_lost_unsaid() -> None:
    model = Functional()
    ticket = find(model, splits(), MultiPrize(activations="binary"), recipe=RECIPE)
    for method in (IterativePruning(density=0.2, rounds=1), EdgePopup(), MultiPrize(), Joint()):
        with pytest.raises(TombolaError, match="binary activations") as told:
            find(model, splits(), method, recipe=RECIPE, start=ticket)
        assert "\n" not in str(told.value)
    on = find(model, splits(), Joint(weights="binary", activations="binary"), recipe=RECIPE, start=ticket)
    assert on.rewrites == ticket.rewrites


def test_a_start_of_another_form_is_told() -> None:
    spec = ModelSpec("mlp", {"hidden": [12, 8]})
    ticket = find(spec, splits(), MultiPrize(), recipe=RECIPE)
    with pytest.raises(TombolaError, match="another network") as told:
        find(ModelSpec("mlp", {"hidden": [12, 9]}), splits(), Joint(), recipe=RECIPE, start=ticket)
    assert "\n" not in str(told.value)


def test_the_binary_form_does_not_start_from_the_float_one() -> None:
    ticket = find("mlp", splits(), MultiPrize(), recipe=RECIPE)
    with pytest.raises(TombolaError, match="mlp with float activations") as told:
        find("mlp", splits(), Joint(activations="binary"), recipe=RECIPE, start=ticket)
    assert "\n" not in str(told.value)


# -- verify


@pytest.mark.parametrize("model", [ModelSpec("mlp", {"hidden": [12, 8]}), Functional()], ids=["by name", "functional"])
@pytest.mark.parametrize("activations", ["float", "binary"])
def test_every_arm_of_verify_has_plain_layers_and_the_tickets_activations(model: Any, activations: str) -> None:
    ticket = find(model, splits(), MultiPrize(density=0.5, activations=activations), recipe=RECIPE)
    subject = VerificationSetup(ticket, model if isinstance(model, nn.Module) else None)
    built = ticket.build("origin", model=subject.architecture).eval()
    x = torch.randn(5, 1, 6, 6)
    for name, make in ARMS.items():
        arm = make(subject, derive(1, name))
        kinds = {type(module) for module in arm.model.modules()}
        assert not kinds & {BinaryLinear, BinaryConv2d}
        assert has_binary_activations(arm.model) == (activations == "binary")
        weight = dict(arm.model.named_parameters())[next(iter(ticket.mask))]
        with torch.no_grad():
            weight.mul_(torch.rand(weight.shape) + 0.5)  # as training would leave it
        plain = nn.functional.linear if weight.dim() == 2 else nn.functional.conv2d
        layer = next(m for m in arm.model.modules() if getattr(m, "weight", None) is weight)
        inputs = torch.randn(2, *weight.shape[1:]) if weight.dim() == 4 else torch.randn(2, weight.shape[1])
        assert torch.equal(layer(inputs), plain(inputs, weight, layer.bias, **_padding(layer)))
    start = ARMS["ticket"](subject, 0).model.eval()
    torch.testing.assert_close(start(x), built(x), rtol=1e-4, atol=1e-5)  # the arm starts as the ticket does


def _padding(layer: nn.Module) -> dict[str, Any]:
    return {"padding": layer.padding} if isinstance(layer, nn.Conv2d) else {}


@pytest.mark.parametrize("method", [MultiPrize(activations="binary"), Joint(weights="binary", activations="binary")])
def test_verify_of_a_rewritten_network(method: Any) -> None:
    model = Functional()
    ticket = find(model, splits(), method, recipe=RECIPE)
    found = verify(ticket, splits(), replicates=1, recipe=RECIPE, model=model, options=Options(progress=False))
    assert set(found.arms) == {"ticket", "dense", "random", "reinit"}
    assert (found.untrained is not None) == (ticket.trained is None)
    assert "train float weights instead of the ticket's binary ones" in found.sentence


@pytest.mark.parametrize("per_channel", [False, True])
def test_controls_as_they_stand_have_an_alpha_of_their_own(per_channel: bool) -> None:
    from tombola.study.untrained import _CONTROLS

    spec = ModelSpec("mlp", {"hidden": [12, 8]})
    ticket = find(spec, splits(), MultiPrize(density=0.3, per_channel=per_channel), recipe=RECIPE)
    for make in _CONTROLS.values():
        control = make(VerificationSetup(ticket), 3)
        weights, built = control.origin.state_dict(), control.build().state_dict()
        for name, mask in control.mask.items():
            rows = (weights[name].abs() * mask, mask) if per_channel else (weights[name].abs()[mask], mask[mask])
            sums, counts = (part.sum(-1) for part in rows)
            alpha = sums / counts.clamp(min=1)
            torch.testing.assert_close(built[name].abs().amax(-1) if per_channel else built[name].abs().max(), alpha)
