"""Studies that a file defines: parameters become options, and fill in the arms; mistakes in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_calls import call
from tombola.cli import all_verbs
from tombola.cli.studies import arms_of_definition
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.models.spec import ModelSpec
from tombola.study.definition import FIXED, Definition, read_definition
from tombola.study.setting import Arm, Setting

RATES = """
summary: What the learning rate
  is good for.
parameters:
  low: {type: number, default: 0.02, min: 0, help: "the lower learning rate: positive"}
  densities: {type: densities, default: [0.5, 0.25], help: fractions of weights kept}
  rewind: {type: text, default: null, help: where pruning goes back to}
  whole: {type: length, default: 4it, help: training of every arm}
preset: {optimizer: sgd, length: $whole}
arms:
- {name: lr $low, method: dense, recipe: {lr: $low}}
- {name: "100 $$, half", method: dense, preset: {length: "${whole.half}"}}
- each: {density: $densities}
  arms:
  - name: imp $density
    family: imp
    density: $density
    method: imp
    options: {density: $density, rounds: 1, rewind: $rewind, pattern: 2:4, scope: layer}
    when: {rewind: "null"}
  - {name: edge-popup $density, method: edge-popup, options: {density: $density}}
"""


def defined(folder: Path, text: str = RATES) -> Definition:
    (folder / "rates.yaml").write_text(text)
    return read_definition(folder / "rates.yaml")


def arms(definition: Definition, recipe: Any = None, model: str = "mlp", **options: Any) -> list[Arm]:
    setting = Setting(ModelSpec(model), DataSpec("digits"), recipe or {}, definition.options()(**options))
    return arms_of_definition(definition, "rates.yaml", setting)


def test_parameters_fill_in_the_arms(tmp_path: Path) -> None:
    text = RATES.replace("pattern: 2:4", "pattern: block:4")
    made = arms(defined(tmp_path, text))
    assert [arm.name for arm in made] == [
        *("lr 0.02", "100 $, half", "imp 0.5", "edge-popup 0.5", "imp 0.25", "edge-popup 0.25")
    ]
    assert made[0].recipe.lr == 0.02
    assert [arm.recipe.length for arm in made] == ["4it", "0ep2it", *["4it"] * 4]
    assert {arm.recipe.optimizer for arm in made} == {"sgd"}
    pruned = made[4]
    assert (pruned.density, pruned.family, pruned.method.density, pruned.method.rewind) == (0.25, "imp", 0.25, "init")
    assert pruned.method.pattern == "block:4"
    other = arms(defined(tmp_path, text), {"optimizer": "adam", "lr": 0.5}, low=0.1, densities=(0.1,), rewind="2it")
    assert [arm.name for arm in other] == ["lr 0.1", "100 $, half", "edge-popup 0.1"]  # no imp: rewind is not null
    assert [(arm.recipe.optimizer, arm.recipe.lr) for arm in other] == [("adam", 0.1), ("adam", 0.5), ("adam", 0.5)]


def test_a_list_of_lengths(tmp_path: Path) -> None:
    text = """
parameters: {at: {type: lengths, default: [2ep, 30it], help: x}}
arms:
  - {name: first, method: dense}
  - each: {when: $at}
    arms: [{name: drawn at $when, method: early-bird, options: {draw_at: $when}}]
"""
    definition = defined(tmp_path, text)
    assert [arm.name for arm in arms(definition)] == ["first", "drawn at 2ep", "drawn at 30it"]
    assert [arm.method.draw_at for arm in arms(definition, at=("1ep",))[1:]] == ["1ep"]
    assert len(arms(definition, at=())) == 1
    for wrong, says in ((("1ep", "1.0ep"), "may be named once"), (("1",), "not understood"), ("1ep", "give a list")):
        with pytest.raises(TombolaError, match=says):
            definition.options()(at=wrong)


def test_a_list_of_names(tmp_path: Path) -> None:
    text = """
parameters: {which: {type: names, default: [snip, random], choices: [snip, random, grasp], help: x}}
arms:
  - {name: first, method: dense}
  - each: {criterion: $which}
    arms: [{name: by $criterion, method: imp, options: {criterion: $criterion, rounds: 1}}]
