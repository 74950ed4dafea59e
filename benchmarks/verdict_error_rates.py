"""How often verify's claims and intervals are wrong, in made-up experiments at the edge of each claim.

An experiment has the four arms of `verify`, with outcomes as classification gives them: network i of an arm is right
on example j if mu + seed_i + difficulty_j + noise_ij > 0, all normal; difficulties of the arms are correlated, since
all are tested on the same examples. The dense arm's true accuracy is exactly the margin above the ticket's, the
controls' are equal to it: no claim is true, and each is as nearly true as it can be. Rates of a whole table:

    nice python benchmarks/verdict_error_rates.py docs/results/verdict-error-rates/rates.csv

matches, beats: how often the one-sided 95 % bound claims what is not so (stated: 0.05). outside: how often the
two-sided 95 % interval misses the true difference (stated: 0.05). any_claim: how often at least one of the three
claims is made after Holm's correction (stated: at most 0.05), and any_uncorrected without it. seeds_alone: `matches`
by the bound over seeds alone.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm

from tombola.study.verdict import ArmFigures, compare

MARGIN = 0.002
DIFFICULTY = 2.5
"""Standard deviation of the examples' difficulty; that of what one network gets right by chance is 1."""
CORRELATION = {"weak": 0.3, "strong": 0.95}
"""Of the difficulties that two arms see."""
ARMS = ("ticket", "dense", "random", "reinit")


@dataclass(frozen=True)
class Setting:
    """One kind of experiment. `seed_sd`: standard deviation of a network's true accuracy over training seeds."""

    replicates: int
    examples: int
    accuracy: float
    correlation: str
    seed_sd: float


@dataclass(frozen=True)
class Rates:
    """How often each statement was wrong."""

    matches: float
    beats: float
    outside: float
    any_claim: float
    any_uncorrected: float
    seeds_alone: float


def experiments(setting: Setting, count: int, seed: int) -> Iterator[dict[str, NDArray[np.bool_]]]:
    """`count` times the outcomes (replicates, examples) of every arm."""
    draw = np.random.default_rng([seed, setting.replicates, setting.examples, round(1e4 * setting.accuracy)])
    shared = CORRELATION[setting.correlation] ** 0.5
    own, shape = (1 - shared**2) ** 0.5, (setting.replicates, setting.examples)
    for _ in range(count):
        common = draw.standard_normal(setting.examples, dtype=np.float32)
        found = {}
        for arm in ARMS:
            accuracy = setting.accuracy - MARGIN * (arm != "dense")
            mean, spread = latent(accuracy, setting.seed_sd)
            difficulty = shared * common + own * draw.standard_normal(setting.examples, dtype=np.float32)
            seeds = spread * draw.standard_normal((setting.replicates, 1), dtype=np.float32)
            noise = draw.standard_normal(shape, dtype=np.float32)
            found[arm] = noise + seeds + np.float32(DIFFICULTY) * difficulty > -mean
        yield found


@cache
def latent(accuracy: float, seed_sd: float) -> tuple[float, float]:
    """Mean and seed deviation of the latent scale that give a population accuracy, and its deviation over seeds."""
    one_network = (1 + DIFFICULTY**2) ** 0.5
    spread = seed_sd * one_network / norm.pdf(ndtri(accuracy))
    return float(ndtri(accuracy) * (one_network**2 + spread**2) ** 0.5), float(spread)


def rates(setting: Setting, count: int, seed: int = 0) -> Rates:
    """Error rates over `count` experiments."""
    wrong = {name: 0 for name in Rates.__dataclass_fields__}
    true = {"dense": -MARGIN, "random": 0.0, "reinit": 0.0}
    for outcomes in experiments(setting, count, seed):
        nothing = (None,) * setting.replicates
        arms = {
            name: ArmFigures(
                tuple(values.mean(1).tolist()), nothing, (False,) * setting.replicates, nothing, (0,), values
            )
            for name, values in outcomes.items()
        }
        found = compare(arms, MARGIN)
        claimed = {name: part.lower is not None and part.lower >= true[name] for name, part in found.items()}
        wrong["matches"] += claimed["dense"]
        wrong["seeds_alone"] += found["dense"].seeds_alone.lower >= -MARGIN
        wrong["any_uncorrected"] += any(claimed.values())
        wrong["any_claim"] += any(part.lower_holm >= true[name] for name, part in found.items())
        for name in ("random", "reinit"):
            wrong["beats"] += claimed[name] / 2
        for name, part in found.items():
            wrong["outside"] += (not part.interval[0] <= true[name] <= part.interval[1]) / 3
    return Rates(**{name: number / count for name, number in wrong.items()})


def settings() -> list[Setting]:
    """All kinds of experiment: the whole grid for middling test sets, parts of it for small and large ones."""
    grid = [
        *product((3, 5, 10), (359, 1000), (0.8, 0.95, 0.98, 0.995), CORRELATION, (0.0, 0.002)),
        *product((3, 5, 10), (1000,), (0.8, 0.95, 0.98), CORRELATION, (0.005,)),
        *product((5,), (10_000,), (0.95, 0.98), CORRELATION, (0.0, 0.002)),
        *product((5,), (50,), (0.8, 0.95), CORRELATION, (0.0, 0.005)),
    ]
    return [Setting(*values) for values in grid]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--experiments", type=int, default=2000)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*Setting.__dataclass_fields__, *Rates.__dataclass_fields__])
        writer.writeheader()
        for setting in settings():
            found = {name: f"{value:.4f}" for name, value in asdict(rates(setting, given.experiments)).items()}
            writer.writerow({**asdict(setting), **found})
            file.flush()


if __name__ == "__main__":
    main()
