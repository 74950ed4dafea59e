"""Multi-prize tickets and their baselines while they train: values, gradients, scales, and what moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multi_prize_models import RECIPE, levels, network, splits
from tombola.errors import TombolaError
from tombola.levels.learn import Learning, attached
from tombola.levels.search import Search
from tombola.methods.binary_weights import BinaryWeights
from tombola.methods.dense import DenseTraining
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.joint import Joint
from tombola.methods.multi_prize import MultiPrize
from tombola.models.spec import ModelSpec
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear
from tombola.nn.rewrite import apply_rewrites
from tombola.search.find import find
from tombola.supermask import FROZEN, Binary, Identity, Masked, SignedConstant, TopK, attach, refresh
from tombola.supermask.layers import groups, layers
from tombola.supermask.masks import read
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train.recipe import Recipe


def put_on(model: nn.Module, learning: Learning) -> nn.Module:
    """The model as a search attaches it, with the learning's rewrites."""
    setup: Any = SimpleNamespace(splits=splits())
    return attached(Search(setup, Origin.stored(model), 0, {}, architecture=model), learning)


# -- by hand

KEEPS_MIDDLE = torch.tensor([[0.1, -0.4, 0.3, -0.2]])
WEIGHTS = torch.tensor([[0.5, -1.0, 0.25, -2.0]])


def one_layer(weights: Any = FROZEN, density: float = 0.5) -> nn.Module:
    """The reference's layer of four weights, its scores set, attached by way of the rewrites."""
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    model[0].weight.data = WEIGHTS.clone()
    rewrites = ({"kind": "binary-layers", "names": ["0.weight"]},)
    made = put_on(model, Learning(TopK(density), represent=Binary(), weights=weights, rewrites=rewrites))
    next(layers(made)).supermask.scores.data = KEEPS_MIDDLE.clone()
    refresh(made)
    return made


def test_the_reference_vector_through_the_rewritten_layer() -> None:
    model = one_layer()
    layer = model.get_submodule("0")
    assert isinstance(layer, BinaryLinear)
    torch.testing.assert_close(layer.weight, torch.tensor([[0.0, -0.625, 0.625, 0.0]]), rtol=0, atol=0)
    x = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    out = model(x)
    assert out.item() == 0.625 * (4.0 - 2.0)
    out.sum().backward()
    found = next(layers(model)).supermask.scores.grad
    # dL/ds = g·w·sign(s), g = x: pruned weights get a gradient too
    torch.testing.assert_close(found, x * WEIGHTS * torch.sign(KEEPS_MIDDLE), rtol=1e-6, atol=0)
    assert next(layers(model)).weight.grad is None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(Masked(), [0.0, -2.0 * 0.625, 4.0 * 0.625, 0.0])],
)
def test_the_weights_gradient_is_clipped_beyond_one(rule: Any, expected: list[float]) -> None:
    model = one_layer(rule)
    model(torch.tensor([[1.0, -2.0, 4.0, 8.0]])).sum().backward()
    torch.testing.assert_close(next(layers(model)).weight.grad, torch.tensor([expected]))
    model = one_layer(rule, density=1.0)  # alpha = .9375; the weight of -2 is beyond 1
    model(torch.tensor([[1.0, -2.0, 4.0, 8.0]])).sum().backward()
    expected = [0.9375, -2 * 0.9375, 4 * 0.9375, 0.0]
    torch.testing.assert_close(next(layers(model)).weight.grad, torch.tensor([expected]))


def test_the_activations_gradient() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    y = BinaryActivation()(x)
    assert y.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 2.0, 1.0, 0.0]


