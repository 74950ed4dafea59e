"""What a `Gradual` is given, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tombola.coverage import coverage
from tombola.errors import TombolaError
from tombola.gradual.schedule import Cubic
from tombola.hold.hold import changing
from tombola.mask import Mask
from tombola.parameters import check_plain
from tombola.select.checks import checked_density
from tombola.select.patterns import NM, Pattern


def final_density(
    density: float | Mapping[str, float] | None, pattern: Pattern, schedule: Cubic | None
) -> float | dict[str, float]:
    """The density, or densities, to end at."""
    if isinstance(pattern, NM):
        fixed = pattern.n / pattern.m
        if density not in (None, fixed):
            raise TombolaError(f"pattern {pattern} fixes the density at {fixed:g}; leave it out")
        return fixed
    if density is None:
        raise TombolaError("give a density in (0, 1] to end at, or a mask to hold")
    final = (
        {name: checked_density(one, f" of {name!r}") for name, one in density.items()}
        if isinstance(density, Mapping)
        else checked_density(density)
    )
    highest = max(final.values(), default=0.0) if isinstance(final, dict) else final
    if schedule is not None and highest > schedule.initial:
        raise TombolaError(
            f"density is {highest:g}, but the schedule begins at {schedule.initial:g}, and it can only fall; give "
            "Cubic a higher initial"
        )
    return final


def whole_mask(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> Mask:
    """Everything kept, to begin with."""
    check_plain(model, exclude, written=False)
    whole = Mask.full(model, include, exclude)
    if not whole:
        raise TombolaError(f"the model has no prunable weight: {coverage(model, include, exclude)}")
    return whole


def check_free(model: nn.Module, mask: Mask) -> None:
    """TombolaError for weights that another Gradual prunes: neither would know what is kept."""
    if taken := changing(model, mask):
        raise TombolaError(
            f"another Gradual prunes {taken[0]!r} of this model already; call its finish() first, or "
            "tombola.hold.release(model) where it is gone"
        )


def gathered(weight: Tensor) -> Tensor:
    """A sharded weight (DTensor) whole, for which all ranks must ask; any other itself."""
    whole: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return whole
