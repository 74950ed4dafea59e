"""Trial results for tests that train nothing."""

from __future__ import annotations

from typing import Any

from tombola.results.trial import TrialResult


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
