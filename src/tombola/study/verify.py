"""Verify a ticket: train it and its controls on fresh seeds, and say whether it wins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tombola.coverage import coverage, density_in_words
from tombola.data.config import DataSpec
from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.formats import Unit
from tombola.models.registry import is_known
from tombola.nn.rewrite import apply_rewrites
from tombola.parameters import unwrap
from tombola.plain import as_plain
from tombola.results.cost import cost_of
from tombola.results.record import Parameters
from tombola.results.verification import ExampleSet, VerificationResult
from tombola.rng.seeds import checked_seed, derive
from tombola.search.describe import code_of, describe_data, describe_module
from tombola.search.driver import Experiment, Workspace, run, run_in_memory
from tombola.search.find import denominator
from tombola.search.request import as_data, check_replicates
from tombola.study.actions import actions_of, in_words, retrain_of
from tombola.study.arms import ARMS, VerificationSetup, run_arm, try_arms
from tombola.study.margin import Kind, Margin
from tombola.study.recorded import data_of, recipe_of, recorded_name, recorded_part
from tombola.study.sentence import VerdictContext, sentence, why
from tombola.study.untrained import is_untrained, untrained, untrained_sentence
from tombola.study.verdict import ArmFigures, compare, describe_arm, examples_of, speed, wins
from tombola.ticket.tensors import show
from tombola.ticket.ticket import Ticket
from tombola.train.fabric import make_fabric
from tombola.train.fit import check_fits
from tombola.train.history import Row, steps_to_loss
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup, Trial

STATISTICS = 2
"""Version of the verdict's statistics, part of a run's name; 1 covered training seeds alone."""


@dataclass(frozen=True)
class Verification:
    """What to verify, complete and picklable if the data is given by name."""

    subject: VerificationSetup
    data: Splits | DataSpec
    recipe: Recipe
    replicates: int = 5
    margin: Margin = field(default_factory=Margin)
    seed: int = 0
    options: Options = Options()

    def __post_init__(self) -> None:
        check_replicates(self.replicates)
        object.__setattr__(self, "seed", checked_seed(self.seed))

    @property
    def parts(self) -> tuple[Splits | DataSpec]:
        """What other processes need by name."""
        return (self.data,)


@checked
def verify(
    ticket: Ticket | str | Path,
    data: Any = None,
    *,
    replicates: int = 5,
    margin: float = Margin.value,
    margin_kind: Kind = Margin.kind,
    seed: int = 0,
    recipe: Recipe | Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
    trusted: Sequence[str] = (),
    options: Options | None = None,
    out: str | Path | None = None,
    data_root: str = "data",
    jobs: int = 1,
) -> VerificationResult:
    """Train the ticket, the dense network, a random mask and a reinitialised ticket, and give the verdict.

    Args:
        ticket: a ticket or its file.
        data: as in `find`; None takes the data set that the ticket was found on, from `data_root`.
        replicates: trainings of every arm, each with a fresh data order (and fresh draws for the controls).
        margin: how much worse than dense still counts as a match: 0.002 is 0.2 points of an accuracy, or 0.2 % of the
            dense arm's mean of another metric.
        margin_kind: "absolute": `margin` is in the metric's unit; "relative": a fraction of the dense arm's mean;
            "auto": absolute where the metric is a share of the test examples (accuracy, or 0 or 1 for every example).
        recipe: how to train, taken as it is; None or a mapping of fields starts from the ticket's own, and changes it
            after the dense network as the ticket's search did (`retrain`).
        model: the architecture, for a ticket of a user's own model.
        trusted: import prefixes under which a ticket may name its network (as in `build`) and its optimiser.
        out: parent of the run directory; None keeps everything in memory.

    Returns:
        The arms' figures, `comparisons`, `test_set`, `speed`, `wins` (None: open) and one `sentence`; `as_dict()` gives
        it as JSON. Bounds and intervals cover training seeds and test examples; where the metric gives no value per
        example, seeds alone.
    """
    given = ticket if isinstance(ticket, Ticket) else Ticket.load(ticket)
    given.origin.check_held()
    source = as_data(data, model) if data is not None else data_of(given, data_root)
    retrain = {} if isinstance(recipe, Recipe) else retrain_of(given, recipe, trusted)
    verification = Verification(
        VerificationSetup(given, model, tuple(trusted), retrain),
        source,
        recipe if isinstance(recipe, Recipe) else recipe_of(given, recipe, trusted),
        replicates,
        Margin(margin, margin_kind),
        seed,
        options or Options(),
    )
    return run_verify(verification, Path(out) if out is not None else None, jobs=jobs)


def run_verify(verification: Verification, out: Path | None = None, *, jobs: int = 1) -> VerificationResult:
    """Carry out a verification, in a run directory under `out` if that is given."""
    experiment = _Verify(verification)
    if out is None:
        return run_in_memory(experiment, experiment.compute, jobs)
    return run(experiment, out, jobs)


class _Verify(Experiment[Verification, VerificationResult]):
    kind = "verify"
    result = VerificationResult

    def label(self, splits: Splits) -> str:
        return f"verify-{recorded_name(self.request.subject.ticket, 'method') or 'ticket'}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        verification, subject = self.request, self.request.subject
        return {
            "ticket": subject.ticket.digest,
            "data": describe_data(verification.data, splits),
            "task": splits.task.identity,
            "recipe": as_plain(verification.recipe),
            "code": {**code_of(verification.recipe), **_code_of_network(subject)},
            "replicates": verification.replicates,
            "margin": as_plain(verification.margin),
            "statistics": STATISTICS,
            "seed": verification.seed,
            **({"retrain": dict(subject.retrain)} if subject.retrain else {}),
        }

    def admit(self, work: Workspace) -> None:
        work.splits.identify(work.progress.track)
        _check_data(self.request, work.splits)
        _check_task(self.request, work.splits)
        _warn_of_other_network(self.request.subject)

    def check(self, work: Workspace) -> None:
        subject = self.request.subject
        check_fits(apply_rewrites(subject.origin(), subject.rewrites), work.splits)
        try_arms(self._setup(work), subject, seed=self.request.seed)

    def compute(self, work: Workspace) -> VerificationResult:
        verification = self.request
        jobs = [(arm, index) for arm in ARMS for index in range(verification.replicates)]
        trials: dict[str, list[Trial]] = {arm: [] for arm in ARMS}
        for (arm, _), trial in work.map(self.train, jobs, f"arms and replicates, {verification.recipe.length} each"):
            trials[arm].append(trial)
        verdict = judge(trials, verification, work.splits)
        if is_untrained(verification.subject.ticket):
            verdict = self._with_untrained(verdict, work)
        return verdict

    def train(self, work: Workspace, job: tuple[str, int]) -> Trial:
        """One replicate of one arm."""
        name, verification = f"{job[0]}-{job[1]}", self.request
        stage = work.stage(name)
        seed = derive(verification.seed, "verify", *job)
        trial = run_arm(self._setup(work), verification.subject, job[0], seed=seed, stage=stage, label=name)
        if stage is not None and trial.trained is not None:
            stage.finish(trial.result.as_dict())
        return replace(trial, trained=None)

    def _with_untrained(self, verdict: VerificationResult, work: Workspace) -> VerificationResult:
        """The verdict, which is on trained weights, with the ticket's figures without training."""
        seed, replicates = self.request.seed, self.request.replicates
        result = untrained(self.request.subject, self._setup(work), seed=seed, replicates=replicates)
        text = untrained_sentence(result, work.splits.task.metric_name)
        return verdict.replace(untrained=result, sentence=f"{verdict.sentence} {text}")

    def _setup(self, work: Workspace) -> TrainingSetup:
        recipe, options = self.request.recipe, self.request.options
        fabric = make_fabric(options.device, recipe.precision)
        return TrainingSetup(work.splits, recipe, fabric, options, work.progress, directory=work.directory)


