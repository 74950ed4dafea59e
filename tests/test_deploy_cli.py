"""`tombola deploy` and `tombola bench`: what they write, print and refuse."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch

import tombola as tb
from cli_calls import call, last_json
from tombola.cli.deployment import stopped_by_hand
from tombola.cli.what_if import batch_sizes
from tombola.mask import Mask
from tombola.models.registry import build_network
from tombola.parameters import prunable
from tombola.select import select
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.ticket import Ticket


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-300-100 on 8x8 inputs, one weight in ten kept."""
    path = tmp_path_factory.mktemp("tickets") / "lenet.ticket"
    torch.manual_seed(0)
    origin = Origin.seeded(NetworkSpec("lenet-300-100", {}, (1, 8, 8), 10), "kaiming_normal", 1)
    state = origin.state_dict()
    network = build_network("lenet-300-100", input_shape=(1, 8, 8), classes=10)
    mask: Mask = select({name: torch.rand_like(w) for name, w in prunable(network).items()}, density=0.1)
    Ticket.from_models(origin=origin, mask=mask, final_state=state, provenance={"method": {"name": "drawn"}}).save(path)
    return path


def test_deploy_writes_what_it_says(ticket: Path, tmp_path: Path) -> None:
    out = tmp_path / "fast"
    found = last_json("deploy", str(ticket), "--out", str(out), "--threads", "1", "--formats", "[state_dict]")
    assert sorted(path.name for path in out.iterdir()) == sorted(["plan.json", "report.json", *found["files"]])
    assert json.loads((out / "report.json").read_text()) == found["report"]
    assert set(found["report"]["seconds"]) == {"whole", "checks", "compaction", "kernels", "verification"}
    assert found["report"]["memory"] is None or found["report"]["memory"] > 0
    state = safetensors.torch.load_file(out / next(name for name in found["files"] if name.endswith(".safetensors")))
    assert all(torch.isfinite(value).all() for value in state.values())
    again = last_json(
        "deploy", str(ticket), "--out", str(tmp_path / "again"), "--threads", "1", "--formats", "[]",
        "--plan", str(out / "plan.json"),
    )  # fmt: skip
    assert (tmp_path / "again" / "plan.json").read_text() == (out / "plan.json").read_text()
    assert again["files"] == {}


def test_deploy_writes_a_library(ticket: Path, tmp_path: Path) -> None:
    words = (
        "deploy",
        str(ticket),
        "--out",
        str(tmp_path),
        "--threads",
        "1",
        "--formats",
        "c",
        "--kernels_only",
        "true",
    )
    found = last_json(*words)
    assert set(found["files"]) >= {"network.h", "network.o"}
    assert all(one["format"] == "c" for one in found["files"].values())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["plan.json", "report.json", *found["files"]])
    assert found["report"]["exports"].startswith("exports: c and onnx_kernels keep the kernels and their gain")


def test_a_network_and_its_checkpoint(ticket: Path, tmp_path: Path) -> None:
    file, network = tmp_path / "pruned.safetensors", Ticket.load(ticket).build()
    safetensors.torch.save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    words = ("lenet-300-100", "--checkpoint", str(file), "--input_shape", "[1,8,8]", "--threads", "1")
    found = last_json("deploy", *words, "--out", str(tmp_path / "fast"), "--formats", "[]", "--engines", "[]")
    assert (found["ticket"], found["recipe"]) == ("lenet-300-100", None)
    (part,) = found["report"]["parts"]
    assert all(layer["density"] < 0.2 for layer in part["layers"])
    timed = last_json("bench", *words, "--batch", "1", "--engines", "[eager]", "--rounds", "1")
    assert [time["engine"] for time in timed["timings"]] == ["eager", "deployed"]
    assert "ticket" not in timed["bytes"]


def test_a_network_without_zeros_is_told(tmp_path: Path) -> None:
    words = ("deploy", "mlp", "--model_args", "{hidden: [8]}", "--input_shape", "[1,4,4]", "--threads", "1")
    status, out, err = call(*words, "--out", str(tmp_path), "--formats", "[]")
    assert status == 0, err
    assert "no weight of it is 0: there is nothing to skip; prune it first" in out


@pytest.mark.usefixtures("heeded_signals")
def test_ctrl_c_ends_the_measuring_and_a_second_one_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted_twice() -> None:
        with stopped_by_hand() as stop:
            assert not stop()
            signal.raise_signal(signal.SIGINT)
            assert stop()
            assert "going on with what was found so far" in capsys.readouterr().err
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()


def test_the_deployed_network_is_the_ticket(ticket: Path) -> None:
    loaded = Ticket.load(ticket)
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        want, have = loaded.build().eval()(x), tb.deploy(loaded, x, threads=1)(x)
    assert float((want - have).abs().max() / want.abs().max()) <= 1e-4


