"""The report on studies that compare arms, and on searches that tell what they use or have no dense level."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from report_runs import LAYERS, TOTAL, make_find, write_json, write_log
from tombola.cli.screen import Screen
from tombola.errors import TombolaError
from tombola.report import style, words
from tombola.report.aggregate import joined_log, merged
from tombola.report.looks import Looks, page_looks, series_look
from tombola.report.numbers import key_numbers
from tombola.report.page import write_report
from tombola.report.plot import Plot
from tombola.report.plots import run_plots
from tombola.report.read import Run, read_run
from tombola.report.study_tables import HEADS, study_tables
from tombola.report.utilisation import used_weights
from tombola.results.comparison import ArmContrast, ArmDifference, ComparedArm, ComparisonResult, CoveredDifference
from tombola.results.record import Figure
from tombola.results.trial import LayerResult, LevelResult, Utilisation
from tombola.results.verification import SEEDS, SeedsAlone
from trial_results import level_figures

SAMPLED = ("test_accuracy_sampled", "val_accuracy_sampled")
FAMILIES = {"Edge-popup": (0.7, 0.5, 0.3, 0.1), "IMP": (0.5, 0.2, 0.05)}


def make_level(root: Path, folder: str, density: float, draw: random.Random, level: int = 0) -> LevelResult:
    """One level; its log climbs to the accuracy that it reports."""
    reached = 0.97 - 0.01 / density**0.5 + draw.gauss(0, 0.002)
    write_log(root / folder / "metrics.csv", reached, 900, draw, rows=10)
    return level_figures(
        level,
        density=density,
        kept=round(density * TOTAL),
        total=TOTAL,
        steps=12_000,
        test_accuracy=reached,
        test_accuracy_early_stop=None,
        early_stop_iteration=None,
        early_stop_observed=False,
        val_accuracy=reached + 0.004,
        train_accuracy=reached - 0.02,
        train_accuracy_eval=reached + 0.02 + 0.01 * density,
        layers=tuple(
            LayerResult(name=n, kept=round(density ** (1 + i / 4) * t), total=t)
            for i, (n, t) in enumerate(LAYERS.items())
        ),
        metrics=f"{folder}/metrics.csv",
    )


def utilised(density: float) -> tuple[Utilisation, ...]:
    steps, weights = range(0, 12_001, 2_000), dict(zip(LAYERS, (1, 0.8, 0.3), strict=True))
    return tuple(
        Utilisation(step=s, densities={n: 1 - (1 - density) * (s / 12_000) * w for n, w in weights.items()})
        for s in steps
    )


def make_arm(root: Path, name: str, family: str, density: float, replicates: int, *, masks: bool) -> ComparedArm:
    draw = random.Random(name)
    levels = []
    for rep in range(replicates):
        found = [make_level(root, f"{name}/replicate-{rep}/level-00", density, draw)]
        if masks:
            found[0] = found[0].replace(utilisation=utilised(density))
            found.append(make_level(root, f"{name}/replicate-{rep}/level-01", density, draw, level=1))
        levels.append(tuple(found))

    def figure(read: Callable[[LevelResult], float]) -> Figure:
        return Figure(mean=None, interval=None, values=tuple(read(found[-1]) for found in levels))

    return ComparedArm(
        name=name,
        family=family,
        method="dense" if density == 1 else "joint",
        options=None,
        density=density,
        prunable=TOTAL,
        plot_density=None,
        recipe={"lr": 0.1},
        replicates=tuple(levels),
        origins=(),
        test_accuracy=figure(lambda x: x.test_accuracy or 0.0),
        val_accuracy=figure(lambda x: x.val_accuracy or 0.0),
        train_accuracy=figure(lambda x: x.train_accuracy or 0.0),
        train_accuracy_eval=figure(lambda x: x.train_accuracy_eval or 0.0),
        gap=figure(lambda x: (x.train_accuracy_eval or 0.0) - (x.val_accuracy or 0.0)),
        shift=figure(lambda x: (x.val_accuracy or 0.0) - (x.test_accuracy or 0.0)),
        bits_per_weight=figure(lambda x: 32 * x.density),
        **({part: figure(lambda x: x.test_accuracy or 0.0) for part in SAMPLED} if masks else {}),
    )


def contrast(arm: str, difference: float, replicates: int) -> ArmContrast:
    ends = (difference - 0.002, difference + 0.002) if replicates >= 3 else None
    none = ArmDifference(difference=None, interval=None)
    tested = CoveredDifference(
        difference=difference, interval=ends, covers=SEEDS, seeds_alone=SeedsAlone(interval=ends)
    )
    return ArmContrast(
        arm=arm,
        against="Dense",
        paired=True,
        test_accuracy=tested,
        val_accuracy=none,
        train_accuracy_eval=none,
        train_accuracy=none,
        gap=none,
        shift=none,
    )


def make_study(root: Path, *, many: bool = True, replicates: int = 3) -> Path:
    """A study of a dense arm and, with ``many``, two families of several densities."""
    arms = [make_arm(root, "Dense", "Dense", 1.0, replicates, masks=False)]
    for family, densities in FAMILIES.items():
        for density in densities if many else densities[-1:]:
            label = f"{family} {density:.0%}" if many else family
            arms.append(make_arm(root, label, family, density, replicates, masks=family == "Edge-popup"))
    compared = [
        contrast(arm.name, d, replicates)
        for arm, d in zip(arms[1:], (0.005, -0.01, 0.001, 0.0, -0.02, 0.003, 0.0), strict=False)
    ]
    write_json(root / "run.json", {"kind": "study", "name": root.name, "config": {"seed": 0}, "command": "tombola"})
    result = ComparisonResult(
        study="regularise",
        model="lenet-300-100",
        data="mnist",
        metric="accuracy",
        higher_is_better=True,
        input_shape=None,
        replicates=replicates,
        seeds=(0, 5, 9),
        recipe=None,
        parameters=None,
        arms=tuple(arms),
        comparisons=tuple(compared),
        intervals="",
        note="Every arm has its own tuned rate.",
    )
    write_json(root / "result.json", result.as_dict())
    return root


def names_of(run: Run) -> list[str]:
    """The names of a run's figures."""
    return [shown.name for shown in run_plots(run, page_looks([run])[0]) if isinstance(shown, Plot)]