def _check_data(verification: Verification, splits: Splits) -> None:
    verification.margin.check(splits.task.metric_name)
    if splits.test is None:
        raise TombolaError("the data has no test split, so nothing can be verified; give data with a test split")
    recorded = recorded_part(verification.subject.ticket, "data").get("fingerprint")
    if recorded not in (None, splits.fingerprint) and not verification.options.force:
        raise TombolaError(
            f"the ticket was found on other data (fingerprint {show(str(recorded)[:12])}, here "
            f"{splits.fingerprint[:12]}); give the same data, or set the option force to verify it on this"
        )


def _check_task(verification: Verification, splits: Splits) -> None:
    """A ticket is verified on what it was found for; older tickets do not say."""
    recorded, here = recorded_part(verification.subject.ticket, "task"), splits.task.identity
    differing = [part for part in here if part in recorded and recorded[part] != here[part]]
    if differing and not verification.options.force:
        both = [f"{show(recorded[part])} there, {here[part]} here" for part in ("metric_name",) if part in differing]
        raise TombolaError(
            f"the ticket was found with another task: {', '.join(differing)} differ{'s' if len(differing) == 1 else ''}"
            f"{f' ({both[0]})' if both else ''}; give the same task, or set the option force to verify it with this one"
        )


def _warn_of_other_network(subject: VerificationSetup) -> None:
    """Weights fit many networks: another activation, say, or another attribute that forward reads."""
    recorded = recorded_part(subject.ticket, "model").get("settings")
    if subject.architecture is None or recorded in (None, describe_module(unwrap(subject.architecture))):
        return
    warnings.warn(
        "the model given is not the one that the ticket was found with: its weights fit, but its code, modules or "
        "attributes differ (an activation, a dropout rate, a hook), so the verdict is on another network",
        stacklevel=2,
    )


