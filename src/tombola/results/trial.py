"""One trained network: its figures, and as a level of a search what its mask keeps."""

from __future__ import annotations

from tombola.results.record import Count, Fraction, Record, Settings


class TrialResult(Record, frozen=True, kw_only=True):
    """The figures of one network trained once and tested once; None for what could not be observed.

    Accuracies are the task's metric, in its own unit. `train_accuracy` is a running mean of training;
    `train_accuracy_eval` is in evaluation mode, over `train_examples_eval` examples without augmentation.
    `early_stop_iteration`: of the lowest validation loss; `early_stop_observed` is False where that lies in the last
    twentieth of the evaluations. `*_sampled`: means over `samples` drawn masks, of stochastic mask rules alone.
    """

    steps: Count
    seconds: float
    stopped: str | None
    train_loss: float | None
    train_accuracy: float | None
    train_accuracy_eval: float | None
    train_loss_eval: float | None
    train_examples_eval: Count
    val_loss: float | None
    val_accuracy: float | None
    val_loss_min: float | None
    early_stop_iteration: Count | None
    early_stop_observed: bool
    test_accuracy: float | None
    test_loss: float | None
    test_accuracy_early_stop: float | None
    metric: str
    recipe: Settings
    val_accuracy_sampled: float | None = None
    test_accuracy_sampled: float | None = None
    samples: Count | None = None


class LayerResult(Record, frozen=True, kw_only=True):
    """Weights kept in one layer. `barred_kept`: how many of them the criterion bars; None where it bars none there."""

    name: str
    kept: Count
    total: Count
    barred_kept: Count | None = None

    @property
    def density(self) -> float:
        """kept / total; 0 of an empty layer."""
        return self.kept / self.total if self.total else 0.0


class Utilisation(Record, frozen=True, kw_only=True):
    """The density of every layer's mask at one iteration of training."""

    step: Count
    densities: dict[str, Fraction]


class LevelResult(TrialResult, frozen=True, kw_only=True):
    """One network of a search: a trial under a mask. Files are named relative to the run's directory.

    `barred_kept`: kept weights that the criterion bars; `tied_kept`: kept ones drawn among equal scores.
    `bits_per_weight`: entropy of what the ticket holds, per prunable weight.
    """

    level: Count
    density: Fraction
    kept: Count
    total: Count
    barred_kept: Count
    layers: tuple[LayerResult, ...]
    metrics: str
    ticket: str | None
    tied_kept: Count | None = None
    bits_per_weight: float | None = None
    utilisation: tuple[Utilisation, ...] | None = None

    @property
    def is_dense(self) -> bool:
        """Whether this is the dense network: level 0 with all its weights, which a search from a ticket has not."""
        return self.level == 0 and self.kept == self.total
