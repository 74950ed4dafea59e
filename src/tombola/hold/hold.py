"""Keep pruned weights exactly at their pruned value, whatever writes them while a model is trained or used."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.fields import checked, described
from tombola.formats import plural
from tombola.hold.keeper import HeldWeight, Keeper, held_at, keepers_on, not_held, owner_of, places_changing, take_off
from tombola.hold.masking import Pruned
from tombola.machine.autocast import forget_casts
from tombola.machine.memory import check_apart
from tombola.mask import Mask
from tombola.parameters import holders, parameter_paths, unwrap

__all__ = ["Hold", "held", "hold", "pause", "release"]


class Hold:
    """A mask held on a live model. A context manager; `release` ends it and leaves the zeros.

    `changing`: whether the mask is one of a series, each held in the place of the one before (see `changing`).
    """

    def __init__(
        self,
        model: nn.Module,
        mask: Mapping[str, Tensor],
        values: Mapping[str, Tensor] | None = None,
        *,
        changing: bool = False,
    ) -> None:
        self._model = unwrap(model)
        weights = _held(self._model, mask if isinstance(mask, Mask) else Mask(mask), {} if values is None else values)
        self._keeper = Keeper(weights, changing)
        self._keeper.adopt(self._model, ())
        self._keeper.install(self._model)
        self.enforce()
        _forget_compiled()

    def enforce(self) -> None:
        """Set every pruned weight to its pruned value now."""
        self._keeper.write(self._model, ())
        forget_casts()

    def release(self) -> None:
        """Set the pruned weights a last time and stop holding, on this model and on its deep copies."""
        take_off(self._model, self._keeper)
        self._keeper.alive.yes = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@checked
def hold(model: nn.Module, mask: Mask | Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None) -> Hold:
    """Hold `mask` on `model`: pruned weights are exactly 0 (or their entry in `values`) from now on.

    They are so after every step of any torch optimiser, and before every forward pass of the model or of a part of
    it, whatever else has written them: copies through `.data`, `load_state_dict`, new parameters under the same
    names, another dtype or device, averaging. Their gradients are masked as they are accumulated, so that clipping
    and momentum do not see them. Parameter names and the state_dict do not change. A weight that
    `torch.nn.utils.parametrize` computes gets one more parametrisation: what the layer uses is exact, and what it is
    computed from is free. Ends with `.release()`, or as a context manager: `with tb.hold(model, mask): ...`.

    Of several holds on one weight each holds what it prunes: what any of them prunes is pruned, until that one is
    released. Where two prune the same entry they must do so to the same value.

    A deep copy of the model is held as well, as long as the hold lasts. A pickled model is held where it is loaded,
    until `tombola.hold.release(model)`.

    Not held: other parameters that `torch.func.functional_call` puts in, what is written during the forward pass, a
    `forward` that is called by itself instead of the module, and where only a part of the model is called, weights
    that it reads of modules outside it. A state_dict is what the weights are: after a write through `.data` call
    `enforce` first. Gradients that are written by hand or returned (`torch.autograd.grad`) are not masked. Under
    FullyShardedDataParallel weights are masked in the forward pass alone (`fully_shard` has no such limit).

    The cost, whether or not something has changed the weights (a write through `.data` cannot be detected): one product
    over the held weights for every forward pass, optimiser step and gradient, some microseconds of Python for every
    module in the path, memory of the weights' size once more. nn.TransformerEncoderLayer leaves its fast path in
    evaluation, as it does under any hook.

    Args:
        values: name -> tensor of the weight's shape, read at pruned positions.

    Raises:
        TombolaError: `values` names a weight that the mask does not; the mask names a parameter that the model lacks,
            of another shape, or that is computed in a way that cannot be held; another hold prunes the same entry to
            another value; in a later forward pass, if such a parameter is gone or has another shape.

    >>> layer = nn.Linear(2, 1)
    >>> held = tb.hold(layer, {"weight": torch.tensor([[True, False]])})
    >>> optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> layer.weight.detach() != 0
    tensor([[ True, False]])
    """
    return Hold(model, mask, values)


@checked
def release(model: nn.Module) -> None:
    """End every hold on `model`, also one that came with a copy or a file; pruned weights are set a last time."""
    take_off(model, None)


@checked
def held(model: nn.Module) -> dict[str, tuple[Tensor, Tensor | None]]:
    """What all holds on `model` keep, by name: (bool in the weight's shape, the values of the rest or None for 0).

    Raises:
        TombolaError: a part of the model is held by itself, under names that are not the model's.

    >>> layer = nn.Linear(2, 1)
    >>> with tb.hold(layer, {"weight": torch.tensor([[True, False]])}):
    ...     held(layer)
    {'weight': (tensor([[ True, False]]), None)}
    >>> held(layer)
    {}
    """
    known: dict[str, Pruned] = {}
    for keeper, whole in keepers_on(unwrap(model)):
        if not whole:
            raise TombolaError("a part of the model is held by itself; hold the whole model")
        for weight in keeper.weights:
            before = known.get(weight.name)
            known[weight.name] = weight.pruned if before is None else before.joined(weight.pruned)
    return {name: (pruned.keep, pruned.value) for name, pruned in known.items()}


def changing(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the named weights whose mask somebody else makes anew while the model is trained."""
    taken, owners = places_changing(unwrap(model)), holders(model)
    return [name for name in names if any((id(module), local) in taken for module, local in owners.get(name, ()))]


@checked
def pause(model: nn.Module) -> None:
    """Let the holds on `model` rest until its next forward pass: neither gradients nor steps are looked at.

    For a training that keeps its weights otherwise for a while.
    """
    for keeper, _ in keepers_on(unwrap(model)):
        keeper.end()


def _held(model: nn.Module, mask: Mask, values: Mapping[str, Tensor]) -> list[HeldWeight]:
    """All masked weights, or a TombolaError."""
    if not isinstance(values, Mapping):
        raise TombolaError(f"values is {described(values)}, but it must be a mapping from name to tensor, or None")
    known, weights = parameter_paths(model), list[HeldWeight]()
    if odd_names := [name for name in values if name not in mask]:
        raise TombolaError(
            f"there are values for {odd_names[0]!r}, which the mask does not name; give values of masked weights"
        )
    for name, keep in mask.items():
        if name not in known:
            raise TombolaError(_unknown(model, name, known))
        weight = _checked(name, model, *known[name][0])
        shape = weight.shape
        value = values.get(name)
        for what, given in (("mask", keep), ("values", value)):
            if given is not None and given.shape != shape:
                raise TombolaError(
                    f"the {what} of {name!r} has shape {tuple(given.shape)}, the parameter {tuple(shape)}"
                )
        pruned = Pruned(keep, None if value is None else value.detach().clone())
        before = [one for path, local in known[name] for one in held_at(owner_of(model, path, name), local)]
        if odd := sum(one.conflicts(pruned, weight.dtype) for one in before):
            raise TombolaError(
                f"{name!r} is held already, and both holds prune {plural(odd, 'weight')} of it to different values; "
                "release the first hold, or give both the same values there"
            )
        weights += [HeldWeight(name, path, local, pruned, len(known[name]) > 1) for path, local in known[name]]
    return weights


def _checked(name: str, model: nn.Module, path: tuple[str, ...], local: str) -> Tensor:
    """The weight as its layer has it, if it can be held."""
    owner = owner_of(model, path, name)
    if isinstance(owner._parameters.get(local), nn.parameter.UninitializedParameter):
        raise TombolaError(f"{name!r} has no shape yet (a lazy layer); run one batch through the model first")
    with torch.no_grad():
        weight: Tensor = getattr(owner, local)
    if weight.layout != torch.strided or weight.is_quantized:
        raise TombolaError(f"{name!r} is {weight.dtype} ({weight.layout}); only dense weights can be held")
    if owner._parameters.get(local) is not None:
        check_apart(name, weight)
    return weight


def _unknown(model: nn.Module, name: str, known: Iterable[str]) -> str:
    path, _, local = name.rpartition(".")
    owner = dict(model.named_modules()).get(path)
    if owner is not None and isinstance(owner.__dict__.get(local), Tensor):
        return not_held(name, owner, local)
    listed = list(known)
    few = ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
    return f"the mask names {name!r}, which the model lacks; its parameters: {few}"


def _forget_compiled() -> None:
    """What was compiled before the hooks existed does not call them, so torch.compile starts again at the next call."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None and dynamo.counters["frames"]:
        torch.compiler.reset()
