"""Run directories made up for the tests of the report."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tombola.report import aggregate

LAYERS = {"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}
COLUMNS = (
    "step",
    "epoch",
    "lr",
    "step_loss",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "seconds",
)
TOTAL = sum(LAYERS.values())


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_log(path: Path, top: float, speed: float, draw: random.Random, rows: int = 20) -> None:
    """A metrics.csv whose validation accuracy climbs to ``top`` and whose loss turns up late."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in range(rows + 1):
            step = row * 12_000 // rows
            rise = 1 - math.exp(-step / speed)
            accuracy = 0.1 + (top - 0.1) * rise + draw.gauss(0, 0.0006)
            loss = 2.3 * math.exp(-step / speed) + 3 * (1 - top) + 1.2e-6 * step + abs(draw.gauss(0, 0.001))
            writer.writerow([step, step / 900, 1.2e-3, loss, loss * 0.9, accuracy, loss, accuracy, step / 900])


def accuracy_of(arm: str, density: float) -> float:
    """Roughly what the field reports for LeNet-300-100 on MNIST."""
    ripe = math.exp(-((math.log10(density) + 1.1) ** 2) / 0.25)
    if arm == "ticket":
        return 0.9805 + 0.0022 * ripe - 0.00004 * math.pow(density, -1.2)
    return 0.9805 - (0.00075 if arm == "reinit" else 0.0011) * math.pow(density, -0.75) + 0.0009


def make_level(root: Path, arm: str, rep: int, level: int, draw: random.Random, logs: bool) -> dict[str, Any]:
    layers = [
        {"name": n, "kept": round(t * (0.9 if n == "fc3.weight" else 0.8) ** level), "total": t}
        for n, t in LAYERS.items()
    ]
    kept = sum(int(str(layer["kept"])) for layer in layers)
    top = accuracy_of(arm, kept / TOTAL) + draw.gauss(0, 0.0007)
    folder = f"replicate-{rep}" if arm == "ticket" else f"replicate-{rep}/{arm}"
    log = f"{folder}/level-{level:02d}/metrics.csv"
    slow = 900 if arm == "ticket" else 900 + 260 * level
    if logs:
        write_log(root / log, top, slow * 0.9, draw)
    stop = round(4 * slow + draw.gauss(0, 250))
    return {
        "level": level,
        "density": kept / TOTAL,
        "kept": kept,
        "total": TOTAL,
        "early_stop_iteration": stop,
        "early_stop_observed": stop < 11_500,
        "test_accuracy": top,
        "test_accuracy_early_stop": top - 0.0009,
        "val_accuracy": top,
        "val_loss_min": 0.07,
        "train_accuracy": 0.999,
        "steps": 12_000,
        "seconds": 8.1,
        "layers": layers,
        "metrics": log,
    }


def make_find(
    root: Path,
    *,
    name: str = "lenet-imp",
    method: str = "imp",
    replicates: int = 3,
    levels: Sequence[int] = (0, 3, 6, 9),
    controls: Sequence[int] = (3, 9),
    logs: bool = True,
    lean: bool = False,
    seed: int = 0,
) -> Path:
    """A finished search; ``lean``: only the results at the end of training."""
    draw = random.Random(seed)
    found = []
    for rep in range(replicates):
        arms = {"ticket": [make_level(root, "ticket", rep, n, draw, logs) for n in levels]}
        for arm in ("random", "reinit") if controls else ():
            arms[arm] = [make_level(root, arm, rep, n, draw, logs and rep == 0) for n in controls]
        for level in (level for levels_ in arms.values() for level in levels_ if lean):
            for key in ("layers", "early_stop_iteration", "test_accuracy_early_stop"):
                del level[key]
        found.append({"replicate": rep, "seed": rep, "ticket": f"replicate-{rep}/ticket.ticket", "arms": arms})
    write_json(
        root / "run.json",
        {
            "kind": "find",
            "name": name,
            "command": f"tombola find {method} --model lenet-300-100 --data mnist --replicates {replicates}",
            "config": {
                "method": {"name": method, "levels": len(levels), "rewind": "0ep", "scope": "layer"},
                "train": {"optimiser": "adam", "lr": 0.0012, "batch_size": 60, "milestones": [2, 4]},
                "model": "lenet-300-100",
            },
            "versions": {"tombola": "0.1.0", "torch": "2.12.0", "python": "3.12.3"},
            "seed": 0,
            "fingerprint": "mnist:9f2c41d07be35a86c2d10f74ee03b8a1",
        },
    )
    result = {
        "kind": "find",
        "method": method,
        "model": "lenet-300-100",
        "data": "mnist",
        "metric": "accuracy",
    }
    write_json(root / "result.json", {**result, "replicates": found})
    return root


def make_verify(root: Path, replicates: int = 5) -> Path:
    """A verification beside whatever else is in ``root``."""
    draw = random.Random(7)
    means = {"ticket": 0.9823, "dense": 0.9806, "random": 0.9741, "reinit": 0.9752}
    arms: dict[str, Any] = {}
    for arm, mean in means.items():
        values = [mean + draw.gauss(0, 0.0007) for _ in range(replicates)]
        found = aggregate.spread(values)
        assert found is not None
        names = [f"verify/{arm}-{rep}/metrics.csv" for rep in range(replicates)]
        for log in names:
            write_log(root / log, mean, 800 if arm == "ticket" else 1900, draw)
        arms[arm] = {
            "test_accuracy": values,
            "mean": found.mean,
            "interval": found.interval,
            "early_stop_iteration": [4000 + 10 * rep for rep in range(replicates)],
            "iterations_to_dense_loss": [3000, *[None if arm == "random" else 3100] * (replicates - 1)],
            "metrics": names,
        }
    comparisons = {
        "dense": (0.0017, "matches dense", "yes"),
        "random": (0.0082, "beats random mask", "yes"),
        "reinit": (0.0071, "beats reinitialised", "undecided"),
    }
    write_json(
        root / "verify.json",
        {
            "kind": "verify",
            "ticket": "replicate-0/ticket.ticket",
            "density": 0.0513,
            "replicates": replicates,
            "margin": 0.002,
            "metric": "accuracy",
            "arms": arms,
            "comparisons": {
                control: {
                    "difference": d,
                    "lower": d - 0.0007,
                    "interval": [d - 0.0009, d + 0.0009],
                    "claim": claim,
                    "verdict": verdict,
                }
                for control, (d, claim, verdict) in comparisons.items()
            },
            "sentence": "With 5.13 % of the weights it matches dense and beats a random mask (n = 5).",
        },
    )
    return root
