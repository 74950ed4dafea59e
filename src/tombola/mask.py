"""Which parameters may be pruned, under which names, and the mask over them.

Names are those of the model's own `state_dict()` before anything was attached to it or wrapped round it, so
that a mask made on a bare model fits the same model when it is compiled, distributed or parametrized.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from tombola.errors import TombolaError

__all__ = [
    "Mask",
    "disconnected",
    "holders",
    "module_at",
    "named_parameter",
    "parameters_by_name",
    "places",
    "prunable",
    "resolve",
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
}
_INNER_WRAPPER = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


# ---- names -------------------------------------------------------------------------------------------------


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel, DDP, FSDP, Fabric, DeepSpeed or averaging wrappers."""
    while True:
        child = next((_WRAPPERS[c.__name__] for c in type(model).__mro__ if c.__name__ in _WRAPPERS), None)
        inner = None if child is None else model._modules.get(child)
        if inner is None:
            return model
        model = inner


def _clean(name: str) -> str:
    """`a._orig_mod.b` -> `a.b`: a compiled or checkpointed submodule keeps its own name."""
    return _INNER_WRAPPER.sub("", name)


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """One module's own parameters under the names they had before anything was attached."""
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
            yield _clean(f"{prefix}.{local}" if prefix else local), module, local, parameter


def parameters_by_name(model: nn.Module, *, tied: bool = False) -> dict[str, nn.Parameter]:
    """Every parameter under its own `state_dict` name, wrappers and parametrizations stripped.

    Of tied parameters the first name owns and stands alone; `tied=True` lists the further names too. What a
    parametrization stores in several tensors (weight norm) or adds itself (scores) keeps its raw name.
    """
    return {name: parameter for name, _, _, parameter in _walk(model, tied)}


def holders(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Every parameter's name -> the (module, attribute) pairs that hold it: several where it is tied."""
    owner = {id(parameter): name for name, parameter in parameters_by_name(model).items()}
    found: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in owner.values()}
    seen: set[tuple[int, str]] = set()
    for _, module, local, parameter in _walk(model, tied=True):
        if (id(module), local) not in seen:  # a module may stand at several places of the tree
            seen.add((id(module), local))
            found[owner[id(parameter)]].append((module, local))
    return found