def test_deploy_is_readable(ticket: Path, tmp_path: Path) -> None:
    status, out, err = call("deploy", str(ticket), "--out", str(tmp_path), "--threads", "1", "--formats", "[]")
    assert status == 0, err
    assert "fc1" in out or "0.weight" in out or "1" in out
    assert re.search(
        r"^deployed in .+ s: checks .+ s, compaction .+ s, kernels .+ s, verification .+ s", out, re.MULTILINE
    )
    assert f"to {tmp_path}" in out


def test_deploy_in_int8_calibrates_on_the_data_that_the_ticket_names(tmp_path: Path) -> None:
    path = tmp_path / "lenet.ticket"
    origin = Origin.seeded(NetworkSpec("lenet-300-100", {}, (1, 8, 8), 10), "kaiming_normal", 1)
    network = build_network("lenet-300-100", input_shape=(1, 8, 8), classes=10)
    draw = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(w.shape, generator=draw) for name, w in prunable(network).items()}
    data = {"name": "digits", "val_size": None, "image_size": None, "args": {}, "augment": {}, "cue": {}}
    told = {"method": {"name": "drawn"}, "data": data}
    mask = select(scores, density=0.2)
    Ticket.from_models(origin=origin, mask=mask, final_state=origin.state_dict(), provenance=told).save(path)
    words = ("deploy", str(path), "--out", str(tmp_path / "fast"), "--threads", "1", "--formats", "[]")
    found = last_json(*words, "--precision", "int8", "--calibration", "64")
    int8 = found["report"]["int8"]
    assert int8["tried"] == 1
    assert int8["batches"] >= 1
    assert found["validation"]["metric"] == "accuracy"
    assert abs(found["validation"]["float32"] - found["validation"]["deployed"]) < 0.1
    status, _, err = call(*words, "--precision", "int8", "--calibration", "0")
    assert status == 2
    assert "calibration is 0" in err


def test_bench_shows_engines_beside_the_ticket(ticket: Path) -> None:
    words = ("--batch", "1,3", "--engines", "[eager, torch-csr]", "--rounds", "2", "--threads", "1", "--json")
    status, out, err = call("bench", str(ticket), *words)
    assert status == 0, err
    found = json.loads(out.splitlines()[-1])
    assert [(time["engine"], time["batch"]) for time in found["timings"]] == [
        (engine, batch) for batch in (1, 3) for engine in ("eager", "torch-csr", "deployed")
    ]
    assert [gain["batch"] for gain in found["gains"]] == [1, 3]
    assert found["bytes"]["ticket"] == ticket.stat().st_size
    assert found["kept_flops"] == pytest.approx(0.1 * found["flops"], rel=0.01)
    assert "times as fast as eager" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", "{}", "--engines", "[abacus]"], "unknown engine 'abacus'"),
        (["bench", "{}", "--batch", "0"], "give sizes of 1 or more"),
        (["bench", "{}", "--batch", "many"], "give sizes of 1 or more"),
        (["bench", "{}", "--rounds", "0"], "rounds is 0"),
        (["deploy", "{}"], "out"),
        (["deploy", "{}", "--out", "{out}", "--batch", "0"], "all sizes must be 1 or more"),
        (["deploy", "{}", "--out", "{out}", "--formats", "[tflite]"], "onnx"),
        (["deploy", "{}", "--out", "{out}", "--plan", "nowhere.json"], "nowhere.json"),
        (["deploy", "{}", "--out", "{out}", "--input_shape", "[1, 9, 9]"], "9"),
        (["deploy", "no.ticket", "--out", "{out}"], "no such file"),
        (["deploy", "{}", "--out", "{out}", "--time_limit", "0"], "time_limit is 0; give seconds above 0"),
        (["deploy", "{}", "--out", "{out}", "--engines", "[abacus]"], "unknown engine 'abacus'"),
        (["deploy", "w.pt", "--out", "{out}"], "w.pt is a checkpoint; name its network first"),
        (["deploy", "{}", "--checkpoint", "w.pt", "--out", "{out}"], "is a ticket, which has its own; leave it out"),
        (["deploy", "lenet-300-100", "--out", "{out}"], "its input shape is not known; give one: --input_shape"),
        (["deploy", "lenet-300-10", "--out", "{out}", "--input_shape", "[1,8,8]"], "unknown model 'lenet-300-10'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line_and_leave_nothing(words: list[str], said: str, ticket: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _, err = call(*(word.format(ticket, out=out) for word in words))
    assert status == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()


def test_batches_as_typed() -> None:
    assert batch_sizes("1,64") == [1, 64]
    assert batch_sizes([2]) == [2]
    assert batch_sizes(8) == [8]
