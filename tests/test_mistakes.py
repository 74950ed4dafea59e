"""Whatever is asked for in vain is refused before anything is trained: exit status 2, one line, nothing left behind."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_calls import call, last_json
from tombola import deploy
from tombola.deploy.plan import Plan
from tombola.errors import in_short, place_of
from tombola.machine.cores import CoresWarning, usable_cores
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options

FIND = ("find", "imp", "--model", "mlp", "--rounds", "1", "--density", "0.3", "--length", "2it", "--eval_every", "1it")
CURVE = ("study", "curve", *FIND[1:4], "--rounds", "2", *FIND[6:])
HANG = 60.0  # seconds, on a machine that does other things too


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small ticket file."""
    out = tmp_path_factory.mktemp("made")
    return str(last_json(*FIND, "--out", str(out))["ticket"])


def is_refused(argv: tuple[str, ...], *words: str, allowed: str = "") -> None:
    """In this folder nothing is left; warnings of the kind `allowed` may stand before the line."""
    before = sorted(Path().rglob("*"))
    begun = time.monotonic()
    status, _, err = call(*argv)
    assert status == 2, err
    lines = [line for line in err.splitlines() if not (allowed and allowed in line)]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert len(err) < 2000, len(err)
    assert all(word in err for word in words), err
    assert time.monotonic() - begun < HANG
    assert sorted(Path().rglob("*")) == before


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, from which odd_parts can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return tmp_path


RECIPES = {
    "batch_size": ("0", "-1", "1000000000000", "1" + "0" * 30),
    "lr": ("nan", "inf", "-1", "1e400"),
    "weight_decay": ("nan", "-1", "inf"),
    "penalty": ("l1", "l2", "", "..", "os.system"),
    "strength": ("nan", "-1", "inf", "0.1"),
    "momentum": ("nan", "1", "-0.1"),
    "clip_norm": ("nan", "inf", "0", "-1"),
    "gamma": ("nan", "inf", "0", "-1"),
    "patience": ("0", "-1"),
    "accumulate": ("0", "-1", "1000000000000"),
    "label_smoothing": ("nan", "1", "-0.1"),
    "warmup": ("1000ep", "3it", "-1it", "x", "nan"),
    "length": ("0it", "99999999999999999999ep", "9" * 400 + "ep", "9" * 5000 + "it", "", "0.0001ep", "\u0662it"),
    "eval_every": ("0it", "9" * 400 + "ep", "-1it"),
    "train_eval": ("0", "-1", "x", "1.5", "\u00b2", "9" * 5000),
    "precision": ("16", ""),
    "optimizer": (
        "..",
        "",
        "builtins.dict",
        "os.system",
        "math.pi",
        "torch.nn.Linear",
        "torch.optim.LBFGS",
        "sys.exit",
    ),
}
METHODS = {
    "criterion": ("..", "", "builtins.dict", "os.system", "os.path", "builtins.print", "a\0b.c"),
    "density": ("nan", "0", "-1", "1.5", "1e-30"),
    "rounds": ("0", "-1"),
    "rate": ("nan", "1", "-0.5"),
    "scope": ("x", ""),
    "pattern": ("block:0", "inputs:0", "0:4", "4:2", "x", ""),
    "rewind": ("9it", "x", "lr:9it"),
    "include": ("[zzz]",),
    "exclude": ("['*']", "zzz"),
}
DATA = {
    "data": ("../..", "..", "", "os.system", "os.getpid", "builtins.dict", "sys.exit", "a\0b"),
    "augment": ("{crop: 100}", "{crop: 8}", "{crop: -1}", "{zoom: .nan}", "{rotate: .inf}"),
    "val_size": ("0", "-5", "99999"),
    "image_size": ("0", "100", "-1"),
    "resize": ("0", "100", "-1"),
    "workers": ("-1", "9999"),
    "in_memory_limit": ("nan", "-1"),
    "cue.kind": ("x", "colour"),
    "train_examples": ("0", "-1", "99999"),
    "label_noise": ("-0.1", "1.1", "nan"),
    "label_noise_kind": ("x",),
    "data_args": ("{x: 1}",),
}
NETWORKS = {
    "model": (
        "os.system",
        "builtins.dict",
        "..",
        "",
        "sys.exit",
        "wrn-1000000-1",
        "wrn-28-1000000",
        "torch.nn.Identity",
    ),
    "model_args": ("{hidden: [1000000000000]}", "{hidden: [-1]}", "{hidden: [1" + "0" * 30 + "]}", "{width: 2}"),
    "init": ("zzz", ""),
}
MACHINE = {
    "seed": ("-1", "1" + "0" * 30, "1.5"),
    "replicates": ("0", "-1", "1000000000", "1" + "0" * 30),
    "jobs": ("0", "-1"),
    "threads": ("0", "-1", "1.5"),
    "device": ("gpu", "", "cuda:99", "cpu:0", "cpu:7", "cuda:x"),
    "checkpoint_seconds": ("nan", "-1"),
    "loggers": ("[x]",),
}
PLACES = {
    "out": ("", "a\0b", "/dev/null/x", "x" * 300),
    "checkpoint": ("", "a\0b", "nope.pt", "/"),
    "start": ("", "a\0b", "nope", "/"),
    "data_root": ("", "a\0b"),
    "config": ("a\0b", "nope.yaml", "/"),
}
FINDS = [
    (option, value)
    for options in (RECIPES, METHODS, DATA, NETWORKS, MACHINE, PLACES)
    for option, values in options.items()
    for value in values
]


