"""The figures of docs/figures, drawn from docs/results by the report's own functions.

Each carries a digest of the numbers that it was drawn from, so that a figure that is older than its results is found
without drawing it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from pages import Fault
from results import DOCS, Networks, Row, networks
from results import record as committed
from tombola.report.page import write_report
from tombola.report.read import MEASUREMENTS
from tombola.results.codec import typed
from tombola.results.comparison import FIGURES as COMPARED
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.results.measurement import Measurement
from tombola.results.record import Figure
from tombola.results.run import RunRecord
from tombola.results.search import Replicate, SearchResult
from tombola.results.trial import LayerResult, LevelResult, Utilisation

FOLDER = DOCS / "figures"
Result = Mapping[str, Any]
_DIGEST = re.compile(r"<!-- results: ([0-9a-f]+) -->")


@dataclass(frozen=True)
class Drawn:
    """A figure file, the result it is drawn from, and which of the report's figures it is."""

    file: str
    result: Callable[[], Result]
    plot: str

    @property
    def path(self) -> Path:
        return FOLDER / self.file


def number_or_none(text: str | None) -> float | int | bool | None:
    """What a cell of a CSV holds."""
    if text in (None, ""):
        return None
    assert text is not None
    if text in ("True", "False"):
        return text == "True"
    value = float(text)
    return int(value) if value == int(value) and "." not in text and "e" not in text else value


def level(row: Row) -> dict[str, Any]:
    """A row of networks.csv as a run's result holds it."""
    text = ("arm", "origin")
    return {key: number_or_none(value) for key, value in row.items() if key not in text}


def search(study: str, **about: str) -> Result:
    """A search with controls."""
    found = networks(study)
    replicates = []
    for number in dict.fromkeys(row["replicate"] for row in found.rows):
        own = found.where(replicate=number)
        arms = {arm: [level(row) for row in own.where(arm=arm).rows] for arm in own.arms()}
        replicates.append({"replicate": int(number), "arms": arms})
    return {"kind": "find", "metric": "accuracy", "replicates": replicates, **about}


def comparison(study: str, arms: str | None = None, **about: str) -> Result:
    """A comparison of arms; `arms` is the file in docs/studies that says which make a series."""
    listed = yaml.safe_load((DOCS / "studies" / arms).read_text(encoding="utf-8")) if arms else []
    known = {entry["name"]: entry for entry in listed}
    found = networks(study)
    return {
        "kind": "study",
        "study": study,
        "metric": "accuracy",
        **about,
        "arms": [_arm(found.where(arm=name), known.get(name, {}), study) for name in found.arms()],
    }


def _arm(found: Networks, listed: Mapping[str, Any], study: str) -> dict[str, Any]:
    name, last = found.arms()[0], found.last_levels()
    trained = dict.fromkeys(row["replicate"] for row in found.rows)
    return {
        "name": name,
        "family": listed.get("family", name),
        "method": listed.get("method", "?"),
        "density": sum(last.values("density")) / len(last.rows),
        "plot_density": listed.get("density"),
        "test_accuracy": {"values": last.values("test_accuracy")},
        "replicates": [[_with_files(row, study) for row in found.where(replicate=r).rows] for r in trained],
    }


def _with_files(row: Row, study: str) -> dict[str, Any]:
    """A level with what its layers kept at the end, and the name of the file that holds its curve."""
    about = {key: row[key] for key in ("arm", "replicate", "level")}
    made = level(row)
    if (DOCS / "results" / study / "layers.csv").exists():
        kept = networks(study, "layers.csv").where(**about).rows
        made["layers"] = [{"name": x["name"], "kept": int(x["kept"]), "total": int(x["total"])} for x in kept]
        shares = {x["name"]: int(x["kept"]) / int(x["total"]) for x in kept}
        made["utilisation"] = [{"step": int(row["steps"]), "densities": shares}] if float(row["density"]) < 1 else []
    if (DOCS / "results" / study / "curves.csv").exists():
        made["curve"] = [(r["step"], r["val_accuracy"]) for r in networks(study, "curves.csv").where(**about).rows]
    return made


