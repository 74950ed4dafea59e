"""Shell completion: the scripts know every command, every option, and the names that options take."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli_calls import call
from tombola.cli import all_verbs
from tombola.cli.completion import VALUES
from tombola.cli.verb import option_names

TRY = """
source "$1"; shift
COMP_WORDS=(tombola "$@"); COMP_CWORD=$#
_tombola
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    files = {}
    for shell in ("bash", "zsh", "fish"):
        status, out, err = call("completion", shell)
        assert (status, err) == (0, "")
        files[shell] = folder / f"tombola.{shell}"
        files[shell].write_text(out)
    return files


def completed(script: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    done = subprocess.run(
        ["bash", "--norc", "-c", TRY, "try", str(script), *words], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_option_is_in_the_script(shell: str, scripts: dict[str, Path]) -> None:
    text = scripts[shell].read_text()
    for verb in all_verbs():
        assert all(word in text for word in verb.words)
        assert all(f"--{name}" in text for name in option_names(verb.parser()) if not name.endswith(("+", ".help")))
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(scripts[shell])], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_what_bash_offers(scripts: dict[str, Path]) -> None:
    script = scripts["bash"]
    assert completed(script, "") == {verb.words[0] for verb in all_verbs()}
    assert completed(script, "ver") == {"verify"}
    assert completed(script, "study", "mask") == {"mask-init", "mask-init-steps", "mask-rules"}
    assert completed(script, "find", "edge") == {"edge-popup"}
    assert completed(script, "find", "imp", "--crit") == {"--criterion", "--criterion_batches"}
    assert completed(script, "find", "--crit") == {"--criterion", "--criterion_batches"}  # the method's name left out
    assert completed(script, "find", "imp", "--lr", "0.1", "--criterion", "mov") == {"movement"}
    assert completed(script, "find", "imp", "--model", "=", "vgg") == {"vgg-16", "vgg-19", "vgg-small"}
    assert completed(script, "find", "imp", "--nesterov", "") == {"true", "false"}
    assert completed(script, "find", "imp", "--augment.f") == {"--augment.flip"}
    assert completed(script, "find", "learned-mask", "--weights", "") == {"identity", "signed_constant"}
    assert completed(script, "export", "a.ticket", "--weights", "") == {"final", "origin"}
    assert completed(script, "completion", "") == {"bash", "zsh", "fish"}
    for words in (("find", "imp", "--out", "r"), ("info", ""), ("report", "")):
        assert completed(script, *words) == set()  # bash then offers files


def test_the_names_written_out_are_the_librarys() -> None:
    from tombola.data.registry import names as data_names
    from tombola.deploy.export import FORMATS, OF_DEPLOYED
    from tombola.methods.learned_mask import LearnedMask
    from tombola.nn.init import SCHEMES
    from tombola.select.criteria import CRITERIA
    from tombola.select.patterns import parse_pattern
    from tombola.select.select import SCOPES
    from tombola.study.arms import CONTROLS
    from tombola.ticket.rounding import Values
    from tombola.train.optimizer import OPTIMIZERS

    known = {
        "--data": data_names(),
        "--init": SCHEMES,
        "--criterion": CRITERIA,
        "--optimizer": OPTIMIZERS,
        "--scope": SCOPES,
        "--controls": CONTROLS,
        "--values": Values.__args__,  # type: ignore[attr-defined]
        "--formats": (*FORMATS, *OF_DEPLOYED),
    }
    for option, names in known.items():
        assert set(VALUES[option]) == set(names), option
    for pattern in VALUES["--pattern"]:
        parse_pattern(pattern)
    for rule in VALUES["learned-mask --rule"]:
        LearnedMask(rule=rule)


def test_a_script_loads_no_torch_and_other_shells_are_refused() -> None:
    code = (
        "import sys; from tombola.cli import main\n"
        "assert main(['completion', 'bash']) == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    status, out, err = call("completion", "fsh")
    assert (status, out) == (2, "")
    assert "unknown shell 'fsh' (did you mean fish?)" in err
