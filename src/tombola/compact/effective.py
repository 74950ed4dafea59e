"""A model's effective weights as plain parameters of their own, whatever is attached to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tombola.compact.compare import allowed, difference, outputs
from tombola.errors import TombolaError
from tombola.graph.copies import copied
from tombola.hold import release

_HOOKS = (prune.BasePruningMethod, SpectralNorm, WeightNorm)
"""The forward pre-hooks of torch that compute a weight and put it into the module as a plain attribute."""


def plain_copy(model: nn.Module, example: Sequence[Tensor]) -> nn.Module:
    """A copy in eval mode without parametrisations, held masks and what torch.nn.utils' prune, weight_norm and
    spectral_norm attach: its parameters are the effective weights.

    Where weights are computed, another copy is called on the example first, in eval mode. A computed weight becomes a
    parameter of its own, also where what it is computed from is tied to another layer's.

    Raises:
        TombolaError: it is no module, cannot be copied or run on the example, or gives other outputs with its effective
            weights.
    """
    if not isinstance(model, nn.Module):
        raise TombolaError(f"{type(model).__name__} cannot be deployed; give a Ticket or an nn.Module")
    plain = copied(model)
    called = copied(model) if any(map(_computes, plain.modules())) else plain
    want = outputs(called, example) if called is not plain else None
    with torch.no_grad():
        if taken := _take(plain, called):
            _check(want, outputs(copied(plain), example), taken)
    return plain


def uncomputed(model: nn.Module) -> nn.Module:
    """The model itself where all its weights are parameters; else a copy in eval mode with its effective weights as
    parameters, as `plain_copy` makes it, but without a call of the network.

    Raises:
        TombolaError: it cannot be copied.
    """
    if not any(map(_computes, model.modules())):
        return model
    plain, called = copied(model), copied(model)
    with torch.no_grad():
        for module in called.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, _HOOKS):
                    hook(module, ())
        _take(plain, called)
    return plain


def _take(plain: nn.Module, called: nn.Module) -> list[str]:
    """All computed weights become parameters, and held masks go; the names of those weights."""
    taken = [*_take_computed(plain), *_take_hooked(plain, called)]
    release(plain)
    return taken


def _take_computed(model: nn.Module) -> Iterator[str]:
    """Parametrised tensors become plain; those of one parametrisation stay tied.

    Not by parametrize.remove_parametrizations: a copy shares its class with the model, and that would break it.
    """
    made: dict[int, Tensor] = {}
    for path, module in list(model.named_modules()):
        if not parametrize.is_parametrized(module):
            continue
        chains = dict(module.parametrizations.items())
        for name, chain in chains.items():
            if id(chain) not in made:
                made[id(chain)] = _made(getattr(module, name), (*chain.parameters(), *chain.buffers()))
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, chain in chains.items():
            _put(module, name, made[id(chain)], buffer="original" in chain._buffers)
            yield f"{path}.{name}" if path else name


def _take_hooked(model: nn.Module, called: nn.Module) -> Iterator[str]:
    """What torch's hooks computed in a copy that was called becomes a parameter; the hooks and what they read go."""
    for path, module in model.named_modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if not isinstance(hook, _HOOKS):
                continue
            name = hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name
            value = getattr(called.get_submodule(path), name)
            del module._forward_pre_hooks[key]
            sources = [module._parameters.pop(f"{name}_{end}", None) for end in ("orig", "g", "v")]
            for end in ("mask", "u", "v"):
                module._buffers.pop(f"{name}_{end}", None)
            module.__dict__.pop(name, None)
            _put(module, name, _made(value, [one for one in sources if one is not None]), buffer=False)
            yield f"{path}.{name}" if path else name
        for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
            for key in [key for key, hook in hooks.items() if type(hook).__module__ == SpectralNorm.__module__]:
                del hooks[key]


def _made(value: Tensor, sources: Iterable[Tensor]) -> Tensor:
    """A parameter with this value, which is trained if one of what it was computed from is."""
    trained = value.is_floating_point() and any(source.requires_grad for source in sources)
    return nn.Parameter(value.detach().clone(), requires_grad=trained)


def _put(module: nn.Module, name: str, value: Tensor, *, buffer: bool) -> None:
    if buffer:
        module.register_buffer(name, value.detach())
    else:
        setattr(module, name, value)  # not register_parameter: recurrent layers keep a list of their own


def _computes(module: nn.Module) -> bool:
    """Whether a module computes weights when it is called."""
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(isinstance(hook, _HOOKS) for hook in hooks)


def _check(want: Any, have: Any, taken: Sequence[str]) -> None:
    error = difference(want, have)
    if not error <= allowed(want):
        raise TombolaError(
            f"with the weights that hooks and parametrisations compute ({', '.join(taken[:3])}) as parameters the "
            f"network gives outputs that differ by {error:.1e}: they are not the same at every call; make them plain"
        )