@pytest.mark.parametrize(("option", "value"), FINDS, ids=lambda text: text[:24].encode("unicode_escape").decode())
def test_a_search_is_refused(option: str, value: str, here: Path) -> None:
    is_refused((*FIND, f"--{option}", value))


NINES = "9" * 400
ENDLESS = [
    *((option, NINES) for option in ("--lr", "--momentum", "--gamma", "--rounds", "--levels", "--in_memory_limit")),
    *((option, NINES * 20) for option in ("--lr", "--seed")),
    *(
        (option, "x" * 5000)
        for option in ("--augment", "--data_args", "--checkpoint", "--start", "--rewind", "--config")
    ),
    ("--criterion", "x " * 5000),
]


@pytest.mark.parametrize(("option", "value"), ENDLESS, ids=lambda text: text[:12])
def test_values_without_end_are_refused_in_a_short_line(option: str, value: str, here: Path) -> None:
    is_refused((*FIND, option, value), *([] if value[0] == "x" else ["number of"]))


def test_wide_layers_are_held_against_the_memory(here: Path) -> None:
    is_refused((*FIND, "--model_args", "{hidden: [10000000, 10000000]}"), "GiB of memory")
    is_refused(("find", "imp", "--model", "conv-2", "--model_args", "{width: 1000000000}"), "memory")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("control_levels", "[50]"),
        ("control_levels", "[0]"),
        ("control_levels", "[-1]"),
        ("control_levels", "[1, 99]"),
        ("control_levels", "[1" + "0" * 30 + "]"),
        ("controls", "[x]"),
        ("controls", "x"),
        ("controls", "[dense]"),
    ],
)
def test_controls_that_a_curve_cannot_have_are_refused(option: str, value: str, here: Path) -> None:
    is_refused((*CURVE, f"--{option}", value), "control")


ODD = [
    *(("data", name) for name in ("exits", "interrupts", "gives_up", "raises", "raises_its_own", "is_unspeakable")),
    *(("data", name) for name in ("runs_out", "goes_deep", "gives_nothing", "a_trillion", "a_billion", "below_zero")),
    *(("model", name) for name in ("exits", "interrupts", "raises", "raises_its_own", "gives_nothing", "ForwardExits")),
    *(("criterion", name) for name in ("exits", "raises", "is_unspeakable", "gives_nothing", "flat_scores", "Mine")),
    *(("optimizer", name) for name in ("exits", "raises", "gives_nothing", "Mine", "StepExits")),
]


@pytest.mark.parametrize(("option", "name"), ODD)
def test_whatever_a_users_own_part_does_is_one_line(option: str, name: str, here: Path) -> None:
    is_refused((*FIND, f"--{option}", f"odd_parts.{name}"))


