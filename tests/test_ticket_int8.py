"""Kept values as int8 with one step a row: by hand, within half a step, near their entropy; refused if unsound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tombola as tb
from tombola.cli import main
from tombola.errors import TicketError
from tombola.ticket.bitcode import BitReader, BitWriter, table_frequencies
from tombola.ticket.quantised import dequantised, quantised
from tombola.ticket.storage import bound_bytes


def thinned(shape: tuple[int, ...], density: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=draw, dtype=torch.float64)
    return torch.where(torch.rand(shape, generator=draw) < density, weight, 0.0).to(dtype)


def test_by_hand() -> None:
    keep = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    kept = torch.tensor([127.0, -2.5, 254.0, -5.0, 3.0])  # steps 1, (nothing kept) 0, 2
    numbers, steps = quantised(kept, keep)
    assert steps.tolist() == [1.0, 0.0, 2.0]
    assert numbers.tolist() == [127, -2, 127, -2, 2]  # -2.5 and 1.5 go to the even neighbour
    assert dequantised(numbers, steps, keep).tolist() == [127.0, -2.0, 254.0, -4.0, 4.0]


def test_weights_of_one_dimension_are_one_row_and_zeros_have_no_step() -> None:
    numbers, steps = quantised(torch.tensor([1.0, -0.5]), torch.tensor([True, False, True]))
    assert steps.shape == (1,)
    assert numbers.tolist() == [127, -64]  # 63.5 steps
    numbers, steps = quantised(torch.tensor([-0.0, 0.0]), torch.ones(1, 2, dtype=torch.bool))
    assert numbers.tolist() == [0, 0]
    assert steps.tolist() == [0.0]


@given(st.integers(1, 6), st.integers(1, 40), st.floats(0.05, 1), st.integers(0, 99), st.sampled_from([1e-6, 1.0, 1e6]))
def test_no_value_is_off_by_more_than_half_a_step(
    rows: int, columns: int, density: float, seed: int, size: float
) -> None:
    weight = thinned((rows, columns), density, seed) * size
    keep = weight != 0
    numbers, steps = quantised(weight[keep], keep)
    back = torch.zeros(rows, columns, dtype=torch.float64)
    back[keep] = dequantised(numbers, steps, keep)
    allowed = 0.5 * steps.double()[:, None] * (1 + 1e-4)
    assert bool(((back - weight.double()).abs() <= allowed).all())
    assert bool((numbers.abs() <= 127).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_network_is_built_and_unpacked_of_it(dtype: torch.dtype, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Linear(40, 30)).to(dtype)
    with torch.no_grad():
        network[0].weight.copy_(thinned((16, 3, 3, 3), 0.5, dtype=dtype))
        network[1].weight.copy_(thinned((30, 40), 0.3, 1, dtype=dtype))
    tb.pack(network).save(tmp_path / "x.ticket", values="int8")
    ticket = tb.Ticket.load(tmp_path / "x.ticket")
    assert ticket.provenance["values"] == "int8"
    built, state = ticket.build(model=network), tb.unpack(ticket)
    for name, weight in network.named_parameters():
        found = dict(built.named_parameters())[name]
        assert found.dtype == dtype
        if weight.dim() < 2:
            assert torch.equal(found, weight)
            continue
        assert torch.equal((found != 0) | (weight != 0), weight != 0)  # zeros stay
        steps = ticket.steps[name].double().reshape(-1, *[1] * (weight.dim() - 1))
        rounding = weight.double().abs() * torch.finfo(dtype).eps
        assert bool(((found.double() - weight.double()).abs() <= 0.501 * steps + rounding).all())
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name].to(dtype), found if dtype != torch.float64 else found.float().double())
    assert float(ticket.provenance["values_error"]) > 0
    again = tb.Ticket.from_bytes(ticket.to_bytes())
    assert again == ticket
    assert again.to_bytes() == ticket.to_bytes()
    assert ticket.rounded("int8") is ticket
    assert ticket.rounded("float16") is ticket


def test_size_is_near_the_bound() -> None:
    ticket = tb.pack({"weight": thinned((512, 1024), 0.1)}).rounded("int8")
    size, bound = len(ticket.to_bytes()), bound_bytes(ticket)
    assert size <= 1.005 * bound + 1500
    kept = ticket.mask.kept
    assert size < kept + 0.48 * 512 * 1024 / 8 + 4 * 512  # the values take less than a byte each


def test_a_searched_ticket_too(tmp_path: Path) -> None:
    ticket = tb.find("mlp", "digits", tb.IterativePruning(density=0.3, rounds=1), recipe={"length": "20it"})
    ticket.save(tmp_path / "x.ticket", values="int8")
    held = tb.Ticket.load(tmp_path / "x.ticket")
    assert held.steps
    assert (tmp_path / "x.ticket").stat().st_size < len(ticket.rounded("float16").to_bytes())
    exact, found = (dict(one.build().named_parameters()) for one in (ticket, held))
    worst = max(float((exact[name] - found[name]).abs().max().detach()) for name in held.steps)
    assert 0 < worst <= float(held.provenance["values_error"]) * 1.0001
    assert "int8" in str(held.info()["provenance"])


def test_layers_that_would_be_no_smaller_stay() -> None:
    weight = torch.zeros(100, 9)
    weight[:, 0] = torch.arange(1.0, 101.0)  # one kept weight a row: its step would take as much as the weight
    ticket = tb.pack({"weight": weight})
    assert ticket.rounded("int8") is ticket


def test_what_int8_cannot_hold_is_refused() -> None:
    weight = thinned((4, 64), 0.5)
    for value, said in ((float("inf"), "not finite"), (float("nan"), "not finite")):
        weight[0, 0] = value
        with pytest.raises(TicketError, match=said):
            tb.pack({"weight": weight}).rounded("int8")
    with pytest.raises(TicketError, match="beyond float32"):
        tb.pack({"weight": thinned((4, 64), 0.5).double() * 1e300}).rounded("int8")


@pytest.mark.parametrize(
    "steps",
    [torch.ones(3), torch.ones(4, dtype=torch.float64), torch.tensor([1.0, float("nan"), 1, 1]), -torch.ones(4)],
)
def test_unsound_steps_are_refused(steps: Tensor) -> None:
    ticket = tb.pack({"weight": thinned((4, 64), 0.5)}).rounded("int8")
    fields = {name: getattr(ticket, name) for name in ticket.__dataclass_fields__}
    with pytest.raises(TicketError, match="steps of 'weight'"):
        tb.Ticket(**{**fields, "steps": {"weight": steps}})
    with pytest.raises(TicketError, match="int8 is for signs and numbers of steps"):
        tb.Ticket(**{**fields, "steps": None})


# ---- the code of the values


@given(st.lists(st.integers(-128, 127), min_size=0, max_size=300))
def test_any_values_round_trip(values: list[int]) -> None:
    given_values = np.array(values, np.int8)
    writer = BitWriter()
    writer.values(given_values)
    reader = BitReader(writer.data())
    assert reader.values(len(values)).tolist() == values
    reader.end()


def test_frequencies_of_a_table_add_up() -> None:
    shares = np.zeros(256, np.int64)
    shares[[3, 200]] = 1, 2
    counts = table_frequencies(shares)
    assert counts.sum() == 2**24
    assert counts.min() == 1
    assert counts[3] == 1 + (2**24 - 256) // 3
    assert counts[200] == 2**24 - counts[3] - 254  # the likeliest takes what rounding leaves


def test_a_table_of_nothing_is_refused() -> None:
    writer = BitWriter()
    writer.number(255, 8)
    for _ in range(256):
        writer.number(0, 16)
    with pytest.raises(TicketError, match="without any"):
        BitReader(writer.data()).values(5)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": thinned((40, 50), 0.5)}, tmp_path / "x.pt")
    assert main(["pack", str(tmp_path / "x.pt"), "--out", str(tmp_path / "x.ticket"), "--values", "int8"]) == 0
    assert "largest error of a value" in capsys.readouterr().out
    assert main(["unpack", str(tmp_path / "x.ticket"), "--out", str(tmp_path / "y.safetensors")]) == 0
    assert main(["pack", str(tmp_path / "x.pt"), "--out", str(tmp_path / "z.ticket"), "--values", "int4"]) == 2
    assert "use one of" in capsys.readouterr().err
