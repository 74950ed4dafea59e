"""The names of a model's parameters, and which of them may be pruned.

Names are those of the model's own `state_dict()` before anything was attached or wrapped, so
that a mask made on a bare model fits the same model when it is compiled, distributed or parametrized.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.names import closest

__all__ = [
    "check_plain",
    "clean",
    "holders",
    "module_at",
    "named_parameter",
    "parameter_paths",
    "parameters_by_name",
    "prunable",
    "resolve",
    "transposed",
    "unwrap",
]

_T = TypeVar("_T")

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_CONV1D = ("transformers.pytorch_utils", "Conv1D")  # GPT-2's linear layer; its package may not be installed
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
# Wrapper class -> the child that holds the wrapped model. By class name: some of them live in optional
# packages.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "DeepSpeedEngine": "module",
    "AveragedModel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "_FabricModule": "_forward_module",
    "BaseTunerLayer": "base_layer",  # peft's, around a layer that has adapters
}
_INNER_WRAPPER = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


# ---- names -------------------------------------------------------------------------------------------------


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel, DDP, FSDP, Fabric, DeepSpeed, averaging or peft's wrappers."""
    while True:
        child = next((_WRAPPERS[c.__name__] for c in type(model).__mro__ if c.__name__ in _WRAPPERS), None)
        inner = None if child is None else model._modules.get(child)
        if inner is None:
            return model
        model = inner


def clean(name: str) -> str:
    """`a._orig_mod.b` -> `a.b`: a compiled or checkpointed submodule keeps its own name."""
    return _INNER_WRAPPER.sub("", name)


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """One module's own parameters under the names they had before anything was attached."""
    if isinstance(module, torch.jit.ScriptModule):
        raise TombolaError(
            f"{type(module).__name__} is TorchScript, which cannot be pruned; give the module it was made from"
        )
    attached = module._modules.get("parametrizations")
    if isinstance(attached, nn.ModuleDict):
        for name, chain in attached.items():
            original = chain._parameters.get("original")
            if original is not None:
                yield name, original
    for name, parameter in module._parameters.items():
        if parameter is None or (isinstance(module, ParametrizationList) and name == "original"):
            continue
        stem = name.removesuffix("_orig")
        if stem != name and f"{stem}_mask" in module._buffers:  # torch.nn.utils.prune
            name = stem
        yield name, parameter


def _walk(model: nn.Module, tied: bool = False) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(full name, module, name within the module, parameter); a tied parameter once, unless `tied`."""
    seen: set[int] = set()
    for prefix, module in unwrap(model).named_modules(remove_duplicate=not tied):
        for local, parameter in _own_parameters(module):
            if not tied and id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield clean(f"{prefix}.{local}" if prefix else local), module, local, parameter


def parameters_by_name(model: nn.Module, *, tied: bool = False) -> dict[str, nn.Parameter]:
    """Every parameter under its own `state_dict` name, wrappers and parametrizations stripped.

    Of tied parameters only the first name is listed; `tied=True` lists the others too. What a
    parametrization stores in several tensors (weight norm) or adds itself (scores) keeps its raw name.
    """
    return {name: parameter for name, _, _, parameter in _walk(model, tied)}


def holders(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Every parameter's name -> the (module, attribute) pairs that hold it: several where it is tied."""
    owner = {id(parameter): name for name, parameter in parameters_by_name(model).items()}
    held: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in owner.values()}
    seen: set[tuple[int, str]] = set()
    for _, module, local, parameter in _walk(model, tied=True):
        if (id(module), local) not in seen:  # a module may occur several times in the tree
            seen.add((id(module), local))
            held[owner[id(parameter)]].append((module, local))
    return held


def parameter_paths(model: nn.Module) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """Every name of every weight -> all its (path of the module, attribute): several where it is tied.

    Unlike in `parameters_by_name`, what a parametrization stores in several tensors counts as the one weight it
    computes.
    """
    groups: dict[int, list[tuple[str, tuple[str, ...], str]]] = {}
    for prefix, module in unwrap(model).named_modules(remove_duplicate=False):
        chains = module._modules.get("parametrizations")
        several = [
            (local, chain)
            for local, chain in (chains.items() if isinstance(chains, nn.ModuleDict) else ())
            if "original" not in chain._parameters
        ]
        for local, weight in [*_own_parameters(module), *several]:
            name = clean(f"{prefix}.{local}" if prefix else local)
            path = tuple(name[: -len(local) - 1].split(".")) if name != local else ()
            groups.setdefault(id(weight), []).append((name, path, local))
    return {name: [(path, local) for _, path, local in group] for group in groups.values() for name, _, _ in group}


def module_at(module: nn.Module, path: Sequence[str]) -> nn.Module | None:
    """The module at the end of a path, through wrappers of its parts; None if there is none."""
    for part in path:
        child = module._modules.get(part)
        if child is None:
            child = unwrap(module)._modules.get(part)
        if child is None:
            return None
        module = child
    return module


def named_parameter(model: nn.Module, name: str) -> nn.Parameter:
    """The parameter called `name` (any of its names, if tied), or a TombolaError with the close matches."""
    return resolve(parameters_by_name(model, tied=True), name)


def resolve(table: Mapping[str, _T], name: str, what: str = "parameter") -> _T:
    """`table[name]`, or a TombolaError that names the close matches."""
    if name in table:
        return table[name]
    raise TombolaError(f"no {what} is called {name!r}{_instead(name, table)}")