# -- true binary values in the forward pass


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    scope=st.sampled_from(["layer", "global"]),
    per_channel=st.booleans(),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_every_layer_sums_integers(seed: int, density: float, scope: str, per_channel: bool, size: float) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        BinaryActivation(),
        nn.Conv2d(2, 5, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 16, 6, bias=False),
        nn.ReLU(),
        nn.Linear(6, 3, bias=False),
    )
    method = MultiPrize(density=density, scope=scope, per_channel=per_channel, activations="binary")
    model = apply_rewrites(model, method.learning(model).rewrites)
    attach(model, TopK(density, scope), represent=Binary(per_channel), seed=seed)
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, (BinaryConv2d, BinaryLinear)):
            module.register_forward_hook(lambda m, inputs, out: seen.append((m, inputs[0], out)))
    model(torch.randn(3, 2, 4, 4) * size)
    assert len(seen) == 3
    for module, x, out in seen:
        assert set(x.unique().tolist()) <= {-1.0, 1.0}
        weight = module.weight.detach()
        assert isinstance(weight, Tensor)
        rows = weight.flatten(1).abs()
        alpha = rows.amax(1)
        assert bool(((rows == 0) | (rows == alpha[:, None])).all())
        if not per_channel:
            assert len(set(alpha[alpha > 0].tolist())) <= 1
        shape = (-1, *[1] * (out.dim() - 2))
        # the layer gives float32(integer · alpha), and nothing else
        divisor = torch.where(alpha == 0, torch.ones_like(alpha), alpha).reshape(shape)
        sums = (out.double() / divisor.double()).round()
        assert torch.equal(out, sums.float() * divisor)
        assert bool((sums.abs() <= (rows > 0).sum(1).reshape(shape)).all())


# -- alpha in keeping with the mask


def expected_alpha(weight: Tensor, mask: Tensor, per_channel: bool) -> Tensor:
    kept = weight.detach().double().abs() * mask
    if not per_channel:
        return kept.sum() / mask.sum().clamp(min=1)
    return kept.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("rule", [FROZEN, Masked()], ids=str)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_alpha_follows_mask_and_weights(per_channel: bool, rule: Any, scope: str) -> None:
    model = network()
    attach(model, TopK(0.2, scope), represent=Binary(per_channel), weights=rule, seed=1)
    scores, weights = groups(model)
    optimizer = torch.optim.SGD([*scores, *weights], lr=0.5, momentum=0.9)
    masks = []
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 6, 6)).pow(2).mean().backward()
        optimizer.step()
        refresh(model)
        masks.append(read(model))
        for layer in layers(model):
            supermask = layer.supermask
            assert supermask.scale is not None
            alpha = expected_alpha(layer.weight, supermask.mask, per_channel)
            torch.testing.assert_close(supermask.scale.double().reshape(alpha.shape), alpha, rtol=1e-6, atol=0)
            effective = supermask(layer.weight).detach()
            assert bool(((effective != 0) <= supermask.mask).all())
    assert masks[0] != masks[-1]


def test_alpha_of_an_empty_channel_and_of_zero_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].weight.data = torch.tensor([[0.5, 0.0, -0.5], [1.0, 1.0, 1.0]])
    attach(model, TopK(0.5), represent=Binary(True))
    supermask = next(layers(model)).supermask
    supermask.scores.data = torch.tensor([[3.0, 2.0, 1.0], [0.1, 0.1, 0.1]])
    refresh(model)
    assert supermask.scale is not None
    assert supermask.scale.flatten().tolist() == pytest.approx([1 / 3, 0.0])
    third = supermask.scale[0].item()
    assert supermask(model[0].weight.new_tensor([[0.5, 0.0, -0.5], [1.0, 1.0, 1.0]])).tolist() == [
        [third, third, -third],
        [0.0, 0.0, 0.0],
    ]


