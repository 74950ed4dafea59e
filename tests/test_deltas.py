"""Differences of checkpoints: exact to the bit in every dtype, small in positions, refused in one line elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.cli import main
from tombola.deltas import gaps
from tombola.errors import TombolaError
from tombola.models.checkpoint import read_state

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool),
    *(torch.complex64, torch.complex128),
]


def bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().reshape(-1)
    flat = torch.view_as_real(flat) if flat.is_complex() else flat
    return flat.reshape(-1).view(WORDS[flat.element_size()])


def drawn(dtype: torch.dtype, draw: torch.Generator, shape: tuple[int, ...] = (40, 30)) -> Tensor:
    """Any bits at all, NaN with payloads among them."""
    if dtype is torch.bool:
        return torch.rand(shape, generator=draw) < 0.5
    size = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    return torch.randint(256, (size,), dtype=torch.uint8, generator=draw).view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_of_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    base = {
        "a": drawn(dtype, draw),
        "b": drawn(dtype, draw, ()),
        "same": drawn(dtype, draw),
        "empty": drawn(dtype, draw, (0, 3)),
    }
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    at = torch.rand(40, 30, generator=draw) < 0.1
    whole, other = bits(tuned["a"]).reshape(1200, -1), bits(drawn(dtype, draw)).reshape(1200, -1)
    whole[at.reshape(-1)] = other[at.reshape(-1)]
    tuned["b"] = drawn(dtype, draw, ())
    found = tb.delta(base, tuned)
    found.save(tmp_path / "x.delta")
    again = tb.Delta.load(tmp_path / "x.delta")
    assert "same" not in again.changes
    again.apply_(base)
    for name, tensor in tuned.items():
        assert torch.equal(bits(base[name]), bits(tensor))
    assert found.changed == sum(len(change.positions) for change in again.changes.values())


@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128], ids=str)
def test_complex_values_wherever_they_lie_in_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    for length in range(1, 17):  # of the header, behind which they begin
        base, tuned = ({"w" * length: torch.full((3,), value, dtype=dtype)} for value in (1, 2))
        tb.delta(base, tuned).save(tmp_path / "x.delta")
        tb.Delta.load(tmp_path / "x.delta").apply_(base)
        assert torch.equal(bits(base["w" * length]), bits(tuned["w" * length]))


def test_a_sign_of_zero_and_a_payload_are_changes() -> None:
    base = {"w": torch.tensor([0.0, 1.0, float("nan"), 2.0])}
    tuned = {"w": torch.tensor([-0.0, 1.0, 0.0, 2.0])}
    tuned["w"].view(torch.int32)[2] = 0x7FC00001
    found = tb.delta(base, tuned)
    assert found.changes["w"].positions.tolist() == [0, 2]
    found.apply_(base)
    assert torch.equal(bits(base["w"]), bits(tuned["w"]))


def test_models_in_place_and_tied_weights(tmp_path: Path) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    base, tuned = network(), network()
    with torch.no_grad():
        tuned[0].weight[1] += 1  # type: ignore[index, operator]
    tuned(torch.randn(8, 4))
    found = tb.delta(base, tuned)
    assert set(found.changes) == {"0.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert found.tied == {"2.weight": "0.weight"}
    weight = base[0].weight  # type: ignore[index]
    plain = {name: value.clone() for name, value in base.state_dict().items()}
    found.apply_(base)
    assert base[0].weight is weight  # type: ignore[index]
    found.save(tmp_path / "x.delta")
    tb.Delta.load(tmp_path / "x.delta").apply_(plain)
    for name, value in tuned.state_dict().items():
        assert torch.equal(base.state_dict()[name], value)
        assert torch.equal(plain[name], value)


def test_tensors_of_any_layout_in_memory() -> None:
    base = {"w": torch.arange(12.0).reshape(3, 4).T}
    tuned = {"w": base["w"].contiguous()}
    tuned["w"][2, 1] = -1
    tb.delta(base, tuned).apply_(base)
    assert torch.equal(base["w"], tuned["w"])
    assert not base["w"].is_contiguous()


# ---- which changes ---------------------------------------------------------------------------------------------------


def test_the_largest_changes() -> None:
    base = {"a": torch.zeros(4), "b": torch.zeros(4), "n": torch.tensor([1])}
    tuned = {"a": torch.tensor([1.0, -3.0, 0.5, 0.0]), "b": torch.tensor([2.0, 0.1, -2.0, 0.0]), "n": torch.tensor([5])}
    found = tb.delta(base, tuned, keep=0.25)
    assert {name: change.positions.tolist() for name, change in found.changes.items()} == {"a": [1], "b": [0], "n": [0]}


def test_what_is_a_tasks_own() -> None:
    base, tuned = {"w": torch.zeros(4)}, {"w": torch.tensor([1.0, 1.0, 1.0, 0.0])}
    merged = {"w": torch.tensor([1.0, 0.0, -1.5, 1.0])}  # |merged - tuned| is 0, 1, 2.5, 1
    found = tb.delta(base, tuned, tall=tb.Tall(merged, 0.5))
    assert found.changes["w"].positions.tolist() == [0, 1]
    assert tb.delta(base, tuned, tall=tb.Tall(merged, 0.3)).changes["w"].positions.tolist() == [0, 1, 2]


def test_patches_of_serving_engines() -> None:
    base, tuned = {"w": torch.zeros(2, 3)}, {"w": torch.tensor([[0.0, 1, 0], [2, 0, 0]])}
    found = tb.delta(base, tuned)
    indices, values = found.patches()["w"]
    assert (indices.tolist(), values.tolist()) == ([1, 3], [1.0, 2.0])
    back = tb.Delta.from_patches({"w": (torch.tensor([3, 1], dtype=torch.int32), torch.tensor([2.0, 1.0]))}, base)
    back.apply_(base)
    assert torch.equal(base["w"], tuned["w"])


def test_a_patch_of_nothing_is_no_change(tmp_path: Path) -> None:
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    found = tb.Delta.from_patches({"w": nothing}, {"w": torch.zeros(2, 3)})
    found.save(tmp_path / "x.delta")
    assert not found.changes
    assert not tb.Delta.load(tmp_path / "x.delta").changes


# ---- positions -------------------------------------------------------------------------------------------------------


def entropy_bytes(count: int, size: int) -> float:
    logs = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    return logs / math.log(2) / 8


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3])
def test_positions_take_their_entropy(share: float) -> None:
    size = 2_000_000
    positions = np.flatnonzero(np.random.default_rng(0).random(size) < share)
    code, parameters = gaps.encode(positions)
    assert np.array_equal(gaps.decode(code, parameters, len(positions), size), positions)
    assert code.nbytes + parameters.nbytes <= 1.02 * entropy_bytes(len(positions), size)
    if 0.01 <= share <= 0.02:
        assert code.nbytes + parameters.nbytes <= 1.5 * len(positions)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 64, 4096, 4097, 10_000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_any_positions_come_back(size: int, share: float) -> None:
    positions = np.flatnonzero(np.random.default_rng(size).random(size) < share)
    code, parameters = gaps.encode(positions)
    assert np.array_equal(gaps.decode(code, parameters, len(positions), size), positions)


def test_a_region_and_lone_positions_come_back() -> None:
    positions = np.array([0, *range(10**9, 10**9 + 9000, 3), 2**40])
    code, parameters = gaps.encode(positions)
    assert np.array_equal(gaps.decode(code, parameters, len(positions), 2**41), positions)


# ---- files and mistakes ----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    base = {"a": torch.randn(50, 40, generator=draw).bfloat16(), "b": torch.randn(7, generator=draw)}
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    tuned["a"].view(-1)[::40] += 1
    for name, state in (("base", base), ("tuned", tuned)):
        safetensors.torch.save_file(state, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_the_command_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned, made, new = (
        str(files / name) for name in ("base.safetensors", "tuned.safetensors", "x.delta", "new.safetensors")
    )
    assert main(["delta", base, tuned, "--out", made]) == 0
    said = capsys.readouterr().out
    assert "50 values of 1 tensor changed" in said
    assert "a: 50, 2.50 %" in said
    assert main(["apply", made, base, "--out", new]) == 0
    want, have = safetensors.torch.load_file(tuned), safetensors.torch.load_file(new)
    assert all(torch.equal(bits(want[name]), bits(have[name])) for name in want)
    assert main(["apply", made, new, "--out", str(files / "twice")]) == 2
    said = capsys.readouterr().err
    assert "has the delta already" in said
    assert said.count("\n") == 1
    assert not (files / "twice").exists()
    assert main(["delta", base, made, "--out", str(files / "twice")]) == 2
    assert "x.delta is a delta and no checkpoint" in capsys.readouterr().err
    for order in ([base, made], [tuned, made]):
        assert main(["apply", *order, "--out", str(files / "twice")]) == 2
        said = f"{made} is a delta and {order[0]} is none; name the delta first: tombola apply {made} {order[0]}"
        assert said in capsys.readouterr().err
    assert main(["delta", base, tuned, "--out", tuned]) == 2
    assert "is what is read; name another file" in capsys.readouterr().err
    assert (files / "tuned.safetensors").stat().st_size > 1000
    assert main(["delta", base, tuned, "--strength", "0.3", "--out", str(files / "twice")]) == 2
    assert "--strength is 0.3 without --tall" in capsys.readouterr().err
    assert not (files / "twice").exists()


def test_shards_beside_their_index(files: Path) -> None:
    whole = read_state(files / "base.safetensors")
    for number, name in enumerate(whole):
        safetensors.torch.save_file({name: whole[name]}, files / f"{number}.safetensors")
    index = files / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "0.safetensors", "b": "1.safetensors"}}')
    read = read_state(index)
    assert all(torch.equal(read[name], whole[name]) for name in whole)
    for text, said in (
        ('{"weight_map": {"a": "../0.safetensors"}}', "not the name of a file beside it"),
        ('{"weight_map": {"c": "0.safetensors", "b": "1.safetensors"}}', "do not agree on 'a'"),
        ('{"weight_map": {"a": "9.safetensors"}}', "9.safetensors is not a file"),
        ("[]", "is no index"),
    ):
        index.write_text(text)
        with pytest.raises(TombolaError, match=said):
            read_state(index)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda b, t: tb.delta(b, {"a": t["a"]}), "'b' is in only one"),
        (lambda b, t: tb.delta(b, {**t, "b": t["b"].double()}), "float32 and then .* float64"),
        (lambda b, t: tb.delta(b, {**t, "b": t["b"][:3]}), "give two checkpoints of the same network"),
        (lambda b, t: tb.delta(b, {**t, "b": t["b"].to_sparse()}), "no dense tensor"),
        (lambda b, t: tb.delta(b, t, keep=0.0), "keep is 0.0"),
        (lambda b, t: tb.delta(b, t, keep=1.5), "keep is 1.5"),
        (lambda b, t: tb.delta(b, {**t, "b": t["b"] * float("nan")}, keep=0.5), "NaN"),
        (lambda b, t: tb.delta(b, t, tall=tb.Tall({"a": t["a"]})), "lacks 'b'"),
        (lambda b, t: tb.Tall(t, 0.0), "strength is 0.0"),
        (lambda b, t: tb.delta(b, t).apply_({"a": b["a"]}), "'b' changes and is not in the target"),
        (lambda b, t: tb.delta(b, t).apply_({**b, "a": b["a"].double()}), "give the base of this delta"),
        (lambda b, t: tb.delta(b, t).apply_(t), "has the delta already"),
        (lambda b, t: tb.delta(b, t).apply_({**b, "b": torch.zeros(1).expand(7)}), "entries of 'b' share memory"),
        (lambda b, t: tb.delta(b, {**t, "b": torch.ones(7, dtype=torch.cfloat).conj().imag}), "negated only when"),
        (lambda b, t: tb.delta(None, t), "a checkpoint is None"),
        (lambda b, t: tb.delta({1: b["a"]}, {1: t["a"]}), "1 is no text"),
        (lambda b, t: tb.Delta.from_patches({"c": (torch.tensor([0]), torch.tensor([1.0]))}, b), "not in the base"),
        (lambda b, t: tb.Delta.from_patches({"b": (torch.tensor([9]), torch.tensor([1.0]))}, b), "outside of 0 to 6"),
        (lambda b, t: tb.Delta.from_patches({"b": (torch.tensor([1, 1]), torch.ones(2))}, b), "one twice"),
        (lambda b, t: tb.Delta.from_patches({"b": (torch.tensor([1]), torch.ones(2))}, b), "1 indices and 2"),
    ],
)
def test_mistakes_are_one_line(call: Callable[[Any, Any], object], said: str) -> None:
    base = {"a": torch.zeros(3), "b": torch.zeros(7)}
    tuned = {"a": torch.ones(3), "b": torch.ones(7)}
    with pytest.raises(TombolaError, match=said) as error:
        call(base, tuned)
    assert "\n" not in str(error.value)
    assert base["a"].tolist() == [0, 0, 0]


def test_damaged_files_are_refused(files: Path) -> None:
    base, tuned = (read_state(files / f"{name}.safetensors") for name in ("base", "tuned"))
    path = files / "x.delta"
    tb.delta(base, tuned).save(path)
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    for number in range(300):
        data = bytearray(whole)
        if number % 3 == 0:
            data = data[: int(draw.integers(len(data)))]
        else:
            data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
        path.write_bytes(data)
        with pytest.raises(TombolaError):
            tb.Delta.load(path)
    for other in (files / "base.safetensors", files / "nothing", files):
        with pytest.raises(TombolaError):
            tb.Delta.load(other)


def test_the_largest_changes_may_leave_tensors_as_they_are(recwarn: pytest.WarningsRecorder) -> None:
    base, tuned = {"a": torch.zeros(100), "b": torch.zeros(100)}, {"a": torch.arange(100.0), "b": torch.zeros(100)}
    assert tb.delta(base, tuned, keep=0.01).changes.keys() == {"a"}
    assert not recwarn.list
