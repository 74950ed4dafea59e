"""Results of trials and levels for tests that train nothing."""

from __future__ import annotations

from typing import Any

from msgspec.structs import asdict

from tombola.results.search import Replicate, SearchResult
from tombola.results.trial import LevelResult, TrialResult
from tombola.results.verification import BoundAlone, ClaimResult, SpeedResult, VarianceBySource


def trial_result(**figures: Any) -> TrialResult:
    """A trial's result with the figures given, and some value in every other field."""
    blank: dict[str, Any] = {
        "steps": 10,
        "seconds": 0.1,
        "stopped": None,
        "train_loss": 0.5,
        "train_accuracy": 0.9,
        "train_accuracy_eval": 0.9,
        "train_loss_eval": 0.5,
        "train_examples_eval": 100,
        "val_loss": 0.5,
        "val_accuracy": 0.9,
        "val_loss_min": 0.5,
        "early_stop_iteration": 5,
        "early_stop_observed": True,
        "test_accuracy": 0.9,
        "test_loss": 0.5,
        "test_accuracy_early_stop": 0.9,
        "metric": "accuracy",
        "recipe": {},
    }
    return TrialResult(**{**blank, **figures})


def untimed(level: LevelResult) -> LevelResult:
    """A level without what differs from run to run: its seconds, and the energy that the machine drew."""
    return level.replace(seconds=0, cost=level.cost and level.cost.replace(energy_joules=None))


def untimed_verdict(result: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a verification without seconds and energy, which differ from run to run."""
    for arm in result["arms"].values():
        for cost in arm["costs"]:
            cost |= {"seconds": None, "energy_joules": None}
    return result


def level_figures(level: int = 0, **figures: Any) -> LevelResult:
    """A level's figures, those given and some value in every other field."""
    blank: dict[str, Any] = {
        "density": 0.5,
        "kept": 25,
        "total": 50,
        "barred_kept": 0,
        "layers": (),
        "metrics": f"level-{level:02d}/metrics.csv",
        "ticket": f"level-{level:02d}/network.ticket",
    }
    own = {key: figures.pop(key, value) for key, value in blank.items()}
    more = {key: figures.pop(key) for key in ("tied_kept", "bits_per_weight", "utilisation") if key in figures}
    return LevelResult(**asdict(trial_result(**figures)), level=level, **own, **more)


def search_result(*replicates: dict[str, tuple[LevelResult, ...]]) -> SearchResult:
    """A search of these levels, by arm for each replicate."""
    return SearchResult(
        method="imp",
        model="m",
        data="d",
        metric="accuracy",
        higher_is_better=True,
        input_shape=None,
        recipe=None,
        parameters=None,
        replicates=tuple(Replicate(replicate=i, seed=i, ticket="", arms=a) for i, a in enumerate(replicates)),
    )


def claim_result(**figures: Any) -> ClaimResult:
    """A claim's result, what is given and some value in every other field."""
    blank: dict[str, Any] = {
        "difference": 0.01,
        "lower": 0.005,
        "interval": (0.004, 0.016),
        "covers": "training seeds and test examples",
        "standard_error": 0.001,
        "degrees_of_freedom": 8.0,
        "variance": VarianceBySource(seeds=3.0, examples=1.0, interaction=1.0),
        "seeds_alone": BoundAlone(lower=0.006, interval=(0.005, 0.015)),
        "claim": "beats a random mask",
        "threshold": 0.0,
        "p": 0.01,
        "p_holm": 0.02,
        "lower_holm": 0.004,
        "confidence_holm": 0.975,
        "verdict": "yes",
        "verdict_uncorrected": "yes",
        "refuted": False,
        "replicates_to_decide": None,
        "examples_to_decide": None,
        "why": "",
    }
    return ClaimResult(**{**blank, **figures})


def speed_result(verdict: str = "undecided", ticket: float | None = None, dense: float = 100.0) -> SpeedResult:
    """How fast the ticket is, in iterations."""
    return SpeedResult(
        ticket_iterations=ticket,
        dense_iterations=dense,
        dense_runs_that_never_reach_it=0,
        interval=None,
        covers="training seeds alone",
        verdict=verdict,
    )
