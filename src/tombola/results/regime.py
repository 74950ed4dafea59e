"""Where tickets lie on the way through the interpolation threshold."""

from __future__ import annotations

from typing import Literal

from tombola.results.measurement import Measurement
from tombola.results.record import Count, Fraction, Parameters, Record, Settings

Side = Literal["above", "below"]


class PlacedTicket(Record, frozen=True, kw_only=True):
    """One ticket. None: there is no such number.

    `series`: the search that it is of; `ratio`: kept weights over n K; errors: shares of the examples classified
    wrongly, in training by the labels that it was trained on; `memorised`: share of the mislabelled training examples
    that it gives the wrong label of; `distance`: Euclidean norm of (trained - first parameters), `relative_distance`
    the same over the norm of the first ones; `side`: above the threshold if its training error (the mean of those that
    keep as many weights) is nearly 0, otherwise below.
    """

    file: str
    digest: str
    series: str
    replicate: Count | None
    level: Count | None
    kept: Count
    total: Count
    ratio: float
    train_error: Fraction
    test_error: Fraction | None
    train_loss: float | None
    test_loss: float | None
    memorised: Fraction | None = None
    distance: float | None = None
    relative_distance: float | None = None
    side: Side = "below"

    @property
    def density(self) -> float:
        """kept / total."""
        return self.kept / self.total if self.total else 0.0


class Threshold(Record, frozen=True, kw_only=True):
    """Where a series leaves the training examples: from dense to sparse, `kept` is the fewest weights whose training
    error is still nearly 0, `next_kept` the most with which it is not.

    `kept` is None where even the densest ticket does not fit them, `next_kept` where even the sparsest does. `sizes`:
    different numbers of kept weights that there were.
    """

    series: str
    kept: Count | None
    next_kept: Count | None
    ratio: float | None
    sizes: Count


class RegimeResult(Measurement, frozen=True, kw_only=True, tag_field="kind", tag="regime"):
    """Tickets on the curve; `examples` and `outputs`: n and K; `tolerance`: the training error that is nearly 0.

    `recipe`, `parameters`: those that all tickets share, None where they differ.
    """

    metric: str
    recipe: Settings | None = None
    parameters: Parameters | None
    examples: Count
    outputs: Count
    tolerance: Fraction
    tickets: tuple[PlacedTicket, ...]
    thresholds: tuple[Threshold, ...]

    @property
    def subtitle(self) -> str:
        """One line on what was measured."""
        return " · ".join(part for part in ("study regime", self.model, self.data) if part)

    @property
    def series(self) -> dict[str, tuple[PlacedTicket, ...]]:
        """The tickets of every series, from dense to sparse."""
        names = dict.fromkeys(ticket.series for ticket in self.tickets)
        return {
            name: tuple(sorted((one for one in self.tickets if one.series == name), key=lambda one: -one.kept))
            for name in names
        }

    def threshold_of(self, series: str) -> Threshold:
        """The threshold of a series."""
        return next(one for one in self.thresholds if one.series == series)
