"""Gradual pruning in a loop of one's own: the schedule, the masks, a checkpoint, several processes, adapters."""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm

import tombola as tb
from in_ranks import in_ranks
from tombola.errors import TombolaError
from tombola.gradual import UnfinishedScheduleWarning, cubic, merge_adapters
from tombola.gradual.packed import as_texts, from_texts, packed, unpacked
from tombola.hold import release
from tombola.select.criteria import Context
from tombola.select.select import SCOPES

SCHEDULE = tb.Cubic(begin=2, end=10, frequency=3)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def examples() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(16, 6, generator=draw), torch.arange(16) % 3


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.05)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: tb.Gradual, steps: int) -> list[tb.Mask]:
    """The mask after every step."""
    (x, y), masks = examples(), []
    for _ in range(steps):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step(optimizer)
        masks.append(pruner.mask)
    return masks


# ---- the schedule --------------------------------------------------------------------------------------------


def test_the_cubic_of_zhu_and_gupta() -> None:
    """Equation 1: s_t = s_f + (s_i - s_f)(1 - (t - t0) / nΔt)³, here s_i = 0, s_f = 0.875, t0 = 0, nΔt = 4."""
    sparsities = [0.875 * (1 - (1 - t / 4) ** 3) for t in range(5)]
    assert sparsities == [0.0, 0.875 * 37 / 64, 0.875 * 7 / 8, 0.875 * 63 / 64, 0.875]
    densities = [cubic(t, begin=0, end=4, initial=1.0, final=0.125) for t in range(5)]
    assert densities == pytest.approx([1 - s for s in sparsities], abs=1e-15)


@given(
    begin=st.integers(0, 50),
    length=st.integers(1, 100),
    initial=st.floats(0.1, 1.0),
    share=st.floats(0.01, 1.0),
)
def test_the_density_falls_from_the_initial_to_the_final_one(
    begin: int, length: int, initial: float, share: float
) -> None:
    final = initial * share
    path = [cubic(t, begin=begin, end=begin + length, initial=initial, final=final) for t in range(begin + length + 5)]
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(path))
    assert math.isclose(path[begin], initial, rel_tol=1e-12)
    assert path[begin + length :] == [final] * 5


def test_it_is_due_from_begin_every_so_often_and_at_the_end() -> None:
    assert [t for t in range(20) if SCHEDULE.is_due(t)] == [2, 5, 8, 10]


@pytest.mark.parametrize(
    "wrong", [{"end": 0}, {"end": 3, "begin": 3}, {"end": 3, "begin": -1}, {"end": 3, "frequency": 0}]
)
def test_a_schedule_that_cannot_be_is_one_line(wrong: dict[str, int]) -> None:
    with pytest.raises(TombolaError):
        tb.Cubic(**wrong)


# ---- masks ---------------------------------------------------------------------------------------------------


def test_masks_follow_the_schedule_nest_and_are_held() -> None:
    model = network()
    pruner = tb.Gradual(model, density=0.25, schedule=SCHEDULE)
    masks = train(model, adam(model), pruner, 14)
    for step, (mask, before) in enumerate(zip(masks, [tb.Mask.full(model), *masks], strict=False), 1):
        if SCHEDULE.is_due(step):
            density = SCHEDULE.density(step, 0.25)
            assert mask.counts() == {n: (round(density * t), t) for n, (_, t) in before.counts().items()}
        else:
            assert mask is before or mask == before
        assert mask.nested_in(before)
    assert tb.Mask.from_zeros(model) == masks[-1] == pruner.finish()
    assert masks[-1].density == 0.25


def test_what_is_pruned_is_the_smallest_of_the_moment() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -4.0, 2.0, -3.0]]))
    pruner = tb.Gradual(model, density=0.25, schedule=tb.Cubic(end=2, frequency=1))
    pruner.step()  # 0.25 + 0.75 / 8 is 0.34: one of four
    assert pruner.mask["weight"].tolist() == [[False, True, False, False]]
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -4.0, 2.0, -3.0]]))
    pruner = tb.Gradual(model, density=0.5)
    assert model.weight.tolist() == [[0.0, -4.0, 0.0, -3.0]]
    assert pruner.step() is False