def lenet() -> Result:
    return search("mnist-lenet", method="imp", model="lenet-300-100", data="mnist")


def masks() -> Result:
    return comparison("mnist-supermasks", "mnist-supermasks.yaml", model="lenet-300-100", data="mnist")


def wrn() -> Result:
    return comparison("cifar10-mask-init", model="wrn-28-1", data="cifar10")


def sparse() -> Result:
    found: Result = committed("mnist-sparse-descent", "double-descent.json")["result"]
    return found


def budget() -> Result:
    return comparison("mnist-search-budget", model="lenet-300-100", data="mnist")


def cue() -> Result:
    return comparison("mnist-joint-cue", model="lenet-300-100", data="mnist")


def descent(name: str) -> Result:
    """A curve of docs/results/mnist-double-descent."""
    about = ("schema", "tombola", "command", "begun")
    found = committed("mnist-double-descent", f"{name}.json")
    return {"model": None, **{key: value for key, value in found.items() if key not in about}}


def rff() -> Result:
    return descent("rff")


def forest() -> Result:
    return descent("forest")


def widths() -> Result:
    """Networks over their width with wrong labels, and with right ones, as two series of one curve."""
    named = {"a fifth of the labels wrong": descent("width-noise-20"), "right labels": descent("width-noise-0")}
    curve = [{**point, "series": series} for series, found in named.items() for point in found["curve"]]
    return {**next(iter(named.values())), "curve": curve}


def barriers() -> Result:
    return without_recipe("mnist-connectivity", "connectivity.json")


def landscape() -> Result:
    return without_recipe("digits-landscape", "landscape.json")


def without_recipe(study: str, name: str) -> Result:
    """A record as `collect.py` keeps it."""
    return {"recipe": None, **committed(study, name)["result"]}


FIGURES = (
    Drawn("mnist-accuracy.svg", lenet, "accuracy-density"),
    Drawn("mnist-accuracy-close.svg", lenet, "accuracy-density-close"),
    Drawn("mnist-early-stop.svg", lenet, "early-stop-density"),
    Drawn("mnist-supermasks-density.svg", masks, "study-density"),
    Drawn("mnist-supermasks-close.svg", masks, "study-density-close"),
    Drawn("mnist-sparse-descent.svg", sparse, "double-descent"),
    Drawn("mnist-search-budget.svg", budget, "study-arms"),
    Drawn("mnist-joint-cue.svg", cue, "study-arms"),
    Drawn("digits-landscape.svg", landscape, "landscape-correlations"),
    Drawn("cifar10-mask-init.svg", wrn, "study-arms"),
    Drawn("mnist-descent-rff.svg", rff, "double-descent"),
    Drawn("mnist-descent-width.svg", widths, "double-descent"),
    Drawn("mnist-descent-forest.svg", forest, "double-descent"),
    Drawn("mnist-barriers.svg", barriers, "connectivity-density-0"),
)


