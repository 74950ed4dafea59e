"""The result of a run that is still under way, put together from the stages it has finished."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tombola.formats import plural
from tombola.report.nodes import Node, load
from tombola.runs.integrity import Damaged, read_file
from tombola.runs.stage import RESULT, Stage

RESUME = "The run has not finished: this is how far it got; tombola runs says how to resume it."


def partial_result(path: Path, kind: str, config: object) -> Node | None:
    """What `result.json` would hold of the finished stages under `path`, or None if there are none.

    Stages of a search are `replicate-R/level-LL` and `replicate-R/ARM-LL` (controls), those of a study lie in a
    folder for each arm, those of a verification are `ARM-R`.
    """
    settings = config if isinstance(config, Mapping) else {}
    found = (
        _verification(path, settings)
        if kind == "verify"
        else _study(path, settings)
        if settings.get("arms")
        else _search(path)
    )
    if found is None:
        return None
    names = {part: _name(settings, part) for part in ("method", "model", "data")}
    return Node({**names, **_task(settings), **found}, str(path))


def begun_stages(path: Path) -> list[str]:
    """What has been begun and is not finished, in plain words."""
    notes = []
    for log in sorted(path.rglob("metrics.csv")):
        if not (log.parent / "result.json").is_file():
            name = log.parent.relative_to(path).as_posix()
            notes.append(f"{name} has begun and not finished: its log reaches iteration {_last_step(log):,}.")
    return notes


def _last_step(log: Path) -> int:
    try:
        text = (read_file(log) or b"").decode(errors="replace")
        steps = [row.get("step") or "" for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (Damaged, csv.Error):
        return 0
    return max((int(step) for step in steps if step.isdigit()), default=0)


def _search(path: Path) -> dict[str, Any] | None:
    replicates = []
    for folder in _numbered(path, "replicate"):
        arms: dict[str, list[Any]] = {}
        for stage, value in _stages(folder):
            name = stage.rpartition("-")[0]
            arms.setdefault("ticket" if name == "level" else name, []).append(value)
        if "ticket" in arms:
            replicates.append({"replicate": int(folder.name.rpartition("-")[2]), "arms": arms})
    return {"kind": "find", "replicates": replicates} if replicates else None


def _study(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    from tombola.study.setting import folder_of

    arms = []
    for arm in settings["arms"]:
        name = str(arm.get("name", "?")) if isinstance(arm, Mapping) else "?"
        replicates = [
            [_under(folder_of(name), value) for _, value in _stages(folder)]
            for folder in _numbered(path / folder_of(name), "replicate")
        ]
        levels = [found for found in replicates if found]
        if levels:
            arms.append({"name": name, "method": _name(arm, "method"), **_figures(levels), "replicates": levels})
    if not arms:
        return None
    done = ", ".join(f"{arm['name']} {plural(len(arm['replicates']), 'replicate')}" for arm in arms)
    return {"kind": "study", "study": settings.get("study", "study"), "arms": arms, "note": f"Finished so far: {done}."}


def _figures(replicates: list[list[Any]]) -> dict[str, Any]:
    """An arm's figures, as far as the last finished level of each replicate tells them."""
    last = [levels[-1] for levels in replicates if isinstance(levels[-1], Mapping)]
    known = [value for level in last if isinstance(value := level.get("density"), int | float)]
    parts = ("test_accuracy", "val_accuracy", "train_accuracy_eval", "train_accuracy", "bits_per_weight")
    return {
        "density": math.fsum(known) / len(known) if known else None,
        **{part: {"values": [level.get(part) for level in last]} for part in parts},
    }


def _verification(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    from tombola.results.statistics import FEWEST_REPLICATES, interval

    arms: dict[str, dict[str, Any]] = {}
    for stage, value in _stages(path):
        name, _, number = stage.rpartition("-")
        if name and number.isdigit() and isinstance(value, Mapping):
            arm = arms.setdefault(name, {"test_accuracy": [], "early_stop_iteration": [], "metrics": []})
            arm["test_accuracy"].append(value.get("test_accuracy"))
            arm["early_stop_iteration"].append(value.get("early_stop_iteration"))
            arm["metrics"].append(f"{stage}/metrics.csv")
    if not arms:
        return None
    for arm in arms.values():
        known = [value for value in arm["test_accuracy"] if isinstance(value, int | float)]
        ends = interval(known) if len(known) >= FEWEST_REPLICATES else None
        arm |= {"mean": math.fsum(known) / len(known) if known else None, "interval": ends and list(ends)}
    count = sum(len(arm["test_accuracy"]) for arm in arms.values())
    wanted = settings.get("replicates")
    of = f" of {4 * wanted}" if isinstance(wanted, int) else ""
    said = f"No verdict yet: {plural(count, 'training')}{of} finished."
    return {"kind": "verify", "arms": arms, "margin": settings.get("margin"), "sentence": said}


def _numbered(path: Path, name: str) -> list[Path]:
    """Folders `name-0`, `name-1`, ... in their order."""
    found = [folder for folder in path.glob(f"{name}-*") if folder.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]))


def _stages(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names and results of the finished stages in a folder."""
    for stage in sorted(folder.iterdir()) if folder.is_dir() else ():
        found = load(stage / RESULT) if stage.is_dir() and Stage(stage).result() is not None else None
        if found is not None:
            yield stage.name, found.value


def _under(folder: str, level: Any) -> Any:
    """A level whose files lie in a folder of the run."""
    if not isinstance(level, Mapping):
        return level
    return {**level, **{part: f"{folder}/{level[part]}" for part in ("metrics", "ticket") if level.get(part)}}


def _name(config: object, part: str) -> str:
    found = config.get(part) if isinstance(config, Mapping) else None
    return str(found.get("name", "?")) if isinstance(found, Mapping) else "?"


def _task(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The metric and its direction, where the configuration says them."""
    task = settings.get("task")
    if not isinstance(task, Mapping):
        return {}
    found = {"metric": task.get("metric_name"), "higher_is_better": task.get("higher_is_better")}
    return {key: value for key, value in found.items() if value is not None}