def numbers_of(run: Run) -> list[str]:
    return [number.name for number in key_numbers(run, page_looks([run])[0])]


def study_of(root: Path) -> ComparisonResult:
    study = read_run(root).study
    assert study is not None
    return study


@pytest.fixture
def no_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """PDFs take most of the time; where they are not the point they are left empty."""
    monkeypatch.setattr(style, "pdf_bytes", lambda figure: b"%PDF")


@pytest.mark.usefixtures("no_pdf")
def test_a_study_gets_its_figures_and_tables(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run")
    files = write_report([root], tmp_path / "out")
    assert {path.stem for path in files.figures} == {
        "study-arms",
        "study-density",
        "study-gap-density",
        "study-cost",
        "study-val-accuracy",
        "study-val-accuracy-2",
        "masked-layers",
        "masked-size",
        "masked-training",
        "masked-training-2",
        "masked-training-3",
        "masked-training-4",
    }
    text = files.html.read_text()
    for phrase in (
        "8 arms over 3 replicates",
        "Of the 7 other arms, 2 lie significantly above Dense, 2 lie significantly below Dense and 3 do not differ "
        "significantly from Dense",
        "Every arm has its own tuned rate.",
        "Validation accuracy of Edge-popup",
        "Train − val",
        "Bits per weight",
        "Paired by replicate.",
        "seed of replicate 2",
    ):
        assert words.keep_together(phrase) in text, phrase


@pytest.mark.usefixtures("no_pdf")
def test_the_page_shows_what_a_study_asks(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run", many=False, replicates=1)
    assert 'class="question"' not in write_report([root], tmp_path / "none").html.read_text()
    value = json.loads((root / "result.json").read_text())
    write_json(root / "result.json", {**value, "summary": "Is <10 % enough?"})
    page = write_report([root], tmp_path / "asked").html.read_text()
    assert '<p class="question">Is &lt;10\N{NO-BREAK SPACE}% enough?</p>' in page
    assert page.index('class="question"') < page.index('class="verdict"')


def test_few_arms_share_one_figure_and_few_replicates_are_told(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run", many=False, replicates=2)
    run = read_run(root)
    assert [name for name in names_of(run) if name.startswith("study")] == [
        "study-arms",
        "study-cost",
        "study-val-accuracy",
    ]
    assert run.missing == ("There are no intervals: they need 3 replicates, and the arms have 2.",)
    assert "significantly" not in words.verdict(run)
    assert [number.name for number in key_numbers(run, page_looks([run])[0])] == [
        "Dense",
        "Edge-popup",
        "IMP",
        "Replicates",
    ]


def test_wrong_values_of_a_study_are_named(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run", many=False)
    value = json.loads((root / "result.json").read_text())
    value["arms"][1]["density"] = 3
    write_json(root / "result.json", value)
    with pytest.raises(TombolaError, match=r"Expected `float` <= 1.0 - at `\$.arms\[1\].density`"):
        read_run(root)


def test_levels_are_joined_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("step,val_accuracy\n0,0.1\n10,0.5\n")
    (tmp_path / "b.csv").write_text("step,val_accuracy\n0,0.2\n5,0.6\n")
    levels = [level_figures(i, steps=10, metrics=str(tmp_path / f"{name}.csv")) for i, name in enumerate("ab")]
    assert joined_log(levels, "val_accuracy") == {0: 0.1, 10: 0.5, 15: 0.6}
    found = merged([{0: 1.0, 1: 2.0}, {0: 3.0, 1: 2.0, 2: 9.0}])
    assert found is not None
    assert (found.steps, found.mean) == ((0, 1), (2.0, 2.0))


def test_what_is_used_is_the_mean_of_the_last_levels_that_tell(tmp_path: Path) -> None:
    study = study_of(make_study(tmp_path / "run"))
    assert used_weights(study.arms[0].replicates) is None
    found = used_weights(study.arms[1].replicates)
    assert found is not None
    layers, course = found
    assert [(layer.name, layer.total) for layer in layers] == list(LAYERS.items())
    assert layers[0].density == pytest.approx(0.7, abs=1e-5)
    assert course["fc1.weight"][0] == 1
    assert course["fc1.weight"][12_000] == pytest.approx(0.7)


def test_no_two_looks_are_the_same() -> None:
    looks = {(look.colour, str(look.dash)) for look in map(series_look, range(36))}
    assert len(looks) == 36


def one_level(root: Path, level: LevelResult) -> Path:
    make_find(root, method="edge-popup", replicates=1, levels=(0,), controls=(), logs=False)
    value = json.loads((root / "result.json").read_text())
    value["replicates"][0]["arms"]["ticket"] = [level.as_dict()]
    write_json(root / "result.json", value)
    return root


@pytest.mark.usefixtures("no_pdf")
def test_a_search_of_one_masked_level(tmp_path: Path) -> None:
    root = tmp_path / "run"
    level = make_level(root, "replicate-0/level-01", 0.5, random.Random(0), level=1)
    run = read_run(one_level(root, level.replace(utilisation=utilised(0.5))))
    assert names_of(run) == [
        "training-val-accuracy",
        "training-val-loss",
        "layer-density",
        "masked-size",
        "masked-training",
    ]
    assert words.verdict(run).startswith("With 50.00 % of the prunable weights, the ticket's test accuracy is ")
    assert [number.name for number in key_numbers(run, page_looks([run])[0])] == [
        "Weights kept",
        "Ticket",
        "Replicates",
    ]
    text = write_report([root], tmp_path / "out").html.read_text().lower()
    for nonsense in ("keeps up", "nan", ">none<", "several densities", "by density"):
        assert nonsense not in text, nonsense
    assert "Total iterations" in write_report([root, root], tmp_path / "two").html.read_text()


def test_a_dense_network_alone_claims_nothing(tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = read_run(one_level(root, make_level(root, "replicate-0/level-00", 1.0, random.Random(0))))
    assert run.missing == ()
    assert words.verdict(run).startswith("The dense network's test accuracy is ")
    assert "layer-density" not in names_of(run)


def test_tables_say_what_the_intervals_of_differences_cover(tmp_path: Path) -> None:
    root = make_study(tmp_path / "run", many=False)
    value = json.loads((root / "result.json").read_text())

    def note() -> str:
        run = read_run(root)
        assert run.study is not None
        found = study_tables(run.study, page_looks([run])[0])
        return next(table.note for table in found if table.title == "Differences from the first arm")

    assert "They are over training seeds alone" in note()
    for contrast in value["comparisons"]:
        contrast["test_accuracy"]["covers"] = "training seeds and test examples"
    write_json(root / "result.json", value)
    assert "Those of the test accuracy are over training seeds and test examples, all others over" in note()


@pytest.mark.parametrize("replicates", [2, 3])
def test_no_sign_of_percent_stands_alone_in_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], replicates: int
) -> None:
    study = study_of(make_study(tmp_path / "run", replicates=replicates))
    for columns in (list(HEADS)[:count] for count in range(1, len(HEADS) + 1)):
        arms = [
            arm.replace(**{name: Figure(mean=None, interval=None, values=()) for name in HEADS if name not in columns})
            for arm in study.arms
        ]
        Screen(False).tables(study_tables(study.replace(arms=tuple(arms)), Looks({})))
    text = capsys.readouterr().out
    assert ("95.62" if replicates == 2 else "± 0.") in text
    assert "  %" not in text
