"""A finished run's figures as small tables: `python docs/make/collect.py RUN docs/results/NAME [--curves] [--last]`.

`--as ARM` adds a run to the tables of others: a search's tickets are then its arm ARM, and its configuration ARM.yaml.

networks.csv has a row for each trained network, layers.csv what each of a ticket's layers keeps, outcomes.csv which
test examples each network got right (bits, compressed), curves.csv (with `--curves`) the validation accuracy over
training; beside them lie the run's configuration and the versions. `--last` takes the level alone that judges an arm.
Nothing in them names a path, a host or a time. Of a reproduction, connectivity or landscape the record is kept as it
is, as NAME.json or KIND.json.
"""

from __future__ import annotations

import argparse
import base64
import csv
import json
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from tombola.results.search import TICKET
from tombola.runs.integrity import KEY
from tombola.study.setting import folder_of
from tombola.train.outcomes import read_outcomes

FIGURES = (
    "origin",
    "density",
    "kept",
    "total",
    "steps",
    "test_accuracy",
    "test_accuracy_sampled",
    "test_accuracy_early_stop",
    "early_stop_iteration",
    "early_stop_observed",
    "iterations_to_dense_loss",
    "val_loss_min",
    "val_accuracy",
    "train_accuracy_eval",
    "train_accuracy",
    "bits_per_weight",
    "first_step",
    "whole_steps",
    "flops",
    "forward_passes",
    "drawn",
    "emerged",
    "distances",
)

Level = Mapping[str, Any]
Trained = tuple[str, int, Level]
"""Arm, replicate, one level of the result."""


def trained(result: Mapping[str, Any]) -> Iterator[Trained]:
    """Every network of a search with controls, or of a comparison of arms."""
    if result["kind"] == "study":
        for arm in result["arms"]:
            for replicate, (levels, origin) in enumerate(zip(arm["replicates"], arm["origins"], strict=True)):
                yield from ((arm["name"], replicate, {**level, "origin": origin[:12]}) for level in levels)
    else:
        for found in result["replicates"]:
            for arm, levels in found["arms"].items():
                yield from ((arm, found["replicate"], level) for level in levels)


def log(run: Path, level: Level) -> list[dict[str, str]]:
    """The rows of a level's metrics.csv."""
    with (run / level["metrics"]).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def dense_loss(networks: Sequence[Trained]) -> float:
    """The mean over replicates of the dense networks' lowest validation loss."""
    return fmean(level["val_loss_min"] for _, _, level in networks if level["density"] == 1)


def iterations_to(loss: float, rows: Sequence[Mapping[str, str]]) -> int | None:
    """The first evaluation at or below a validation loss."""
    return next((int(row["step"]) for row in rows if float(row["val_loss"]) <= loss), None)


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV of the columns that any row has a value in."""
    found = list(rows)
    columns = [
        key for key in dict.fromkeys(k for row in found for k in row) if any(r.get(key) is not None for r in found)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: short(row.get(key)) for key in columns} for row in found)


def others(path: Path, arms: Collection[str]) -> list[dict[str, str | None]]:
    """The rows of a table that are of other arms."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: value or None for key, value in row.items()} for row in csv.DictReader(file) if row["arm"] not in arms
        ]


def derived(level: Level) -> dict[str, Any]:
    """What a level holds further down: FLOPs of its training, and of masks that were watched when they were stable."""
    cost, channels = level.get("cost") or {}, level.get("channels") or {}
    own: Mapping[str, Any] = next(iter(level.get("mask_histories") or ()), {}) if channels else {}
    distances = [f"{value:.4g}" for value in own.get("distances", ()) if value is not None]
    return {
        "flops": cost.get("flops"),
        "forward_passes": cost.get("forward_passes"),
        "drawn": channels.get("drawn"),
        "emerged": own.get("emerged"),
        "distances": " ".join(distances) or None,
    }


def short(value: Any) -> Any:
    """Nine digits say all that a float32 holds."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def packed(values: Tensor) -> str:
    """Outcomes of 0 and 1 as text."""
    bits = np.packbits(values.numpy() > 0.5)
    return base64.b85encode(zlib.compress(bits.tobytes(), 9)).decode()


def judging(networks: Iterable[Trained]) -> list[Trained]:
    """The last level of every arm and replicate."""
    last = {(arm, replicate): level for arm, replicate, level in networks}
    return [(*key, level) for key, level in last.items()]


def collect(run: Path, out: Path, curves: bool, last: bool = False, name: str | None = None) -> None:
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    if result["kind"] in ("reproduction", "connectivity", "landscape", "initialisations", "double-descent", "regime"):
        collect_record(run, result, out)
        return
    networks = judging(trained(result)) if last else list(trained(result))
    if name is not None:
        networks = [(name if arm == TICKET else arm, replicate, level) for arm, replicate, level in networks]
    out.mkdir(parents=True, exist_ok=True)
    target = dense_loss(networks) if result["kind"] == "find" and name is None else None
    rows, layers, steps, kept = [], [], [], []
    for arm, replicate, level in networks:
        about = {"arm": arm, "replicate": replicate, "level": level["level"]}
        history = log(run, level) if curves or target is not None else []
        reached = {} if target is None else {"iterations_to_dense_loss": iterations_to(target, history)}
        known = {**level, **reached, **derived(level)}
        rows.append(about | {name: known.get(name) for name in FIGURES})
        if arm not in ("random", "reinit"):  # the controls keep as many as the ticket
            layers += [about | dict(layer) for layer in level.get("layers", ())]
        values = read_outcomes((run / level["metrics"]).parent)
        if values is not None:
            kept.append(about | {"examples": len(values), "correct": packed(values)})
        if curves:
            steps += [about | {"step": int(row["step"]), "val_accuracy": float(row["val_accuracy"])} for row in history]
    for file, found in (("networks", rows), ("outcomes", kept), ("layers", layers), ("curves", steps)):
        if found:
            path = out / f"{file}.csv"
            write(path, found if name is None else [*others(path, {row["arm"] for row in rows}), *found])
    shutil.copy(run / "config.yaml", out / f"{folder_of(name or 'config')}.yaml")
    versions = json.loads((run / "run.json").read_text(encoding="utf-8"))["versions"]
    (out / "versions.json").write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")


def collect_record(run: Path, result: Mapping[str, Any], out: Path) -> None:
    """The record as `out`/NAME.json (of a study that has none, its kind), with the day of its begin, and versions."""
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    left = ("format", "schema", "tombola", "recipe", KEY, "run", "reused")
    kept = {key: value for key, value in result.items() if key not in left}
    written = {"date": about["begun"][:10], "versions": about["versions"], "result": shortened(kept)}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(written, indent=1, ensure_ascii=False) + "\n"
    (out / f"{result.get('name', result['kind'])}.json").write_text(text, encoding="utf-8")


def shortened(value: Any) -> Any:
    """`short` of every number within."""
    if isinstance(value, Mapping):
        return {key: shortened(item) for key, item in value.items()}
    return [shortened(item) for item in value] if isinstance(value, list) else short(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--last", action="store_true")
    parser.add_argument("--as", dest="name")
    given = parser.parse_args()
    collect(given.run, given.out, given.curves, given.last, given.name)


if __name__ == "__main__":
    main()