def _code_of_network(subject: VerificationSetup) -> dict[str, str]:
    """The fingerprint of a network that is the user's own, but for the weights, which the ticket holds."""
    network = subject.ticket.origin.network
    own = subject.architecture is None and network is not None and is_known(network.name)
    return {} if own else {"network": describe_module(subject.origin())}


def judge(trials: Mapping[str, Sequence[Trial]], verification: Verification, splits: Splits) -> VerificationResult:
    """The verdict on finished trials."""
    arms, task, ticket = figures(trials), splits.task, verification.subject.ticket
    examples = examples_of(arms)
    allowance = verification.margin.of(
        task.metric_name, arms["dense"].mean or 0.0, share=examples.resolution is not None
    )
    share = Unit(task.metric_name).percent
    compared, pace = compare(arms, allowance.amount, task.higher_is_better, share=share), speed(arms)
    context = VerdictContext(allowance, examples, verification.replicates, task.higher_is_better)
    size = density_in_words(ticket.mask.kept, ticket.mask.total, ticket.parameters["total"])
    text = sentence(f"This ticket of {size}{',' * (', ' in size)}", compared, pace, context)
    if ticket.barred_kept:
        text += (
            f" Of the {ticket.mask.kept:,} weights that it keeps {ticket.barred_kept:,} are barred by its criterion, "
            "which left too few others."
        )
    if verification.subject.rewrites != ticket.rewrites:
        text += " All arms train float weights instead of the ticket's binary ones."
    if besides := in_words(ticket, verification.subject.retrain):
        text += f" {besides}"
    kept_action, pruned_action = actions_of(ticket)
    return VerificationResult(
        method=recorded_name(ticket, "method"),
        model=recorded_name(ticket, "model"),
        data=splits.name,
        density=ticket.density,
        kept=ticket.mask.kept,
        total=ticket.mask.total,
        barred_kept=ticket.barred_kept,
        parameters=_parameters(verification.subject),
        recipe=as_plain(verification.recipe),
        replicates=verification.replicates,
        margin=allowance.amount,
        margin_in_words=allowance.words(),
        metric=task.metric_name,
        higher_is_better=task.higher_is_better,
        test_set=ExampleSet(examples=examples.count, resolution=examples.resolution),
        arms={
            name: describe_arm(
                arm, [f"{name}-{i}/metrics.csv" for i in range(verification.replicates)], share=share
            ).replace(costs=tuple(cost_of(trial.result) for trial in trials[name]))
            for name, arm in arms.items()
        },
        comparisons={name: claim.replace(why=why(claim, context)) for name, claim in compared.items()},
        speed=pace,
        wins=wins(compared),
        sentence=text,
        kept_action=kept_action,
        pruned_action=pruned_action,
        retrain=dict(verification.subject.retrain) or None,
    )


def _parameters(subject: VerificationSetup) -> Parameters:
    """What the density is a fraction of; what was included is known from the mask."""
    mask = subject.ticket.mask
    return denominator(coverage(subject.origin(), [escape(name) for name in mask]), mask.total)


def figures(trials: Mapping[str, Sequence[Trial]]) -> dict[str, ArmFigures]:
    """The arms' figures; the dense arm sets the loss that all are timed to."""
    lowest = [trial.result.val_loss_min for trial in trials["dense"]]
    known = [loss for loss in lowest if loss is not None]
    target = sum(known) / len(known) if len(known) == len(lowest) else float("-inf")
    return {
        arm: ArmFigures(
            test_accuracy=tuple(trial.result.test_accuracy for trial in replicates),
            early_stop=tuple(trial.result.early_stop_iteration for trial in replicates),
            early_stop_observed=tuple(trial.result.early_stop_observed for trial in replicates),
            to_dense_loss=tuple(steps_to_loss(trial.history, target) for trial in replicates),
            steps=tuple(trial.result.steps for trial in replicates),
            outcomes=_stacked([trial.outcomes for trial in replicates]),
            evaluated_every=max(_gap(trial.history) for trial in replicates),
        )
        for arm, replicates in trials.items()
    }


def _gap(history: Sequence[Row]) -> int:
    """The largest number of iterations between two evaluations."""
    return max((later.step - row.step for row, later in pairwise(history)), default=0)


def _stacked(outcomes: Sequence[Tensor | None]) -> NDArray[np.float32] | None:
    """(replicates, examples); None unless they are known for every replicate."""
    known = [values.numpy() for values in outcomes if values is not None]
    return np.stack(known) if len(known) == len(outcomes) else None