def places(model: nn.Module) -> dict[str, list[tuple[tuple[str, ...], str]]]:
    """Every name of every weight -> all its (path of the module, attribute): several where it is tied.

    Unlike in `parameters_by_name`, what a parametrization stores in several tensors is the one weight it stands for.
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
            name = _clean(f"{prefix}.{local}" if prefix else local)
            path = tuple(name[: -len(local) - 1].split(".")) if name != local else ()
            groups.setdefault(id(weight), []).append((name, path, local))
    return {name: [(path, local) for _, path, local in group] for group in groups.values() for name, _, _ in group}


def module_at(module: nn.Module, path: Sequence[str]) -> nn.Module | None:
    """The module at the end of a path, through what was wrapped round parts of it; None if there is none."""
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
    raise TombolaError(f"no {what} is called {name!r}; {_closest(name, table)}")


def _closest(name: str, names: Mapping[str, object] | Sequence[str]) -> str:
    allowed = list(names)
    close = difflib.get_close_matches(name.strip("*"), allowed, n=3, cutoff=0.3)
    if close:
        return "close matches: " + ", ".join(close)
    more = "" if len(allowed) <= 8 else f" and {len(allowed) - 8} more"
    return "there are: " + (", ".join(allowed[:8]) + more if allowed else "none")


# ---- what may be pruned ------------------------------------------------------------------------------------


def prunable(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The weights a mask runs over, by name, in the model's own order.

    By default: weights of Linear and convolution layers (subclasses and transposed ones too) and the
    projections of nn.MultiheadAttention (a packed projection is one tensor); no biases, norms or embeddings.
    Of tied weights the first name owns; a Linear tied to an embedding is left out.

    Args:
        include: shell-style patterns over names (`"*.bias"`); every parameter they match is added.
        exclude: patterns whose matches are taken out again, also from `include`.

    Raises:
        TombolaError: a pattern matches no parameter, or a lazy layer has no shape yet.
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
    return isinstance(module, _LAYERS) and local == "weight"


def _matching(every: Mapping[str, nn.Parameter], patterns: Sequence[str], option: str) -> set[int]:
    matched: set[int] = set()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        hits = {id(parameter) for name, parameter in every.items() if fnmatchcase(name, pattern)}
        if not hits:
            raise TombolaError(f"{option} pattern {pattern!r} matches no parameter; {_closest(pattern, every)}")
        matched |= hits
    return matched


# ---- the mask ----------------------------------------------------------------------------------------------


class Mask(Mapping[str, Tensor]):
    """A boolean per prunable weight; True = kept. An ordered, immutable mapping from name to bool tensor.

    Args:
        tensors: name -> tensor in the weight's shape, bool or holding only 0 and 1. Copied.

    Raises:
        TombolaError: a tensor is not boolean and holds other values than 0 and 1.
    """

    __slots__ = ("_tensors",)
    _tensors: dict[str, Tensor]

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: _as_bool(name, tensor) for name, tensor in tensors.items()}

    @classmethod
    def _own(cls, tensors: dict[str, Tensor]) -> Mask:
        """Take bool tensors that nobody else holds, without a copy."""
        mask = cls.__new__(cls)
        mask._tensors = tensors
        return mask

    # -- makers

    @classmethod
    def full(
        cls,
        source: nn.Module | Mapping[str, Tensor],
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> Mask:
        """Everything kept, over a model's prunable weights or over a mapping of tensors."""
        weights: Mapping[str, Tensor] = prunable(source, include, exclude) if isinstance(source, nn.Module) else source
        return cls._own({name: torch.ones(w.shape, dtype=torch.bool, device=w.device) for name, w in weights.items()})

    @classmethod
    def from_zeros(cls, model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Mask:
        """Pruned where a prunable weight is exactly zero, for a model that was pruned elsewhere."""
        return cls._own({name: weight.detach() != 0 for name, weight in prunable(model, include, exclude).items()})

    @classmethod
    def from_torch_prune(cls, model: nn.Module) -> Mask:
        """The masks that torch.nn.utils.prune left on a model (its `*_mask` buffers)."""
        found: dict[str, Tensor] = {}
        for prefix, module in unwrap(model).named_modules():
            for name, buffer in module._buffers.items():
                stem = name.removesuffix("_mask")
                if buffer is not None and stem != name and f"{stem}_orig" in module._parameters:
                    found[_clean(f"{prefix}.{stem}" if prefix else stem)] = buffer
        if not found:
            raise TombolaError(
                "the model has no masks of torch.nn.utils.prune (they are gone after prune.remove); "
                "use Mask.from_zeros to read zeros from the weights"
            )
        return cls(found)

    # -- mapping

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        if self.keys() != other.keys():
            return False
        return all(
            tensor.shape == other[name].shape and torch.equal(tensor, other[name].to(tensor.device))
            for name, tensor in self.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mask({len(self)} layers, {self.kept:,} of {self.total:,} kept, density {self.density:.4g})"

    # -- counts

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return sum(int(torch.count_nonzero(tensor)) for tensor in self.values())

    @property
    def total(self) -> int:
        """Number of weights the mask runs over: the denominator of its density."""
        return sum(tensor.numel() for tensor in self.values())

    @property
    def density(self) -> float:
        """kept / total; 1.0 for a mask over nothing."""
        return self.kept / self.total if self.total else 1.0

    def counts(self) -> dict[str, tuple[int, int]]:
        """name -> (kept, total)."""
        return {name: (int(torch.count_nonzero(tensor)), tensor.numel()) for name, tensor in self.items()}

    def densities(self) -> dict[str, float]:
        """name -> kept / total of that layer (1.0 for a tensor without elements)."""
        return {name: kept / total if total else 1.0 for name, (kept, total) in self.counts().items()}

    def empty_layers(self) -> list[str]:
        """Names of the layers of which nothing is kept."""
        return [name for name, (kept, _) in self.counts().items() if kept == 0]

    def table(self) -> str:
        """A plain-text table: a line per layer, a total line, and what the density is a fraction of."""
        counts = self.counts()
        kept, total = self.kept, self.total
        rows = [("layer", "shape", "kept", "total", "density")]
        for name, (k, n) in counts.items():
            shape = "x".join(map(str, self[name].shape)) or "1"
            rows.append((name, shape, f"{k:,}", f"{n:,}", f"{k / n if n else 1.0:.4f}"))
        rows.append(("total", "", f"{kept:,}", f"{total:,}", f"{self.density:.4f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        rule = "-" * len(lines[0])
        tensors = "this tensor" if len(self) == 1 else f"these {len(self)} tensors"
        note = f"density = kept / the {total:,} weights of {tensors} (not of all parameters)"
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], note])

    # -- comparing

    def hamming_by_layer(self, other: Mask) -> dict[str, float]:
        """name -> fraction of that layer's positions on which the masks differ."""
        return {name: differ / max(n, 1) for name, (differ, n) in (self ^ other).counts().items()}

    def hamming(self, other: Mask) -> float:
        """Fraction of all positions on which the masks differ, 0..1."""
        return (self ^ other).kept / max(self.total, 1)

    def nested_in(self, other: Mask) -> bool:
        """Whether everything kept here is kept there."""
        self._check(other)
        return not any(bool((t & ~other[name].to(t.device)).any()) for name, t in self.items())

    def _with(self, other: Mask, operation: Callable[[Tensor, Tensor], Tensor]) -> Mask:
        self._check(other)
        return self._own({name: operation(t, other[name].to(t.device)) for name, t in self.items()})

    def __and__(self, other: Mask) -> Mask:
        return self._with(other, torch.logical_and)

    def __or__(self, other: Mask) -> Mask:
        return self._with(other, torch.logical_or)

    def __xor__(self, other: Mask) -> Mask:
        return self._with(other, torch.logical_xor)

    def __invert__(self) -> Mask:
        return self._own({name: ~t for name, t in self.items()})

    def _check(self, other: Mask) -> None:
        if self.keys() != other.keys():
            odd = sorted(self.keys() ^ other.keys())
            raise TombolaError(
                f"the masks run over different layers ({', '.join(odd[:5])}{', ...' if len(odd) > 5 else ''} "
                "in one only); make both with the same include and exclude"
            )
        for name, tensor in self.items():
            if tensor.shape != other[name].shape:
                raise TombolaError(
                    f"layer {name!r} has shape {tuple(tensor.shape)} in one mask and "
                    f"{tuple(other[name].shape)} in the other; both must come from the same network"
                )

    # -- using

    def to(self, device: torch.device | str) -> Mask:
        """The same mask on a device."""
        return self._own({name: tensor.to(device, copy=True) for name, tensor in self.items()})

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Set the pruned weights of a model to exactly +0.0, in place; the model may be wrapped or
        parametrized.

        Raises:
            TombolaError: the model has no weight of a name in the mask, one of another shape, or one that a
                parametrization computes so that it would not be 0. Nothing is changed then.
        """
        every = parameters_by_name(model, tied=True)
        pairs = [(resolve(every, name), name, tensor) for name, tensor in self.items()]
        for weight, name, tensor in pairs:
            if weight.shape != tensor.shape:
                raise TombolaError(
                    f"{name!r} has shape {tuple(weight.shape)} in the model and {tuple(tensor.shape)} "
                    "in the mask; use the mask with the network it was made for"
                )
        before = {name: weight.clone() for weight, name, _ in pairs if _as_used(model, name) is not None}
        for name, old in before.items():
            every[name].masked_fill_(~self[name].to(old.device), 0.0)
            used = _as_used(model, name)
            if used is not None and bool(used[~self[name].to(used.device)].any()):
                for again, value in before.items():
                    every[again].copy_(value)
                raise TombolaError(
                    f"{name!r} is parametrised so that its pruned entries would not be 0; hold the mask (tb.hold), "
                    "or make the weight plain first (torch.nn.utils.parametrize.remove_parametrizations)"
                )
        for weight, _, tensor in pairs:
            weight.masked_fill_(~tensor.to(weight.device), 0.0)


def _as_bool(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.dtype != torch.bool:
        if not bool(((tensor == 0) | (tensor == 1)).all()):
            raise TombolaError(
                f"mask of {name!r} is {tensor.dtype} and holds other values than 0 and 1; "
                "give a bool tensor (select() makes one from scores)"
            )
        return (tensor != 0).contiguous()
    return tensor.clone(memory_format=torch.contiguous_format)


def _as_used(model: nn.Module, name: str) -> Tensor | None:
    """A weight as its layer uses it, where a parametrization computes that."""
    path, local = places(model)[name][0]
    owner = module_at(unwrap(model), path)
    return getattr(owner, local) if owner is not None and is_parametrized(owner, local) else None


def disconnected(mask: Mask) -> list[str]:
    """Layers that are wholly empty: in a plain chain each of them cuts the output off from the input.

    Vectors (biases, on request) do not cut anything and are not named.
    """
    return [name for name in mask.empty_layers() if mask[name].ndim >= 2]
