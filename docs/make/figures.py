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
from typing import Any

import yaml

from pages import Fault
from results import DOCS, Networks, Row, networks
from tombola.report.page import write_report

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


FIGURES = (
    Drawn("mnist-accuracy.svg", lenet, "accuracy-density"),
    Drawn("mnist-accuracy-close.svg", lenet, "accuracy-density-close"),
    Drawn("mnist-early-stop.svg", lenet, "early-stop-density"),
    Drawn("mnist-supermasks-density.svg", masks, "study-density"),
    Drawn("mnist-supermasks-close.svg", masks, "study-density-close"),
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
        (run / "run.json").write_text(json.dumps({"kind": result["kind"], "name": "docs"}), encoding="utf-8")
        (run / "result.json").write_text(json.dumps(written(result, run)), encoding="utf-8")
        made = write_report([run], Path(folder, "report"))
        return {path.stem: path.read_bytes() for path in made.figures if path.suffix == ".svg"}


def written(result: Result, run: Path) -> Result:
    """The result with its curves in files of the run, as the report reads them."""
    levels = (made for arm in result.get("arms", ()) for replicate in arm["replicates"] for made in replicate)
    for number, made in enumerate(levels):
        if curve := made.pop("curve", None):
            lines = ["step,val_accuracy", *(f"{step},{accuracy}" for step, accuracy in curve)]
            (run / f"{number}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            made["metrics"] = f"{number}.csv"
    return result


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