@pytest.mark.parametrize(
    ("pattern", "scope"), [("2:4", "layer"), ("1:4", "layer"), *itertools.product(["block:2", "channel"], SCOPES)]
)
def test_patterns_are_kept_all_the_way(pattern: str, scope: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    density = None if pattern[0].isdigit() else 0.5
    pruner = tb.Gradual(model, density, tb.Cubic(end=6, frequency=1), pattern=pattern, scope=scope)
    masks = [pruner.mask]
    for _ in range(6):
        pruner.step()
        masks.append(pruner.mask)
    assert all(after.nested_in(before) for before, after in itertools.pairwise(masks))
    first = masks[-1]["0.weight"]
    if pattern == "block:2":
        assert torch.equal(first[0::2], first[1::2])
    elif pattern == "channel":
        assert torch.equal(first.all(1), first.any(1))
    else:
        assert first.view(-1, 4).sum(1).eq(int(pattern[0])).all()
    assert masks[-1].density == (int(pattern[0]) / 4 if density is None else 0.5)


def test_groups_of_gpt2_s_linear_layer_run_along_its_inputs() -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = conv1d(3, 8)
    tb.Gradual(model, pattern="2:4")
    assert (model.weight != 0).view(2, 4, 3).sum(1).eq(2).all()


def test_densities_by_layer_end_each_at_its_own() -> None:
    model = network()
    pruner = tb.Gradual(model, {"0.weight": 0.25, "2.weight": 0.5}, SCHEDULE)
    train(model, adam(model), pruner, 10)
    assert pruner.finish().counts() == {"0.weight": (12, 48), "2.weight": (12, 24)}


def test_a_given_mask_is_held_and_nothing_else() -> None:
    model = network()
    mask = tb.select({name: w.detach().abs() for name, w in tb.prunable(model).items()}, density=0.3)
    pruner = tb.Gradual(model, mask=mask)
    assert all(one == mask for one in train(model, adam(model), pruner, 3))
    assert pruner.finish() == mask == tb.Mask.from_zeros(model)


def test_one_at_a_time() -> None:
    model = network()
    first = tb.Gradual(model, 0.5, SCHEDULE)
    for other in (model, copy.deepcopy(model), nn.Sequential(model)):
        with pytest.raises(TombolaError, match=r"another Gradual prunes .* already; call its finish") as caught:
            tb.Gradual(other, 0.5)
        assert "\n" not in str(caught.value)
    with pytest.warns(UnfinishedScheduleWarning):
        first.finish()
    second = tb.Gradual(model, 0.5, exclude=["2.weight"])
    third = tb.Gradual(model, 0.25, exclude=["0.weight"])  # of other weights
    assert not set(second.mask) & set(third.mask)
    release(model)
    with tb.hold(model, second.mask):  # a mask that stays as it is is no Gradual
        assert tb.Gradual(model, 0.25).mask["0.weight"].sum() == 12


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_weights_are_pruned_on_request(kind: Any) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": kind(4, 5, num_layers=2, bidirectional=True), "out": nn.Linear(10, 1)})
    assert list(tb.prunable(model)) == ["out.weight"]
    pruner = tb.Gradual(model, 0.2, tb.Cubic(end=4, frequency=1), include=["rnn.weight_*"])
    optimizer = adam(model)
    x = torch.randn(7, 3, 4)
    for _ in range(6):
        model["out"](model["rnn"](x)[0]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step(optimizer)
    assert len(pruner.mask) == 9
    pruned = {name: int((weight == 0).sum()) for name, weight in tb.prunable(model, ["rnn.weight_*"]).items()}
    assert pruned == {name: total - round(0.2 * total) for name, (_, total) in pruner.mask.counts().items()}
    zeroed = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model["rnn"].weight_ih_l0.data.fill_(1.0)
        output = model["rnn"](x)[0]  # called alone
        assert torch.equal(model["rnn"].weight_ih_l0 != 0, pruner.mask["rnn.weight_ih_l0"])
        model.load_state_dict(zeroed)
        assert not torch.equal(model["rnn"](x)[0], output)


def test_criteria_by_name_and_by_import_path() -> None:
    model = network()
    pruner = tb.Gradual(model, 0.5, tb.Cubic(end=1), criterion="movement")
    moved = torch.arange(48.0).reshape(8, 6)
    with torch.no_grad():
        model[0].weight += moved
    pruner.step()
    assert torch.equal(pruner.mask["0.weight"], moved >= 24)
    tb.Gradual(network(), 0.5, criterion="test_gradual.fewest_last")
    with pytest.raises(TombolaError, match="needs gradients"):
        tb.Gradual(network(), 0.5, criterion="snip")


def fewest_last(context: Context) -> dict[str, Tensor]:
    return {name: -torch.arange(w.numel(), dtype=w.dtype).view_as(w) for name, w in context.final.items()}


def test_momentum_of_what_is_pruned_is_cleared() -> None:
    model = network()
    optimizer = adam(model)
    pruner = tb.Gradual(model, 0.25, tb.Cubic(end=3, frequency=3))
    train(model, optimizer, pruner, 3)
    for name, keep in pruner.mask.items():
        state = optimizer.state[model.get_parameter(name)]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not state[moment][~keep].any()
            assert state[moment][keep].any()


def test_the_ticket_is_the_network_to_the_bit(tmp_path: Path) -> None:
    model = network()
    pruner = tb.Gradual(model, 0.25, SCHEDULE)
    train(model, adam(model), pruner, 10)
    pruner.ticket({"accuracy": 0.5}).save(tmp_path / "a.ticket")
    ticket = tb.Ticket.load(tmp_path / "a.ticket")
    assert ticket.mask == pruner.mask
    whole = pruner.ticket(origin=network())
    for one, weights in ((ticket, "final"), (whole, "final"), (whole, "origin")):
        again = one.build(weights, model=network(7)).state_dict()  # type: ignore[arg-type]
        wanted = network().state_dict() if weights == "origin" else model.state_dict()
        for name, value in wanted.items():
            keep = pruner.mask.get(name, torch.tensor(True))
            assert torch.equal(again[name], torch.where(keep, value, 0.0))


def test_what_cannot_be_is_one_line() -> None:
    model = network()
    for wrong, words in (
        ({}, "give a density"),
        ({"density": 1.5}, "must lie in"),
        ({"density": 0.5, "mask": tb.Mask.full(model)}, "held as it is"),
        ({"density": 0.5, "pattern": "1:4"}, "fixes the density"),
        ({"density": 0.5, "schedule": tb.Cubic(end=3, initial=0.4)}, "can only fall"),
        ({"density": {"0.weight": 0.5}}, "one for every layer"),
        ({"density": 0.5, "criterion": "magnitud"}, "did you mean magnitude"),
        ({"density": 0.5, "schedule": 10}, "schedule is 10"),
    ):
        with pytest.raises(TombolaError, match=words):
            tb.Gradual(model, **wrong)  # type: ignore[arg-type]
    for wrong, words in (
        ({"density": {"0.weight": 0.5}}, "one for every layer"),
        ({"density": {"0.weight": 0.5, "9.weight": 0.5}}, "9.weight"),
        ({"density": 0.5, "scope": "globl"}, "scope"),
        ({"density": dict.fromkeys(tb.Mask.full(model), 0.5), "scope": "global"}, "goes with scope 'layer'"),
    ):  # said at once, whenever the schedule begins
        with pytest.raises(TombolaError, match=words):
            tb.Gradual(model, schedule=tb.Cubic(begin=5, end=9), **wrong)  # type: ignore[arg-type]
        assert not model._forward_pre_hooks
    with pytest.raises(TombolaError, match="no prunable weight"):
        tb.Gradual(nn.Embedding(3, 4), 0.5)
    pruner = tb.Gradual(model, 0.5, SCHEDULE)
    with pytest.raises(TombolaError, match="step was given a list; give it optimisers, one after another"):
        pruner.step([adam(model)])  # type: ignore[arg-type]
    with pytest.raises(TombolaError, match="the state has format 7, and this version reads 1"):
        pruner.load_state_dict(pruner.state_dict() | {"format": 7})
    with pytest.raises(TombolaError, match="the state is an OrderedDict, not a Gradual's"):
        pruner.load_state_dict(model.state_dict())
    with pytest.raises(TombolaError, match="the state is None, not a Gradual's; give what its state_dict gave"):
        pruner.load_state_dict(None)  # type: ignore[arg-type]
    with pytest.warns(UnfinishedScheduleWarning, match="after 0 steps the density is 1"):
        pruner.finish()
    assert re.fullmatch(r"Gradual\(Mask\(.*density 1\), step 0, finished\)", repr(pruner))
    with pytest.raises(TombolaError, match="finished"):
        pruner.step()


def test_a_compiled_network_is_pruned_as_the_plain_one() -> None:
    torch._dynamo.reset()
    plain, twin = network(), network()
    pruners = [tb.Gradual(model, 0.25, tb.Cubic(begin=1, end=5, frequency=2)) for model in (plain, twin)]
    train(plain, adam(plain), pruners[0], 6)
    compiled = torch.compile(twin, backend="aot_eager")
    train(compiled, adam(twin), pruners[1], 6)  # type: ignore[arg-type]
    assert pruners[0].finish() == pruners[1].finish() == tb.Mask.from_zeros(twin)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value)


# ---- a checkpoint --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["magnitude", "movement", "random"])
@pytest.mark.parametrize("stop", [1, 4, 5, 11])
def test_resumed_from_a_file_it_ends_with_the_same_bits(criterion: str, stop: int, tmp_path: Path) -> None:
    model = network()
    optimizer, pruner = adam(model), tb.Gradual(model, 0.25, SCHEDULE, criterion=criterion, seed=3)
    train(model, optimizer, pruner, stop)
    torch.save([model.state_dict(), optimizer.state_dict(), pruner.state_dict()], tmp_path / "check.pt")
    train(model, optimizer, pruner, 13 - stop)

    again = network()
    resumed = tb.Gradual(again, 0.25, SCHEDULE, criterion=criterion, seed=9)
    weights, moments, state = torch.load(tmp_path / "check.pt", weights_only=True)
    optimizer = adam(again)
    again.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    resumed.load_state_dict(state)
    train(again, optimizer, resumed, 13 - stop)
    assert resumed.mask == pruner.mask
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_an_earlier_state_gives_its_weights_back() -> None:
    model = network()
    pruner = tb.Gradual(model, 0.25, SCHEDULE)
    optimizer = adam(model)
    train(model, optimizer, pruner, 2)
    weights, state = copy.deepcopy(model.state_dict()), pruner.state_dict()
    train(model, optimizer, pruner, 10)
    model.load_state_dict(weights)
    pruner.load_state_dict(state)
    model(examples()[0])
    assert pruner.mask == tb.Mask.full(model)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "damage",
    [
        {"start": None},
        {"steps": "x"},
        {"steps": -5},
        {"steps": 1.5},
        {"seed": -1},
        {"seed": 2**64},
        {"masks": None},
        {"masks": {"0.weight": 3}},
    ],
    ids=str,
)
def test_a_damaged_state_is_one_line_and_changes_nothing(damage: dict[str, Any]) -> None:
    pruner = tb.Gradual(nn.Sequential(nn.Linear(8, 4)), 0.25, tb.Cubic(end=4, frequency=2))
    pruner.step()
    before = pruner.mask
    with pytest.raises(TombolaError, match="the state is damaged"):
        pruner.load_state_dict({**pruner.state_dict(), **damage})
    assert pruner.steps == 1
    assert pruner.mask is before


