"""What a criterion may look at: weights, and what training batches say of the network at any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Generator, Tensor, nn

from tombola.errors import TombolaError
from tombola.mask import Mask

__all__ = ["At", "Context", "Criterion", "Gradient", "Probe"]

At: TypeAlias = Literal["initial", "final"] | Mapping[str, Tensor]
"""Where something is taken, always under the mask so far: at the weights of the start, as they are now, or at any.

A mapping gives tensors by their names in the state_dict, in their shapes; what it leaves out is as it is now.
"""
Gradient = Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]]


class Probe(Protocol):
    """Works out what a criterion asks for: on fresh copies of the network, over the first batches of the training."""

    def network(self, at: At) -> nn.Module:
        """A copy of the network, the criterion's own."""

    def redrawn(self, seed: int) -> nn.Module:
        """The network at the start with weights drawn anew, under the mask."""

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """The batches (x, y) themselves."""

    def loss(self, at: At, batches: int) -> float:
        """The mean training loss."""

    def gradient(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """Of that loss by the weights."""

    def hessian_gradient(self, at: At, batches: int, temperature: float) -> Mapping[str, Tensor]:
        """The Hessian times the gradient, of the loss of outputs divided by `temperature`."""

    def input_norms(self, at: At, batches: int) -> Mapping[str, Tensor]:
        """The norm of every feature that the layer of a weight takes in, in a shape that broadcasts to the weight's."""


@dataclass(frozen=True)
class Context:
    """What a criterion may look at. All mappings: layer name -> tensor in the weight's shape.

    Only what is asked for is worked out: Zhou et al. take `initial` and `final`, SNIP `gradients()`, GraSP
    `hessian_gradients()`, SynFlow `network("initial")`, Taylor pruning `gradients("final")`, Wanda `input_norms()`.
    `at` is "initial", "final" or a mapping: state_dict name -> tensor, by which any weights can be asked about.

    Attributes:
        initial: the weights at step 0, also where levels rewind to a later step.
        final: the trained weights; those at step 0 where nothing is trained yet.
        gradient: of the loss by the weights at the start, or a function that works it out when a criterion asks.
        generator: for criteria that draw.
        mask: what is kept so far; criteria that rank leave the rest out.
        probe: works out everything else; a search has one.
        criterion_batches: over how many batches, where a criterion does not say.
    """

    initial: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    gradient: Gradient | None = None
    generator: Generator | None = None
    mask: Mask | None = None
    probe: Probe | None = None
    criterion_batches: int = 1

    def gradients(self, at: At = "initial", batches: int | None = None) -> Mapping[str, Tensor]:
        """The training loss's gradient at the masked weights, the mean over the first batches of the training.

        Raises:
            TombolaError: there is none.
        """
        count = self._count(batches)
        if self.gradient is not None and at == "initial" and count == self.criterion_batches:
            return self.gradient() if callable(self.gradient) else self.gradient
        return self._asked().gradient(at, count)

    def over(self, batches: int) -> Context:
        """The same, over so many batches where a criterion does not say."""
        again = self.gradient if self.probe is None else partial(self.probe.gradient, "initial", batches)
        return replace(self, gradient=again, criterion_batches=batches)

    def loss(self, at: At = "initial", batches: int | None = None) -> float:
        """The mean training loss over the first batches, at the masked weights."""
        return self._asked().loss(at, self._count(batches))

    def hessian_gradients(
        self, at: At = "initial", batches: int | None = None, temperature: float = 1.0
    ) -> Mapping[str, Tensor]:
        """H·g of that loss: the gradient of |g|²/2 (GraSP, Wang et al. 2020, at temperature 200).

        Args:
            temperature: what all outputs of the network are divided by before the loss is taken; above 0
        """
        if not 0 < temperature < float("inf"):
            raise TombolaError(f"temperature is {temperature}, but it must be a number above 0")
        return self._asked().hessian_gradient(at, self._count(batches), temperature)

    def input_norms(self, at: At = "final", batches: int | None = None) -> Mapping[str, Tensor]:
        """Layer name -> norm of every input feature over the first batches, in a shape that broadcasts to the weight's.

        In evaluation mode; over examples and positions of an image alike (Wanda, Sun et al. 2024).
        """
        return self._asked().input_norms(at, self._count(batches))

    def network(self, at: At = "initial") -> nn.Module:
        """A copy of the network at the masked weights, in training mode, to do anything with (SynFlow)."""
        return self._asked().network(at)

    def redrawn(self) -> nn.Module:
        """A copy of the network at other initial weights under the mask, by a draw from the generator (NTK-SAP).

        From the distribution of the start where that is known; else every layer's own values, permuted.

        Raises:
            TombolaError: there is no generator.
        """
        return self._asked().redrawn(int(torch.randint(2**62, (), generator=self.draws(), device="cpu")))

    def draws(self) -> Generator:
        """The generator; TombolaError if there is none."""
        if self.generator is None:
            raise TombolaError("this criterion draws; give the context a generator, e.g. torch.Generator()")
        return self.generator

    def batches(self, count: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """The first batches (x, y) of the training, on the CPU."""
        return self._asked().batches(self._count(count))

    def _count(self, batches: int | None) -> int:
        return self.criterion_batches if batches is None else batches

    def _asked(self) -> Probe:
        if self.probe is None:
            raise TombolaError("this criterion needs gradients and there are none; use one of weights, e.g. magnitude")
        return self.probe


Criterion = Callable[[Context], dict[str, Tensor]]
"""Gives every weight's score, by layer name, in the weight's shape; the larger, the sooner kept."""
