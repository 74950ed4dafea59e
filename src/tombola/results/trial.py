"""One trained network: its figures, and as a level of a search what its mask keeps."""

from __future__ import annotations

from tombola.results.record import Count, Fraction, Record, Settings


class TrainingCost(Record, frozen=True, kw_only=True):
    """What one training run cost; None for what could not be counted or measured on this machine.

    `flops`: forward and backward passes as they were computed, 3 times the forward pass of every training example
    (2 for a multiplication with its addition; evaluations are not counted, and a weight that is held at 0 costs as much
    as any other). `memory_bytes`: parameters, buffers, gradients, optimiser state and what the network keeps of one
    batch for the backward pass. `energy_joules`: by the counters of the machine's CPU packages, or of the GPU that
    trained, over the seconds of the run; whatever else ran on them is in it. `forward_passes`: examples that went
    through the network, as a training step takes a batch of them, and a search without gradients tries masks on them.
    """

    flops: Count | None = None
    memory_bytes: Count | None = None
    energy_joules: float | None = None
    forward_passes: Count | None = None


class TrialResult(Record, frozen=True, kw_only=True):
    """The figures of one network trained once and tested once; None for what could not be observed.

    Accuracies are the task's metric, in its own unit. `train_accuracy` is a running mean of training;
    `train_accuracy_eval` is in evaluation mode, over `train_examples_eval` examples without augmentation.
    `early_stop_iteration`: of the lowest validation loss; `early_stop_observed` is False where that lies in the last
    twentieth of the evaluations. `*_sampled`: means over `samples` drawn masks, of stochastic mask rules alone.
    `steps` count from 0; training began at `first_step`, a rewind point, and its recipe has `whole_steps` (None in
    results from before these were recorded), which training that was stopped does not reach.
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
    cost: TrainingCost | None = None
    first_step: Count = 0
    whole_steps: Count | None = None

    @property
    def trained_steps(self) -> int:
        """Iterations that were really trained: those before a rewind point were not."""
        return max(0, self.steps - self.first_step)

    @property
    def tried_masks(self) -> bool:
        """Whether masks were tried and nothing was trained: rows of its log then count masks, not iterations."""
        return self.steps == 0 and self.cost is not None and bool(self.cost.forward_passes)


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


class MaskHistory(Record, frozen=True, kw_only=True):
    """The masks that one training run went through, each against others: how soon a ticket shows itself.

    Args:
        unit: what the mask is over: "weights" or "channels".
        density: fraction of the units that each mask keeps; None where it is an outcome.
        steps: iterations at which a mask was read.
        distances: fraction of the units in which a mask differs from the one before (normalised Hamming distance);
            None for the first.
        matrix: row i: the distances of mask i from masks 0..i-1; None where there were too many to keep.
        detector: what watched for a stable mask ("mask", "displacement", "correlation"); None if nothing did.
        signal: what the detector compared with its threshold at each step; None where it had too little to go on.
        threshold: below which the mask is stable.
        emerged: the iteration at which it was found stable; None if it never was.
        planned: iterations of the training where it is not stopped.
    """

    unit: str
    density: Fraction | None
    steps: tuple[Count, ...]
    distances: tuple[Fraction | None, ...]
    matrix: tuple[tuple[Fraction, ...], ...] | None = None
    detector: str | None = None
    signal: tuple[float | None, ...] | None = None
    threshold: float | None = None
    emerged: Count | None = None
    planned: Count | None = None


class ChannelCount(Record, frozen=True, kw_only=True):
    """Channels kept of those that could be pruned; coupled ones (of a residual stream) count once.

    `drawn`: the iteration of the search whose scales decided; None where nothing is pruned.
    """

    kept: Count
    total: Count
    drawn: Count | None = None


class LevelResult(TrialResult, frozen=True, kw_only=True):
    """One network of a search: a trial under a mask. Files are named relative to the run's directory.

    `barred_kept`: kept weights that the criterion bars; `tied_kept`: kept ones drawn among equal scores.
    `bits_per_weight`: entropy of what the ticket holds, per prunable weight. `mask_histories`: of the masks read during
    training, at each density that was watched. `channels`: of methods that prune channels by their norms.
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
    mask_histories: tuple[MaskHistory, ...] | None = None
    channels: ChannelCount | None = None

    @property
    def is_unpruned(self) -> bool:
        """Whether this is level 0 with all its weights, which a search from a ticket has not."""
        return self.level == 0 and self.kept == self.total

    @property
    def is_dense(self) -> bool:
        """Whether this is the dense network: unpruned, and its training was not stopped early."""
        return self.is_unpruned and self.stopped is None