@pytest.mark.parametrize(
    ("density", "end"), [(0.5, 10), (0.25, 4), (0.1, 4)], ids=["denser", "at its end", "sparser, at its end"]
)
def test_a_state_from_which_the_schedule_cannot_end_is_refused(density: float, end: int) -> None:
    pruner = tb.Gradual(nn.Sequential(nn.Linear(8, 16)), 0.25, tb.Cubic(end=10, frequency=2))
    for _ in range(6):
        pruner.step()
    other = tb.Gradual(nn.Sequential(nn.Linear(8, 16)), density, tb.Cubic(end=end, frequency=2))
    with pytest.raises(TombolaError, match="keeps 38 of 128 weights, from which this schedule does not get to"):
        other.load_state_dict(pruner.state_dict())
    assert other.mask.density == 1


def test_a_criterion_of_ones_own_may_work_in_place() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    before = model[0].weight.detach().clone()
    pruner = tb.Gradual(model, 0.5, criterion=lambda context: {n: w.abs_() for n, w in context.final.items()})
    assert torch.equal(model[0].weight, before * pruner.mask["0.weight"])


def test_a_weight_whose_entries_share_memory_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    model[0].weight = nn.Parameter(torch.ones(4, 1).expand(4, 8))
    with pytest.raises(TombolaError, match=r"entries of '0.weight' share memory"):
        tb.Gradual(model, 0.5)
    assert not model._forward_pre_hooks


