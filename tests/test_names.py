"""Names that a user gives: one line that says what is allowed and what was probably meant."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from cli_calls import call
from tombola.errors import TombolaError
from tombola.names import check_known, closest, imported, is_import_path, unknown


def test_the_line_names_what_was_given_what_is_close_and_all_that_is_allowed() -> None:
    assert unknown("scope", "globl", ("layer", "global")) == (
        "unknown scope 'globl' (did you mean global?); allowed: layer, global"
    )
    assert unknown("scope", "x", ("layer", "global"), ", or mine") == (
        "unknown scope 'x'; allowed: layer, global, or mine"
    )
    with pytest.raises(TombolaError, match="unknown engine 3; allowed: a"):
        check_known("engine", 3, ("a",))
    check_known("engine", "a", ("a",))


def test_case_does_not_count_and_ties_are_both_named() -> None:
    assert closest("LENET-300-100", ["lenet-300-100", "conv-2"]) == " (did you mean lenet-300-100?)"
    assert closest("conv-3", ["conv-2", "conv-4", "mlp"]) == " (did you mean conv-4 or conv-2?)"
    assert closest("zzz", ["conv-2"]) == ""
    assert closest("fc", ["stem.weight", "fc.weight"]) == " (did you mean fc.weight?)"
    assert closest("fc", ["fcn.weight"]) == ""


def test_import_paths() -> None:
    paths = {"a.b": True, "a.b:c": True, "a": False, "a..b": False, "a b.c": False, "2:4": False, "a/b.c": False}
    assert {path: is_import_path(path) for path in paths} == paths
    assert imported("thing", "os.path.join") is imported("thing", "os.path:join")
    assert imported("thing", "pathlib.Path.cwd") == Path.cwd


def test_each_way_that_an_import_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_syntax.py").write_text("def (:\n")
    (tmp_path / "broken_run.py").write_text("1 / 0\n")
    (tmp_path / "broken_import.py").write_text("import no_such_thing\n")
    (tmp_path / "whole.py").write_text("Network = 1\n")
    importlib.invalidate_caches()
    for path, said in {
        "no_such_package.Net": "No module named 'no_such_package'.*PYTHONPATH",
        "broken_syntax.Net": "SyntaxError",
        "broken_run.Net": "ZeroDivisionError",
        "broken_import.Net": "No module named 'no_such_thing'",
        "whole.Netwrk": r"whole has no 'Netwrk' \(did you mean Network\?\)",
        "torch.optim.RMSPropp": r"torch.optim has no 'RMSPropp' \(did you mean RMSprop\?\)",
        "whole.Network.x": "whole.Network has no 'x'",
        "whole.py": r"model 'whole.py' is a file; name what stands in it, as in whole.NAME",
        "trained.pt": r"model 'trained.pt' is a file of tensors; name a class or function .* the file as checkpoint",
    }.items():
        with pytest.raises(TombolaError, match=said) as found:
            imported("model", path)
        assert "\n" not in str(found.value)


MISSPELT = {
    "method": (["find", "im"], "imp"),
    "command": (["verfy"], "verify"),
    "study": (["study", "curv"], "curve"),
    "option": (["find", "imp", "--modle", "mlp"], "--model"),
    "criterion": (["find", "imp", "--criterion", "magnitud"], "magnitude"),
    "criterion's module": (["find", "imp", "--criterion", "tombola.select.criteria.movment"], "movement"),
    "optimizer": (["find", "imp", "--optimizer", "admw"], "adamw"),
    "optimizer's module": (["find", "imp", "--optimizer", "torch.optim.Adamm"], "Adam"),
    "schedule": (["find", "imp", "--schedule", "cosin"], "cosine"),
    "precision": (["find", "imp", "--precision", "bf16"], "bf16-mixed"),
    "pattern": (["find", "imp", "--pattern", "chanel"], "channel"),
    "scope": (["find", "imp", "--scope", "globl"], "global"),
    "scope of a mask": (["find", "edge-popup", "--scope", "layr"], "layer"),
    "rule": (["find", "learned-mask", "--rule", "bernouli"], "bernoulli"),
    "weights": (["find", "learned-mask", "--weights", "identiy"], "identity"),
    "weight gradient": (["find", "joint", "--weight_gradient", "dens"], "dense"),
    "activations": (["find", "multi-prize", "--activations", "binry"], "binary"),
    "init": (["find", "imp", "--init", "kaiming_norm"], "kaiming_normal"),
    "model": (["find", "imp", "--model", "resnet18"], "resnet-18"),
    "argument of the model": (["find", "imp", "--model", "mlp", "--model_args", "{hiden: 3}"], "hidden"),
    "activation of the model": (["find", "imp", "--model", "mlp", "--model_args.activation", "rellu"], "relu"),
    "data": (["find", "imp", "--data", "digit"], "digits"),
    "cue": (["find", "imp", "--cue.kind", "cornr"], "corner"),
    "label noise": (["find", "imp", "--label_noise_kind", "symetric"], "symmetric"),
    "logger": (["find", "imp", "--loggers", "tensorbord"], "tensorboard"),
    "device": (["find", "imp", "--device", "cudda"], "cuda"),
    "control": (["study", "curve", "imp", "--controls", "radnom"], "random"),
    "weights to export": (["export", "x.ticket", "--weights", "orign"], "origin"),
    "values to export": (["export", "x.ticket", "--values", "float61"], "float16"),
    "format": (["deploy", "x.ticket", "--out", "x", "--formats", "[onx]"], "onnx"),
}


@pytest.mark.parametrize("name", MISSPELT)
def test_every_misspelt_name_gets_a_suggestion(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words, meant = MISSPELT[name]
    status, out, err = call(*words)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert f"did you mean {meant}?" in err
    assert not list(tmp_path.iterdir())