def test_the_line_names_the_place_in_the_users_file(here: Path) -> None:
    is_refused((*FIND, "--data", "odd_parts.raises"), "ValueError: first line", "odd_parts.py, line", "TRACEBACK=1")


def test_a_module_that_ends_the_program_when_imported_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(here))
    for option, end in (("data", "raise SystemExit(7)"), ("model", "exit()"), ("criterion", "1 / 0")):
        (here / f"ends_{option}.py").write_text(end)
        with warnings.catch_warnings():
            is_refused((*FIND, f"--{option}", f"ends_{option}.x"), "cannot be imported")


def test_a_folder_of_images_in_many_modes_is_read_or_refused(here: Path) -> None:
    made = np.random.default_rng(0)
    for index, mode in enumerate(("L", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "LA")):
        folder = here / "images" / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(made.integers(0, 255, (8, 8), dtype=np.uint8))
        image = (
            Image.fromarray(made.integers(0, 2**16, (8, 8), dtype=np.uint16)) if mode == "I;16" else grey.convert(mode)
        )
        for copy in range(3):
            image.save(folder / f"{index}-{copy}.{'tif' if mode == 'CMYK' else 'png'}")
    for channels in ("1", "3"):
        data = ("--data", "folder", "--data_root", "images", "--data_args", f"{{channels: {channels}}}")
        status, _, err = call(*FIND, *data, "--out", f"runs-{channels}")
        assert status == 0, err
        assert "Traceback" not in err
    is_refused((*FIND, "--data", "folder", "--data_root", "images", "--data_args", "{channels: 2}"))
    is_refused((*FIND, "--data", "folder", "--data_root", "/nowhere"), "no folder")


@pytest.mark.parametrize("option", [("--margin", "nan"), ("--margin", "-1"), ("--margin", "inf"), ("--margin", "1")])
@pytest.mark.parametrize("kind", ["auto", "absolute", "relative"])
def test_a_margin_that_lets_all_or_none_match_is_refused(
    option: tuple[str, str], kind: str, ticket: str, here: Path
) -> None:
    is_refused(("verify", ticket, *option, "--margin_kind", kind), "margin")