def test_a_state_that_does_not_fit_is_one_line() -> None:
    state = tb.Gradual(network(), 0.25, SCHEDULE).state_dict()
    moved = tb.Gradual(network(), 0.25, SCHEDULE, criterion="movement").state_dict()
    other = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    for model, wrong, words in (
        (network(), state | {"format": 2}, "format 2"),
        (nn.Linear(3, 2), state, "other layers"),
        (other, state, "not of its 54 weights"),
        (network(), moved, "weights of the start"),
    ):
        with pytest.raises(TombolaError, match=words):
            tb.Gradual(model, 0.25, SCHEDULE).load_state_dict(wrong)
    with pytest.raises(TombolaError, match="weights of the start"):
        tb.Gradual(network(5), 0.25, SCHEDULE, criterion="movement").load_state_dict(moved)


@given(count=st.integers(0, 40), seed=st.integers(0, 9))
def test_masks_as_bits_and_texts(count: int, seed: int) -> None:
    keep = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) < 0.3
    bits = from_texts(as_texts({"a": packed(keep)}))["a"] if count else packed(keep)
    assert torch.equal(unpacked("a", bits, keep.shape), keep)
    for damaged in ("not base64 of anything", "AAAA", 3):
        with pytest.raises(TombolaError, match="damaged"):
            from_texts({"a": damaged})  # type: ignore[dict-item]


