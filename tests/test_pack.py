"""Networks with zeros as small files: bit for bit, near the bound, without a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.cli import main
from tombola.errors import TombolaError
from tombola.models.checkpoint import read_state
from tombola.models.registry import build_network
from tombola.ticket.storage import bound_bytes
from tombola.ticket.tensors import same_bits


def thinned(model: nn.Module, density: float = 0.2) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p[torch.rand(p.shape, generator=draw) > density] = 0
    return model


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return thinned(build_network("conv-2", input_shape=(3, 8, 8), classes=4))


def test_a_packed_network_is_near_the_bound_and_comes_back(network: nn.Module, tmp_path: Path) -> None:
    ticket = tb.pack(network)
    size = len(ticket.to_bytes())
    assert size <= 1.01 * bound_bytes(ticket) + 2000  # the header is the same for any size
    assert size < 0.3 * sum(p.nbytes for p in network.parameters())
    ticket.save(tmp_path / "x.ticket")
    assert same(tb.unpack(tmp_path / "x.ticket"), network.state_dict())
    assert same(tb.Ticket.load(tmp_path / "x.ticket").build(model=network).state_dict(), network.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_every_bit_of_every_kind_of_value(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.0, -0.0, 1.5, float("nan")], [float("inf"), 0.0, -2.0, 0.0]], dtype=dtype)
    state = {
        "weight": weight,
        "signs": torch.tensor([[0.5, 0.0], [-0.5, 0.5]], dtype=dtype),
        "zeros": torch.zeros(2, 2, dtype=dtype),
        "bias": torch.zeros(3, dtype=dtype),
        "full": torch.ones(2, 2, dtype=dtype),
        "count": torch.tensor(3),
        "flags": torch.tensor([[True, False]]),
    }
    packed = tb.pack(state)
    assert set(packed.mask) == {"weight", "signs", "zeros"}
    assert same(tb.unpack(packed), state)


def test_eight_bits_by_value() -> None:
    weight = torch.tensor([[0.0, -0.0, 1.5], [2.0, 0.0, -0.5]]).to(torch.float8_e4m3fn)
    ticket = tb.pack({"weight": weight})
    assert ticket.mask["weight"].tolist() == [[False, True, True], [True, False, True]]
    assert torch.equal(tb.unpack(ticket)["weight"].view(torch.uint8), weight.view(torch.uint8))


def test_tied_weights_and_a_models_prefix(tmp_path: Path) -> None:
    model = thinned(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)), 0.5)
    model[2].weight = model[0].weight
    assert same(tb.unpack(tb.pack(model)), dict(model.state_dict()))
    assert same(tb.unpack(tb.pack(nn.DataParallel(model))), dict(model.state_dict()))


def test_rounded_values(network: nn.Module, tmp_path: Path) -> None:
    ticket = tb.pack(network)
    ticket.save(tmp_path / "whole.ticket")
    ticket.save(tmp_path / "half.ticket", values="float16")
    sizes = [(tmp_path / f"{name}.ticket").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    state, want = tb.unpack(tmp_path / "half.ticket"), network.state_dict()
    assert all(torch.equal(state[name].half(), want[name].half()) for name in want)


def test_the_command_line(network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("x.safetensors", "x.ticket", "again.safetensors")]
    safetensors.torch.save_file(network.state_dict(), paths[0])
    assert main(["pack", paths[0], "--out", paths[1]]) == 0
    assert "bytes; its tensors have" in capsys.readouterr().out
    assert main(["unpack", paths[1], "--out", paths[2]]) == 0
    assert same(safetensors.torch.load_file(paths[2]), network.state_dict())
    assert main(["unpack", paths[1], "--out", str(tmp_path / "again.pt")]) == 0
    assert same(read_state(tmp_path / "again.pt"), network.state_dict())
    assert main(["unpack", paths[1], "--out", str(tmp_path / "again.onnx")]) == 2
    assert not (tmp_path / "again.onnx").exists()
    assert main(["pack", paths[1], "--out", str(tmp_path / "twice")]) == 2
    named = tmp_path / "ticket.safetensors"
    named.write_bytes(Path(paths[1]).read_bytes())
    capsys.readouterr()
    assert main(["pack", str(named), "--out", str(tmp_path / "twice")]) == 2
    assert "is a ticket and no checkpoint; tombola unpack" in capsys.readouterr().err
    assert main(["pack", paths[0], "--out", paths[0]]) == 2
    assert "is what is read; name another file" in capsys.readouterr().err
    assert same(safetensors.torch.load_file(paths[0]), network.state_dict())
    assert main(["pack", "mlp", "--checkpoint", paths[0], "--out", str(tmp_path / "twice")]) == 2
    assert "give its checkpoint's file alone" in capsys.readouterr().err
    for folder in (tmp_path, "."):
        assert main(["pack", paths[0], "--out", str(folder)]) == 2
        assert "it is a folder; name a file in it" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tb.pack(nn.Linear(3, 3)), "no weight of the network is 0"),
        (lambda: tb.pack({"a": torch.zeros(3)}), "no weight of the network is 0"),
        (lambda: tb.pack({}), "give at least one tensor"),
        (lambda: tb.pack({"a": 3}), ""),
        (lambda: tb.unpack("nothing.ticket"), "nothing.ticket"),
    ],
)
def test_mistakes_are_one_line(call: Callable[[], object], said: str) -> None:
    with pytest.raises(TombolaError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


def test_tickets_with_an_origin_are_built() -> None:
    ticket = tb.find("mlp", "digits", tb.IterativePruning(density=0.5, rounds=1), recipe={"length": "1it"})
    with pytest.raises(TombolaError, match="build it"):
        tb.unpack(ticket)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({}, "found    by pack"),
        ({"seed": 3}, "found    by pack, seed 3"),
        ({"data": {"name": "digits"}, "seed": 0}, "found    by pack on digits, seed 0"),
        ({"data": {"name": "digits"}, "method": None}, "found    on digits"),
        ({"method": None, "seed": 3}, "found    seed 3"),
        ({"method": None}, None),
    ],
)
def test_info_leaves_out_what_a_ticket_does_not_record(
    told: dict[str, object], line: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tb.pack({"a": torch.eye(3)}, told).save(tmp_path / "a.ticket")
    assert main(["info", str(tmp_path / "a.ticket")]) == 0
    found = [text for text in capsys.readouterr().out.splitlines() if text.startswith("found")]
    assert found == ([] if line is None else [line])
