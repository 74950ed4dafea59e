"""8-bit block floating point: values by hand, rounding without bias, and training in it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.hold import hold
from tombola.mask import Mask
from tombola.nn.block_float import low_precision_operands, quantise
from tombola.train.checkpoint import CheckpointStore
from tombola.train.fabric import make_fabric
from tombola.train.hooks import Hook
from tombola.train.loop import train
from tombola.train.low_precision import forward_precision
from tombola.train.recipe import Recipe
from tombola.train.state import Loop
from tombola.train.trial import TrainingSetup, train_trial

RECIPE = Recipe(length="3ep", batch_size=8, lr=0.05, weight_decay=1e-3, eval_every="4it", precision="bfp8")


def on_grid(x: Tensor, axis: int | None = 0) -> bool:
    return torch.equal(x, quantise(x, axis=axis))


# ---- the format --------------------------------------------------------------------------------------------


def test_values_by_hand() -> None:
    # The largest is 1 = 64 / 64, so one step is 1/64: 0.3 is 19.2 steps, -0.007 is -0.448, 0.008 is 0.512.
    block = torch.tensor([1.0, 0.5, 0.3, -0.007, 0.008])
    assert quantise(block).tolist() == [1.0, 0.5, 19 / 64, 0.0, 1 / 64]
    # 3 is 96 / 32: the step doubles with the exponent of the largest. 0.3 is 9.6 steps.
    assert quantise(torch.tensor([3.0, 0.3])).tolist() == [3.0, 10 / 32]
    # Four bits have mantissas -7 to 7: 1.99 is 7.96 steps of 1/4 and is clipped.
    assert quantise(torch.tensor([1.99]), bits=4).tolist() == [1.75]
    assert quantise(torch.tensor([-1.99]), bits=4).tolist() == [-1.75]
    # Half a step goes to the even neighbour.
    assert quantise(torch.tensor([1.0, 2.5 / 64, 3.5 / 64])).tolist() == [1.0, 2 / 64, 4 / 64]


def test_every_index_along_the_axis_is_a_block() -> None:
    x = torch.tensor([[1.0, 0.011], [0.0110, 0.0001]])
    rows, whole = quantise(x), quantise(x, axis=None)
    # 0.011 of the second row is 1.408 / 128: one step is 2^-13, of which it has 90.1, and 0.0001 has 0.82.
    assert rows.tolist() == [[1.0, 1 / 64], [90 / 8192, 1 / 8192]]
    assert whole.tolist() == [[1.0, 1 / 64], [1 / 64, 0.0]]
    assert torch.equal(quantise(x, axis=1), quantise(x.T).T)
    assert torch.equal(quantise(x.reshape(2, 2, 1, 1)).flatten(1), rows)
    bias = torch.tensor([1.0, 0.0001])
    assert quantise(bias).tolist() == [1.0, 0.0]  # one dimension is one block


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_has_eight_bits_stays_to_the_bit(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    whole = torch.randint(-127, 128, (50, 40), generator=draw)
    whole[:, 0] = 127  # so that a step is 1
    x = (whole * 2.0**-9).to(dtype)
    assert torch.equal(quantise(x), x)
    assert torch.equal(quantise(x, generator=draw), x)
    assert quantise(x).dtype == dtype


def test_no_draw_moves_a_pruned_weight_from_zero() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.zeros(1, 1_000_000)
    x[0, 0] = 1.9
    assert not quantise(x, generator=draw)[0, 1:].any()


@given(st.integers(-126, 127), st.floats(1, 2, exclude_max=True, width=32), st.floats(-1, 1, width=32))
def test_errors_are_half_a_step_at_every_exponent(exponent: int, mantissa: float, share: float) -> None:
    x = torch.tensor([mantissa, mantissa * share], dtype=torch.float64) * 2.0**exponent
    x = x.float()
    step = 2.0 ** max(exponent - 6, -125)
    rounded = quantise(x)
    assert ((rounded / step).abs() <= 127).all()
    assert torch.equal((rounded / step).round(), rounded / step)
    clipped = x.double().clamp(-127 * step, 127 * step)
    assert ((rounded.double() - clipped).abs() <= step / 2).all()


def test_stochastic_rounding_has_no_bias_and_is_repeatable() -> None:
    values = torch.tensor([1.0, 0.3, 0.001, -0.007, 0.9999])
    draws = 20_000
    x = values.repeat(draws, 1)
    rounded = quantise(x, generator=torch.Generator().manual_seed(5))
    steps = rounded * 64
    assert torch.equal(steps, steps.round())
    assert ((rounded - x).abs() < 1 / 64).all()  # one of the two neighbours
    fraction = (values * 64) % 1
    bound = 5 * (fraction * (1 - fraction) / draws).sqrt() / 64  # five standard errors
    assert ((rounded.double().mean(0) - values).abs() <= bound + 1e-7).all()
    assert rounded[:, 2].unique().numel() == 2  # small ones survive now and then
    assert torch.equal(rounded, quantise(x, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(rounded, quantise(x, generator=torch.Generator().manual_seed(6)))


def test_nan_and_infinity_pass() -> None:
    x = torch.tensor([[math.nan, 0.3], [math.inf, 0.3], [-math.inf, 0.3], [1.0, 0.3]])
    for draw in (None, torch.Generator().manual_seed(0)):
        rounded = quantise(x, generator=draw)
        assert torch.equal(rounded[:3].nan_to_num(7), x[:3].nan_to_num(7))
        assert rounded[3, 1] != x[3, 1]


def test_edges() -> None:
    assert quantise(torch.zeros(3, 2)).tolist() == [[0.0, 0.0]] * 3
    assert quantise(torch.empty(0, 3)).shape == (0, 3)
    assert quantise(torch.tensor(0.75)).item() == 0.75
    largest = torch.finfo(torch.float32).max
    assert quantise(torch.tensor([largest])).item() == 127 * 2.0**121
    with pytest.raises(TombolaError, match="bits is 1; a mantissa has 2 to 16"):
        quantise(torch.ones(1), bits=1)


# ---- operands ----------------------------------------------------------------------------------------------


def test_every_product_has_operands_of_eight_bits() -> None:
    """x and the error are rounded; the gradient passes the rounding of x as it is."""
    layer = nn.Linear(3, 2, bias=False)
    draw = torch.Generator().manual_seed(0)
    x, error = torch.randn(5, 3, generator=draw, requires_grad=True), torch.randn(5, 2, generator=draw)
    with low_precision_operands(layer.eval()):
        out = layer(x)
        out.backward(error)
    assert torch.equal(out, F.linear(quantise(x), layer.weight))
    assert layer.weight.grad is not None
    assert x.grad is not None
    assert torch.equal(layer.weight.grad, quantise(error).T @ quantise(x))
    assert torch.equal(x.grad, quantise(error) @ layer.weight)
    assert torch.equal(layer(x), F.linear(x, layer.weight))  # and no longer so afterwards


def test_what_follows_may_work_in_place() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 2))
    with low_precision_operands(model, torch.Generator().manual_seed(0)):
        model(torch.randn(4, 1, 6, 6)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_draws_in_training_mode_and_none_in_evaluation_mode() -> None:
    layer, x, draw = nn.Linear(64, 2), torch.randn(3, 64), torch.Generator().manual_seed(0)
    with low_precision_operands(layer, draw), torch.no_grad():
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        before = draw.get_state()
        assert torch.equal(layer(x), layer(x))
        assert torch.equal(draw.get_state(), before)


def test_attention_takes_part() -> None:
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(2, 3, 8)
    rounded = quantise(x)
    with low_precision_operands(attention), torch.no_grad():
        assert torch.allclose(attention(x, x, value=x)[0], attention(rounded, rounded, rounded)[0])


# ---- training ----------------------------------------------------------------------------------------------


def splits() -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(96, 1, 6, 6, generator=draw)
    y = (x.mean((1, 2, 3)) > 0).long()
    return make_splits((x[:64], y[:64]), (x[64:80], y[64:80]), (x[80:], y[80:]))


def network() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 2))
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(inplace=True), *head)


class Seen(Hook):
    """What the optimiser works on."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at, self.grids = kill_at, list[bool]()

    def after_step(self, loop: Loop) -> None:
        state: dict[Any, Any] = loop.optimizer.state
        momenta = [state[p][name] for p in state for name in ("momentum_buffer", "exp_avg") if name in state[p]]
        assert momenta
        self.grids.append(all(on_grid(tensor) for tensor in (*loop.model.parameters(), *momenta)))
        if loop.step == self.kill_at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("more", [{}, {"optimizer": "adam"}, {"accumulate": 2}], ids=str)
