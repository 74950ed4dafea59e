"""A model's deep copy that shares nothing with it, and whether two copies have come to differ."""

from __future__ import annotations

import copy
import dis
import functools
import random
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from tombola.errors import TombolaError
from tombola.parameters import unwrap

_DEEP = 6  # how far functions within functions, and objects within objects, are followed


def copied(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode of the model inside its wrappers (torch.compile, DataParallel, ...), computed tensors
    and all. Its tensors are no inference tensors, if this is called outside inference mode.

    Functions that the model keeps (a forward of the instance, hooks, attributes) see the copy where their closures
    hold the model.

    Raises:
        TombolaError: it cannot be copied, is TorchScript or of torch.export, has layers without a shape, or keeps a
            function that would go on calling the model itself.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TombolaError(
                f"{name or 'the model'} is TorchScript, which cannot be read; give the module it was made from"
            )
    inner = unwrap(model)
    lazy = next((name for name, p in (*inner.named_parameters(), *inner.named_buffers()) if is_lazy(p)), None)
    if lazy is not None:
        raise TombolaError(f"{lazy!r} has no shape yet (a lazy layer); run one batch through the model first")
    memo: dict[int, Any] = {}
    try:
        with torch.no_grad(), _CopyingComputed():
            made = copy.deepcopy(inner, memo)
        made.eval()
    except NotImplementedError as error:
        raise TombolaError(
            f"{type(model).__name__} has no eval mode, as what torch.export gives; give the module it was made from"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # deepcopy of a user's model may raise anything
        reason = " ".join(str(error).split())[:160]
        raise TombolaError(
            f"the model cannot be copied: {type(error).__name__} {reason}; keep such things out of its attributes"
        ) from error
    twins = {id(part): memo[id(part)] for part in _parts(inner) if memo.get(id(part), part) is not part}
    _rebind(made, twins)
    for name, module in made.named_modules():
        for held in _functions(module):
            if _reaches(held, twins, _DEEP):
                where = repr(name) if name else "the model"
                raise TombolaError(
                    f"a function that {where} keeps ({getattr(held, '__name__', 'a callable')}) uses the model by a "
                    "global name or from a cache, so that a copy would go on calling the original; make it a method, "
                    "or give it the module as an argument"
                )
    for module in list(made.modules()):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = unwrap(child)
    return made.eval()


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


def differ(one: nn.Module, other: nn.Module, *, tensors: bool = True) -> bool:
    """Whether two copies of a model differ in a plain attribute or, if `tensors`, in a parameter or buffer."""
    pairs = ((_state(a, tensors), _state(b, tensors)) for a, b in zip(one.modules(), other.modules(), strict=True))
    return not all(_same(a, b, _DEEP) for a, b in pairs)


# ---- functions that hold the model -----------------------------------------------------------------------------------


_HOLDERS = (types.FunctionType, functools.partial, functools._lru_cache_wrapper, weakref.ref)
"""What deepcopy may leave bound to the original."""


def _parts(model: nn.Module) -> Iterator[nn.Module | Tensor]:
    yield from model.modules()
    yield from model.parameters()
    yield from model.buffers()


def _functions(module: nn.Module) -> Iterator[Any]:
    """Functions, caches of functions and weak references among a module's attributes and hooks."""
    for name, value in vars(module).items():
        if name in ("_modules", "_parameters", "_buffers"):
            continue
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
        yield from (one for one in list(values) if isinstance(one, _HOLDERS))


def _rebind(model: nn.Module, twins: Mapping[int, Any]) -> None:
    """Give functions whose closures hold parts of the original the copy's parts."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, types.FunctionType | weakref.ref):
                vars(module)[name] = _rebound(value, twins, _DEEP)
            elif type(value) is tuple:
                vars(module)[name] = tuple(_rebound(one, twins, _DEEP) for one in value)
            elif isinstance(value, dict) and name not in ("_modules", "_parameters", "_buffers"):
                for key, one in list(value.items()):
                    value[key] = _rebound(one, twins, _DEEP)
            elif type(value) is list:
                value[:] = [_rebound(one, twins, _DEEP) for one in value]


def _rebound(value: Any, twins: Mapping[int, Any], depth: int) -> Any:
    if id(value) in twins:
        return twins[id(value)]
    if not depth:
        return value
    if isinstance(value, types.MethodType) and id(value.__self__) in twins:
        return types.MethodType(value.__func__, twins[id(value.__self__)])
    if isinstance(value, weakref.ref):
        return weakref.ref(twins[id(value())]) if id(value()) in twins else value
    if not isinstance(value, types.FunctionType):
        return value
    cells = [_content(cell) for cell in value.__closure__ or ()]
    made = [_rebound(content, twins, depth - 1) for content in cells]
    defaults = tuple(_rebound(one, twins, depth - 1) for one in value.__defaults__ or ())
    if all(a is b for a, b in zip((*cells, *(value.__defaults__ or ())), (*made, *defaults), strict=True)):
        return value
    closure = tuple(
        old if one is _EMPTY else types.CellType(one) for old, one in zip(value.__closure__ or (), made, strict=True)
    )
    function = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults or None, closure)
    function.__kwdefaults__ = value.__kwdefaults__
    return function


def _reaches(value: Any, twins: Mapping[int, Any], depth: int) -> bool:
    """Whether a function of the copy still uses a part of the original."""
    if id(value) in twins:
        return True
    if not depth:
        return False
    within: list[Any] = []
    if isinstance(value, types.FunctionType):
        within += [_content(cell) for cell in value.__closure__ or ()]
        within += [value.__globals__[name] for name in _global_names(value.__code__) if name in value.__globals__]
        within += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    elif isinstance(value, functools.partial):
        within += [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.MethodType):
        within.append(value.__self__)
    elif isinstance(value, functools._lru_cache_wrapper):
        within.append(value.__wrapped__)
    elif isinstance(value, weakref.ref):
        within.append(value())
    elif type(value) in (list, tuple):
        within += value
    elif type(value) is dict:
        within += value.values()
    return any(_reaches(one, twins, depth - 1) for one in within)


def _global_names(code: types.CodeType) -> set[str]:
    """The global names that code loads, that of functions in it included; attributes may be called the same."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_global_names(one) for one in code.co_consts if isinstance(one, types.CodeType)))


_EMPTY = object()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


# ---- what forward may change -----------------------------------------------------------------------------------------


def _state(module: nn.Module, tensors: bool) -> dict[str, Any]:
    if isinstance(module, torch.jit.ScriptModule):  # compiled objects cannot be compared
        return dict(module.state_dict())
    aside = ("_modules", "training") if tensors else ("_modules", "training", "_parameters", "_buffers")
    return {name: value for name, value in vars(module).items() if name not in aside}


def _same(one: Any, other: Any, depth: int) -> bool:
    if type(one) is not type(other) or not depth:
        return type(one) is type(other)
    if isinstance(one, Tensor):
        if (one.shape, one.dtype, one.layout) != (other.shape, other.dtype, other.layout):
            return False
        return one.layout != torch.strided or one.is_quantized or _equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key], depth - 1) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b, depth - 1) for a, b in zip(one, other, strict=True))
    if isinstance(one, torch.Generator):
        return torch.equal(one.get_state(), other.get_state())
    if isinstance(one, random.Random):
        return bool(one.getstate() == other.getstate())
    if isinstance(one, int | float | complex | str | bytes | None):
        return bool(one == other) or one != one
    if isinstance(one, set | frozenset):
        return len(one) == len(other)
    return True


def _equal(one: Tensor, other: Tensor) -> bool:
    """Value by value; NaN equals NaN."""
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    return bool(torch.isclose(one.detach(), other.detach(), rtol=0, atol=0, equal_nan=True).all())
