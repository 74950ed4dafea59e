"""Weights as matrices: the rows that give outputs, and the columns of inputs that they multiply.

Every layer that multiplies computes `rows @ columns` in one or several groups: a linear layer in one, a convolution in
as many as it has groups, over the patches of its input (im2col), a packed projection of attention in three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.errors import TombolaError
from tombola.parameters import holders, prunable, transposed

Columns = Sequence[Tensor]
"""For each group the inputs of its rows, (positions, inputs)."""
_CHUNK = 2**24
"""Values of patches at a time: 64 MB in float32."""
_ATTENDED = ("query", "key", "value")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class Layer:
    """A prunable weight and the modules that are called where it is used.

    `calls`: several where the weight is tied; none where its inputs cannot be seen, as of a bias or a recurrent layer.
    """

    name: str
    weight: nn.Parameter
    calls: tuple[nn.Module, ...] = ()

    def rows(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape as (groups, outputs, inputs)."""
        return weight.reshape(1, weight.shape[0] if weight.dim() else 1, -1)

    def weight_of(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`, contiguous."""
        return rows.reshape(self.weight.shape)

    def matrix(self, rows: Tensor) -> Tensor:
        """What `rows` gives as (outputs of all groups, inputs, kernel positions), as patterns see weights."""
        taps = self.weight.shape[2:].numel()
        return rows.reshape(rows.shape[0] * rows.shape[1], rows.shape[2] // max(1, taps), taps)

    def columns(self, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Columns]:
        """What a call of one of `calls` gives the rows, in parts of bounded size."""
        raise NotImplementedError


class Linear(Layer):
    """nn.Linear: the weight is (outputs, inputs)."""

    def columns(self, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Columns]:
        """The features of every position."""
        yield [_flat(_argument(args, named))]


class TransposedLinear(Linear):
    """The Conv1D of transformers: the weight is (inputs, outputs)."""

    def rows(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape as (1, outputs, inputs)."""
        return weight.t().unsqueeze(0)

    def weight_of(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`, contiguous."""
        return rows.squeeze(0).t().contiguous()


class Convolution(Layer):
    """A convolution: the weight is (outputs, inputs / groups, *kernel)."""

    def rows(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape as (groups, outputs / groups, patch)."""
        groups = _groups(self.calls[0])
        return weight.reshape(groups, weight.shape[0] // groups, -1)

    def columns(self, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Columns]:
        """The patches of every position."""
        assert isinstance(module, _CONVOLUTIONS)
        x = _batched(_argument(args, named), len(module.kernel_size))
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        for part in _parts(x, module):
            padded = F.pad(part, module._reversed_padding_repeated_twice, mode=mode)
            yield _patches(padded, module.kernel_size, module.dilation, module.stride, module.groups)


class TransposedConvolution(Layer):
    """A transposed convolution: the weight is (inputs, outputs / groups, *kernel)."""

    def rows(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape as (groups, outputs / groups, patch)."""
        groups = _groups(self.calls[0])
        inputs, outputs, *kernel = weight.shape
        split = weight.reshape(groups, inputs // groups, outputs, *kernel)
        return split.transpose(1, 2).reshape(groups, outputs, -1)

    def weight_of(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`, contiguous."""
        groups = _groups(self.calls[0])
        inputs, outputs, *kernel = self.weight.shape
        split = rows.reshape(groups, outputs, inputs // groups, *kernel)
        return split.transpose(1, 2).reshape(self.weight.shape)

    def columns(self, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Columns]:
        """The patches of the input with zeros between its values, over which it is a convolution, kernel reversed."""
        assert isinstance(module, _TRANSPOSED)
        kernel, dilation, stride, padding = module.kernel_size, module.dilation, module.stride, module.padding
        nd = len(kernel)
        assert not isinstance(padding, str)
        x = _batched(_argument(args, named), nd)
        edges = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        pads = [
            value for e, o in zip(reversed(edges), reversed(module.output_padding), strict=True) for value in (e, e + o)
        ]
        for part in _parts(x, module):
            sizes = [(n - 1) * s + 1 for n, s in zip(part.shape[2:], stride, strict=True)]
            spread = part.new_zeros(*part.shape[:2], *sizes)
            places = spread
            for axis, step in enumerate(stride, start=2):
                places = places.movedim(axis, 0)[::step].movedim(0, axis)
            places.copy_(part)
            found = _patches(F.pad(spread, pads), kernel, dilation, (1,) * nd, module.groups)
            yield [
                columns.reshape(len(columns), -1, *kernel).flip(list(range(2, 2 + nd))).flatten(1) for columns in found
            ]


class PackedProjection(Layer):
    """The projections of query, key and value of nn.MultiheadAttention, one below the other."""

    def rows(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape as (3, embedding, embedding)."""
        return weight.reshape(3, -1, weight.shape[1])

    def columns(self, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Columns]:
        """The features of query, key and value."""
        yield [_flat(_argument(args, named, place, name)) for place, name in enumerate(_ATTENDED)]


@dataclass(frozen=True, eq=False)
class Projection(Linear):
    """One projection of nn.MultiheadAttention where they are apart; `place`: of query, key or value."""

    place: int = 0

    def columns(self, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Columns]:
        """Its features."""
        yield [_flat(_argument(args, named, self.place, _ATTENDED[self.place]))]


class OutputProjection(Linear):
    """The last projection of nn.MultiheadAttention, which no call of a module shows."""

    def columns(self, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Columns]:
        """What attention gives with an identity in its place."""
        assert isinstance(module, nn.MultiheadAttention)
        last = module.out_proj
        weight, bias = last.weight.data, None if last.bias is None else last.bias.data
        try:
            last.weight.data = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
            if bias is not None:
                last.bias.data = torch.zeros_like(bias)
            attended = module.forward(*args, **named)[0]
        finally:
            last.weight.data = weight
            if bias is not None:
                last.bias.data = bias
        yield [_flat(attended)]


def layers_of(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> dict[str, Layer]:
    """The prunable weights of a model, each as the layer that uses it, in the model's order.

    Raises:
        TombolaError: there are none.
    """
    held, turned = holders(model), transposed(model)
    attention = {id(module.out_proj): module for module in model.modules() if isinstance(module, nn.MultiheadAttention)}

    def layer(name: str, weight: nn.Parameter) -> Layer:
        modules, local = tuple(module for module, _ in held[name]), held[name][0][1]
        module = modules[0]
        if isinstance(module, nn.MultiheadAttention) and local == "in_proj_weight":
            return PackedProjection(name, weight, modules)
        if isinstance(module, nn.MultiheadAttention) and local.endswith("_proj_weight"):
            return Projection(name, weight, modules, "qkv".index(local[0]))
        if local != "weight" or len({type(one) for one in modules}) > 1:
            return Layer(name, weight)
        if id(module) in attention:
            return OutputProjection(name, weight, tuple(attention[id(one)] for one in modules))
        if name in turned:
            return TransposedLinear(name, weight, modules)
        for kinds, kind in _KINDS:
            if isinstance(module, kinds):
                return kind(name, weight, modules)
        return Layer(name, weight)

    weights = {name: weight for name, weight in prunable(model, include, exclude).items() if weight.numel()}
    if void := [name for name, weight in weights.items() if weight.is_meta]:
        raise TombolaError(
            f"{void[0]!r} is on the meta device and has no values; load the trained weights first: "
            "model.load_state_dict(..., assign=True)"
        )
    found = {name: layer(name, weight) for name, weight in weights.items()}
    if not found:
        raise TombolaError("the model has no prunable weights, or all are excluded; see include")
    return found


_KINDS = ((nn.Linear, Linear), (_CONVOLUTIONS, Convolution), (_TRANSPOSED, TransposedConvolution))


# ---- patches -----------------------------------------------------------------------------------------------


def _parts(x: Tensor, module: Any) -> Iterator[Tensor]:
    """Examples, few enough that their patches stay small."""
    stride = 1 if module.transposed else torch.Size(module.stride).numel()
    spread = torch.Size(module.stride).numel() if module.transposed else 1
    values = x[0].numel() * torch.Size(module.kernel_size).numel() * spread // stride if len(x) else 1
    yield from torch.split(x, max(1, _CHUNK // max(values, 1)))


def _patches(x: Tensor, kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int], groups: int) -> Columns:
    """(N, C, *size), padded -> for each group (positions, C / groups * kernel)."""
    nd = len(kernel)
    for axis, (k, d, s) in enumerate(zip(kernel, dilation, stride, strict=True), start=2):
        x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    x = x.movedim(1, 1 + nd)  # N, *places, C, *kernel
    positions = x.shape[: 1 + nd].numel()
    return x.reshape(positions, groups, -1).unbind(1)


def _batched(x: Tensor, nd: int) -> Tensor:
    return x.unsqueeze(0) if x.dim() == nd + 1 else x


def _groups(module: nn.Module) -> int:
    assert isinstance(module, _CONVOLUTIONS + _TRANSPOSED)
    return module.groups


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _argument(args: tuple[Any, ...], named: Mapping[str, Any], place: int = 0, name: str = "input") -> Tensor:
    """The argument of a call at a place, or by its name; else the first tensor given by name."""
    if place < len(args):
        x = args[place]
    else:
        x = named[name] if name in named else next(value for value in named.values() if isinstance(value, Tensor))
    assert isinstance(x, Tensor)
    return x
