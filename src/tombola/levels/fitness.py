"""How good masks are on weights that rest: the mean training loss on one fixed sample of the training split."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase

from tombola.data.feed import feed
from tombola.data.splits import Split, subset
from tombola.levels.population import Space
from tombola.nn.forward import leaves, mapped, typed, widened
from tombola.parameters import parameters_by_name
from tombola.rng.guard import seeded
from tombola.rng.seeds import generator
from tombola.train.evaluate import loss_value
from tombola.train.feeds import EVAL_BATCH, layout, training_loss
from tombola.train.trial import TrainingSetup

Batch = tuple[Tensor, Tensor]
_TOGETHER = 16
"""Masks of one forward pass on a GPU, where a small network leaves most of it idle."""


def sample_of(setup: TrainingSetup, model: nn.Module, examples: int, seed: int) -> list[Batch]:
    """At most `examples` of the training split, drawn once from the seed, not augmented, in batches on the device."""
    split: Split = setup.splits.train
    count = min(examples, len(split))
    chosen = torch.randperm(len(split), generator=generator(seed, "sample"), device="cpu")[:count].sort().values
    size = math.ceil(count / math.ceil(count / EVAL_BATCH))  # of equal size, so that none holds but one example
    part = feed(
        subset(split, chosen),
        batch_size=size,
        device=setup.fabric.device,
        normalisation=setup.splits.normalisation,
        channels_last=layout(model, setup.recipe),
        sweep_batch=size,
    )
    return list(typed(part.sweep(), model))


class Fitness:
    """Mean training losses of masks over a sample; NaN counts as infinity.

    The network is in evaluation mode, so that nothing is dropped, but norms take the statistics of the batch: those
    that they keep belong to another mask.

    Args:
        model: on the device; it is changed.
        batches: the sample.
        together: masks that go through the network at once (`torch.func.vmap`); None: 1 on a CPU, where that is
            faster (benchmarks/population.py), and 16 on a GPU. Losses differ by rounding alone.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        model: nn.Module,
        space: Space,
        batches: Sequence[Batch],
        together: int | None = None,
    ) -> None:
        self.setup, self.model, self.space, self.batches = setup, model, space, batches
        use_batch_statistics_(model)
        model.eval()
        self._weights = {name: parameters_by_name(model)[name] for name in space.shapes}
        self._base = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._loss = training_loss(setup.splits, setup.recipe)
        device = setup.fabric.device
        wanted = together or (1 if device.type == "cpu" else _TOGETHER)
        self.together = wanted if wanted > 1 and self._goes_together() else 1

    @property
    def examples(self) -> int:
        """Forward passes that one mask takes."""
        return sum(len(y) for _, y in self.batches)

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> list[float]:
        """The losses of masks (count, n)."""
        losses: list[float] = []
        for some in torch.split(rows, self.together):
            with self._same_draws():
                losses += self._of(some)
        return losses

    def _of(self, rows: Tensor) -> list[float]:
        total = [0.0] * len(rows)
        masks = self.space.layers(rows.to(self.setup.fabric.device))
        forward = self._one(masks) if len(rows) == 1 else self._several(masks)
        for x, y in self.batches:
            with self.setup.precision(self.model):
                outputs = forward(x)
            for index, output in enumerate(outputs):
                total[index] += float(loss_value(self._loss(widened(output), y))) * len(y)
        return [math.inf if math.isnan(loss) else loss / self.examples for loss in total]

    def _one(self, masks: dict[str, Tensor]) -> Callable[[Tensor], list[object]]:
        for name, keep in masks.items():
            torch.mul(self._base[name], keep[0], out=self._weights[name])
        return lambda x: [self.model(x)]

    def _several(self, masks: dict[str, Tensor]) -> Callable[[Tensor], list[object]]:
        weights = {name: self._base[name] * keep for name, keep in masks.items()}
        count = len(next(iter(masks.values())))

        def forward(x: Tensor) -> list[object]:
            def call(state: dict[str, Tensor]) -> object:
                return functional_call(self.model, state, (x,))

            outputs = vmap(call, randomness="same")(weights)
            return [mapped(partial(_nth, index=index), outputs) for index in range(count)]

        return forward

    def _same_draws(self) -> AbstractContextManager[None]:
        """What a network draws in evaluation mode is the same for every mask; global generators are left alone."""
        return seeded(0, cuda=self.setup.fabric.device.type == "cuda")

    def _goes_together(self) -> bool:
        """Whether several masks at once give what one does: some networks cannot be called so."""
        rows = torch.ones(2, self.space.size, dtype=torch.bool, device="cpu")
        try:
            masks = self.space.layers(rows.to(self.setup.fabric.device))
            x = self.batches[0][0][:4]
            with self._same_draws(), torch.no_grad():
                several = self._several(masks)(x)
            with self._same_draws(), torch.no_grad():
                one = self._one({name: keep[:1] for name, keep in masks.items()})(x)
        except Exception:  # whatever the network does that vmap has no rule for
            return False
        pairs = zip(leaves(several[0]), leaves(one[0]), strict=True)
        return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)


def _nth(part: Tensor, index: int) -> Tensor:
    return part[index]


def use_batch_statistics_(model: nn.Module) -> None:
    """Let norm layers that keep running statistics use those of the batch, in either mode (in place)."""
    for module in model.modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
