"""Multi-prize tickets from the command line: find, go on, verify, export, and the study of binary networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch

from fixed_studies import fixed_arms
from test_supermask_cli import call, last_json
from tombola.methods import METHODS
from tombola.search.presets import preset
from tombola.study.setting import check_arms
from tombola.ticket.ticket import Ticket

DIGITS = ["--model", "mlp", "--data", "digits"]
QUICK = ["--length", "4it", "--eval_every", "2it", "--batch_size", "60"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def prize(runs: Path) -> str:
    words = ["--activations", "binary", "--density", "0.3", "--norms", "tuned", "--tune", "3it"]
    return str(last_json("find", "multi-prize", *DIGITS, *QUICK, *words, "--out", str(runs))["ticket"])


def test_find_stores_what_was_asked_for(prize: str) -> None:
    ticket = Ticket.load(prize)
    assert ticket.density == pytest.approx(0.3, abs=1e-3)
    assert ticket.origin.network is not None
    assert ticket.origin.network.args == {"activation": "binary", "affine": True}
    assert ticket.origin.init == "kaiming_normal"
    assert ticket.provenance["method"]["activations"] == "binary"
    result = json.loads((Path(prize).parent / "result.json").read_text())
    assert 0.88 < result["bits_per_weight"] < 0.89  # H(.3) and the scales: the signs come from the seed


@pytest.mark.parametrize(
    "words",
    [
        ["multi-prize", "--per_channel", "--scope", "global", "--anneal", "2it", "--density", "0.2"],
        ["multi-prize", "--whole", "[fc1.*,fc3.*]", "--scale_fan"],
        ["binary-weights", "--activations", "binary"],
        ["joint", "--weights", "binary", "--activations", "binary"],
        ["dense", "--activations", "binary"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_every_method_runs(words: list[str], runs: Path) -> None:
    found = last_json("find", *words, *DIGITS, *QUICK, "--out", str(runs))
    assert found["test_accuracy"] is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["multi-prize", "--activations", "sign"], "float, binary"),
        (["multi-prize", "--norms", "tuned"], "norm"),
        (["multi-prize", "--whole", "[head.*]"], "head"),
        (["multi-prize", "--model_args", "{activation: binray}"], "binray"),
        (["joint", "--weights", "signed"], "identity, binary"),
        (["binary-weights", "--density", "0.5"], "density"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], said: str, runs: Path) -> None:
    status, out, err = call("find", *words, *DIGITS, *QUICK, "--out", str(runs))
    assert status == 2
    assert said in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    "words", [["joint", "--weights", "binary", "--activations", "binary"], ["imp", "--rounds", "1"]]
)
def test_a_search_goes_on_from_a_binary_ticket(words: list[str], prize: str, runs: Path) -> None:
    density = ["--density", "0.3" if words[0] == "joint" else "0.1"]
    found = last_json("find", *words, *density, *DIGITS, *QUICK, "--start", prize, "--out", str(runs))
    ticket = Ticket.load(found["ticket"])
    assert ticket.origin.network is not None
    assert ticket.origin.network.args["activation"] == "binary"


def test_verify_info_and_export(prize: str, runs: Path) -> None:
    status, _, err = call("verify", prize, *QUICK, "--replicates", "1", "--lr", "0.01", "--out", str(runs))
    assert status == 0, err
    status, out, err = call("info", prize)
    assert status == 0, err
    assert "multi-prize" in out
    status, _, err = call("export", prize, "--out", str(runs / "net.safetensors"))
    assert status == 0, err
    state = safetensors.torch.load_file(runs / "net.safetensors")
    for name in Ticket.load(prize).mask:
        assert len(state[name].abs().unique()) == 2


# -- the study


def arms(model: str, **options: object) -> list[str]:
    made = fixed_arms("binary", model, **options)
    check_arms(made)
    return [arm.name for arm in made]


def test_the_studys_arms() -> None:
    assert arms("conv-2", densities=(0.2,)) == ["float", "binary weights", "multi-prize 0.2", "joint binary 0.2"]
    assert "multi-prize, trained norms 0.2" in arms("vgg-small", densities=(0.2,))
    names = arms("conv-2", densities=(0.2, 0.5), activations="binary")
    assert names[:3] == ["float", "float weights, binary activations", "binary weights"]
    assert "multi-prize, trained norms 0.5" in names
    assert len(names) == 3 + 2 * 3


def test_the_studys_rates_reach_their_arms() -> None:
    rates = {"weights_lr": 0.1, "mask_lr": 0.2, "joint_lr": 0.3, "score_lr": 0.4}
    given = {"densities": (0.2,), "activations": "binary", **rates}
    made = fixed_arms("binary", "mlp", recipe={"length": "3it"}, **given)
    assert {arm.name: arm.recipe.lr for arm in made} == {
        "float": 0.1,
        "float weights, binary activations": 0.1,
        "binary weights": 0.1,
        "multi-prize 0.2": 0.2,
        "multi-prize, trained norms 0.2": 0.2,
        "joint binary 0.2": 0.3,
    }
    assert {arm.recipe.length for arm in made} == {"3it"}
    assert made[-1].method.score_lr == 0.4
    assert [getattr(arm.method, "activations", "") for arm in made] == ["float", *["binary"] * 5]


@pytest.mark.parametrize("activations", ["float", "binary"])
def test_the_study_runs(activations: str, runs: Path) -> None:
    words = ["--activations", activations, "--densities", "[0.3]", "--replicates", "1", "--out", str(runs)]
    found = last_json("study", "binary", *DIGITS, *QUICK, *words)
    bits = {arm["name"]: arm.get("bits_per_weight", {}).get("mean") for arm in found["arms"]}
    scales = 3 * 32 / 17_024
    assert bits["binary weights"] == pytest.approx(1.0 + scales, abs=1e-3)
    assert bits["multi-prize 0.3"] == pytest.approx(0.8813 + scales, abs=1e-3)
    assert bits["joint binary 0.3"] == pytest.approx(0.8813 + 0.3 + scales, abs=3e-3)
    assert bits["float"] == 32.0
    status, out, err = call("study", "binary", *DIGITS, *QUICK, *words)  # found again
    assert status == 0, err
    assert "Bits per weight" in out
    arms_table = out.partition("Differences from the first arm")[0].splitlines()
    assert [line.split()[-1] for line in arms_table if line.startswith(("float  ", "binary weights"))] == [
        "32.00",
        "1.01",
    ]


def test_a_study_without_densities_is_refused(runs: Path) -> None:
    for words, said in ((["--densities", "[]"], "densities"), (["--densities", "[1.5]"], "1.5")):
        status, _, err = call("study", "binary", *DIGITS, *QUICK, *words, "--out", str(runs))
        assert status == 2
        assert said in err


def test_presets_lend_only_the_recipe() -> None:
    for method in ("multi-prize", "binary-weights", "dense"):
        found = preset(METHODS[method], "conv-4", "cifar10")
        assert found.recipe
        assert not found.method
