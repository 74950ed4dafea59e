"""One object that prunes a network while any loop trains it, and holds its mask."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.compact.effective import uncomputed
from tombola.errors import TombolaError
from tombola.fields import checked, described
from tombola.gradual.alike import are_alike, mask_of_bits, present_ranks
from tombola.gradual.given import (
    check_free,
    check_on_the_way,
    check_state,
    check_written,
    final_density,
    gathered,
    weights_as_used,
    whole_mask,
)
from tombola.gradual.packed import packed
from tombola.gradual.schedule import Cubic
from tombola.hold import Hold
from tombola.hold.moments import clear_moments
from tombola.mask import Mask
from tombola.parameters import parameters_by_name, transposed, unwrap
from tombola.rng.seeds import checked_seed, generator
from tombola.select import criteria
from tombola.select.criteria import CRITERIA, Context, Criterion, large_final
from tombola.select.patterns import NM, Element, Pattern, parse_pattern
from tombola.select.select import select
from tombola.ticket.origin import Origin
from tombola.ticket.tensors import hash_state, tensors_of
from tombola.ticket.ticket import Ticket

__all__ = ["Gradual", "UnfinishedScheduleWarning"]

FORMAT = 1
"""Of what `state_dict` gives."""


class UnfinishedScheduleWarning(UserWarning):
    """Training ended before the final density was reached."""


class Gradual:
    """Prunes `model` while it is trained, step by step, and holds its mask at every moment (see `hold`).

    Call `step()` after every step of the optimiser; or give Lightning `.lightning()`, the Hugging Face Trainer
    `.transformers()`. Masks nest: what is pruned stays pruned. `finish()` ends it and leaves a plain network.

    With a `mask` that mask is held and nothing else happens; with a density and no schedule the network is pruned at
    once.

    In several processes (DistributedDataParallel, `fully_shard`) rank 0's mask is everyone's: each process makes its
    own Gradual after `init_process_group` and before the model is wrapped, and all step alike.

    Args:
        density: fraction of the prunable weights kept in the end, or name -> fraction for every layer (scope
            "layer"). Fixed by N:M.
        schedule: when and how fast; None prunes at once.
        mask: a mask to hold as it is, instead of all else.
        scope: "layer" or "global", as in `select`.
        pattern: "element", "block:V", "inputs:V", "channel" or "N:M" (whose N falls from M), as in `select`.
        criterion: "magnitude" or another of the weights, or an import path: see `tombola.select.criteria`. One that
            looks at the weights of the start keeps a copy of them as they are now.
        include: name patterns, as in `prunable`; "*.weight_ih*" for LSTM and GRU.
        exclude: name patterns of what is left out.
        seed: for criteria that draw.

    Raises:
        TombolaError: neither a density nor a mask, or both; a model without prunable weights, or with weights that are
            computed from several others (weight norm) or that another Gradual prunes; what `select` and `hold` refuse.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> pruner = tb.Gradual(model, density=0.25, schedule=tb.Cubic(end=20, frequency=5))
    >>> for _ in range(30):
    ...     model(torch.randn(4, 8)).square().mean().backward()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    ...     _ = pruner.step(optimizer)
    >>> pruner.finish()
    Mask(2 layers, 40 of 160 kept, density 0.25)
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        density: float | Mapping[str, float] | None = None,
        schedule: Cubic | None = None,
        *,
        mask: Mask | Mapping[str, Tensor] | None = None,
        scope: str = "layer",
        pattern: str | Pattern = "element",
        criterion: str | Criterion = "magnitude",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.model = unwrap(model)
        self.schedule = schedule
        self.steps = 0
        self._scope, self._pattern = scope, parse_pattern(pattern)
        self._criterion, self._seed = criteria.criterion(criterion), checked_seed(seed)
        self._final: float | dict[str, float] | None = None
        if mask is None:
            self._mask = whole_mask(self.model, include, exclude)
            self._final = final_density(density, self._pattern, schedule)
        elif density is not None or schedule is not None or include or exclude:
            raise TombolaError("a mask is held as it is; leave density, schedule, include and exclude out, or the mask")
        else:
            self._mask = mask if isinstance(mask, Mask) else Mask(mask)
        check_free(self.model, self._mask)
        self._start = self._kept_start()
        self._agreed = False
        self._hold: Hold | None = None
        self._set(self._mask)
        try:
            if self._due():
                self._prune()
            elif self._final is not None:  # what a selection refuses is said now, and not hours later
                self._selected({name: keep.float() for name, keep in self._mask.items()}, generator(self._seed))
            if present_ranks().size > 1:
                self.agree()
        except BaseException:
            if self._hold is not None:
                self._hold.release()  # nobody has an object to do so by
            raise

    # -- at work

    @property
    def mask(self) -> Mask:
        """What is kept now."""
        return self._mask

    @property
    def is_active(self) -> bool:
        """Whether the mask is held: not after `finish`."""
        return self._hold is not None

    def __repr__(self) -> str:
        how = "" if self.is_active else ", finished"
        return f"Gradual({self._mask}, step {self.steps}{how})"

    @torch.no_grad()
    def step(self, *optimizers: Optimizer) -> bool:
        """After a step of the optimiser: count it, and prune further if the schedule says so.

        Args:
            optimizers: those that have stepped. What they remember of weights pruned now is set to 0: it would decay to
                subnormal numbers, which are slow. Without them that is left to decay.

        Returns:
            Whether the mask was made anew.
        """
        if not self.is_active:
            raise TombolaError("this Gradual is finished; make another to prune further")
        for optimizer in optimizers:
            if not hasattr(optimizer, "state"):  # an optimiser need not be one of torch.optim's classes
                raise TombolaError(f"step was given {described(optimizer)}; give it optimisers, one after another")
        self.steps += 1
        due = self._due()
        if due:
            self._prune()
            for optimizer in optimizers:
                clear_moments(optimizer, self.model, self._mask)
        elif not self._agreed:
            self._agreed = are_alike(self._mask)
        return due

    def agree(self) -> None:
        """Take rank 0's mask; all ranks must call it, before they train.

        Where processes meet after this was made, as Lightning's may: its callback calls it.
        """
        mask = self._of_rank_0(lambda: self._mask)
        if mask is not self._mask:
            self._replace(mask)

    def finish(self) -> Mask:
        """Stop holding, and give the mask; the pruned weights of the model are zeros, and it is a plain network.

        Raises:
            TombolaError: a parametrisation (spectral norm, an adapter) still computes a pruned weight, which would not
                be 0 without the mask; the mask is held on then.

        Warns:
            UnfinishedScheduleWarning: the schedule has steps left.
        """
        self._warn_if_unfinished()
        if self._hold is not None:
            check_written(self.model, self._mask)
            self._hold.release()
            self._hold = None
        return self._mask

    def ticket(self, provenance: Mapping[str, Any] | None = None, *, origin: nn.Module | None = None) -> Ticket:
        """The network as it is now as a ticket, to be saved and built, bit for bit.

        Weights that a parametrisation computes (spectral norm, an adapter) are in it as eval mode computes them: build
        it with the network without the parametrisation.

        Args:
            provenance: JSON-able data about it, e.g. {"accuracy": 0.93}.
            origin: the network before training, for a ticket that also holds what it started from, as `verify` needs;
                without it the file is as small as that of `pack`.
        """
        self._warn_if_unfinished()
        if self._hold is not None:
            self._hold.enforce()
        state = tensors_of(uncomputed(self.model))
        method: dict[str, Any] = {"name": "gradual", "steps": self.steps, "pattern": str(self._pattern)}
        if turned := sorted(transposed(self.model) & self._mask.keys()):
            method["transposed"] = turned  # for a random control in the same pattern
        whole = Ticket.from_models(
            origin=Origin.stored(state if origin is None else uncomputed(unwrap(origin))),
            mask=self._mask.to("cpu"),
            final_state=state,
            provenance={"method": method, **(provenance or {})},
        )
        return whole.without_origin() if origin is None else whole

    # -- in other people's trainers

    def lightning(self) -> Any:
        """A Lightning `Callback` (of `lightning` or `pytorch_lightning`) that steps this object.

        Once for every step of the optimiser, also where gradients are accumulated. Its state is in the trainer's
        checkpoints, and `fit(ckpt_path=...)` goes on bit for bit.

        Raises:
            TombolaError: neither package is installed; when training starts, if the module in training is another.
        """
        from tombola.gradual.lightning import lightning_callback

        return lightning_callback(self)

    def transformers(self) -> Any:
        """A `TrainerCallback` for the Hugging Face `Trainer` that steps this object.

        Once for every step of the optimiser, also where gradients are accumulated. Its state is in
        `trainer_state.json` of every checkpoint, and `train(resume_from_checkpoint=...)` goes on bit for bit.

        Raises:
            TombolaError: `transformers` is not installed; when training starts, if the model in training is another,
                or the checkpoint to resume from was written without this callback.
        """
        from tombola.gradual.transformers import transformers_callback

        return transformers_callback(self)

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: numbers, texts and tensors (masks as bits), to be read with weights_only."""
        return {
            "format": FORMAT,
            "steps": self.steps,
            "start": "" if self._start is None else hash_state(self._start),
            "masks": {name: packed(keep) for name, keep in self._mask.items()},
            "seed": self._seed,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: give it to a Gradual that was made with the same arguments on the same network.

        Before or after the model's own weights are loaded.

        Raises:
            TombolaError: another format, other layers or shapes; a criterion that looks at the weights of the start,
                which are others here.
        """
        check_state(state, FORMAT)
        if state["start"] != ("" if self._start is None else hash_state(self._start)):
            raise TombolaError(
                "the criterion looks at the weights of the start, and they are not those of the checkpoint; make the "
                "Gradual on the network as it was before training, and load the checkpoint's weights after that"
            )
        mask = mask_of_bits(state["masks"], self._mask)
        if self.schedule is not None and isinstance(self._pattern, Element):
            check_on_the_way(mask, self._final, ended=state["steps"] >= self.schedule.end)
        self.steps, self._seed, self._agreed = int(state["steps"]), int(state["seed"]), False
        self._replace(mask)

    # -- within

    def _due(self) -> bool:
        if self._final is None:
            return False
        return self.steps == 0 if self.schedule is None else self.schedule.is_due(self.steps)

    def _prune(self) -> None:
        with torch.no_grad():
            draws = generator(self._seed, "gradual", self.steps)
            scores = self._criterion(self._context(draws))
            self._set(self._of_rank_0(lambda: self._selected(scores, draws)))

    def _context(self, draws: torch.Generator) -> Context:
        weights = self._weights()
        if self._criterion not in CRITERIA.values():  # somebody's own may work in place
            weights = {name: weight.clone() for name, weight in weights.items()}
        return Context(
            initial=weights if self._start is None else self._start,
            final=weights,
            generator=draws,
            mask=self._mask,
        )

    def _selected(self, scores: Mapping[str, Tensor], draws: torch.Generator) -> Mask:
        density: float | dict[str, float] | None = self._now()
        pattern = self._pattern
        if isinstance(pattern, NM):  # N falls from M
            assert isinstance(density, float)
            pattern, density = NM(max(pattern.n, round(density * pattern.m)), pattern.m), None
        return select(
            {name: scores[name] for name in self._mask},
            density=density,
            scope=self._scope,
            pattern=pattern,
            candidates=self._mask,
            signed=True,
            fill=draws,
            transposed=transposed(self.model),
        )

    def _now(self) -> float | dict[str, float]:
        """The density, or that of each layer, after this step."""
        final = self._final
        assert final is not None
        if isinstance(final, Mapping):
            return {name: self._on_the_way(one) for name, one in final.items()}
        return self._on_the_way(final)

    def _on_the_way(self, final: float) -> float:
        return final if self.schedule is None else self.schedule.density(self.steps, final)

    def _weights(self) -> dict[str, Tensor]:
        """Those that are masked; whole also where they are sharded, so that all ranks must ask."""
        return {name: gathered(weight) for name, weight in weights_as_used(self.model, self._mask).items()}

    def _kept_start(self) -> dict[str, Tensor] | None:
        """Copies of the weights now, where the criterion may look at them later."""
        if self._final is None or self._criterion is large_final:
            return None
        return {name: weight.clone() for name, weight in self._weights().items()}

    def _of_rank_0(self, made: Callable[[], Mask]) -> Mask:
        """A mask that rank 0 makes, on every rank."""
        ranks = present_ranks()
        self._agreed = ranks.size > 1
        if ranks.size == 1:
            return made()
        return mask_of_bits(ranks.first(lambda: {name: packed(keep) for name, keep in made().items()}), self._mask)

    def _set(self, mask: Mask) -> None:
        """Hold a mask instead of the one before, without a moment between them."""
        before, self._hold = self._hold, Hold(self.model, mask, changing=True)
        if before is not None:
            before.release()
        self._mask = mask

    def _replace(self, mask: Mask) -> None:
        """Hold another mask, which may keep what this one prunes, and leave such weights as they are now."""
        if self._hold is not None and not mask.nested_in(self._mask):
            weights = parameters_by_name(self.model, tied=True)
            values = {name: weights[name].detach().clone() for name in self._mask}
            self._hold.release()  # which writes zeros a last time
            self._hold = None
            with torch.no_grad():
                for name, value in values.items():
                    weights[name].copy_(value)
        self._set(mask)

    def _warn_if_unfinished(self) -> None:
        if self.schedule is not None and self.steps < self.schedule.end:
            warnings.warn(
                f"after {self.steps} steps the density is {self._mask.density:.4g}; the schedule ends at step "
                f"{self.schedule.end}: train longer, or end it earlier",
                UnfinishedScheduleWarning,
                stacklevel=3,
            )
