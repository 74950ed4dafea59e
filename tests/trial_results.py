"""Results of trials and levels for tests that train nothing."""

from __future__ import annotations

from typing import Any

from msgspec.structs import asdict

from tombola.results.trial import LevelResult, TrialResult


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
