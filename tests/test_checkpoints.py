"""Checkpoints as programs write them: what is around the state dict is found, said and taken away."""

from __future__ import annotations

import argparse
import json
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tombola.cli import main
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.errors import TombolaError
from tombola.models.checkpoint import CheckpointWarning, digest_of, load_checkpoint_, open_state, read_state
from tombola.models.registry import build_network
from tombola.models.spec import ModelSpec, written_out
from tombola.search.describe import describe_model
from tombola.search.origin import start_from
from tombola.ticket.pack import pack, unpack


def state(prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}weight": torch.arange(6.0).reshape(2, 3), f"{prefix}bias": torch.ones(2)}


def saved(content: Any, folder: Path, name: str = "start.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def loaded(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors, and what was said of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tensors = read_state(path)
    said = [str(one.message) for one in caught if issubclass(one.category, CheckpointWarning)]
    assert len(said) <= 1
    return tensors, "".join(said)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "params", "ema", "net", "weights"])
def test_a_wrapping_dictionary_is_found_and_said(key: str, tmp_path: Path) -> None:
    optimizer = torch.optim.Adam([torch.ones(2)]).state_dict()
    tensors, said = loaded(saved({"epoch": 3, "optimizer": optimizer, key: state()}, tmp_path))
    assert set(tensors) == {"weight", "bias"}
    assert f"taken from {key!r}" in said


def test_dictionaries_within_each_other_and_names_of_no_known_kind(tmp_path: Path) -> None:
    tensors, said = loaded(saved({"checkpoint": {"model": state()}, "model": {"state_dict": state()}}, tmp_path))
    assert "taken from 'state_dict' in 'model'" in said
    tensors, said = loaded(saved({"generator": state(), "step": 7}, tmp_path))
    assert set(tensors) == {"weight", "bias"}
    assert "taken from 'generator'" in said
    with pytest.raises(TombolaError, match="several state dicts, netG, netD; save the one"):
        read_state(saved({"netG": state(), "netD": state()}, tmp_path))


def test_weights_come_before_their_averages(tmp_path: Path) -> None:
    plain, averages = {"weight": torch.ones(1)}, {"weight": torch.zeros(1)}
    for name, average in (("params", "params_ema"), ("model", "ema"), ("state_dict", "model_ema")):
        tensors, said = loaded(saved({average: averages, name: plain, "epoch": 1, "lr": {"now": 0.1}}, tmp_path))
        assert tensors["weight"] == 1
        assert f"taken from {name!r}; not from {average!r} beside it; to take that, save it by itself" in said
    assert "not from" not in loaded(saved({"model": plain, "optimizer": {"state": {}}}, tmp_path))[1]


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "old.pt"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_that_is_cut_is_said_to_be(name: str, share: float, tmp_path: Path) -> None:
    path, tensors = tmp_path / name, {"weight": torch.ones(400, 3)}
    if name == "a.safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name == "a.pt")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    for read in (read_state, open_state):
        with pytest.raises(TombolaError, match=r"is cut or damaged: its [\d,]+ bytes are no whole .* again") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_file_with_a_changed_byte_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = saved({"weight": torch.ones(4000)}, tmp_path)
    data = bytearray(path.read_bytes())
    data[-40:] = bytes(40)  # the directory of the archive
    path.write_bytes(data)
    with pytest.raises(TombolaError, match="is cut or damaged"):
        read_state(path)


def test_a_head_of_another_size_stays_as_initialised_where_it_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    big, small = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 9)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    path, before = saved(big.state_dict(), tmp_path), small[1].weight.detach().clone()
    words = (
        r"in the model 1\.weight is \(9, 4\) and \(2, 4\), 1\.bias is .* checkpoint_without=\['1\.weight', '1\.bias'\]"
    )
    with pytest.raises(TombolaError, match=words):
        load_checkpoint_(small, path)
    with pytest.warns(CheckpointWarning, match=r"1\.bias, 1\.weight stay as initialised"):
        load_checkpoint_(small, path, ["1.*"])
    assert torch.equal(small[0].weight, big[0].weight)
    assert torch.equal(small[1].weight, before)
    with pytest.raises(TombolaError, match=r"has 'fc\.\*', which matches no tensor of the model; it has 0\.weight"):
        load_checkpoint_(small, path, ["fc.*"])
    with pytest.raises(TombolaError, match="checkpoint_without names tensors of a checkpoint, and none is given"):
        ModelSpec("mlp", checkpoint_without=("fc.*",))


def test_a_search_starts_from_a_backbone_with_a_new_head(tmp_path: Path) -> None:
    wide, own = (build_network("mlp", input_shape=(1, 8, 8), classes=n, args={"hidden": [4]}) for n in (99, 10))
    shapes = {name: value.shape for name, value in own.state_dict().items()}
    head = tuple(name for name, value in wide.state_dict().items() if value.shape != shapes[name])
    path = saved(wide.state_dict(), tmp_path)
    spec = ModelSpec("mlp", {"hidden": [4]}, checkpoint=str(path), checkpoint_without=head)
    with pytest.warns(CheckpointWarning, match="stay as initialised"):
        start = start_from(spec, load_data(DataSpec("digits")), seed=0)
    for name, value in start.network().state_dict().items():
        assert name in head or torch.equal(value, wide.state_dict()[name])


