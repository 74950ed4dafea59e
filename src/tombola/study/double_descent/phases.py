"""The four phases of sparse double descent, marked from the data (He et al. 2022, "Sparse Double Descent", section 3).

From dense to sparse, over the means of a series:

- light: training error is at most a tolerance; pruning leaves what the dense network has fitted, wrong labels and all.
  It ends where training error leaves 0, or with the point before the peak if that comes first;
- critical: from there to the peak of test error, the peak included;
- sweet: from behind the peak to the lowest test error there is on the sparse side of it, that point included, or to the
  end if it does not rise again;
- collapsed: what is sparser still, if test error rises there by more than the tolerance.

The peak is the most prominent maximum of test error inside the curve; a prominence of at most the tolerance is none.
Without a peak there is no critical phase, and a sweet one only if test error falls behind the light phase by more than
the tolerance. Without a peak and a light phase (the dense network does not fit) there is none. A phase without a
point is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from tombola.results.double_descent import Phase, prominent_peak

TOLERANCE = 0.01
"""Of errors: one example in a hundred."""
NAMES = ("light", "critical", "sweet", "collapsed")


def phases(
    densities: Sequence[float], train: Sequence[float], test: Sequence[float], tolerance: float = TOLERANCE
) -> tuple[Phase, ...]:
    """Where each phase lies, in the order of `NAMES`.

    Args:
        densities: of the points, in any order, each once.
        train, test: their mean errors.
    """
    order = sorted(range(len(densities)), key=lambda at: -densities[at])
    fitted = len(list(takewhile(lambda at: train[at] <= tolerance, order)))
    errors = [test[at] for at in order]
    peak = prominent_peak(errors, tolerance)
    light = fitted if peak is None else min(fitted, peak)
    critical = light if peak is None else peak + 1
    rest = errors[critical:]
    falls = critical > 0 and bool(rest) and errors[critical - 1] - min(rest) > tolerance
    lowest = critical + rest.index(min(rest)) + 1 if falls else critical
    rises = 0 < lowest < len(errors) and max(errors[lowest:]) - errors[lowest - 1] > tolerance
    sweet = len(errors) if falls and not rises else lowest
    ends = (light, critical, sweet, len(errors) if rises else sweet)
    begins = (0, *ends[:-1])
    return tuple(
        Phase(
            name=name,
            densest=densities[order[begin]] if end > begin else None,
            sparsest=densities[order[end - 1]] if end > begin else None,
        )
        for name, begin, end in zip(NAMES, begins, ends, strict=True)
    )


def fewest_fitting(densities: Sequence[float], train: Sequence[float], tolerance: float = TOLERANCE) -> float | None:
    """The interpolation threshold: from dense to sparse, the lowest density up to which training error is at most the
    tolerance; None where the densest does not fit."""
    pairs = sorted(zip(densities, train, strict=True), reverse=True)
    fitting = [density for density, _ in takewhile(lambda pair: pair[1] <= tolerance, pairs)]
    return fitting[-1] if fitting else None