@pytest.mark.parametrize(
    "argv",
    [
        ("verify", "TICKET", "--replicates", "0"),
        ("verify", "TICKET", "--replicates", "1000000000"),
        ("verify", "TICKET", "--seed", "-1"),
        ("verify", "TICKET", "--jobs", "0"),
        ("verify", "TICKET", "--out", "/dev/null/x"),
        ("verify", "TICKET", "--length", "1it", "--warmup", "1000ep"),
        ("verify", "a\0b"),
        ("verify", ""),
        ("info", "a\0b"),
        ("info", ""),
        ("export", "TICKET", "--out", ""),
        ("export", "TICKET", "--out", "a\0b.pt"),
        ("export", "TICKET", "--out", "/dev/null/x.pt"),
        ("export", "TICKET", "--out", "nowhere/x.pt"),
        ("export", "TICKET", "--out", "x.zip"),
        ("deploy", "TICKET", "--out", "/dev/null/x"),
        ("deploy", "TICKET", "--out", ""),
        ("deploy", "TICKET", "--out", "a\0b"),
        ("deploy", "TICKET", "--out", "x", "--threads", "0"),
        ("deploy", "TICKET", "--out", "x", "--threads", "-5"),
        ("deploy", "TICKET", "--out", "x", "--batch", "0"),
        ("deploy", "TICKET", "--out", "x", "--batch", "1000000000000"),
        ("deploy", "TICKET", "--out", "x", "--batch", "1" + "0" * 30),
        ("deploy", "TICKET", "--out", "x", "--formats", "[zip]"),
        ("deploy", "TICKET", "--out", "x", "--plan", "nope"),
        ("deploy", "TICKET", "--out", "x", "--plan", ""),
        ("deploy", "TICKET", "--out", "x", "--input_shape", "[0]"),
        ("deploy", "TICKET", "--out", "x", "--input_shape", "[3, 3]"),
        ("bench", "TICKET", "--rounds", "0"),
        ("bench", "TICKET", "--rounds", "1000000000000"),
        ("bench", "TICKET", "--engines", "x"),
        ("bench", "TICKET", "--batch", "0"),
        ("bench", "TICKET", "--batch", "x"),
        ("bench", "TICKET", "--threads", "0"),
        ("report", "nowhere"),
        ("report", ""),
        ("report", "a\0b"),
        ("runs", "--out", "nowhere"),
        ("runs", "--out", ""),
        ("runs", "--out", "a\0b"),
        ("demo", "--out", ""),
        ("demo", "--out", "/dev/null/x"),
        ("demo", "--seed", "-1"),
        ("study", "compare", "--arms", ""),
        ("study", "compare", "--arms", "a\0b"),
        ("study", "compare", "--arms", "/"),
        ("study", "overlap", "--tickets", "", "x"),
        ("study", "overlap", "--density", "nan"),
        ("study", "overlap", "--out", "/dev/null/x"),
        ("study", "regime"),
        ("study", "regime", "nowhere"),
        ("study", "regime", "TICKET", "--tolerance", "1"),
        ("study", "regime", "TICKET", "--tolerance", "nan"),
        ("study", "regime", "TICKET", "--jobs", "0"),
        ("study", "regime", "TICKET", "--label_noise", "2"),
        ("study", "mask-init", "--replicates", "-1"),
        ("study", "joint", "--seed", "-1"),
        ("study", "binary", "--jobs", "0"),
        ("find", "gem-miner", "--model", "mlp", "--length", "2ep"),
        ("find", "gem-miner", "--model", "mlp", "--length", "2ep", "--replicates", "2"),
    ],
    ids=lambda argv: " ".join(argv)[:60].encode("unicode_escape").decode(),
)
def test_every_verb_refuses_before_it_works(argv: tuple[str, ...], ticket: str, here: Path) -> None:
    is_refused(tuple(ticket if word == "TICKET" else word for word in argv))


# ---- threads -----------------------------------------------------------------------------------------------

CORES = usable_cores()


@pytest.mark.parametrize("asked", [4096, 100_000])
def test_threads_are_held_to_the_cores_wherever_they_are_set(asked: int, ticket: str, here: Path) -> None:
    import torch

    small, example = Ticket.load(ticket), torch.zeros(1, 1, 8, 8)
    with pytest.warns(CoresWarning):
        assert Options(threads=asked).threads == CORES
    with pytest.warns(CoresWarning):
        made = deploy(small, example, threads=asked)
    assert made.plan.threads == CORES
    made.plan.save("plan.json")
    text = Path("plan.json").read_text()
    Path("plan.json").write_text(text.replace(f'"threads": {CORES}', f'"threads": {asked}'))
    if asked <= 4096:
        assert Plan.load("plan.json").threads == asked
        with pytest.warns(CoresWarning):
            assert deploy(small, example, plan="plan.json").plan.threads == CORES


@pytest.mark.parametrize("verb", ["find", "verify"])
def test_commands_hold_threads_and_jobs_to_the_cores(verb: str, ticket: str, here: Path) -> None:
    words = {"find": FIND[1:], "verify": (ticket, "--replicates", "1", "--length", "1it")}
    status, _, err = call(verb, *words[verb], "--threads", "100000", "--jobs", "100000")
    assert status == 0, err
    assert "threads is 100000, but there are" in err or CORES == 1
    assert "jobs is 100000, but there are" in err or CORES == 1


# ---- errors in words ---------------------------------------------------------------------------------------


def test_errors_in_short() -> None:
    assert in_short(ValueError("one\ntwo")) == "ValueError: one"
    assert in_short(ValueError()) == "ValueError"
    assert len(in_short(ValueError("x" * 10_000))) < 400
    assert place_of(ValueError()) is None
    with pytest.raises(OSError, match="nowhere") as found:
        Path("nowhere at all").read_text()
    assert str(place_of(found.value)).startswith("test_mistakes.py, line")
