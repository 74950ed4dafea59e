"""What a `Gradual` is given, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tombola.coverage import coverage
from tombola.errors import TombolaError
from tombola.fields import described
from tombola.gradual.schedule import Cubic
from tombola.hold.hold import changing
from tombola.mask import Mask
from tombola.nn.modes import in_mode
from tombola.parameters import check_plain, module_at, parameter_paths, parameters_by_name, resolve
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


def check_written(model: nn.Module, mask: Mask) -> None:
    """TombolaError for masked weights that a parametrisation computes: without the mask they are not 0."""
    for name, (_, local) in _parametrized(model).items():
        if name in mask:
            raise TombolaError(
                f"{name!r} is still computed by a parametrisation, which gives no zeros without the mask; call "
                f"torch.nn.utils.parametrize.remove_parametrizations(layer, {local!r}) first, which leaves them, or "
                "take ticket(), and tombola.hold.release(model) to go on without the mask"
            )


def weights_as_used(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Weights by name, detached, as eval mode computes them where a parametrisation does."""
    every, computed = parameters_by_name(model, tied=True), _parametrized(model)
    found: dict[str, Tensor] = {}
    for name in names:
        if name in computed:
            owner, local = computed[name]
            with in_mode(owner.parametrizations, train=False):  # type: ignore[arg-type]
                found[name] = getattr(owner, local).detach()
        else:
            found[name] = resolve(every, name).detach()
    return found


def _parametrized(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Every name of a weight that a parametrisation computes -> the module and attribute that use it."""
    places = {name: (module_at(model, where[0][0]), where[0][1]) for name, where in parameter_paths(model).items()}
    return {
        name: (owner, local)
        for name, (owner, local) in places.items()
        if owner is not None and is_parametrized(owner, local)
    }


def gathered(weight: Tensor) -> Tensor:
    """A sharded weight (DTensor) whole, for which all ranks must ask; any other itself."""
    whole: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return whole


def check_state(state: object, reads: int) -> None:
    """TombolaError for what `Gradual.state_dict` cannot have given."""
    if not isinstance(state, Mapping) or "format" not in state:
        raise TombolaError(f"the state is {described(state)}, not a Gradual's; give what its state_dict gave")
    if state.get("format") != reads:
        raise TombolaError(f"the state has format {state.get('format')!r}, and this version reads {reads}")
    masks = state.get("masks")
    sound = (
        isinstance(state.get("start"), str)
        and all(type(state.get(name)) is int and 0 <= state[name] < 2**63 for name in ("steps", "seed"))
        and isinstance(masks, Mapping)
        and all(isinstance(bits, Tensor) for bits in masks.values())
    )
    if not sound:
        raise TombolaError("the state is damaged; give what state_dict gave, as a checkpoint holds it")


def check_on_the_way(mask: Mask, final: float | Mapping[str, float] | None, *, ended: bool) -> None:
    """TombolaError for the mask of a state from which a schedule cannot reach its final density.

    Args:
        ended: whether the schedule prunes no further at the state's step.
    """
    sizes = {name: keep.numel() for name, keep in mask.items()}
    shares = final if isinstance(final, Mapping) else dict.fromkeys(sizes, final or 0.0)
    wanted = sum(shares.get(name, 1.0) * size for name, size in sizes.items())
    room = len(sizes)  # each layer's count is rounded
    if mask.kept < wanted - room or (ended and mask.kept > wanted + room):
        raise TombolaError(
            f"the state keeps {mask.kept:,} of {mask.total:,} weights, from which this schedule does not get to its "
            f"{round(wanted):,}; make the Gradual with the arguments of the checkpoint's"
        )
