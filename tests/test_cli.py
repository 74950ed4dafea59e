"""The command line: one line and status 2 for every mistake, and the whole way from find to report."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from cli_calls import call, last_json
from tombola.cli import all_verbs, main
from tombola.cli.options import Group
from tombola.cli.screen import Screen
from tombola.cli.verb import option_names
from tombola.errors import TombolaError
from tombola.report.tables import Cell, Table

TINY = [
    "find",
    "imp",
    "--model",
    "mlp",
    "--data",
    "digits",
    "--length",
    "6it",
    "--eval_every",
    "3it",
    "--rounds",
    "2",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(runs: Path) -> dict[str, Any]:
    return last_json(*TINY, "--density", "0.25", "--out", str(runs))


# -- what people read


def test_tables_say_what_their_columns_mean(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("Arms", ("Arm", "Accuracy"), (("a", Cell("90 %", "80 to 95 %")),), note="Below: lowest to highest.")
    Screen(False).tables([table])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Arms"
    assert lines[3:] == ["a           90 %", "80 to 95 %", "Below: lowest to highest.", ""]


def test_a_search_explains_its_columns(found: dict[str, Any], runs: Path) -> None:
    status, out, _ = call(*TINY, "--density", "0.25", "--out", str(runs))
    assert status == 0
    assert "Early-stop iteration: of the lowest validation loss" in out
    assert "Total iterations: the network's training" in out


# -- help


@pytest.mark.parametrize("argv", [[], ["--help"], ["find", "--help"], ["study", "-h"]])
def test_help_lists_commands(argv: list[str]) -> None:
    status, out, err = call(*argv)
    assert status == 0
    assert "tombola find imp" in out or "tombola study curve imp" in out
    assert err == ""


@pytest.mark.parametrize("verb", all_verbs(), ids=lambda verb: verb.command)
def test_every_option_is_explained(verb: Any) -> None:
    parser = verb.parser()
    unexplained = [action.dest for action in parser._actions if not action.help]
    assert unexplained == []
    status, out, _ = call(*verb.words, "--help")
    assert status == 0
    assert all(f"--{name}" in out for name in option_names(parser))


@pytest.mark.parametrize("verb", all_verbs(), ids=lambda verb: verb.command)
def test_an_option_that_takes_a_list_takes_one_item_alone(verb: Any) -> None:
    for action in verb.parser()._actions:
        kind = getattr(action, "_typehint", None)
        parts = [kind] if get_origin(kind) in (list, tuple) else [*get_args(kind)]
        for part in parts:
            if get_origin(part) in (list, tuple):
                items = [get_args(part)[0], *get_args(get_args(part)[0])]
                assert set(items) & {*parts, Any}, f"{action.dest}: {kind}"


def test_help_and_mistakes_load_no_torch() -> None:
    code = (
        "import sys; from tombola.cli import main\n"
        "assert main(['find', 'imp', '--help']) == 0 and main(['find', 'imp', '--density', '7']) == 2\n"
        "assert main(['find', 'imp', '--print_config']) == 0\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_dash_m_and_version() -> None:
    done = subprocess.run([sys.executable, "-m", "tombola", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("tombola 0.")


# -- mistakes


MISTAKES = {
    "command": (["fnd"], ["'fnd'", "did you mean find?"]),
    "method": (["find", "impp"], ["'impp'", "did you mean imp?"]),
    "no method": (["find"], ["imp"]),
    "option": (["find", "imp", "--densty", "0.1"], ["--densty", "did you mean --density?"]),
    "abbreviated option": (["find", "imp", "--dens", "0.1"], ["--dens", "not known"]),
    "no value": (["find", "imp", "--density"], ["--density needs a value"]),
    "one too many": (["find", "imp", "extra"], ["'extra'"]),
    "not a number": (["find", "imp", "--density", "abc"], ["density is 'abc'", "a number or null"]),
    "not whole": (["find", "imp", "--rounds", "2.5"], ["rounds is '2.5'", "a whole number"]),
    "density too large": (["find", "imp", "--density", "1.5"], ["density is 1.5", "(0, 1]"]),
    "density zero": (["find", "imp", "--density", "0"], ["(0, 1]"]),
    "density no number": (["find", "imp", "--density", ".nan"], ["nan", "(0, 1]"]),
    "density and levels": (["find", "imp", "--density", "0.1", "--levels", "3"], ["density", "levels"]),
    "length": (["find", "imp", "--length", "long"], ["long"]),
    "nested value": (["find", "imp", "--augment.crop", "x"], ["augment.crop is 'x'", "a whole number"]),
    "nested option": (["find", "imp", "--augment.flp", "true"], ["augment.flp"]),
    "mapping": (["find", "imp", "--model_args", "3"], ["model_args", "a mapping"]),
    "no configuration": (["find", "imp", "--config", "none.yaml"], ["none.yaml", "not there"]),
    "model": (["find", "imp", "--model", "lenett-300-100"], ["lenett-300-100", "lenet-300-100"]),
    "data": (["find", "imp", "--data", "digit"], ["digit", "digits"]),
    "data folder": (["find", "imp", "--data", "folder", "--data_root", "nowhere"], ["nowhere"]),
    "logger": (["find", "imp", "--loggers", "wnadb"], ["wnadb", "tensorboard"]),
    "ticket missing": (["verify"], ["ticket is missing"]),
    "no ticket": (["info", "none.ticket"], ["none.ticket"]),
    "foreign ticket": (["info", __file__], ["test_cli.py"]),
    "weights": (["export", "x.ticket", "--weights", "fnal"], ["'fnal'", "did you mean final?"]),
    "no run": (["report", "nowhere"], ["run directory nowhere is not there"]),
    "empty run": (["report", "."], [". holds no run.json", "tombola runs"]),
    "a file as run": (["report", __file__], ["test_cli.py is a file"]),
    "no folder of runs": (["runs", "--out", "nowhere"], ["nowhere is not there", "tombola runs --out FOLDER"]),
    "no folder of runs, as a word": (["runs", "nowhere"], ["nowhere is not there", "tombola runs --out FOLDER"]),
    "two folders of runs": (["runs", "a", "--out", "b"], ["a and --out b", "name one"]),
    "a folder as ticket": (["info", "."], ["a folder, and no ticket lies in it"]),
    "a file of runs": (["runs", "--out", __file__], ["test_cli.py is a file"]),
    "a file to run in": (["find", "imp", "--model", "mlp", "--out", __file__], ["test_cli.py is a file"]),
    "a folder to demonstrate in": (["demo", "--out", f"{__file__}/x"], ["test_cli.py is a file"]),
    "a folder as configuration": (["find", "imp", "--config", "."], ["is no file", "YAML"]),
    "a word as mapping": (["find", "imp", "--augment", "x"], ["augment is 'x'", "a mapping"]),
    "a word as cue": (["find", "imp", "--cue", "x"], ["cue is 'x'", "a mapping"]),
    "control levels": (["study", "curve", "imp", "--model", "mlp", "--control_levels", "9"], ["levels 1, 2, 3"]),
    "replicates": (["verify", "none.ticket", "--replicates", "0"], ["none.ticket"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_line_and_status_2(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv, words = MISTAKES[name]
    status, out, err = call(*argv)
    assert status == 2
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tombola: error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert not list(tmp_path.glob("**/result.json"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("densty: 0.1\n", ["densty", "did you mean density?"]),
        ("density: [\n", ["YAML"]),
        ("only words\n", ["only words", "mapping"]),
        ("density: {a: 1}\n", ["density", "a number"]),
    ],
)
def test_mistakes_in_a_configuration(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    status, _, err = call("find", "imp", "--config", str(file))
    assert status == 2
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words), err


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMBOLA_TRACEBACK", "1")
    with pytest.raises(TombolaError, match="did you mean find"):
        main(["fnd"])


@pytest.mark.parametrize(
    ("name", "code", "how"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "ended by SIGTERM"), ("SIGHUP", 129, "ended by SIGHUP")],
)
def test_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, heeded_signals: None, name: str, code: int, how: str
) -> None:
    if not hasattr(signal, name):
        pytest.skip(f"no {name} here")
    number, before = getattr(signal, name), signal.getsignal(getattr(signal, name))

    def interrupt(*args: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(Group, "read", interrupt)
    status, _, err = call("find", "imp")
    assert status == code
    assert err == f"tombola: error: {how}; run the same command to go on\n"
    assert signal.getsignal(number) == before


def test_an_ended_command_that_keeps_no_run_starts_anew(monkeypatch: pytest.MonkeyPatch, heeded_signals: None) -> None:
    monkeypatch.setattr(Group, "read", lambda *args: signal.raise_signal(signal.SIGTERM))
    status, _, err = call("prune", "mlp", "--density", "0.5", "--out", "unwritten.ticket")
    assert status == 143
    assert err == "tombola: error: ended by SIGTERM; run the same command to start anew\n"


# -- configuration


def test_presets_fill_what_is_left_open_and_no_more() -> None:
    def config(*argv: str) -> dict[str, Any]:
        status, out, err = call("find", "imp", "--print_config", *argv)
        assert status == 0, err
        read: dict[str, Any] = yaml.safe_load(out)
        return read

    paper = config("--model", "conv-4", "--data", "cifar10")
    assert (paper["lr"], paper["length"], paper["conv_rate"]) == (3e-4, "25000it", 0.1)
    mine = config("--model", "conv-4", "--data", "cifar10", "--lr", "0.5", "--conv_rate", "0.3")
    assert (mine["lr"], mine["length"], mine["conv_rate"]) == (0.5, "25000it", 0.3)
    resnet = config("--model", "resnet-20", "--data", "cifar10")
    assert (resnet["scope"], resnet["milestones"]) == ("global", ["20000it", "25000it"])


def test_texts_may_stand_alone_or_in_a_list() -> None:
    _, out, _ = call("find", "imp", "--print_config", "--include", "*.bias", "--exclude", "[fc.*, head]", "--nesterov")
    read = yaml.safe_load(out)
    assert (read["include"], read["exclude"], read["nesterov"]) == ("*.bias", ["fc.*", "head"], True)


def test_a_printed_configuration_gives_the_same_run(found: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    argv = [*TINY, "--density", "0.25", "--out", str(runs)]
    status, out, err = call(*argv, "--print_config")
    assert status == 0, err
    file = tmp_path / "again.yaml"
    file.write_text(out)
    again = last_json("find", "imp", "--config", str(file))
    assert again["run"] == found["run"]
    assert again == {**found, "reused": True}
    other = last_json("find", "imp", "--config", str(file), "--seed", "1")
    assert other["run"] != found["run"]


# -- the whole way


def test_find(found: dict[str, Any]) -> None:
    assert Path(found["run"]).is_dir()
    assert Path(found["ticket"]).is_file()
    assert abs(found["density"] - 0.25) < 1e-3
    assert 0 <= found["test_accuracy"] <= 1
    assert 0 <= found["dense_test_accuracy"] <= 1


def test_find_for_people(found: dict[str, Any], runs: Path) -> None:
    status, out, _ = call(*TINY, "--density", "0.25", "--out", str(runs))
    assert status == 0
    assert "Dense" in out
    assert found["ticket"] in out
    assert out.endswith("already finished: nothing was trained\n")
    assert "\x1b" not in out


def test_a_run_found_finished_loads_nothing_to_train_with(found: dict[str, Any], runs: Path) -> None:
    words = [*TINY, "--density", "0.25", "--out", str(runs)]
    code = (
        "import sys; from tombola.cli import main\n"
        f"assert main({words!r}) == 0\n"
        "assert 'torch' in sys.modules\n"
        "assert not {'lightning_fabric', 'torch._dynamo', 'sklearn', 'scipy', 'numba', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("already finished: nothing was trained\n")


def test_info(found: dict[str, Any]) -> None:
    told = last_json("info", found["ticket"])
    assert told["kept"] / told["total"] == told["density"] == found["density"]
    assert sum(layer["kept"] for layer in told["layers"]) == told["kept"]
    status, out, _ = call("info", found["ticket"])
    assert "found    by imp on digits, seed 0" in out
    assert status == 0
    assert all(layer["name"] in out for layer in told["layers"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_export(found: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    import safetensors.torch
    import torch

    from tombola.ticket.ticket import Ticket

    file = tmp_path / f"net{suffix}"
    told = last_json("export", found["ticket"], "--out", str(file))
    state = safetensors.torch.load_file(file) if suffix == ".safetensors" else torch.load(file, weights_only=True)
    built = Ticket.load(found["ticket"]).build().state_dict()
    assert told["tensors"] == len(state) == len(built)
    assert all(torch.equal(state[name], built[name]) for name in built)
    assert list(tmp_path.iterdir()) == [file]


def test_export_of_a_rounded_ticket(found: dict[str, Any], tmp_path: Path) -> None:
    from tombola.ticket.ticket import Ticket

    file = tmp_path / "half.ticket"
    told = last_json("export", found["ticket"], "--out", str(file), "--values", "float16")
    assert told["bytes"] == file.stat().st_size < Path(found["ticket"]).stat().st_size
    assert Ticket.load(file).digest == told["digest"]
    assert Ticket.load(file).mask == Ticket.load(found["ticket"]).mask
    for words, said in (
        (["--out", str(tmp_path / "a.ticket"), "--values", "int4"], "float16"),
        (["--out", str(tmp_path / "a.pt"), "--values", "float16"], "ends in .ticket"),
    ):
        status, _, err = call("export", found["ticket"], *words)
        assert status == 2
        assert said in err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("place", "said"), [("net.npz", "ends in '.npz'"), ("net", "has no ending"), (".", "is a folder")]
)
def test_export_elsewhere_is_refused(place: str, said: str, found: dict[str, Any], tmp_path: Path) -> None:
    status, _, err = call("export", found["ticket"], "--out", str(tmp_path / place))
    assert status == 2
    assert said in err
    assert ".safetensors" in err


def test_what_cannot_be_written_to_is_said_before_anything_is_measured(found: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words in (
        ["deploy", found["ticket"]],
        ["verify", found["ticket"]],
        ["find", "dense", "--model", "mlp"],
        ["study", "joint", "--model", "mlp", "--data", "digits"],
    ):
        status, out, err = call(*words, "--out", str(tmp_path / "file" / "x"))
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"{tmp_path / 'file'} is a file; name a folder" in err


def test_verify_report_and_runs(found: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    verdict = last_json("verify", found["ticket"], "--replicates", "2", "--length", "3it", "--out", str(runs))
    assert verdict["wins"] is None
    assert "undecided" in verdict["sentence"]
    assert set(verdict["arms"]) == {"ticket", "dense", "random", "reinit"}
    status, out, _ = call("verify", found["ticket"], "--replicates", "2", "--length", "3it", "--out", str(runs))
    assert status == 0
    assert verdict["sentence"] in out

    page = last_json("report", found["run"], verdict["run"], "--out", str(tmp_path))
    assert Path(page["report"]).read_text().lstrip().startswith("<!")
    assert all(Path(figure).is_file() for figure in page["figures"])

    listed = last_json("runs", "--out", str(runs))["runs"]
    assert {run["kind"] for run in listed} == {"find", "verify"}
    assert {run["state"] for run in listed} == {"finished"}
    status, out, _ = call("runs", "--out", str(runs))
    assert status == 0
    assert Path(found["run"]).name in out
    assert all(line == line.rstrip() for line in out.splitlines())
    status, _, err = call("report", str(runs), found["run"])
    assert (status, err.count("\n")) == (2, 1)
    assert f"runs and is none itself; give it alone, or name each, such as {runs}" in err


def test_runs_says_where_runs_are(found: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        status, out, err = call("runs", str(folder))
        assert (status, err, out.count("\n")) == (0, "", 1)
        return out

    assert call("runs", str(runs)) == call("runs", "--out", str(runs))
    assert f"with --out {tmp_path}" in said(tmp_path)
    assert said(Path(found["run"])) == f"{found['run']} is a run itself; runs beside it: tombola runs --out {runs}\n"
    (tmp_path / "below").symlink_to(runs)
    assert said(tmp_path).endswith(f"those in it: tombola runs --out {tmp_path / 'below'}\n")


@pytest.mark.parametrize("words", [["info"], ["verify"], ["export"], ["deploy", "--out", "x"], ["bench"]], ids=" ".join)
def test_a_run_in_the_place_of_its_ticket(words: list[str], found: dict[str, Any], runs: Path) -> None:
    status, out, err = call(*words, found["run"])
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{found['run']!r}: a folder that holds 3 tickets; give the file of one, such as {found['ticket']}\n" in err
    status, out, err = call(*words, str(runs))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{str(runs)!r}: a folder that holds" in err
    assert found["ticket"] in err


def test_study_curve(tmp_path: Path) -> None:
    argv = [*TINY[2:], "--density", "0.25", "--replicates", "1", "--control_levels", "[2]"]
    result = last_json("study", "curve", *argv, "--out", str(tmp_path))
    arms = result["replicates"][0]["arms"]
    assert [level["level"] for level in arms["ticket"]] == [0, 1, 2]
    assert [level["level"] for level in arms["random"]] == [level["level"] for level in arms["reinit"]] == [2]


def test_tampered_ticket(found: dict[str, Any], tmp_path: Path) -> None:
    data = bytearray(Path(found["ticket"]).read_bytes())
    data[len(data) // 2] ^= 1
    bad = tmp_path / "bad.ticket"
    bad.write_bytes(bytes(data))
    for argv in (["info"], ["verify"], ["export"]):
        status, out, err = call(*argv, str(bad))
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert "bad.ticket" in err


def test_a_run_in_use_is_left_alone(found: dict[str, Any], runs: Path) -> None:
    from filelock import FileLock

    words = [*TINY, "--density", "0.25", "--out", str(runs)]
    result = Path(found["run"]) / "result.json"
    with FileLock(Path(found["run"]) / ".lock"):
        assert call(*words)[0] == 0  # what is finished needs no lock
        kept = result.rename(result.with_name("kept.json"))
        status, _, err = call(*words)
        kept.rename(result)
    assert status == 2
    assert "another process" in err


# -- launchers

LAUNCHED = {
    "find": ["find", "imp", "--data", "digits", "--model", "mlp"],
    "study curve": ["study", "curve", "imp", "--data", "digits", "--model", "mlp"],
    "study joint": ["study", "joint", "--data", "digits", "--model", "mlp"],
    "study overlap": ["study", "overlap", "--data", "digits", "--model", "mlp"],
    "study double-descent": ["study", "double-descent", "--data", "digits"],
    "verify": ["verify"],
    "demo": ["demo"],
}


@pytest.mark.parametrize("name", LAUNCHED)
@pytest.mark.parametrize("count", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_a_data_parallel_launcher_is_told_to_start_one_process(
    name: str, count: str, found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*LAUNCHED[name], *([found["ticket"]] if name == "verify" else []), "--out", str(tmp_path)]
    monkeypatch.setenv(count, "2")
    status, out, err = call(*words)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert f"{count} is 2" in err
    assert "start one process" in err
    assert not list(tmp_path.iterdir())


def test_one_of_several_processes_that_does_not_speak_does_nothing(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {"TORCHELASTIC_RUN_ID": "it", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    for words in (["runs", "."], ["verify", found["ticket"]], ["find", "imp", "--help"], ["--version"]):
        assert call(*words) == (0, "", "")
    assert call("find", "imp", "--lr", "high") == (2, "", "")
    monkeypatch.setenv("RANK", "0")
    status, out, err = call("verify", found["ticket"])
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "tombola verify does not run data-parallel" in err


def test_a_launcher_of_one_process_and_odd_settings_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    from tombola.runs.jobs import check_single_process

    for value in ("1", "", "many"):
        monkeypatch.setenv("WORLD_SIZE", value)
        check_single_process()


def test_searches_of_the_library_refuse_ranks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import tombola as tb

    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(TombolaError, match="WORLD_SIZE is 4"):
        tb.find("mlp", "digits", recipe={"length": "1it"})


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    from tombola.cli.screen import Screen

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    screen = Screen(as_json=False)
    screen._console.file = Closed()
    with pytest.raises(BrokenPipeError):
        screen.line("more")