def _instead(name: str, table: Mapping[str, object]) -> str:
    """' (did you mean X?); there are: ...', the first few of them."""
    there = list(table)
    more = "" if len(there) <= 8 else f" and {len(there) - 8} more"
    return f"{closest(name.strip('*'), there)}; there are: {', '.join(there[:8]) or 'none'}{more}"


# ---- what may be pruned ------------------------------------------------------------------------------------


@checked
def prunable(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The weights a mask runs over, by name, in the model's own order.

    By default: weights of Linear and convolution layers (subclasses and transposed ones too), of transformers'
    Conv1D (GPT-2's linear layer), and the projections of nn.MultiheadAttention (a packed projection is one tensor); no
    biases, norms, embeddings or recurrent weights.
    Of tied weights the first name owns; a Linear tied to an embedding is left out.

    Args:
        include: shell-style patterns over names (`"*.bias"`); every parameter they match is added.
        exclude: patterns whose matches are taken out again, also from `include`.

    Raises:
        TombolaError: a pattern matches no parameter, or a lazy layer has no shape yet.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    >>> list(tb.prunable(network)), list(tb.prunable(network, include=["*.bias"], exclude=["0.*", "1.*"]))
    (['0.weight', '3.weight'], ['3.weight', '3.bias'])
    """
    every = parameters_by_name(model, tied=True)
    added = _matching(every, include, "include")
    removed = _matching(every, exclude, "exclude")
    embedded = {
        id(parameter)
        for _, module, _, parameter in _walk(model, tied=True)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    by_default = {
        id(parameter)
        for _, module, local, parameter in _walk(model, tied=True)
        if _is_weight(module, local) and id(parameter) not in embedded
    }
    chosen = {
        name: parameter
        for name, parameter in parameters_by_name(model).items()
        if id(parameter) in (by_default | added) - removed
    }
    for name, parameter in chosen.items():
        if nn.parameter.is_lazy(parameter):
            raise TombolaError(f"{name!r} has no shape yet (a lazy layer); run one batch through the model first")
    return chosen


def _is_weight(module: nn.Module, local: str) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return local in _ATTENTION_WEIGHTS
    return (isinstance(module, _LAYERS) or is_conv1d(module)) and local == "weight"


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D, a linear layer whose weight is stored as (inputs, outputs)."""
    return any((kind.__module__, kind.__name__) == _CONV1D for kind in type(module).__mro__)


def transposed(model: nn.Module) -> frozenset[str]:
    """The names of the matrices that are stored as (inputs, outputs): the weights of transformers' Conv1D.

    Patterns that group outputs or inputs need to know: see `select`.
    """
    return frozenset(
        name
        for name, owners in holders(model).items()
        if any(is_conv1d(module) and local == "weight" for module, local in owners)
    )


def check_plain(model: nn.Module, exclude: Sequence[str] = (), *, written: bool = True) -> None:
    """TombolaError if a layer's weight is computed from other parameters: by a parametrisation, weight norm, a mask.

    Args:
        exclude: patterns of names for which it may be so.
        written: False where only weights that are computed from several parameters, which have no name, are in the way.
    """
    known = {} if written else parameters_by_name(model, tied=True)
    patterns = (exclude,) if isinstance(exclude, str) else exclude
    for prefix, module in unwrap(model).named_modules():
        for local in ("weight", *_ATTENTION_WEIGHTS):
            name = clean(f"{prefix}.{local}" if prefix else local)
            way = _computed(module, local) if _is_weight(module, local) else None
            if way is not None and name not in known and not any(fnmatchcase(name, each) for each in patterns):
                raise TombolaError(
                    f"{name!r} is computed from other parameters ({way[0]}), so that it cannot be pruned; make it "
                    f"plain first, {way[1]}, or leave it out: exclude={[f'{prefix}.*' if prefix else '*']}"
                )


def _computed(module: nn.Module, local: str) -> tuple[str, str] | None:
    """By what a weight is computed, and what makes it plain; None where it is a parameter itself."""
    chains = module._modules.get("parametrizations")
    if isinstance(chains, nn.ModuleDict) and local in chains:
        by = ", ".join(type(one).__name__.strip("_") for one in chains[local].children())
        return by, f"torch.nn.utils.parametrize.remove_parametrizations(layer, {local!r})"
    if local in module._parameters or not isinstance(module.__dict__.get(local), torch.Tensor):
        return None
    names = {kind.__name__ for hook in module._forward_pre_hooks.values() for kind in type(hook).__mro__}
    unknown = (f"{local!r} is no parameter of its layer", f"setting layer.{local} to an nn.Parameter")
    return next((said for by, said in _HOOKS.items() if by in names), unknown)


_HOOKS = {
    "WeightNorm": ("weight_norm", "torch.nn.utils.remove_weight_norm(layer)"),
    "SpectralNorm": ("spectral_norm", "torch.nn.utils.remove_spectral_norm(layer)"),
    "BasePruningMethod": ("torch.nn.utils.prune", "torch.nn.utils.prune.remove(layer, 'weight')"),
}
"""Class of a hook that computes a weight -> what it is, and what takes it off."""


def _matching(every: Mapping[str, nn.Parameter], patterns: Sequence[str], option: str) -> set[int]:
    matched: set[int] = set()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        hits = {id(parameter) for name, parameter in every.items() if fnmatchcase(name, pattern)}
        if not hits:
            raise TombolaError(f"{option} pattern {pattern!r} matches no parameter{_instead(pattern, every)}")
        matched |= hits
    return matched
