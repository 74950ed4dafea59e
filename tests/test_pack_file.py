"""pack and unpack by tensor: the same bytes as in memory, in the memory of the largest tensor, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.cli import main, packs
from tombola.errors import TicketError, TombolaError
from tombola.models.checkpoint import open_state, read_state
from tombola.models.tensor_file import Spec, head_of, write_tensors
from tombola.ticket.example import recorded_shape
from tombola.ticket.pack_file import pack_file, unpack_file
from tombola.ticket.tensors import same_bits

VALUES = [None, "float32", "float16", "bfloat16", "int8"]


def state_of_every_kind() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 60, generator=draw)
    weight[torch.rand(40, 60, generator=draw) < 0.8] = 0
    signs = torch.where(torch.rand(20, 30, generator=draw) < 0.5, 0.25, -0.25)
    signs[::2] = 0
    return {
        "z.weight": weight,
        "a.weight": weight.double().t().contiguous(),
        "half": weight.half(),
        "signs": signs,
        "zeros": torch.zeros(3, 4),
        "minus": torch.tensor([[-0.0, 0.0, float("nan")]]),
        "full": torch.ones(2, 2),
        "bias": torch.zeros(3),
        "norm": torch.randn(900, generator=draw),  # coded
        "half norm": torch.randn(900, generator=draw).bfloat16(),
        "empty": torch.zeros(0, 3),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "übung": torch.ones(1, dtype=torch.bfloat16),
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)


@pytest.mark.parametrize("values", VALUES)
def test_the_file_is_the_one_made_in_memory(values: str | None, tmp_path: Path) -> None:
    state = state_of_every_kind()
    if values == "int8":
        del state["minus"]  # not finite
    told = {"data": {"name": "none"}}
    tb.pack(state, told).save(tmp_path / "whole.ticket", values)
    held = pack_file(state, tmp_path / "parts.ticket", values, told)
    data = (tmp_path / "parts.ticket").read_bytes()
    assert data == (tmp_path / "whole.ticket").read_bytes()
    assert held.nbytes == len(data)
    ticket = tb.Ticket.load(tmp_path / "parts.ticket")
    assert held.density == ticket.density
    size = unpack_file(tmp_path / "parts.ticket", tmp_path / "x.safetensors")
    assert size == (tmp_path / "x.safetensors").stat().st_size
    assert same(safetensors.torch.load_file(tmp_path / "x.safetensors"), tb.unpack(ticket))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parts.ticket", "whole.ticket", "x.safetensors"]


def test_ties_are_written_under_all_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    model[2].bias = model[0].bias
    with torch.no_grad():
        model[0].weight[::2] = 0
    tb.pack(model).save(tmp_path / "x.ticket")
    unpack_file(tmp_path / "x.ticket", tmp_path / "x.safetensors")
    assert same(safetensors.torch.load_file(tmp_path / "x.safetensors"), dict(model.state_dict()))


def test_what_a_file_begins_with_is_as_safetensors_writes_it(tmp_path: Path) -> None:
    state = {name: value for name, value in state_of_every_kind().items() if name != "empty"}
    specs = {name: Spec(value.dtype, tuple(value.shape)) for name, value in state.items()}
    data = safetensors.torch.save(state, {"key": "ä"})
    head, order = head_of(specs, {"key": "ä"})
    assert data.startswith(head)
    assert len(data) == len(head) + sum(spec.nbytes for spec in specs.values())
    assert set(order) == set(state)
    write_tensors(tmp_path / "x.safetensors", specs, state.__getitem__)
    assert (tmp_path / "x.safetensors").read_bytes() == safetensors.torch.save(state)


def test_checkpoints_are_opened_and_not_read(tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in state_of_every_kind().items()}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    with pytest.warns(UserWarning, match=r"without 'module\.'"):
        opened = open_state(tmp_path / "x.safetensors")
    assert same(dict(opened), state_of_every_kind())
    files = {"module.bias": "two.safetensors"}
    places = {name: files.get(name, "one.safetensors") for name in state}
    for file in set(places.values()):
        part = {name: value for name, value in state.items() if places[name] == file}
        safetensors.torch.save_file(part, tmp_path / file)
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.warns(UserWarning, match=r"without 'module\.'"):
        assert same(dict(open_state(index)), state_of_every_kind())
    index.write_text(json.dumps({"weight_map": {**places, "more": "two.safetensors"}}))
    with pytest.raises(TombolaError, match="do not agree on 'more'"):
        open_state(index)
    (tmp_path / "two.safetensors").write_bytes(b"123")
    with pytest.raises(TombolaError, match=r"two\.safetensors is cut or damaged"):
        open_state(index)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: pack_file({"a": torch.ones(2, 2)}, out), "no weight of the network is 0"),
        (lambda out: pack_file({"a": torch.eye(2)}, out, "int4"), "use one of"),
        (lambda out: pack_file({"a": 3}, out), "a ticket holds initialised tensors"),
        (
            lambda out: pack_file({"a": torch.ones(2, dtype=torch.complex128)}, out),
            "'a' is torch.complex128, which a ticket does not hold; cast it to one of bfloat16, bool, complex64, ",
        ),
        (lambda out: unpack_file(out / "gone.ticket", out), "gone.ticket': no such file; a search ends with"),
        (lambda out: unpack_file(out.parent, out), "a folder, and no ticket lies in it"),
        (
            lambda out: pack_file({"a": torch.tensor([0.0, torch.inf, *range(398)]).reshape(20, 20)}, out, "int8"),
            "not finite",
        ),
        (lambda out: pack_file({"a": torch.eye(2)}, out / "no" / "x.ticket"), "cannot write"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(call: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=said) as error:
        call(tmp_path / "x.ticket")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_tickets_are_refused(tmp_path: Path) -> None:
    file, out = tmp_path / "x.ticket", tmp_path / "x.safetensors"
    pack_file(state_of_every_kind(), file)
    data = file.read_bytes()
    for bad, said in [
        (data[:-1], "damaged"),
        (data[:-1] + bytes([data[-1] ^ 1]), "damaged"),
        (data[:100], "cut short"),
        (b"", "too few"),
        (safetensors.torch.save({"a": torch.ones(1)}), "no checksum"),
    ]:
        file.write_bytes(bad)
        with pytest.raises(TicketError, match=said):
            unpack_file(file, out)
    ticket = tb.find("mlp", "digits", tb.IterativePruning(density=0.5, rounds=1), recipe={"length": "1it"})
    ticket.save(file)
    with pytest.raises(TicketError, match="build it"):
        unpack_file(file, out)
    pack_file({"a": torch.zeros(4, 4)}, file)
    with pytest.raises(TicketError, match="at most 3 are read"):
        unpack_file(file, out, max_weights=3)
    assert not out.exists()


def test_the_command_line_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors.torch.save_file(state_of_every_kind(), tmp_path / "x.safetensors")
    words = ["pack", str(tmp_path / "x.safetensors"), "--input_shape", "[3, 8]", "--out"]
    assert main([*words, str(tmp_path / "whole.ticket")]) == 0
    monkeypatch.setattr(packs, "_WHOLE", 0)
    assert main([*words, str(tmp_path / "parts.ticket")]) == 0
    assert (tmp_path / "parts.ticket").read_bytes() == (tmp_path / "whole.ticket").read_bytes()
    assert recorded_shape(tb.Ticket.load(tmp_path / "parts.ticket")) == (3, 8)
    assert main(["unpack", str(tmp_path / "parts.ticket"), "--out", str(tmp_path / "y.safetensors")]) == 0
    assert same(read_state(tmp_path / "y.safetensors"), state_of_every_kind())


def test_a_network_by_name_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(6, 4)
    with torch.no_grad():
        model.weight[:, ::2] = 0
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "x.pt"
    )
    out = tmp_path / "x.ticket"
    words = ["pack", "torch.nn.Linear", "--model_args", "{in_features: 6, out_features: 4}", "--out", str(out)]
    assert main([*words, "--checkpoint", str(tmp_path / "x.pt"), "--input_shape", "[6]"]) == 0
    ticket = tb.Ticket.load(out)
    assert recorded_shape(ticket) == (6,)
    assert torch.equal(ticket.build(trusted=("torch.nn",)).weight, model.weight)
    assert main([*words[:1], str(tmp_path / "x.pt"), "--checkpoint", "y.pt", "--out", str(out)]) == 2
    assert "is a checkpoint file, packed as it is" in capsys.readouterr().err
    assert main([*words, "--input_shape", "[0]"]) == 2
    assert main(["pack", "nonsense", "--out", str(out)]) == 2
    assert "unknown model 'nonsense'" in capsys.readouterr().err


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
MEASURED = """
import re, sys
from pathlib import Path
import safetensors.torch, torch
from tombola.models.checkpoint import open_state
from tombola.ticket.pack_file import pack_file, unpack_file