"""
    definition = defined(tmp_path, text)
    assert [arm.name for arm in arms(definition)] == ["first", "by snip", "by random"]
    assert [arm.method.criterion for arm in arms(definition, which=["grasp"])[1:]] == ["grasp"]
    assert len(arms(definition, which=())) == 1
    wrong = (
        (("snip", "snip"), "named once"),
        ("snip", "give a list"),
        (("",), "give a list"),
        (("snop",), "did you mean"),
    )
    for given, says in wrong:
        with pytest.raises(TombolaError, match=says):
            definition.options()(which=given)


def test_scalars_are_read_as_the_options_types_want_them(tmp_path: Path) -> None:
    text = """
arms:
- {name: a, method: imp, options: {pattern: 2:4, include: [fc1.*]}, recipe: {lr: 1e-3, nesterov: true, clip_norm: null}}
"""
    (made,) = arms(defined(tmp_path, text))
    assert (made.method.pattern, made.method.include) == ("2:4", ("fc1.*",))
    assert (made.recipe.lr, made.recipe.nesterov, made.recipe.clip_norm) == (1e-3, True, None)


def test_a_condition_may_have_alternatives_and_ask_for_norms(tmp_path: Path) -> None:
    text = """
parameters: {deep: {type: flag, default: false, help: more arms}}
arms:
- {name: first, method: dense}
- {name: second, method: dense, when: [{deep: "true"}, {network.norms: "true"}]}
"""
    definition = defined(tmp_path, text)
    assert [len(arms(definition, model=model)) for model in ("mlp", "vgg-small")] == [1, 2]
    assert len(arms(definition, deep=True)) == 2


def test_several_lists_are_crossed(tmp_path: Path) -> None:
    text = """
