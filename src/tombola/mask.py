"""The mask: a boolean for every prunable weight, under the names of `parameters`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tombola import formats
from tombola.errors import TombolaError
from tombola.fields import described
from tombola.machine.autocast import forget_casts
from tombola.machine.memory import check_apart
from tombola.parameters import clean, module_at, parameter_paths, parameters_by_name, prunable, resolve, unwrap

__all__ = ["Mask", "disconnected"]


class Mask(Mapping[str, Tensor]):
    """A boolean per prunable weight; True = kept. An ordered, immutable mapping from name to bool tensor.

    Args:
        tensors: name -> tensor in the weight's shape, bool or holding only 0 and 1. Copied.

    Raises:
        TombolaError: a tensor is not boolean and holds other values than 0 and 1.

    >>> tb.Mask({"fc.weight": torch.tensor([[1, 0, 0, 1]])})
    Mask(1 layers, 2 of 4 kept, density 0.5)
    >>> tb.Mask.full(nn.Linear(3, 2)).counts()
    {'weight': (6, 6)}
    """

    __slots__ = ("_tensors",)
    _tensors: dict[str, Tensor]

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        if not isinstance(tensors, Mapping):
            raise TombolaError(f"a mask is made of a mapping from name to tensor, not of a {type(tensors).__name__}")
        self._tensors = {name: _as_bool(name, tensor) for name, tensor in tensors.items()}

    @classmethod
    def _own(cls, tensors: dict[str, Tensor]) -> Mask:
        """Take over bool tensors without a copy."""
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
        masks: dict[str, Tensor] = {}
        for prefix, module in unwrap(model).named_modules():
            for name, buffer in module._buffers.items():
                stem = name.removesuffix("_mask")
                if buffer is not None and stem != name and f"{stem}_orig" in module._parameters:
                    masks[clean(f"{prefix}.{stem}" if prefix else stem)] = buffer
        if not masks:
            raise TombolaError(
                "the model has no masks of torch.nn.utils.prune (they are gone after prune.remove); "
                "use Mask.from_zeros to read zeros from the weights"
            )
        return cls(masks)

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
            rows.append((name, shape, formats.count(k), formats.count(n), formats.density(k / n if n else 1.0)))
        rows.append(("total", "", formats.count(kept), formats.count(total), formats.density(self.density)))
        tensors = "this tensor" if len(self) == 1 else f"these {len(self)} tensors"
        note = f"density = kept / the {total:,} weights of {tensors} (not of all parameters)"
        return "\n".join([*formats.ruled(rows, left=(0, 1)), note])

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
            check_apart(name, weight)
        paths = parameter_paths(model)
        before = {name: weight.clone() for weight, name, _ in pairs if _as_used(model, *paths[name][0]) is not None}
        for name, old in before.items():
            every[name].masked_fill_(~self[name].to(old.device), 0.0)
            used = _as_used(model, *paths[name][0])
            if used is not None and bool(used[~self[name].to(used.device)].any()):
                for again, value in before.items():
                    every[again].copy_(value)
                raise TombolaError(
                    f"{name!r} is parametrised so that its pruned entries would not be 0; hold the mask (tb.hold), "
                    "or make the weight plain first (torch.nn.utils.parametrize.remove_parametrizations)"
                )
        for weight, _, tensor in pairs:
            weight.masked_fill_(~tensor.to(weight.device), 0.0)
        forget_casts()


def _as_bool(name: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TombolaError(f"the mask of {name!r} is {described(tensor)}; give a bool tensor (torch.as_tensor)")
    tensor = tensor.detach()
    if tensor.dtype != torch.bool:
        if not bool(((tensor == 0) | (tensor == 1)).all()):
            raise TombolaError(
                f"mask of {name!r} is {tensor.dtype} and holds other values than 0 and 1; "
                "give a bool tensor (select() makes one from scores)"
            )
        return (tensor != 0).contiguous()
    return tensor.clone(memory_format=torch.contiguous_format)


def _as_used(model: nn.Module, path: tuple[str, ...], local: str) -> Tensor | None:
    """A weight as its layer uses it, where a parametrization computes that."""
    owner = module_at(unwrap(model), path)
    return getattr(owner, local) if owner is not None and is_parametrized(owner, local) else None


def disconnected(mask: Mask) -> list[str]:
    """Layers that are entirely empty: in a plain chain each disconnects the output from the input.

    Vectors (biases, on request) disconnect nothing and are not listed.
    """
    return [name for name in mask.empty_layers() if mask[name].ndim >= 2]