def peak():
    # not ru_maxrss, which a process takes over from the one that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

folder, values = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
safetensors.torch.save_file({"a": torch.eye(64)}, folder / "small.safetensors")
pack_file(open_state(folder / "small.safetensors"), folder / "small.ticket", values)  # what is imported late is there
unpack_file(folder / "small.ticket", folder / "small.back")
before = peak()
pack_file(open_state(folder / "big.safetensors"), folder / "big.ticket", values)
packed = peak()
unpack_file(folder / "big.ticket", folder / "back.safetensors")
print(before, packed - before, peak() - before)
"""


def rises(folder: Path, layers: int, size: int, values: str = "float32") -> tuple[int, int, int]:
    """(bytes of the network, by how much packing and unpacking raised the peak of the process's memory)."""
    draw = torch.Generator().manual_seed(0)

    def layer(name: str) -> Tensor:
        weight = torch.randn(size, size, generator=draw)
        weight[torch.rand(size, size, generator=draw) < 0.9] = 0
        return weight

    specs = {f"{number:03d}.weight": Spec(torch.float32, (size, size)) for number in range(layers)}
    write_tensors(folder / "big.safetensors", specs, layer)
    words = [sys.executable, "-c", MEASURED, str(folder), values]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    _, packed, unpacked = map(int, done.stdout.split())
    return layers * size * size * 4, packed, unpacked


@linux
def test_memory_is_of_the_largest_tensor_and_not_of_the_network(tmp_path: Path) -> None:
    whole, packed, unpacked = rises(tmp_path, 50, 512)
    assert whole == 50 * 2**20
    assert max(packed, unpacked) < 24 * 2**20
    assert (tmp_path / "big.ticket").stat().st_size < 0.15 * whole
    first, second = (open_state(tmp_path / f"{name}.safetensors") for name in ("big", "back"))
    assert all(same_bits(first[name], second[name]) for name in first)


@linux
@pytest.mark.large
def test_a_network_of_5_gb(tmp_path: Path) -> None:
    whole, packed, unpacked = rises(tmp_path, 80, 4096)
    assert whole > 5 * 10**9
    assert max(packed, unpacked) < 12 * 4 * 4096**2
    first, second = (open_state(tmp_path / f"{name}.safetensors") for name in ("big", "back"))
    assert first.keys() == second.keys()
    assert all(same_bits(first[name], second[name]) for name in list(first)[::9])
