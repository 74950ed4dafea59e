"""Whatever writes a held weight, and however the network is called: pruned weights are +0.0 in the forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from hold_models import Nested, X, is_held, is_zero, nested, some_mask, step, weight
from tombola.errors import TombolaError
from tombola.hold import hold
from tombola.mask import Mask


def ones(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.ones_like(value) for name, value in model.state_dict().items()}


def fill(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)


def data_copy(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.copy_(torch.ones_like(parameter))


def data_in_place(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.add_(1.0)


def data_assigned(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = torch.ones_like(parameter)


def data_transposed(model: nn.Module) -> None:
    """The same memory in another order: the square weight keeps its shape."""
    square = model.get_parameter("encoder.2.weight")
    square.data.copy_(torch.ones_like(square))
    square.data = square.data.t()


def numpy_view(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.detach().numpy()[...] = 1.0


def from_vector(model: nn.Module) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(torch.ones_like(vector), model.parameters())


def loaded(model: nn.Module) -> None:
    model.load_state_dict(ones(model))


def loaded_by_assignment(model: nn.Module) -> None:
    model.load_state_dict(ones(model), assign=True)


def new_parameters(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(torch.ones_like(module.weight))


def registered_anew(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            shape = module.weight.shape
            del module.weight
            module.register_parameter("weight", nn.Parameter(torch.ones(shape)))


def new_module(model: nn.Module) -> None:
    assert isinstance(model, Nested)
    model.head = nn.Linear(4, 3)
    model.encoder[0] = nn.Linear(5, 4)


def new_part(model: nn.Module) -> None:
    assert isinstance(model, Nested)
    model.encoder = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4))


def double(model: nn.Module) -> None:
    fill(model)
    model.double().float()


def initialised(model: nn.Module) -> None:
    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, -1.0)

    model.apply(init)


def foreach(model: nn.Module) -> None:
    with torch.no_grad():
        torch._foreach_add_(list(model.parameters()), 1.0)


def averaged(model: nn.Module) -> None:
    average = AveragedModel(model)
    fill(average)
    for ours, theirs in zip(model.parameters(), average.parameters(), strict=True):
        ours.data.copy_(theirs.data)


def swapped(model: nn.Module) -> None:
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        fill(model)
        model.double()
        model.load_state_dict(ones(model))
        model.float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def not_a_number(model: nn.Module) -> None:
    for parameter, value in zip(model.parameters(), (torch.nan, 0.5, torch.inf, 0.5, -torch.inf, 0.5), strict=True):
        parameter.data.fill_(value)


def negative(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(-1.0)


WRITES: list[Callable[[nn.Module], None]] = [
    fill, data_copy, data_in_place, data_assigned, data_transposed, numpy_view, from_vector, loaded,
    loaded_by_assignment, new_parameters, registered_anew, new_module, new_part, double, initialised, foreach, averaged,
    swapped, not_a_number, negative,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_whatever_writes_the_weights_the_next_forward_pass_is_masked(write: Callable[[nn.Module], None]) -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        for _ in range(2):  # again, once what was found the first time is known
            write(model)
            model(X)
            assert is_held(model, mask)
        if write is not_a_number:
            return
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        model(X).square().sum().backward()
        assert all(is_zero(model.get_parameter(name).grad[~kept]) for name, kept in mask.items())  # type: ignore[index]
        fill(model)
        optimizer.step()
        assert is_held(model, mask)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_part_that_is_called_alone_is_masked(write: Callable[[nn.Module], None]) -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        if write in (new_module, new_part):
            model(X)
        write(model)
        if write in (new_module, new_part):
            model(X)  # a new module is found when what contains it is called
            fill(model)
        model.encoder(X)
        assert is_held(model.encoder, Mask({n.removeprefix("encoder."): mask[n] for n in mask if "encoder" in n}))
        model.head(torch.ones(1, 4))
        assert is_held(model, mask)


def test_after_an_error_or_in_the_midst_of_a_call_a_part_alone_is_masked() -> None:
    model = nested()
    mask = some_mask(model)

    def write_then_call(module: nn.Module, args: object, output: object) -> None:
        fill(model)
        model.encoder(X)

    with hold(model, mask):
        with pytest.raises(RuntimeError):
            model(torch.ones(2, 7))
        fill(model)
        model.head(torch.ones(1, 4))
        assert is_zero(weight(model, "head.weight")[~mask["head.weight"]])
        after = model.register_forward_hook(write_then_call)  # the outer call is over by then
        model(X)
        assert is_zero(weight(model, "encoder.0.weight")[~mask["encoder.0.weight"]])
        after.remove()


class Functional(nn.Module):
    """A weight of its own, and others that it reads without calling their modules."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 5)
        self.inner = nn.Linear(5, 5)
        self.own = nn.Parameter(torch.ones(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.inner.weight) @ self.own
        return F.linear(h, self.embed.weight)


def test_weights_that_are_read_without_calling_their_module_are_masked() -> None:
    model = Functional()
    mask = some_mask(model, ("embed.weight", "own"))
    assert len(mask) == 3
    with hold(model, mask):
        data_copy(model)
        out = model(X)
        expected = F.linear(
            F.linear(X, mask["inner.weight"].float()) @ mask["own"].float(), mask["embed.weight"].float()
        )
        assert torch.equal(out, expected)


@pytest.mark.parametrize("training", [True, False])
def test_attention_and_its_fast_path_are_masked(training: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    mask = some_mask(model)
    assert {"layers.0.self_attn.in_proj_weight", "layers.1.self_attn.out_proj.weight"} <= set(mask)
    x = torch.randn(2, 3, 4)
    with hold(model, mask), torch.no_grad():
        data_in_place(model)
        model(x)
        assert is_held(model, mask)
        for part in (model.layers[0], model.layers[1].self_attn):
            data_in_place(model)
            part(*(x,) * (3 if isinstance(part, nn.MultiheadAttention) else 1))
            held = {n: k for n, k in mask.items() if model.get_submodule(n.rpartition(".")[0]) in set(part.modules())}
            assert held
            assert is_held(model, Mask(held))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


@pytest.mark.parametrize("replaced", ["first", "second"])
@pytest.mark.parametrize("named", ["first.weight", "second.weight"])
def test_tied_weights_are_held_under_either_name_also_when_they_part(replaced: str, named: str) -> None:
    model = Tied()
    keep = some_mask(model)["first.weight"]
    with hold(model, Mask({named: keep})):
        fill(model)
        model.second(X)
        assert is_zero(model.first.weight[~keep])
        getattr(model, replaced).weight = nn.Parameter(torch.ones(5, 5))
        fill(model)
        model(X)
        assert is_zero(model.first.weight[~keep])
        assert is_zero(model.second.weight[~keep])


def test_a_module_at_two_places_is_held_once_and_separately_after_one_is_replaced() -> None:
    shared = nn.Linear(5, 5)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    mask = some_mask(model)
    assert list(mask) == ["0.weight"]
    with hold(model, mask):
        fill(model)
        model(X)
        assert is_held(model, mask)
        model[2] = nn.Linear(5, 5)
        model(X)
        assert is_zero(weight(model, "2.weight")[~mask["0.weight"]])


def test_a_write_between_forward_and_backward_leaves_the_graph_alone() -> None:
    model = nested()
    with hold(model, some_mask(model)):
        first, second = model(X), model(X + 1)  # two forward passes, then one backward pass
        (first + second).square().sum().backward()
        versions = [p._version for p in model.parameters()]
        model(X)
        assert [p._version for p in model.parameters()] == versions


def test_lbfgs_whose_closure_calls_the_network_within_a_step() -> None:
    model = nested()
    mask = some_mask(model)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4, line_search_fn="strong_wolfe")
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(X).square().sum()
        loss.backward()
        seen.append(is_held(model, mask))
        return loss

    with hold(model, mask):
        optimizer.step(closure)
        assert len(seen) > 1
        assert all(seen)
        assert is_held(model, mask)


class Replacing(torch.optim.Optimizer):
    """An optimiser that puts new tensors in the place of the old ones."""

    def __init__(self, params: Iterator[nn.Parameter]) -> None:
        super().__init__(params, {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data = torch.ones_like(parameter)


def test_an_optimiser_that_replaces_data() -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        optimizer = Replacing(model.parameters())
        for _ in range(2):
            optimizer.step()
            assert is_held(model, mask)


def test_lookahead_that_interpolates_by_data_after_the_step() -> None:
    model = nested()
    mask = some_mask(model)
    slow = [torch.ones_like(p) for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hold(model, mask):
        for _ in range(2):
            step(model, optimizer)
            for parameter, old in zip(model.parameters(), slow, strict=True):
                old.lerp_(parameter.data, 0.5)
                parameter.data.copy_(old)
            assert not is_held(model, mask)
            model.eval()(X)
            assert is_held(model, mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128])
def test_every_dtype(dtype: torch.dtype) -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        if dtype.is_complex:
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.weight = nn.Parameter(torch.full(module.weight.shape, -1 - 1j, dtype=dtype))
            with pytest.raises(RuntimeError):  # of torch: relu, or the dtypes
                model(X.to(dtype))
            kept = mask["head.weight"]
            assert is_zero(torch.view_as_real(weight(model, "head.weight"))[~kept])
            return
        model.to(dtype)
        negative(model)
        model(X.to(dtype))
        assert weight(model, "head.weight").dtype == dtype
        assert is_held(model, mask)


def test_values_are_held_bit_for_bit_through_dtype_moves() -> None:
    model = nested()
    mask = some_mask(model)
    values = {name: torch.full(kept.shape, 1 / 3) for name, kept in mask.items()}
    values["head.weight"] = torch.full((3, 4), -0.0)
    with hold(model, mask, values):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
            model.to(dtype)
            not_a_number(model)
            model(X.to(dtype))
            for name, kept in mask.items():
                held = weight(model, name)[~kept]
                assert torch.equal(held, values[name][~kept].to(dtype))
                assert bool(torch.signbit(held).all()) == (name == "head.weight")


@contextmanager
def inference(mode: bool) -> Iterator[None]:
    with torch.inference_mode(mode), torch.no_grad():
        yield


def test_a_first_look_in_inference_mode_serves_training_too() -> None:
    model = nested()
    mask = some_mask(model)
    with hold(model, mask):
        data_assigned(model)
        with inference(True):
            model(X)
        assert is_held(model, mask)
        step(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert is_held(model, mask)


def test_channels_last_and_sliced_weights() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    mask = some_mask(model)
    with hold(model, mask):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fill(model)
        model[1].weight.data = torch.ones(8, 4, 3, 3)[::2]
        model(torch.ones(1, 4, 8, 8))
        assert is_held(model, mask)


def test_other_peoples_parameters_are_left_alone_by_functional_calls() -> None:
    model = nested()
    mask = some_mask(model)
    other = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    with hold(model, mask):
        torch.func.functional_call(model, other, X)
        assert all(bool((value == 1).all()) for value in other.values())
        torch.func.grad(lambda p: torch.func.functional_call(model, p, X).sum())(other)
        data_copy(model)
        torch.func.functional_call(model, dict(model.named_parameters()), X)  # its own
        assert is_held(model, mask)
        torch.func.vmap(model)(X)


# ---- gradients ---------------------------------------------------------------------------------------------------


def test_a_weight_that_is_trainable_only_later_has_its_gradient_masked_before_clipping() -> None:
    model = nested().requires_grad_(False)
    mask = some_mask(model)
    with hold(model, mask):
        model.requires_grad_(True)
        model(X).square().sum().backward()
        gradients = {name: model.get_parameter(name).grad for name in mask}
        assert all(is_zero(gradients[name][~kept]) for name, kept in mask.items())  # type: ignore[index]
        kept_alone = torch.stack([g.norm() for g in (p.grad for p in model.parameters()) if g is not None]).norm()
        assert torch.equal(nn.utils.clip_grad_norm_(model.parameters(), 1e9), kept_alone)


def test_gradients_that_are_no_numbers_where_pruned_become_0() -> None:
    model = nn.Linear(2, 2, bias=False)
    mask = Mask({"weight": torch.tensor([[True, False], [True, False]])})
    with hold(model, mask):
        (model.weight * torch.tensor([[1.0, torch.nan], [1.0, torch.inf]])).sum().backward()
        assert model.weight.grad is not None
        assert model.weight.grad.tolist() == [[1, 0], [1, 0]]


def test_sparse_gradients_and_gradients_of_gradients() -> None:
    embed = nn.Embedding(4, 3, sparse=True)
    keep = torch.arange(12).view(4, 3) % 2 == 0
    with hold(embed, Mask({"weight": keep})):
        embed(torch.tensor([1, 1, 2])).sum().backward()
        assert embed.weight.grad is not None
        assert torch.equal(embed.weight.grad.to_dense(), torch.tensor([0.0, 2, 1, 0])[:, None] * keep)
    model = nn.Linear(3, 4, bias=False)
    with hold(model, Mask({"weight": keep})):
        model(torch.ones(1, 3)).square().sum().backward(create_graph=True)
        gradient = model.weight.grad
        assert gradient is not None
        assert is_zero(gradient[~keep])
        (second,) = torch.autograd.grad(gradient.sum(), model.weight)
        assert bool((second != 0).any())


def test_gradients_accumulate_over_several_backward_passes() -> None:
    model, plain = nested(), nested()
    mask = some_mask(model)
    mask.apply_(plain)
    with hold(model, mask):
        for network in (model, plain):
            for x in (X, X + 1):
                network(x).square().sum().backward()
    for name, kept in mask.items():
        ours, theirs = model.get_parameter(name).grad, plain.get_parameter(name).grad
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, torch.where(kept, theirs, 0))


# ---- what can be held no more --------------------------------------------------------------------------------------


def test_a_parameter_of_another_shape_or_none_is_named_at_the_next_forward_pass() -> None:
    model = nested()
    with hold(model, some_mask(model)) as held:
        old = model.head
        model.head = nn.Linear(4, 2)
        with pytest.raises(TombolaError, match=r"'head\.weight' is held under a mask of shape \(3, 4\).* \(2, 4\) now"):
            model(X)
        model.head = nn.Identity()  # type: ignore[assignment]
        with pytest.raises(TombolaError, match=r"'head\.weight' is held, but the model has no such weight any more"):
            model(X)
        del model.head
        with pytest.raises(TombolaError, match=r"'head\.weight' is held, but the model has no such weight"):
            held.enforce()
        model.head = old
        model.head.weight.data = torch.ones(7, 4)
        with pytest.raises(TombolaError, match=r"shape \(7, 4\) now"):
            model.head(torch.ones(1, 4))
        del model.head.weight
        model.head.weight = torch.ones(3, 4)  # type: ignore[assignment]
        with pytest.raises(TombolaError, match=r"'head\.weight' is a plain tensor and not a parameter"):
            model(X)


# ---- more than one -----------------------------------------------------------------------------------------------


def test_two_holds_both_apply_and_the_release_of_one_leaves_the_other() -> None:
    model = nested()
    first = some_mask(model)
    second = ~first
    one, two = hold(model, first), hold(model, second)
    model(X).square().sum().backward()
    assert is_held(model, first & second)
    assert all(is_zero(model.get_parameter(name).grad) for name in first)  # type: ignore[arg-type]
    one.release()
    data_copy(model)
    model.zero_grad()
    model(X).square().sum().backward()
    assert is_held(model, second)
    assert not is_held(model, first)
    assert any(bool((model.get_parameter(n).grad[~k] != 0).any()) for n, k in first.items())  # type: ignore[index]
    two.release()
    data_copy(model)
    model(X)
    assert not is_held(model, second)
    assert not any(m._forward_pre_hooks or m._forward_hooks or m._forward_hooks_always_called for m in model.modules())


def test_an_optimizer_that_does_not_have_the_weights_writes_nothing() -> None:
    model, other = nested(), nested()
    mask = some_mask(model)
    with hold(model, mask):
        data_copy(model)
        step(other, torch.optim.SGD(other.parameters(), lr=0.1))
        assert not is_held(model, mask)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step(copy.deepcopy(model), torch.optim.SGD(other.parameters(), lr=0.1))
        assert not is_held(model, mask)
        optimizer.step()
        assert is_held(model, mask)