parameters: {d: {type: densities, default: [0.5, 0.25], help: x}, e: {type: densities, default: [1, 0.1], help: y}}
arms: [{each: {a: $d, b: $e}, arms: [{name: $a of $b, method: dense}]}]
"""
    names = [arm.name for arm in arms(defined(tmp_path, text))]
    assert names == ["0.5 of 1", "0.5 of 0.1", "0.25 of 1", "0.25 of 0.1"]


def test_the_command_line_has_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    defined(tmp_path, RATES.replace("pattern: 2:4", "pattern: element"))
    status, out, err = call("study", "rates.yaml", "--help")
    assert (status, err) == (0, "")
    assert "tombola study rates.yaml [options]" in out
    assert "What the learning rate is good for." in out
    shown = " ".join(out.split())
    assert "--low LOW the lower learning rate: positive (type: float, default: 0.02)" in shown
    assert "--rewind REWIND where pruning goes back to (type: str | null, default: null)" in shown
    words = ["--model", "mlp", "--data", "digits", "--threads", "1", "--replicates", "1", "--json"]
    status, out, err = call("study", "rates.yaml", "--low", "0.3", "--densities", "0.5", *words)
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert (result["study"], [arm["name"] for arm in result["arms"]]) == (
        "rates",
        ["lr 0.3", "100 $, half", "imp 0.5", "edge-popup 0.5"],
    )
    assert result["summary"] == "What the learning rate is good for."
    assert Path(result["run"]).name.startswith("rates-mlp-digits-")
    status, out, err = call("study", "rates.yaml", "--low", "-1")
    assert (status, err) == (2, "tombola: error: low is -1, but it must be at least 0\n")
    assert "did you mean --low?" in call("study", "rates.yaml", "--lo", "1")[2]
    assert "No such file" in call("study", "none.yaml")[2]
    assert ", or a file of your own that ends in .yaml" in call("study", "rates")[2]


MISTAKES = {
    "{": "is not readable YAML",
    "3": "defines no study",
    "{}": "required field `arms`",
    "{arms: [], armz: []}": "unknown field `armz`",
    "{arms: [3]}": "arms[0]",
    "{arms: []}": "no arms",
    "{arms: [{name: $x, method: dense}]}": "rates.yaml: unknown parameter 'x'",
    "{arms: [{each: 3}]}": "each is '3'",
    "{arms: [{each: {x: [1]}, name: a}]}": "each needs lists, and arms beside it",
    "{arms: [{name: a, method: dens}]}": "did you mean dense?",
    "{arms: [{name: a, methd: dense}]}": "did you mean method?",
    "{arms: [{name: a, method: dense, preset: 3}]}": "preset is '3'",
    "{arms: [], parameters: 3}": "$.parameters",
    "{arms: [], parameters: {a: 3}}": "parameter a",
    "{arms: [], parameters: {a: {type: numbr, default: 1, help: x}}}": "a: unknown type 'numbr' (did you mean number?)",
    "{arms: [], parameters: {a: {type: [3], default: 1, help: x}}}": "a: unknown type ['3']",
    "{arms: [], parameters: {a: {type: number, default: x, help: x}}}": "default 'x' is no number",
    "{arms: [], parameters: {a: {type: text, default: x, help: x, min: 3}}}": "min and max are for numbers",
    "{arms: [], parameters: {a: {type: number, default: 1, help: x, choices: [a]}}}": "choices are for a text",
    "{arms: [], parameters: {a: {type: number, default: 1}}}": "required field `help`",
    "{arms: [], parameters: {a-b: {type: number, default: 1, help: x}}}": "'a-b' can be no option",
    "{arms: [], parameters: {__post_init__: {type: number, default: 1, help: x}}}": "a letter first",
    "{arms: [{each: {a: &v ['1', '2', '3', '4', '5', '6', '7', '8', '9', '0'], b: *v, c: *v, d: *v, e: *v}, "
    "arms: [{name: $a$b$c$d$e, method: dense}]}]}": "more than 10,000 arms",
    "{arms: [], parameters: {lambda: {type: number, default: 1, help: x}}}": "'lambda' can be no option",
    "{arms: [], parameters: {model: {type: number, default: 1, help: x}}}": "is the name of an option",
    "{arms: [], parameters: {json: {type: number, default: 1, help: x}}}": "is the name of an option",
    "{arms: [], parameters: {a: {type: text, default: x, help: x, choices: [b, c]}}}": "allowed: b, c",
    "{arms: [{name: '${a.half}', method: dense}], parameters: {a: {type: text, default: x, help: x}}}": "parts: half",
    "{arms: [{name: '${a.half}', method: dense}], parameters: {a: {type: length, default: 1it, help: x}}}": "be even",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.yaml").write_text(text)
    status, out, err = call("study", "rates.yaml", "--data", "digits", "--model", "mlp", "--length", "0it")
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    assert MISTAKES[text] in err
    assert [file.name for file in tmp_path.iterdir()] == ["rates.yaml"]


def test_a_plain_list_of_arms_is_a_study_too(tmp_path: Path) -> None:
    definition = defined(tmp_path, "[{name: a, method: dense}, {name: b, method: imp}]")
    assert [arm.method.name for arm in arms(definition)] == ["dense", "imp"]


def test_every_study_that_comes_along_is_a_command() -> None:
    names = {file.stem for file in FIXED.glob("*.yaml")}
    assert names <= {verb.words[1] for verb in all_verbs() if verb.words[0] == "study"}
    for name in names:
        definition = read_definition(FIXED / f"{name}.yaml")
        definition.options()()
        assert len(arms(definition)) > 2
        assert all(parameter.help for parameter in definition.parameters.values())


def test_the_study_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "supermasks.md").read_text(encoding="utf-8")
    (text,) = (text for text in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "parameters:" in text)
    found = arms(defined(tmp_path, text), mask_lr=0.4)
    assert [(arm.method.name, arm.density) for arm in found] == [
        *(("dense", None), ("edge-popup", 0.5), ("imp", 0.5), ("edge-popup", 0.2), ("imp", 0.2))
    ]
    assert found[1].recipe.lr == 0.4


def test_a_parameters_bounds_are_allowed_themselves(tmp_path: Path) -> None:
    text = "{arms: [], parameters: {n: {type: integer, default: 2, min: 1, max: 3, help: x}}}"
    options = defined(tmp_path, text).options()
    assert [options(n=n).n for n in (1, 2, 3)] == [1, 2, 3]
    for n, says in ((0, "n is 0, but it must be at least 1"), (4, "n is 4, but it must be at most 3")):
        with pytest.raises(TombolaError, match=says):
            options(n=n)


def test_help_of_a_study_loads_no_torch(tmp_path: Path) -> None:
    defined(tmp_path)
    for word in ("rates.yaml", "joint"):
        run = f"import sys; from tombola.cli import main; main(['study', {word!r}, '--help'])"
        code = f"{run}; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
