"""Run directories made up for the tests of the report."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from tombola.report import aggregate
from tombola.results.search import Replicate, SearchResult
from tombola.results.trial import LayerResult, LevelResult
from tombola.results.verification import SEEDS, ArmResult, ExampleSet, SeedsAlone, VerificationResult
from trial_results import claim_result, level_figures, speed_result

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


def make_level(root: Path, arm: str, rep: int, level: int, draw: random.Random, logs: bool) -> LevelResult:
    layers = [
        LayerResult(name=n, kept=round(t * (0.9 if n == "fc3.weight" else 0.8) ** level), total=t)
        for n, t in LAYERS.items()
    ]
    kept = sum(layer.kept for layer in layers)
    top = accuracy_of(arm, kept / TOTAL) + draw.gauss(0, 0.0007)
    folder = f"replicate-{rep}" if arm == "ticket" else f"replicate-{rep}/{arm}"
    log = f"{folder}/level-{level:02d}/metrics.csv"
    slow = 900 if arm == "ticket" else 900 + 260 * level
    if logs:
        write_log(root / log, top, slow * 0.9, draw)
    stop = round(4 * slow + draw.gauss(0, 250))
    return level_figures(
        level,
        density=kept / TOTAL,
        kept=kept,
        total=TOTAL,
        early_stop_iteration=stop,
        early_stop_observed=stop < 11_500,
        test_accuracy=top,
        test_accuracy_early_stop=top - 0.0009,
        val_accuracy=top,
        val_loss_min=0.07,
        train_accuracy=0.999,
        steps=12_000,
        seconds=8.1,
        layers=tuple(layers),
        metrics=log,
        ticket=None,
    )


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
        if lean:
            arms = {name: [at_the_end(level) for level in found_] for name, found_ in arms.items()}
        ready = {name: tuple(found_) for name, found_ in arms.items()}
        found.append(Replicate(replicate=rep, seed=rep, ticket=f"replicate-{rep}/ticket.ticket", arms=ready))
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
        },
    )
    result = SearchResult(
        method=method,
        model="lenet-300-100",
        data="mnist",
        metric="accuracy",
        higher_is_better=True,
        input_shape=None,
        recipe=None,
        parameters=None,
        replicates=tuple(found),
    )
    write_json(root / "result.json", result.as_dict())
    return root


def at_the_end(level: LevelResult) -> LevelResult:
    """A level with its results at the end of training alone."""
    return level.replace(layers=(), early_stop_iteration=None, early_stop_observed=False, test_accuracy_early_stop=None)


def make_verified(root: Path, replicates: int = 5) -> list[Path]:
    """The search in `root`, and a verification of its first ticket."""
    ticket = root / "replicate-0" / "level-00" / "network.ticket"
    ticket.parent.mkdir(parents=True, exist_ok=True)
    ticket.write_bytes(b"a ticket")
    proof = root.with_name(f"{root.name}-verify")
    digest = hashlib.sha256(ticket.read_bytes()).hexdigest()
    write_json(proof / "run.json", {"kind": "verify", "name": proof.name, "config": {"ticket": digest}})
    return [root, make_verify(proof, replicates)]


def make_verify(root: Path, replicates: int = 5) -> Path:
    """A finished verification, whose run.json is there."""
    draw = random.Random(7)
    means = {"ticket": 0.9823, "dense": 0.9806, "random": 0.9741, "reinit": 0.9752}
    arms = {}
    for arm, mean in means.items():
        values = [mean + draw.gauss(0, 0.0007) for _ in range(replicates)]
        found = aggregate.spread(values)
        assert found is not None
        names = [f"{arm}-{rep}/metrics.csv" for rep in range(replicates)]
        for log in names:
            write_log(root / log, mean, 800 if arm == "ticket" else 1900, draw)
        arms[arm] = ArmResult(
            test_accuracy=tuple(values),
            mean=found.mean,
            interval=found.interval,
            covers=SEEDS,
            seeds_alone=SeedsAlone(interval=found.interval),
            early_stop_iteration=tuple(4000 + 10 * rep for rep in range(replicates)),
            early_stop_observed=(True,) * replicates,
            iterations_to_dense_loss=(3000, *[None if arm == "random" else 3100] * (replicates - 1)),
            metrics=tuple(names),
        )
    claims = {
        "dense": (0.0017, "matches dense", "yes"),
        "random": (0.0082, "beats random mask", "yes"),
        "reinit": (0.0071, "beats reinitialised", "undecided"),
    }
    result = VerificationResult(
        method="imp",
        model="lenet-300-100",
        data="mnist",
        metric="accuracy",
        higher_is_better=True,
        density=0.0513,
        kept=13_657,
        total=TOTAL,
        barred_kept=0,
        parameters=None,
        recipe=None,
        replicates=replicates,
        margin=0.002,
        margin_in_words="0.2 points",
        test_set=ExampleSet(examples=10_000, resolution=1e-4),
        arms=arms,
        comparisons={
            control: claim_result(
                difference=d,
                lower=d - 0.0007,
                lower_holm=d - 0.0007,
                interval=(d - 0.0009, d + 0.0009),
                covers=SEEDS,
                claim=claim,
                verdict=verdict,
            )
            for control, (d, claim, verdict) in claims.items()
        },
        speed=speed_result(),
        wins=None,
        sentence="With 5.13 % of the weights it matches dense and beats a random mask (n = 5).",
    )
    write_json(root / "result.json", result.as_dict())
    return root