def digest(drawn: Drawn) -> str:
    """Of the numbers, rounded to what a figure can show, and of what is drawn of them."""
    text = json.dumps([drawn.plot, drawn.result()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def report(result: Result) -> Mapping[str, bytes]:
    """Every figure that the report has of a result, as SVG by name."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        run.mkdir()
        (run / "run.json").write_text(json.dumps(RunRecord(kind=result["kind"], name="docs").as_dict()))
        (run / "result.json").write_text(json.dumps(record(result, run).as_dict()))
        made = write_report([run], Path(folder, "report"))
        return {path.stem: path.read_bytes() for path in made.figures if path.suffix == ".svg"}


# ---- the tables as the records that a run would have written: what they do not hold is missing there ---------------


def record(result: Result, run: Path) -> SearchResult | ComparisonResult | Measurement:
    """The result as a run of this version holds it; curves are written to files of the run."""
    if result["kind"] in MEASUREMENTS:
        return typed(MEASUREMENTS[result["kind"]], result, run)
    about = {"model": result["model"], "data": result["data"], "metric": result["metric"], "higher_is_better": True}
    unknown: Any = {"input_shape": None, "recipe": None, "parameters": None}
    if result["kind"] == "find":
        replicates = tuple(
            Replicate(
                replicate=one["replicate"],
                seed=None,
                ticket=None,
                arms={name: tuple(trained(level, run) for level in levels) for name, levels in one["arms"].items()},
            )
            for one in result["replicates"]
        )
        return SearchResult(**about, **unknown, method=result["method"], replicates=replicates)
    return ComparisonResult(
        **about,
        **unknown,
        study=result["study"],
        replicates=len(result["arms"][0]["replicates"]),
        seeds=(),
        arms=tuple(compared(arm, run) for arm in result["arms"]),
        comparisons=(),
        intervals="",
        note="",
    )


def compared(arm: Mapping[str, Any], run: Path) -> ComparedArm:
    """One arm; of its figures only test accuracies are known."""
    none = Figure(mean=None, interval=None, values=())
    figures: Any = {name: none for name in COMPARED if not name.endswith(("_sampled", "per_weight"))}
    values = tuple(arm["test_accuracy"]["values"])
    figures["test_accuracy"] = Figure(mean=fmean(values), interval=None, values=values)
    return ComparedArm(
        **{key: arm[key] for key in ("name", "family", "method", "density", "plot_density")},
        **figures,
        options=None,
        prunable=None,
        recipe=None,
        replicates=tuple(tuple(trained(level, run) for level in levels) for levels in arm["replicates"]),
        origins=(),
    )


def trained(made: Mapping[str, Any], run: Path) -> LevelResult:
    """One trained network."""
    file = ""
    if "curve" in made:
        file = f"{len(list(run.glob('*.csv')))}.csv"
        lines = ["step,val_accuracy", *(f"{step},{accuracy}" for step, accuracy in made["curve"])]
        (run / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    known = {name: made[name] for name in LevelResult.__struct_fields__ if name in made}
    known["layers"] = layers = tuple(LayerResult(**layer) for layer in made.get("layers", ()))
    if layers:
        known |= {"kept": sum(layer.kept for layer in layers), "total": sum(layer.total for layer in layers)}
    if "utilisation" in made:
        known["utilisation"] = tuple(Utilisation(**one) for one in made["utilisation"])
    return LevelResult(**{**dict.fromkeys(LevelResult.__struct_fields__), **_UNKNOWN, **known, "metrics": file})


_UNKNOWN: Any = {
    "kept": 0,
    "total": 0,
    "steps": 0,
    "first_step": 0,
    "seconds": 0.0,
    "train_examples_eval": 0,
    "early_stop_observed": False,
    "metric": "accuracy",
    "recipe": {},
    "barred_kept": 0,
}


def faults() -> Iterator[Fault]:
    """Figures that are not there, or older than their results."""
    for drawn in FIGURES:
        name = f"docs/figures/{drawn.file}"
        if not drawn.path.exists():
            yield Fault(name, "is not there", fixable=True)
        else:
            found = _DIGEST.findall(drawn.path.read_text(encoding="utf-8"))
            if found != [digest(drawn)]:
                yield Fault(name, "was drawn from other results", fixable=True)
    for path in sorted(FOLDER.glob("*.svg")):
        if path.name not in {drawn.file for drawn in FIGURES}:
            yield Fault(f"docs/figures/{path.name}", "is drawn by nothing")


def draw() -> None:
    """Write all figures anew."""
    made: dict[Callable[[], Result], Mapping[str, bytes]] = {}
    for drawn in FIGURES:
        if drawn.result not in made:
            made[drawn.result] = report(drawn.result())
        found = made[drawn.result]
        if drawn.plot not in found:
            raise LookupError(f"{drawn.file}: the report draws {', '.join(found)}, but no {drawn.plot}")
        drawn.path.write_bytes(found[drawn.plot] + f"<!-- results: {digest(drawn)} -->\n".encode())
