"""What the networks that `random_networks.py` draws are made of: layers called in every form, functions of values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.nn.binary import BinaryActivation


class Applied(nn.Module):
    """A function as a module; `text`: what it is."""

    def __init__(self, text: str, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.text, self.function = text, function

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)

    def extra_repr(self) -> str:
        return self.text


class FunctionalConv(nn.Module):
    """A convolution as a function of parameters of its own."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.kernel, self.shift = like.weight, like.bias
        self.call = (F.conv1d, F.conv2d, F.conv3d)[like.weight.dim() - 3]
        self.moves = (like.stride, like.padding, like.dilation, like.groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.kernel, self.shift, *self.moves)

    def extra_repr(self) -> str:
        return f"{tuple(self.kernel.shape)}, bias={self.shift is not None}, {self.moves}"


class FunctionalLinear(nn.Module):
    def __init__(self, like: nn.Linear) -> None:
        super().__init__()
        self.matrix, self.shift = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix, self.shift)

    def extra_repr(self) -> str:
        return f"{tuple(self.matrix.shape)}, bias={self.shift is not None}"


class FunctionalNorm(nn.Module):
    """A batch norm as a function."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.factor, self.shift, self.training)

    def extra_repr(self) -> str:
        return str(len(self.factor))


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=self.training)


class Merged(nn.Module):
    """A linear layer over rows of the batch and the next axis, merged."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[1]))
        return out


class Excite(nn.Module):
    """A factor for each channel (Hu et al. 2018), from its mean."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return out


class Network(nn.Module):
    """Parts, each applied to values that were made before it; values 0 .. inputs - 1 are the inputs.

    `reads`: of each part. `gives`: the numbers of the values that are returned, in containers of kind `form`.
    """

    def __init__(
        self, parts: Sequence[nn.Module], reads: Sequence[tuple[int, ...]], gives: Sequence[int], form: str
    ) -> None:
        super().__init__()
        self.parts, self.reads, self.gives, self.form = nn.ModuleList(parts), tuple(reads), tuple(gives), form

    def forward(self, *inputs: Tensor) -> Any:
        values = [*inputs]
        for part, reads in zip(self.parts, self.reads, strict=True):
            values.append(part(*(values[i] for i in reads)))
        found = [values[i] for i in self.gives]
        match self.form:
            case "tuple":
                return tuple(found)
            case "dict":
                return {"first": found[0], "rest": [*found[1:], None]}
        return found[0]

    def extra_repr(self) -> str:
        return f"reads={self.reads}, gives={self.gives}, form={self.form!r}"


# ---- one value to one value ------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "relu6": F.relu6, "hardtanh": F.hardtanh, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "gelu": F.gelu, "silu": F.silu, "elu": F.elu, "selu": F.selu, "celu": F.celu, "leaky_relu": F.leaky_relu,
    "mish": F.mish, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "softplus": F.softplus,
    "logsigmoid": F.logsigmoid, "softshrink": F.softshrink, "neg": torch.neg, "abs": torch.abs,
    "square": torch.square, "clamp": lambda x: x.clamp(-1, 2), "clamp_min": lambda x: x.clamp_min(-0.5),
    "clip": lambda x: x.clip(max=1.5), "exp": lambda x: torch.exp(x.clamp(max=2)), "sin": torch.sin, "cos": torch.cos,
    "expm1": lambda x: torch.expm1(-x.abs()), "erf": torch.erf, "pow": lambda x: x**2, "sign": torch.sign,
    "binary sign": BinaryActivation().forward, "contiguous": lambda x: x.contiguous(), "clone": torch.clone,
    "detached sum": lambda x: x + x.detach(), "to": lambda x: x.to(x.dtype), "plus 2": lambda x: x + 2,
    "2 minus": lambda x: 2 - x, "times 3": lambda x: 3 * x, "by 4": lambda x: x / 4, "twice": lambda x: x + x,
    "add with alpha": lambda x: torch.add(x, 2, alpha=3), "in place": lambda x: x.clone().mul_(0.5).add_(1),
    "relu_": lambda x: F.relu(x, inplace=True), "iadd": lambda x: operator.iadd(x, 1),
}  # fmt: skip
UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1), "softmax over channels": lambda x: x.softmax(1), "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, -1), "cumsum": lambda x: x.cumsum(1), "round": torch.round,
    "over one plus": lambda x: 2 / (1 + x.abs()), "expand": lambda x: x[:, :1].expand_as(x),
    "stack": lambda x: torch.stack([x, -x], 1).amax(1), "maximum": lambda x: torch.maximum(x, x.mean(1, keepdim=True)),
    "sum": lambda x: x - x.sum(1, keepdim=True) / x.shape[1], "where": lambda x: torch.where(x > 0, x, x / 2),
    "glu": lambda x: F.glu(torch.cat([x, x], 1), 1), "index": lambda x: x[:, [0, -1]],
}  # fmt: skip
MODULES = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU,
    BinaryActivation, nn.Identity,
)  # fmt: skip
JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "+=": lambda a, b: operator.iadd(a.clone(), b),
    "add with alpha": lambda a, b: torch.add(a, b, alpha=3), "sub with alpha": lambda a, b: torch.sub(a, b, alpha=2),
    "over": lambda a, b: a / (1 + b.abs()), "maximum": torch.maximum,
}  # fmt: skip
