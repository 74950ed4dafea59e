"""Norms between what they learned and what they began as, while a network trains (Oh, Baik & Lee 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from tombola.errors import TombolaError
from tombola.nn.init import NORMS
from tombola.rng import philox
from tombola.rng.seeds import derive
from tombola.train.hooks import Hook

if TYPE_CHECKING:
    from tombola.train.state import Loop


class NormInterpolation(Hook):
    """Every batch is trained on with norms of scale a + (1 - a)·γ and shift (1 - a)·β, one a ~ U[0, 1) for all of them.

    So a network comes to depend less on γ and β, which an initialisation sets to 1 and 0, and more on its signs:
    "Find A Winning Sign" (ICLR 2025). Gradients reach γ and β through it, times 1 - a. Evaluation, and all that is
    stored, sees γ and β as they are. a depends on the seed, the level and the step alone.
    """

    def __init__(self, seed: int, level: int = 0) -> None:
        self.seed, self.level = seed, level
        self._attached: list[RemovableHandle] = []

    def a(self, step: int) -> float:
        """The number of the batch at a step, in [0, 1)."""
        return float(philox.uniform(derive(self.seed, "norm-interpolation", self.level, step), 1)[0])

    def before_step(self, loop: Loop) -> None:
        a = self.a(loop.step)
        for module in affine_norms(loop.model):
            begin = module.register_forward_pre_hook(lambda norm, inputs: _put(norm, a))
            end = module.register_forward_hook(lambda norm, inputs, output: _take_back(norm), always_call=True)
            self._attached += [begin, end]

    def after_backward(self, loop: Loop) -> None:
        for handle in self._attached:
            handle.remove()
        self._attached.clear()

    def state_dict(self) -> Mapping[str, Any]:
        return {}


def affine_norms(model: nn.Module) -> list[nn.Module]:
    """The norm layers that have a scale."""
    return [m for m in model.modules() if isinstance(m, NORMS) and m._parameters.get("weight") is not None]


def check_interpolation(network: nn.Module) -> None:
    """TombolaError if the network has no norm layer whose scale could be interpolated."""
    if not affine_norms(network):
        there = any(isinstance(module, NORMS) for module in network.modules())
        raise TombolaError(
            f"norm_interpolation is set, but the network has {'norms without scales' if there else 'no norm layers'}; "
            "leave it out, or choose a network with affine norms (one of Tombola's own: norms or affine in its args)"
        )


def _put(norm: nn.Module, a: float) -> None:
    """What a module's own attributes hold goes before its parameters of the same names, which stay where they are."""
    scale, shift = (norm._parameters.get(name) for name in ("weight", "bias"))
    assert scale is not None
    norm.__dict__["weight"] = a + (1 - a) * scale
    if shift is not None:
        norm.__dict__["bias"] = (1 - a) * shift


def _take_back(norm: nn.Module) -> None:
    for name in ("weight", "bias"):
        norm.__dict__.pop(name, None)