# -- equality with edge-popup where all weights of a layer are of one size


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("other", [Identity(), SignedConstant()], ids=["weights", "signed constants"])
def test_signed_constants_are_edge_popup(scope: str, other: Any) -> None:
    binary, plain = network(constant=True), network(constant=True)
    if isinstance(other, SignedConstant):  # their standard deviation is the constant only without a mean
        for model in (binary, plain):
            for name, weight in model.named_parameters():
                if name in ("0.weight", "4.weight", "6.weight"):
                    signs = torch.tensor([1.0, -1.0]).repeat(weight.numel() // 2).view_as(weight)
                    weight.data = signs * weight.data.abs().max()
    attach(binary, TopK(0.3, scope), represent=Binary(), seed=4)
    attach(plain, TopK(0.3, scope), represent=other, seed=4)
    x = torch.randn(5, 1, 6, 6)
    assert read(binary) == read(plain)
    out, same = binary(x), plain(x)
    torch.testing.assert_close(out, same, rtol=1e-5, atol=1e-6)
    for result in (out, same):
        result.pow(2).mean().backward()
    for ours, theirs in zip(layers(binary), layers(plain), strict=True):
        assert torch.equal(ours.supermask.scores, theirs.supermask.scores)
        torch.testing.assert_close(ours.supermask.scores.grad, theirs.supermask.scores.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_signed_constants_train_as_edge_popup_does(scope: str) -> None:
    spec = ModelSpec("mlp", {"hidden": [12, 8]}, init="signed_constant")
    recipe = Recipe(length="10it", batch_size=8, lr=0.2, momentum=0.9, eval_every="5it")
    kept = {"density": 0.4, "scope": scope}
    multi = find(spec, splits(), MultiPrize(**kept), recipe=recipe)
    popup = find(spec, splits(), EdgePopup(**kept), recipe=recipe)
    assert multi.origin.weights_hash == popup.origin.weights_hash
    assert multi.mask == popup.mask
    x = torch.randn(7, 1, 6, 6)
    torch.testing.assert_close(multi.build().eval()(x), popup.build().eval()(x), rtol=1e-5, atol=1e-6)


# -- what moves, and what rests


@pytest.mark.parametrize("activations", ["float", "binary"])
def test_latent_weights_learn_in_joint_training(activations: str) -> None:
    model = network()
    for weight in (model[0].weight, model[4].weight):
        weight.data.flatten()[0] = 1.5  # beyond the clip
    method = Joint(weights="binary", activations=activations, density=0.6)
    made = put_on(model, method.learning(model))
    x, y = torch.randn(16, 1, 6, 6), torch.randint(2, (16,))
    nn.functional.cross_entropy(made(x), y).backward()
    for layer in layers(made):
        gradient, mask = layer.weight.grad, layer.supermask.mask
        assert gradient is not None
        assert bool((gradient[~mask] == 0).all())
        assert bool((gradient[layer.weight.abs() > 1] == 0).all())
        assert bool((gradient != 0).any()), layer.name
        assert layer.supermask.scores.grad is not None
        assert bool((layer.supermask.scores.grad != 0).any())
    assert bool((dict(made.named_parameters())["1.weight"].grad != 0).any())  # the norm's


@pytest.mark.parametrize("activations", ["float", "binary"])
def test_signs_flip_in_joint_training_and_rest_in_multi_prize(activations: str) -> None:
    recipe = Recipe(length="10it", batch_size=8, lr=0.5, momentum=0.9, eval_every="5it")
    joint = levels(Joint(weights="binary", activations=activations), recipe=recipe)[0].ticket
    assert joint.trained
    assert all(values.dtype == torch.int8 for values in joint.trained.values())
    assert "1.weight" in joint.state
    multi = levels(MultiPrize(activations=activations), recipe=recipe)[0].ticket
    assert multi.trained is None
    assert set(multi.state) <= {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    before = network().state_dict()
    for name, mask in multi.mask.items():
        built = multi.build(model=network()).state_dict()[name]
        signs = torch.where(before[name] < 0, -1.0, 1.0)
        alpha = multi.representation.scales[name]
        assert torch.equal(built, signs * alpha * mask)


def test_multi_prize_leaves_latent_weights_bit_for_bit() -> None:
    model = network()
    made = put_on(model, MultiPrize(norms="trained").learning(model))
    before = {layer.name: layer.weight.detach().clone() for layer in layers(made)}
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], 0.5, 0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        made(torch.randn(8, 1, 6, 6)).pow(2).mean().backward()
        optimizer.step()
        refresh(made)
    for layer in layers(made):
        assert torch.equal(layer.weight.detach(), before[layer.name])
    parameters = dict(made.named_parameters())
    assert not torch.equal(parameters["1.weight"].detach(), torch.ones(4))  # the norm has learned
    assert torch.equal(parameters["0.bias"].detach(), network()[0].bias.detach())


@pytest.mark.parametrize("activations", ["float", "binary"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_binary_weights_keep_all_and_train_the_rest(activations: str, per_channel: bool) -> None:
    method = BinaryWeights(activations=activations, per_channel=per_channel)
    recipe = Recipe(length="10it", batch_size=8, lr=0.5, momentum=0.9, weight_decay=0.1, eval_every="5it")
    level = levels(method, recipe=recipe)[0]
    ticket: Ticket = level.ticket
    assert ticket.density == 1.0
    assert ticket.trained
    scales = 32 * sum(scale.numel() for scale in ticket.representation.scales.values())
    signs = level.result.bits_per_weight * ticket.mask.total - scales
    assert 0.9 * ticket.mask.total < signs <= ticket.mask.total
    assert {"0.bias", "1.weight", "1.bias", "6.bias"} <= set(ticket.state)
    for name, scale in ticket.representation.scales.items():
        assert scale.numel() == (ticket.mask[name].shape[0] if per_channel else 1)


def test_scores_of_binary_weights_rest() -> None:
    from tombola.levels import learn as loop

    seen: list[dict[str, Tensor]] = []

    def watched(*args: Any, **more: Any) -> Ticket:
        seen.append({layer.name: layer.supermask.scores.detach().clone() for layer in layers(args[1])})
        return kept(*args, **more)

    kept = loop.make_ticket
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_ticket", watched)
        recipe = Recipe(length="4it", batch_size=8, lr=0.5, momentum=0.9, weight_decay=0.1, eval_every="2it")
        levels(BinaryWeights(), recipe=recipe)
        levels(BinaryWeights(), recipe=Recipe(length="2it", batch_size=8, lr=0.1, eval_every="2it"))
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


# -- norms, whole layers, annealing


def test_norms_fixed_trained_tuned() -> None:
    fixed, trained = levels(MultiPrize())[-1].ticket, levels(MultiPrize(norms="trained"))[-1].ticket
    assert "1.weight" not in fixed.state
    assert {"1.weight", "1.bias"} <= set(trained.state)
    first, second = levels(MultiPrize(norms="tuned", tune="4it"))
    assert first.ticket == fixed or first.ticket.mask == fixed.mask
    assert second.ticket.mask == first.ticket.mask
    assert second.ticket.trained is None
    assert second.ticket.representation.scales.keys() == first.ticket.representation.scales.keys()
    for name in first.ticket.mask:
        assert torch.equal(second.ticket.representation.scales[name], first.ticket.representation.scales[name])
    assert set(second.ticket.state) - set(first.ticket.state) == {"1.weight", "1.bias"}
    assert second.result.level == 2
    assert second.result.bits_per_weight == first.result.bits_per_weight


@pytest.mark.parametrize("norms", ["trained", "tuned"])
def test_norms_that_are_not_there_are_told(norms: str) -> None:
    with pytest.raises(TombolaError, match="norm") as told:
        find("mlp", splits(), MultiPrize(norms=norms), recipe=RECIPE)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("norms", ["trained", "tuned"])
def test_norms_without_scale_and_bias_are_told(norms: str) -> None:
    model = network()
    model[1] = nn.BatchNorm2d(4, affine=False)
    with pytest.raises(TombolaError, match="norm"):
        find(model, splits(), MultiPrize(norms=norms), recipe=RECIPE)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_whole_layers_are_binary_but_not_masked(scope: str) -> None:
    ticket = levels(MultiPrize(density=0.2, scope=scope, whole=("0.*", "6.weight"), anneal="3it"))[0].ticket
    kept = {name: mask.float().mean().item() for name, mask in ticket.mask.items()}
    assert kept == {"0.weight": 1.0, "4.weight": pytest.approx(0.2, abs=1e-3), "6.weight": 1.0}
    built = ticket.build(model=network())
    for name in ticket.mask:
        assert len(built.state_dict()[name].abs().unique()) <= 2


def test_whole_patterns_that_match_nothing_are_told() -> None:
    for method in (MultiPrize(whole=("7.*",)), EdgePopup(whole=("7.*",))):
        with pytest.raises(TombolaError, match=r"whole.*'7\.\*'"):
            find(network(), splits(), method, recipe=RECIPE)


def test_annealing_over_the_global_scope() -> None:
    method = MultiPrize(density=0.1, scope="global", anneal="4it")
    recipe = Recipe(length="6it", batch_size=8, lr=0.1, eval_every="1it")
    level = levels(method, recipe=recipe)[0]
    sizes = [144 * 8, 16, 36]
    total = sum(sizes)
    found = []
    for row in level.result.utilisation:
        parts = row.densities
        found.append((row.step, sum(parts[n] * level.ticket.mask[n].numel() for n in parts) / total))
    for step, density in found:
        left = max(0.0, 1 - step / 4)
        assert density == pytest.approx(0.1 + 0.4 * left**3, abs=1 / total), step
    for name, scale in level.ticket.representation.scales.items():
        alpha = expected_alpha(network().state_dict()[name], level.ticket.mask[name], False)
        assert scale.double().item() == pytest.approx(alpha.item(), rel=1e-6)


@pytest.mark.parametrize("method", [MultiPrize(density=0.1, anneal="7it"), EdgePopup(density=0.1, anneal="2ep")])
def test_annealing_beyond_the_training_is_told(method: Any) -> None:
    with pytest.raises(TombolaError, match="longer than the training of 6"):
        find(network(), splits(), method, recipe=RECIPE)


def test_dense_with_binary_activations() -> None:
    with pytest.raises(TombolaError, match="activations are binary"):
        find(network(), splits(), DenseTraining(activations="binary"), recipe=RECIPE)
    ticket = find("mlp", splits(), DenseTraining(activations="binary"), recipe=RECIPE)
    built = ticket.build()
    assert any(isinstance(m, BinaryActivation) for m in built.modules())
    assert not any(isinstance(m, BinaryLinear) for m in built.modules())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MultiPrize(activations="ternary"), "float, binary"),
        (lambda: MultiPrize(norms="none"), "fixed, trained, tuned"),
        (lambda: MultiPrize(density=0.6, anneal="2ep"), "0.5"),
        (lambda: MultiPrize(norms="tuned", tune="0it"), "tune"),
        (lambda: MultiPrize(tune_lr=float("nan")), "tune_lr"),
        (lambda: MultiPrize(density=0.0), "density"),
        (lambda: MultiPrize(scope="model"), "scope"),
        (lambda: BinaryWeights(activations="sign"), "float, binary"),
        (lambda: Joint(weights="ternary"), "identity, binary"),
        (lambda: Joint(activations="sign"), "float, binary"),
        (lambda: DenseTraining(activations="sign"), "float, binary"),
    ],
)
def test_wrong_choices_are_told_in_one_line(make: Any, said: str) -> None:
    with pytest.raises(TombolaError, match=said) as told:
        find("mlp", splits(), make(), recipe=RECIPE)
    assert "\n" not in str(told.value)


def test_joint_binary_weights_begin_as_large_as_those_of_multi_prize() -> None:
    methods = (Joint(weights="binary"), MultiPrize(), Joint())
    inits = [find("mlp", splits(), method, recipe=RECIPE).origin.init for method in methods]
    assert inits == ["kaiming_normal", "kaiming_normal", "xavier_normal"]