# ---- several processes ---------------------------------------------------------------------------------------


def distributed(kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Each rank begins with other weights, as DDP allows, and has its own half of the batch."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = network(seed=0 if kind == "sharded" else rank)
    pruner = tb.Gradual(model, 0.25, SCHEDULE if kind == "falling" else tb.Cubic(end=6, frequency=3, initial=0.7))
    x, y = examples()
    half = slice(rank * 8, rank * 8 + 8)
    if kind == "sharded":
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
        wrapped: nn.Module = model
    else:
        wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = adam(wrapped)
    for _ in range(10):
        F.cross_entropy(wrapped(x[half]), y[half]).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step(optimizer)
    state = {n: v.full_tensor() if hasattr(v, "full_tensor") else v for n, v in model.state_dict().items()}
    return {name: keep.clone() for name, keep in pruner.mask.items()}, state


@pytest.mark.parametrize("kind", ["falling", "at once", "sharded"])
def test_all_ranks_hold_the_same_masks(kind: str) -> None:
    (first, weights), (second, others) = in_ranks(distributed, kind)
    for name, keep in first.items():
        assert torch.equal(keep, second[name])
        assert int(keep.sum()) == round(0.25 * keep.numel())
        assert torch.equal(weights[name] != 0, keep)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


def met_late(agreeing: bool) -> tuple[str, dict[str, Tensor]]:
    rank = int(os.environ["RANK"])
    pruner = tb.Gradual(network(seed=rank), density=0.5)
    dist.init_process_group("gloo")
    if agreeing:
        pruner.agree()
    try:
        pruner.step()
    except TombolaError as error:
        return str(error), {}
    return "", dict(pruner.mask)


def test_ranks_that_meet_later_agree_or_are_told() -> None:
    (_, first), (_, second) = in_ranks(met_late, True)
    assert tb.Mask(first) == tb.Mask(second)
    for told, _ in in_ranks(met_late, False):
        assert "the ranks hold masks that differ" in told


# ---- adapters ------------------------------------------------------------------------------------------------


class LowRank(nn.Module):
    """W + B·A as a parametrisation."""

    def __init__(self, outputs: int, inputs: int, rank: int = 2) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def test_adapters_trained_under_a_mask_are_merged_without_a_loss() -> None:
    model, (x, y) = network(), examples()
    pruner = tb.Gradual(model, density=0.5)
    mask = pruner.mask
    model.requires_grad_(False)
    for layer in (model[0], model[2]):
        parametrize.register_parametrization(layer, "weight", LowRank(*layer.weight.shape))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = float(F.cross_entropy(model(x), y).detach())
    for _ in range(10):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step(optimizer)
    output = model(x)
    assert float(F.cross_entropy(output, y).detach()) < before
    for layer in (model[0], model[2]):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    assert torch.equal(model(x), output)
    assert pruner.finish() == mask
    assert tb.Mask.from_zeros(model) == mask


@pytest.mark.parametrize(
    "computes",
    [
        lambda layer: spectral_norm(layer),
        lambda layer: orthogonal(layer),
        lambda layer: parametrize.register_parametrization(layer, "weight", LowRank(*layer.weight.shape)),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.25),
    ],
    ids=["spectral norm", "orthogonal", "adapter", "torch's own pruning"],
)
def test_a_ticket_holds_computed_weights_as_the_network_uses_them(computes: Callable[[nn.Module], Any]) -> None:
    model, first, plain = network(), network(), network(1)
    computes(model[0])
    computes(first[0])
    pruner = tb.Gradual(model, density=0.5)
    train(model, torch.optim.Adam(model.parameters(), lr=0.05), pruner, 3)
    model.eval()
    wanted, names = model(examples()[0]), set(model.state_dict())
    for ticket in (pruner.ticket(), pruner.ticket(origin=first)):
        built = ticket.build(model=plain)
        assert torch.equal(built(examples()[0]), wanted)
        assert built.state_dict().keys() == plain.state_dict().keys()
        assert tb.Mask.from_zeros(built) == pruner.mask
    assert set(model.state_dict()) == names
    assert torch.equal(model(examples()[0]), wanted)


