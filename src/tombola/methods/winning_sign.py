"""A ticket's signs on another initialisation (Oh, Baik & Lee 2025, "Find A Winning Sign", ICLR 2025).

With w' the fresh weights and w_f those that the ticket was trained to, training under the ticket's mask M begins with

    |w'| · sign(w_f) · M,

and so do biases and weights outside of the mask; norms begin fresh. Their tickets come from 15 levels of 20 %, global,
10 epochs each, with learning-rate rewinding and interpolated norms: imp --scope global --rewind lr --levels 15
--norm_interpolation true, without one more training at the end. The control is the mask alone, on the fresh signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Method
from tombola.names import check_known

if TYPE_CHECKING:
    from torch import nn

    from tombola.mask import Mask

SIGNS = ("trained", "origin", "own")


@dataclass(frozen=True)
class SignTransfer(Method):
    """Train another initialisation under the mask of a ticket, and with its signs; asks for the ticket (start).

    Networks by name are drawn anew from the seed; a live network's present weights are the initialisation.

    Args:
        signs: whose signs the weights begin with: trained (the ticket's trained weights), origin (what the ticket began
            with), or own (the initialisation's, which leaves the mask alone: a control)
    """

    name: ClassVar[str] = "sign-transfer"
    version: ClassVar[int] = 1
    goes_on_from_tickets: ClassVar[bool] = True
    starts_fresh: ClassVar[bool] = True

    signs: str = "trained"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("signs", self.signs, SIGNS)

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError without a ticket."""
        if mask is None:
            raise TombolaError(
                "sign-transfer needs the ticket whose signs are to be transferred; give its file as start"
            )

    def dry_run(self, search: levels.Search) -> None:
        """One step on a copy; TombolaError for what cannot work."""
        from tombola.levels.transfer import dry_run

        dry_run(search, self.signs)

    def find(self, search: levels.Search) -> list[levels.Level]:
        """Level 1 trains the fresh weights with the ticket's signs, under its mask."""
        from tombola.levels.transfer import train_transferred

        return [train_transferred(search, self.signs)]