def test_weights_and_momentum_have_eight_bits_after_every_step(more: dict[str, Any]) -> None:
    seen = Seen()
    trained = train(network(), splits(), replace(RECIPE, **more), hooks=[seen])
    assert seen.grids == [True] * 24
    assert all(on_grid(value) for name, value in trained.state.items() if "running" not in name and value.dim())
    assert trained.history[-1].train_loss < trained.history[1].train_loss


def test_gradients_have_eight_bits_at_the_step() -> None:
    """Plain SGD of one weight: what it moved by, before it was rounded itself, is lr times a rounded gradient."""
    moved: list[Tensor] = []

    class Noting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            moved.extend(p.grad.clone() for group in self.param_groups for p in group["params"])
            return super().step(closure)

    train(network(), splits(), replace(RECIPE, length="2it"), optimizer=_built(Noting))
    assert len(moved) == 12
    assert all(on_grid(gradient) for gradient in moved)


def _built(kind: type[torch.optim.SGD]) -> Any:
    def build(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
        optimizer = kind(model.parameters(), lr=recipe.lr)
        for group in optimizer.param_groups:
            group["initial_lr"] = recipe.lr
        return optimizer

    return build


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_run_ends_bit_for_bit_as_if_never_killed(tmp_path: Path, accumulate: int) -> None:
    recipe = replace(RECIPE, accumulate=accumulate)
    whole = train(network(), splits(), recipe, seed=3)
    store = CheckpointStore(tmp_path / "stage", every_seconds=0.0)
    for step in (17, 21):
        with pytest.raises(KeyboardInterrupt):
            train(network(), splits(), recipe, seed=3, hooks=[Seen(step)], store=store)
    resumed = train(network(), splits(), recipe, seed=3, store=store)
    assert all(torch.equal(resumed.state[name], whole.state[name]) for name in whole.state)
    assert [row.val_loss for row in resumed.history] == [row.val_loss for row in whole.history]
    other = train(network(), splits(), recipe, seed=4)
    assert not torch.equal(other.state["0.weight"], whole.state["0.weight"])


def test_a_float_run_is_another_and_the_model_is_left_plain() -> None:
    model, x = network(), splits().val.x
    trained = train(model, splits(), RECIPE)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    plain = train(network(), splits(), replace(RECIPE, precision="32"))
    assert not torch.equal(plain.state["0.weight"], trained.state["0.weight"])
    assert not on_grid(plain.state["0.weight"])
    with forward_precision(RECIPE, make_fabric("cpu", "bfp8"), model.eval()):
        rounded = model(x)
    assert not torch.equal(rounded, model(x))
    assert torch.allclose(rounded, model(x), atol=0.2)


def test_evaluated_in_the_precision_that_it_was_trained_in() -> None:
    """The last validation within the run and the one look at the test split after it agree on the same examples."""
    data = splits()
    data = replace(data, test=data.val)
    setup = TrainingSetup(data, RECIPE, make_fabric("cpu", "bfp8"))
    model = network()
    trial = train_trial(setup, model, seed=0, label="trial")
    assert trial.result.test_loss == trial.history[-1].val_loss
    plain = replace(setup, recipe=replace(RECIPE, precision="32"))
    assert plain.scorer(model, data.val)().loss != trial.result.test_loss


def test_pruned_weights_stay_at_their_value() -> None:
    model = network()
    keep = torch.arange(4 * 9).reshape(4, 1, 3, 3) % 3 > 0
    with hold(model, Mask({"0.weight": keep})):
        trained = train(model, splits(), RECIPE)
    assert not trained.state["0.weight"][~keep].any()
    assert trained.state["0.weight"][keep].all()


def test_learns_the_digits_nearly_as_well_as_float32() -> None:
    data, found = load_data(DataSpec("digits")), {}
    for precision in ("32", "bfp8"):
        recipe = Recipe(length="6ep", batch_size=64, lr=0.1, schedule="cosine", precision=precision)
        setup = TrainingSetup(data, recipe, make_fabric("cpu", precision))
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
        found[precision] = train_trial(setup, model, seed=0, label=precision).result.test_accuracy
    assert found["32"] is not None
    assert found["bfp8"] is not None
    assert found["32"] > 0.92
    assert abs(found["bfp8"] - found["32"]) < 0.03
