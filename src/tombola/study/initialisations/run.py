"""The study of initialisations: the same searches under every scheme and seed, their masks compared and exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.mask import Mask
from tombola.models.spec import ModelSpec
from tombola.plain import as_plain
from tombola.results.codec import recovered
from tombola.results.initialisations import InitialisationsResult
from tombola.results.overlap import MaskTrial
from tombola.results.trial import LevelResult
from tombola.rng.seeds import derive
from tombola.runs.stage import Stage
from tombola.runs.versions import versions
from tombola.search.describe import describe_data, describe_model, describe_training
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import parameters, replicate_seed
from tombola.search.origin import Start, start_from
from tombola.search.request import Request, as_data, as_model, name_of_model
from tombola.study.arms import random_mask
from tombola.study.compare import search_arm
from tombola.study.initialisations.figures import MASKS, Levels, Trial, searched, transfers, trials
from tombola.study.initialisations.pairs import Drawn, pairs_of_masks
from tombola.study.initialisations.plan import Initialisations, init_arms
from tombola.study.initialisations.words import NOTE, sentence
from tombola.study.intervals import intervals_in_words
from tombola.study.mask_trial import mask_trial
from tombola.study.measured import study_fields, training_setup
from tombola.study.same_start import check_same_start
from tombola.study.setting import Arm, Setting, check_arms
from tombola.ticket.ticket import UNLIMITED, Ticket
from tombola.train.options import Options
from tombola.train.recipe import Recipe


@checked
def initialisations(
    model: ModelSpec | nn.Module | str,
    data: Any,
    plan: Initialisations | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    out: str | Path = "runs",
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
) -> InitialisationsResult:
    """Search an IMP ticket and a supermask under every initialisation scheme and seed, and compare the masks.

    Masks of two methods, of two seeds, of two schemes at one seed, and of two schemes and seeds are held against
    chance. Every mask is then tried on the weights of every scheme of its seed. Searches lie in
    `<run>/<scheme and search>/replicate-<r>/`, the networks trained afterwards in `<run>/transfer/replicate-<r>/`;
    finished stages are found again.

    Args:
        model: a network by name or import path, whose weights the schemes draw.
        data: as in `find`.
        plan: schemes, density and the two searches; the defaults if None.
        recipe: a whole one, or fields that differ from the presets, of both searches.
        jobs: processes that share searches and trainings out (data given by name).

    Returns:
        `accuracy` of dense networks, tickets and supermasks by scheme, `overlaps` by kind of pair, `transfer` of masks
        to other weights, a `sentence`, and the `run`.

    Raises:
        TombolaError: a search cannot work here, or the model's weights are given; raised before anything is trained.
    """
    plan, source = plan or Initialisations(), as_data(data)
    spec = _drawn(model)
    arms = init_arms(Setting(spec, source, recipe or {}, plan))  # type: ignore[arg-type]
    check_arms([arm for pair in arms.values() for arm in pair])
    first = arms[plan.inits[0]][0]
    request = Request(spec, source, first.method, first.recipe, seed, replicates, options or Options())
    return run(_Initialisations(request, plan, arms), Path(out), jobs)


def _drawn(model: Any) -> ModelSpec:
    """The network, if a scheme may draw its weights."""
    spec = as_model(model)
    if not isinstance(spec, ModelSpec):
        raise TombolaError(
            f"the model is a {type(model).__name__}, but the schemes draw its weights anew, so give a network by name "
            "or import path, or a ModelSpec"
        )
    for name in ("init", "checkpoint"):
        given = getattr(spec, name)
        if given is not None:
            raise TombolaError(f"{name} is {given}, but the weights are drawn by each of inits; leave {name} out")
    return spec


@dataclass(frozen=True)
class _Initialisations(Experiment[Request, InitialisationsResult]):
    """`arms`: the two searches of every scheme; the request is that of the first, with no scheme."""

    result = InitialisationsResult

    plan: Initialisations
    arms: Mapping[str, tuple[Arm, Arm]]

    def label(self, splits: Splits) -> str:
        return f"initialisations-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        request = self.request
        return {
            "study": "initialisations",
            "model": describe_model(request.model),
            "data": describe_data(request.data, splits),
            "task": splits.task.identity,
            "arms": [
                {"name": arm.name, "init": init, **describe_training(arm.method, arm.recipe)}
                for init, pair in self.arms.items()
                for arm in pair
            ],
            "transfer": self.plan.transfer,
            "seed": request.seed,
            "replicates": request.replicates,
        }

    def check(self, work: Workspace) -> None:
        for init, pair in self.arms.items():
            check_same_start(pair, self._under(init), work)

    def _under(self, init: str) -> Request:
        """The request with the network's weights drawn by one scheme."""
        model = self.request.model
        assert isinstance(model, ModelSpec)
        return replace(self.request, model=replace(model, init=init))

    def _start(self, work: Workspace, init: str, replicate: int) -> Start:
        request, seed = self._under(init), replicate_seed(self.request.seed, replicate)
        return start_from(request.model, work.splits, seed=seed, method=request.method)

    # -- searches and trainings

    def compute(self, work: Workspace) -> InitialisationsResult:
        replicates = range(self.request.replicates)
        searches = [(init, mask, index) for index in replicates for init in self.arms for mask in range(len(MASKS))]
        levels = dict(work.map(self.search, searches, "searches"))
        planned = list(trials(self.plan.inits, len(replicates), levels)) if self.plan.transfer else []
        tried = dict(work.map(self.tried, planned, "masks"))
        return self._result(work, levels, tried)

    def search(self, work: Workspace, job: tuple[str, int, int]) -> list[LevelResult]:
        """The levels of one search, given by scheme, number of the search, and replicate."""
        init, mask, replicate = job
        return [level.result for level in search_arm(self.arms[init][mask], self._under(init), work, replicate)]

    def tried(self, work: Workspace, trial: Trial) -> MaskTrial:
        """One mask on the weights of one scheme: untrained, and trained as the ticket's search trains."""
        stage = Stage(work.folder / trial.name)
        done = recovered(MaskTrial, stage)
        if done is not None:
            return done
        seed, recipe = replicate_seed(self.request.seed, trial.replicate), self.request.recipe
        ticket = Ticket.load(work.folder / trial.ticket, max_weights=UNLIMITED)
        mask = random_mask(ticket, derive(seed, "transfer", trial.mask, trial.found)) if trial.random else ticket.mask
        return mask_trial(
            training_setup(work, recipe, self.request.options),
            self._start(work, trial.on, trial.replicate),
            mask,
            stage,
            trial.name,
            held=True,
            seed=derive(seed, "transfer"),
            label=f"{self.arms[trial.found][trial.mask].name} on {trial.on}",
            provenance={"study": "initialisations", "recipe": as_plain(recipe), "versions": versions()},
        )

    # -- the result

    def _result(self, work: Workspace, levels: Levels, tried: Mapping[Trial, MaskTrial]) -> InitialisationsResult:
        request, count, splits = self.request, self.request.replicates, work.splits
        masks = {
            key: Ticket.load(work.folder / (made[-1].ticket or ""), max_weights=UNLIMITED).mask
            for key, made in levels.items()
        }
        weights = {
            (init, replicate): self._weights(work, init, replicate, masks[init, 0, replicate])
            for init in self.arms
            for replicate in range(count)
        }
        overlaps = tuple(pairs_of_masks(self.plan.inits, MASKS, count, masks, weights))
        kept = fmean(made[-1].density for made in levels.values())
        first = self._under(self.plan.inits[0])
        return InitialisationsResult(
            **study_fields(request, splits),
            inits=self.plan.inits,
            masks=MASKS,
            methods=tuple(arm.method.name for arm in self.arms[self.plan.inits[0]]),  # type: ignore[arg-type]
            options=as_plain(self.plan),
            recipe=as_plain(request.recipe),
            supermask_recipe=as_plain(self.arms[self.plan.inits[0]][1].recipe),
            parameters=parameters(first, splits, next(iter(levels.values()))[-1].total),
            accuracy=tuple(searched(self.plan.inits, count, levels)),
            overlaps=overlaps,
            transfer=tuple(transfers(tried)),
            sentence=sentence(kept, overlaps),
            intervals=intervals_in_words(count, ", differences paired by replicate"),
            note=NOTE,
        )

    def _weights(self, work: Workspace, init: str, replicate: int, mask: Mask) -> Drawn:
        start = self._start(work, init, replicate)
        state = start.origin.state_dict(start.architecture, start.trusted)
        return Drawn({name: state[name] for name in mask})
