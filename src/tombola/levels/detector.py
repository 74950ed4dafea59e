"""When a mask is stable: four published rules, as functions of what was read while a network trained (torch-free)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import le, lt

from tombola.errors import TombolaError
from tombola.names import check_known

COMPARES = ("consecutive", "newest-vs-all")


@dataclass(frozen=True)
class Seen:
    """What was read up to now, the oldest first.

    Attributes:
        distances: fraction of the units in which each mask differs from the one before, from the second mask on.
        to_older: the same of the newest mask and each older one of the last `Detector.window` masks.
        measured: what the detectors that look at something else than masks have measured, at every read.
    """

    distances: Sequence[float] = ()
    to_older: Sequence[float] = ()
    measured: Sequence[float] = ()


@dataclass(frozen=True)
class Detector:
    """A rule that says from which read on a mask is stable: the first at which the signal passes the threshold.

    mask (You et al. 2020, early-bird tickets): distances between masks, over the concatenated mask. With compare
    "consecutive", as in the paper, the signal is the largest of the last `window` distances between a mask and the one
    before, and lies below the threshold (0.1). With "newest-vs-all", as in the authors' code, it is the largest
    distance of the newest mask from the `window` - 1 masks before it, and does not exceed the threshold.

    displacement (Rachwan et al. 2022, EarlyCroP): d_e = ||theta_1 - theta_e|| / ||theta_1||, theta_1 the start. The
    signal is |d_e - d_(e-1)| over the first such difference, and lies below the threshold, by default the density: so
    the authors' code, (1 - sparsity) times the first difference, from which their paper differs.

    correlation (InfCoP, as in its authors' code): the Euclidean distance between the vector of the layers' mean
    correlations and that of the trained dense network, below 0.11; gradient: the same of gradients, below 0.5.

    Args:
        distance: the threshold; None: the published one.
        window: how many distances, or masks, the mask rule looks at.
        compare: consecutive or newest-vs-all; of the mask rule.
        kind: mask, displacement, correlation or gradient.
    """

    distance: float | None = None
    window: int = 5
    compare: str = "consecutive"
    kind: str = "mask"

    def __post_init__(self) -> None:
        check_known("detector", self.kind, DETECTORS)
        check_known("stable_compare", self.compare, COMPARES)
        if self.distance is not None and not (math.isfinite(self.distance) and self.distance > 0):
            raise TombolaError(f"stable_distance is {self.distance}; it must be a number above 0, or None")
        fewest = 1 if self.compare == "consecutive" else 2
        if isinstance(self.window, bool) or not fewest <= self.window <= _MOST:
            raise TombolaError(
                f"stable_window is {self.window}, but with stable_compare {self.compare} it must lie between {fewest} "
                f"and {_MOST:,}"
            )

    def threshold(self, density: float | None) -> float:
        """What the signal is compared with; `density` is the fraction of the units that the mask keeps.

        Raises:
            TombolaError: it is the density, and there is none.
        """
        if self.distance is not None:
            return self.distance
        published = _RULES[self.kind].threshold
        if published is not None:
            return published
        if density is None:
            raise TombolaError(
                f"detector {self.kind} compares with the density, which is an outcome here; give stable_distance"
            )
        return density

    def signal(self, seen: Seen) -> float | None:
        """What is compared with the threshold; None where too little was read."""
        value = _RULES[self.kind].signal(self, seen)
        return value if value is not None and math.isfinite(value) else None

    def stable(self, signal: float | None, threshold: float) -> bool:
        """Whether this signal says that the mask is stable."""
        passes = le if self.kind == "mask" and self.compare == "newest-vs-all" else lt
        return signal is not None and bool(passes(signal, threshold))


@dataclass(frozen=True)
class _Rule:
    """One kind of detector. `threshold`: the published one; None: the density."""

    signal: Callable[[Detector, Seen], float | None]
    threshold: float | None


def _of_masks(detector: Detector, seen: Seen) -> float | None:
    if detector.compare == "consecutive":
        return max(seen.distances[-detector.window :]) if len(seen.distances) >= detector.window else None
    return max(seen.to_older) if len(seen.to_older) >= detector.window - 1 else None


def _of_displacements(detector: Detector, seen: Seen) -> float | None:
    if len(seen.measured) < 2:
        return None
    first = abs(seen.measured[1] - seen.measured[0])
    return abs(seen.measured[-1] - seen.measured[-2]) / first if first else None


def _of_likeness(detector: Detector, seen: Seen) -> float | None:
    return seen.measured[-1] if seen.measured else None


_RULES: Mapping[str, _Rule] = {
    "mask": _Rule(_of_masks, 0.1),
    "displacement": _Rule(_of_displacements, None),
    "correlation": _Rule(_of_likeness, 0.11),
    "gradient": _Rule(_of_likeness, 0.5),
}
DETECTORS = tuple(_RULES)
LIKE_DENSE = ("correlation", "gradient")
"""Those that compare with a trained dense network, so that its own training is not judged by them."""
_MOST = 10_000


@dataclass(frozen=True)
class Watching:
    """How the masks of a training are watched.

    Args:
        detector: what watches for a stable mask.
        stop: whether the training ends when it is.
        begin: the iteration from which on masks count for the detector: before it they are not what they will be.
    """

    detector: Detector = Detector()
    stop: bool = False
    begin: int = 0


WATCHED = Watching()
"""As methods do that are not asked to stop."""
