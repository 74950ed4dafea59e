"""A model's effective weights as plain parameters of their own, whatever is attached to it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from tombola.compact.compare import largest_error, outputs
from tombola.errors import TombolaError
from tombola.hold import release
from tombola.nn.forward import leaves
from tombola.parameters import unwrap

_HOOKS = (prune.BasePruningMethod, SpectralNorm, WeightNorm)
"""The forward pre-hooks of torch that compute a weight and put it into the module as a plain attribute."""

_EQUAL = 1e-4
"""The largest max|a - b| / max|a| of the outputs after it; or a few roundings of their type, if that is more."""


def plain_copy(model: nn.Module, example: Sequence[Tensor]) -> nn.Module:
    """A copy in eval mode without parametrisations, held masks and what torch.nn.utils' prune, weight_norm and
    spectral_norm attach: its parameters are the effective weights.

    The copy is called on the example first, in eval mode: held masks are enforced by a call, and hooks compute. A
    computed weight becomes a parameter of its own, also where what it is computed from is tied to another layer's.

    Raises:
        TombolaError: it is no module, cannot be copied or run on the example, or gives other outputs with its effective
            weights.
    """
    if not isinstance(model, nn.Module):
        raise TombolaError(f"{type(model).__name__} cannot be deployed; give a Ticket or an nn.Module")
    plain = copied(model)
    want = _drawn_alike(plain, example)
    with torch.no_grad():
        found = [*_take_computed(plain), *_take_hooked(plain)]
        release(plain)
    if found:
        _check(want, _drawn_alike(plain, example), found)
    return plain


def copied(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode of the model inside its wrappers (torch.compile, DataParallel, ...).

    Computed tensors are copied by value, and sparse ones become dense.

    Raises TombolaError: it cannot be copied, is TorchScript or of torch.export, or has layers without a shape.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TombolaError(f"{name or 'the model'} is TorchScript, which cannot be read; give the module it is of")
    lazy = [name for name, x in (*model.named_parameters(), *model.named_buffers()) if nn.parameter.is_lazy(x)]
    if lazy:
        raise TombolaError(f"{lazy[0]!r} has no shape yet (a lazy layer); run one batch through the model first")
    try:
        with _CopyingComputed():
            made = copy.deepcopy(unwrap(model))
        made.eval()
    except NotImplementedError as error:
        raise TombolaError(
            f"{type(model).__name__} has no eval mode, as what torch.export gives; give the module it was made from"
        ) from error
    except Exception as error:  # deepcopy of a user's model may raise anything
        said = " ".join(str(error).split())[:160]
        raise TombolaError(
            f"the model cannot be copied: {type(error).__name__} {said}; keep such things out of its attributes"
        ) from error
    for module in list(made.modules()):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = unwrap(child)
    return made


class _CopyingComputed(TorchFunctionMode):
    """Copies what torch does not: sparse tensors, and computed ones, which hooks leave in modules."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensor: Any = args[0] if args else None
        if func is Tensor.__deepcopy__ and (not tensor.is_leaf or tensor.layout != torch.strided):
            memo = args[1]
            if id(tensor) not in memo:
                memo[id(tensor)] = _dense(tensor.detach()).clone()
            return memo[id(tensor)]
        if func is Tensor.clone and isinstance(tensor, Tensor) and tensor.layout != torch.strided:
            return _dense(tensor)  # of a parameter, which torch copies by its clone
        return func(*args, **(kwargs or {}))


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


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


def _take_hooked(model: nn.Module) -> Iterator[str]:
    """What torch's hooks computed at the last call becomes a parameter; the hooks and what they read go."""
    for path, module in model.named_modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if not isinstance(hook, _HOOKS):
                continue
            name = hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name
            value = getattr(module, name)
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


def _drawn_alike(model: nn.Module, example: Sequence[Tensor]) -> Any:
    """Its outputs, always with the same random draws."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return outputs(model, example)


def _check(want: Any, have: Any, taken: Sequence[str]) -> None:
    coarsest = max((torch.finfo(x.dtype).eps for x in leaves(want) if x.is_floating_point()), default=0.0)
    error = largest_error(want, have)
    if not error <= max(_EQUAL, 4 * coarsest):
        raise TombolaError(
            f"with the weights that hooks and parametrisations compute ({', '.join(taken[:3])}) as parameters the "
            f"network gives outputs that differ by {error:.1e}: they are not the same at every call; make them plain"
        )
