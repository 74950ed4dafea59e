"""What a criterion may ask of a trained network and its calibration data."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.nn.forward import Batch
from tombola.prune.calibration import Calibration, batch_of_one
from tombola.prune.layers import Layer
from tombola.prune.watch import input_norms
from tombola.rng.guard import seeded
from tombola.rng.seeds import derive
from tombola.select.context import At, Context
from tombola.train.gradient import Probe as Labelled
from tombola.train.gradient import write_weights


@dataclass(frozen=True, eq=False)
class Probe:
    """See `tombola.select.context.Probe`. A trained network has one set of weights: "initial" and "final" are the same.

    All in evaluation mode. `calibration`: None where none was given.
    """

    model: nn.Module
    layers: Mapping[str, Layer]
    calibration: Calibration | None
    seed: int

    def context(self) -> Context:
        """What the criterion gets."""
        weights = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}
        batches = 0 if self.calibration is None else len(self.calibration.batches)
        draws = torch.Generator().manual_seed(self.seed)
        return Context(weights, weights, generator=draws, probe=self, criterion_batches=batches)

    def network(self, at: At) -> nn.Module:
        """A copy of the network, the criterion's own."""
        model = copy.deepcopy(self.model).eval()
        if isinstance(at, Mapping):
            write_weights(model, at)
        return model

    def redrawn(self, seed: int) -> nn.Module:
        """A trained network has no start to be drawn anew."""
        raise TombolaError("the criterion draws the network anew, which a trained one is not for; choose another")

    def batches(self, count: int) -> list[Batch]:
        """The first batches (x, y); where there are no labels, y is empty."""
        given = self._given().batches[: max(count, 1)]
        empty = torch.empty(0, dtype=torch.float32, device="cpu")
        return [(batch_of_one(batch), empty if batch.target is None else batch.target) for batch in given]

    def loss(self, at: At, batches: int) -> float:
        """The mean loss."""
        with self._drawn():
            return self._labelled().loss(at, batches)

    def gradient(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """Of that loss by the weights."""
        with self._drawn():
            return self._labelled().gradient(at, batches)

    def hessian_gradient(self, at: At, batches: int, temperature: float) -> Mapping[str, Tensor]:
        """The Hessian times the gradient."""
        with self._drawn():
            return self._labelled().hessian_gradient(at, batches, temperature)

    def input_norms(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """The norm of what each weight multiplies, over all batches, in the weight's shape."""
        return input_norms(self.model, self.layers, self._given())

    def _given(self) -> Calibration:
        if self.calibration is None:
            raise TombolaError(
                "the criterion needs calibration data; give batches of inputs, or choose magnitude, which needs none"
            )
        return self.calibration

    def _drawn(self) -> AbstractContextManager[None]:
        return seeded(derive(self.seed, "gradient"), cuda=True)

    def _labelled(self) -> Labelled:
        given = self._given()
        with torch.no_grad():
            given.batches[0].call(self.model)  # which says in one line what the network refuses

        def feed(model: nn.Module) -> Iterator[Batch]:
            return given.labelled()

        names = tuple(self.layers)
        return Labelled(self.network, self.redrawn, names, feed, given.lost, self.seed, like=self.model)