def test_what_stays_as_initialised_is_part_of_a_runs_name(tmp_path: Path) -> None:
    path = saved(state(), tmp_path)
    plain, headless = (
        describe_model(ModelSpec("mlp", checkpoint=str(path), checkpoint_without=patterns)) for patterns in ((), ("a",))
    )
    assert "checkpoint_without" not in plain
    assert plain != headless


def test_tensors_beside_other_entries(tmp_path: Path) -> None:
    tensors, said = loaded(saved({**state(), "epoch": 3, "args": {"lr": 0.1}}, tmp_path))
    assert set(tensors) == {"weight", "bias"}
    assert "left out what is no tensor: epoch, args" in said


def test_a_plain_state_dict_is_read_without_a_word(tmp_path: Path) -> None:
    assert loaded(saved(state(), tmp_path))[1] == ""
    assert set(loaded(saved(state("model."), tmp_path))[0]) == {"model.weight", "model.bias"}  # a network's own name


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module."]
)
def test_prefixes_of_wrappers(prefix: str, tmp_path: Path) -> None:
    tensors, said = loaded(saved(state(prefix), tmp_path))
    assert set(tensors) == {"weight", "bias"}
    assert "without" in said
    assert "in all names" in said


def test_a_compiled_part_of_a_network(tmp_path: Path) -> None:
    content = {"body._orig_mod.weight": torch.ones(1), "head.weight": torch.ones(1), "my_orig_mod.x": torch.ones(1)}
    assert set(loaded(saved(content, tmp_path))[0]) == {"body.weight", "head.weight", "my_orig_mod.x"}
    both = {"a._orig_mod.w": torch.ones(1), "a.w": torch.zeros(1)}
    with pytest.raises(TombolaError, match="with and without _orig_mod"):
        read_state(saved(both, tmp_path))


def test_module_in_some_names_is_the_networks_own(tmp_path: Path) -> None:
    content = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert set(loaded(saved(content, tmp_path))[0]) == set(content)


def test_lightnings_checkpoint_with_and_without_the_network(tmp_path: Path) -> None:
    content = {"pytorch-lightning_version": "2.6", "epoch": 1, "state_dict": state("model.")}
    path = saved(content, tmp_path, "start.ckpt")
    tensors, said = loaded(path)
    assert set(tensors) == {"weight", "bias"}
    assert "taken from 'state_dict'; without 'model.' in all names" in said
    model = nn.Linear(3, 2)
    with pytest.warns(CheckpointWarning, match="taken from"):
        load_checkpoint_(model, path)
    assert torch.equal(model.weight, state()["weight"])


