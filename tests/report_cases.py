"""Runs of every shape for the tests of the report: what is there, what is missing, and which metric."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report_runs import make_find, make_verify, write_json, write_log
from tombola.report.looks import Looks, page_looks
from tombola.report.plot import Plot, Remark
from tombola.report.plots import run_plots
from tombola.report.read import Run, read_runs

Level = dict[str, Any]


def change(root: Path, edit: Callable[[Level], None], **more: Any) -> Path:
    """Edit every level of a made-up search, and members of its result."""
    value = json.loads((root / "result.json").read_text())
    for replicate in value["replicates"]:
        for levels in replicate["arms"].values():
            for level in levels:
                edit(level)
    write_json(root / "result.json", {**value, **more})
    return root


def drop(*keys: str) -> Callable[[Level], None]:
    """Levels without those figures."""

    def edit(level: Level) -> None:
        for key in keys:
            level[key] = [] if key == "layers" else "" if key == "metrics" else None

    return edit


def _rmse(level: Level) -> None:
    for key in ("test_accuracy", "test_accuracy_early_stop", "val_accuracy", "train_accuracy"):
        level[key] = 35_000 * (1 - level[key])


def _same(level: Level) -> None:
    level |= {"test_accuracy": 0.98, "test_accuracy_early_stop": 0.98, "early_stop_iteration": 900}
    level |= {"early_stop_observed": True}


def _late(level: Level) -> None:
    level["early_stop_observed"] = False


def _dense(level: Level) -> None:
    level |= {"density": 1.0, "kept": level["total"], "layers": [{**x, "kept": x["total"]} for x in level["layers"]]}


def _logs(root: Path, rows: int, steep: bool) -> None:
    draw = random.Random(1)
    for log in sorted(root.rglob("metrics.csv")):
        write_log(log, 0.97 + 0.002 * draw.random(), 60 if steep else 1e9, draw, rows=rows)


def _one_evaluation(root: Path) -> None:
    for place, log in enumerate(sorted(root.rglob("metrics.csv"))):
        log.write_text(f"step,val_loss,val_accuracy\n600,{0.3 + 0.01 * place},{0.9 + 0.001 * place}\n")


def make(root: Path, case: str) -> list[Path]:
    """The run directories of a case, the first one named after it."""
    if case == "verify alone":
        write_json(root / "run.json", {"kind": "verify", "name": case})
        return [make_verify(root, replicates=3)]
    if case.startswith("verify of "):
        write_json(root / "run.json", {"kind": "verify", "name": case})
        return [make_verify(root, replicates=int(case.removeprefix("verify of ")))]
    if case == "two runs":
        other = make_find(root / "b", name="other", method="edge-popup", levels=(4,), controls=(), replicates=1)
        return [make_find(root / "a", name=case, logs=False, replicates=2), other]
    if case == "density 1":
        return [change(make_find(root, levels=(0,), controls=(), replicates=2), _dense)]
    replicates = {"1 replicate": 1, "2 replicates": 2}.get(case, 3)
    made = make_find(root, name=case, replicates=replicates, controls=() if case == "no controls" else (3, 9))
    edits: dict[str, tuple[Callable[[Level], None], dict[str, Any]]] = {
        "no test split": (drop("test_accuracy", "test_accuracy_early_stop"), {}),
        "no early stop": (_late, {}),
        "lower is better": (_rmse, {"metric": "rmse", "higher_is_better": False}),
        "all the same": (_same, {}),
    }
    if case in edits:
        change(made, edits[case][0], **edits[case][1])
    if case == "one evaluation":
        _one_evaluation(made)
    if case in ("steep", "flat logs"):
        _logs(made, rows=20, steep=case == "steep")
    return [made]


CASES = (
    "complete",
    "1 replicate",
    "2 replicates",
    "no controls",
    "no test split",
    "no early stop",
    "density 1",
    "lower is better",
    "one evaluation",
    "all the same",
    "steep",
    "flat logs",
    "two runs",
    "verify alone",
    "verify of 1",
    "verify of 2",
)


def drawn(paths: list[Path]) -> list[tuple[Run, Looks, list[Plot], list[Remark]]]:
    """Each run with its looks, figures and remarks."""
    runs = read_runs(paths)
    found = []
    for run, looks in zip(runs, page_looks(runs), strict=True):
        shown = run_plots(run, looks)
        plots = [item for item in shown if isinstance(item, Plot)]
        found.append((run, looks, plots, [item for item in shown if isinstance(item, Remark)]))
    return found