def test_computed_weights_are_scored_as_the_network_uses_them() -> None:
    model = network()
    orthogonal(model[0])  # stored as reflections, of which most are 0
    weight = model[0].weight.detach().abs()
    kept = tb.Gradual(model, density=0.5).mask["0.weight"]
    assert weight[kept].min() > weight[~kept].max()
    norm = network()
    spectral_norm(norm[0])
    tb.Gradual(norm, density=0.5)
    assert norm[0].parametrizations.weight[0].training  # scored in eval mode, which takes no step of its iteration


def test_a_mask_on_a_weight_that_is_still_computed_is_not_given_up() -> None:
    model = network()
    spectral_norm(model[0])
    pruner = tb.Gradual(model, density=0.5)
    train(model, adam(model), pruner, 3)
    with pytest.raises(
        TombolaError, match=r"^'0.weight' is still computed .*remove_parametrizations\(layer, 'weight'\) "
    ):
        pruner.finish()
    assert pruner.is_active
    assert int((model[0].weight == 0).sum()) == 24
    parametrize.remove_parametrizations(model[0], "weight")
    assert pruner.finish() == tb.Mask.from_zeros(model)


def test_adapters_trained_beside_are_merged_under_the_mask() -> None:
    model, other = network(), network()
    mask = tb.select({name: w.detach().abs() for name, w in tb.prunable(model).items()}, density=0.5)
    a, b = torch.randn(2, 6), torch.randn(8, 2)
    with tb.hold(model, mask):
        lost = merge_adapters(model, {"0.weight": (a, b)}, scale=0.5)
    update, keep = b @ a, mask["0.weight"]
    wanted = torch.where(keep, other[0].weight + 0.5 * update, 0.0)
    torch.testing.assert_close(model[0].weight.detach(), wanted.detach())
    assert lost["0.weight"] == pytest.approx(float(update[~keep].square().sum() / update.square().sum()))
    assert merge_adapters(other, {"0.weight": (a, b)}) == {"0.weight": 0.0}
    with pytest.raises(TombolaError, match=r"6 inputs and 8 outputs give A of \(rank, 6\)"):
        merge_adapters(model, {"0.weight": (b, a)})


def test_adapters_of_gpt2_s_linear_layer_are_turned() -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = conv1d(3, 5)
    before, a, b = model.weight.detach().clone(), torch.randn(2, 5), torch.randn(3, 2)
    merge_adapters(model, {"weight": (a, b)})
    torch.testing.assert_close(model.weight.detach(), before + (b @ a).t())


class BaseTunerLayer:
    """Named as the base class of peft's layers, which hold the layer that they adapt."""


class Adapted(nn.Module, BaseTunerLayer):
    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.a = nn.Parameter(torch.randn(2, base_layer.in_features))
        self.b = nn.Parameter(torch.randn(base_layer.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + x @ self.a.t() @ self.b.t()  # type: ignore[no-any-return]


def test_a_hold_goes_on_while_layers_are_wrapped_by_adapters_and_after_their_merge() -> None:
    model, (x, _) = network(), examples()
    pruner = tb.Gradual(model, density=0.5)
    mask, plain = pruner.mask, model[0]
    model[0] = Adapted(plain)
    optimizer = adam(model)
    model(x).square().mean().backward()
    optimizer.step()
    assert torch.equal(plain.weight != 0, mask["0.weight"])
    with torch.no_grad():
        plain.weight.data += model[0].b @ model[0].a  # as merge_and_unload does
    model[0] = plain
    model(x)
    assert torch.equal(plain.weight != 0, mask["0.weight"])