def test_the_models_names_decide_and_what_stands_beside_them_is_left_out(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    path = saved({"state_dict": {**state("model."), "loss.weight": torch.ones(4)}}, tmp_path)
    with pytest.warns(CheckpointWarning, match=r"only what is under 'model\.', so not loss\.weight"):
        load_checkpoint_(model, path)
    assert torch.equal(model.weight, state()["weight"])
    own = nn.ModuleDict({"model": nn.Linear(3, 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint_(own, saved(state("model."), tmp_path))
    assert torch.equal(own["model"].weight, state()["weight"])
    for prefix in ("module.", "model."):
        with pytest.warns(CheckpointWarning, match=f"without '{prefix}' in all names"):
            load_checkpoint_(own, saved(state(f"{prefix}model."), tmp_path))
    with pytest.raises(TombolaError, match=r"missing: weight, bias; unknown: body\.weight"):
        load_checkpoint_(model, saved(state("body."), tmp_path))


def test_step_counters_of_norms_may_be_missing(tmp_path: Path) -> None:
    model = nn.BatchNorm1d(2)
    content = {name: value + 1 for name, value in model.state_dict().items() if name != "num_batches_tracked"}
    load_checkpoint_(model, saved(content, tmp_path))
    assert torch.equal(model.weight, torch.full((2,), 2.0))


class Sent(nn.Linear):
    """A class of the sender's."""


def test_pickled_models_and_programs_are_refused_with_the_way_out(tmp_path: Path) -> None:
    cases = [
        (saved(Sent(3, 2), tmp_path, "whole.pt"), "Sent.*and is refused; if you trust it.*weights_only=False"),
        (saved({"model": state(), "args": argparse.Namespace(lr=1)}, tmp_path, "args.pt"), "argparse.Namespace"),
    ]
    script = tmp_path / "script.pt"
    torch.jit.script(nn.Linear(3, 2)).save(script)
    for path, said in [*cases, (script, r"TorchScript file.*torch\.jit\.load\('script\.pt'\)")]:
        with pytest.raises(TombolaError, match=said) as caught:
            read_state(path)
        assert "\n" not in str(caught.value)


def test_several_files_and_their_digest(tmp_path: Path) -> None:
    index = tmp_path / "pytorch_model.bin.index.json"
    places = {"weight": "one.bin", "bias": "two.bin"}
    index.write_text(json.dumps({"weight_map": places}))
    for name, file in places.items():
        saved({name: state()[name]}, tmp_path, file)
    assert torch.equal(read_state(index)["weight"], state()["weight"])
    before = digest_of(index)
    saved({"bias": torch.zeros(2)}, tmp_path, "two.bin")
    assert digest_of(index) != before
    index.write_text("{}")
    with pytest.raises(TombolaError, match="is no index"):
        read_state(index)


def test_the_command_line_says_what_was_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved({"epoch": 1, "model": {"module.weight": torch.eye(3)}}, tmp_path)
    assert main(["pack", str(path), "--out", str(tmp_path / "x.ticket")]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "taken from 'model'; without 'module.' in all names" in err


# ---- networks of other packages by short names


def test_short_names() -> None:
    spec = ModelSpec("torchvision/resnet18", {"weights": None})
    assert (spec.name, spec.args, spec.label) == ("torchvision.models.resnet18", {"weights": None}, spec.name)
    assert ModelSpec("torchvision/segmentation/fcn_resnet50").name == "torchvision.models.segmentation.fcn_resnet50"
    with pytest.raises(TombolaError, match="unknown model 'keras/x'; torchvision/NAME and timm/NAME are known"):
        written_out("keras/x", {})
    with pytest.raises(TombolaError, match="did you mean resnet18"):
        build_network("torchvision/resnet181", input_shape=(3, 8, 8), classes=4)


def test_a_network_of_torchvision() -> None:
    model = build_network("torchvision/squeezenet1_1", input_shape=(3, 8, 8), classes=4)
    assert model.classifier[1].out_channels == 4


def test_timm_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = types.ModuleType("timm")

    def create_model(model_name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        assert model_name == "resnet50.a1_in1k"
        return nn.Linear(3, kwargs["num_classes"])

    create_model.__module__ = "timm.models._factory"
    timm.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    model = build_network("timm/resnet50.a1_in1k", input_shape=(3,), classes=7)
    assert model.out_features == 7
    assert ModelSpec("timm/resnet50.a1_in1k").label == "timm.resnet50.a1_in1k"


def test_timm_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TombolaError, match=r"^timm is not installed; run pip install timm$"):
        build_network("timm/resnet18", input_shape=(3, 8, 8), classes=4)


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2**20)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for record in plain.infolist():
            bomb.writestr(record.filename, plain.read(record), zipfile.ZIP_DEFLATED)
    assert read_state(tmp_path / "plain.pt")["weight"].numel() == 2**20
    with pytest.raises(TombolaError, match=r"bomb.pt of [\d,]+ bytes unpacks to 4,19[\d,]+, and torch.save compresses"):
        read_state(tmp_path / "bomb.pt")


def test_expanded_tensors_that_ask_for_far_more_memory_than_their_file_has_are_refused(tmp_path: Path) -> None:
    one, path = torch.zeros(1), tmp_path / "a.pt"
    torch.save({"bias": torch.ones(3), "weight": one.expand(2**20, 2**20)}, path)
    for read in (read_state, open_state):
        with pytest.raises(
            TombolaError,
            match=r"a\.pt of [\d,]+ bytes holds tensors of 4,398,[\d,]+: entries of 'weight', \(1048576, 1048576\), "
            r"share memory, as those of an expanded tensor do; give each its own before torch.save: tensor.clone\(\)$",
        ):
            read(path)
    torch.save({f"{i}": torch.zeros(2**20)[i:] for i in range(2)}, path)  # overlapping views within bounds
    assert read_state(path)["1"].numel() == 2**20 - 1
    memory = torch.zeros(2**18)
    torch.save({f"{i}": memory[i:] for i in range(100)}, path)  # 100 views of 1 MiB
    with pytest.raises(TombolaError, match=r"holds tensors of 104,"):
        read_state(path)
    torch.save({f"{i}": memory for i in range(100)}, path)  # but of tied ones all are the same
    assert len(read_state(path)) == 100


def test_small_expanded_tensors_are_read_and_packed_as_any(tmp_path: Path) -> None:
    torch.save({"mask": torch.zeros(1, 1).expand(64, 64), "weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    assert torch.equal(unpack(pack(read_state(tmp_path / "a.pt")))["mask"], torch.zeros(64, 64))


def test_tensors_without_plain_memory_are_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.ones(1), (2, 2))
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    path = tmp_path / "a.pt"
    for tensor, said in ((sparse, "a ticket holds dense tensors"), (nested, "holds nested tensors, weight;")):
        torch.save({"weight": tensor}, path)
        assert main(["pack", str(path), "--out", str(tmp_path / "a.ticket")]) == 2
        assert said in capsys.readouterr().err
