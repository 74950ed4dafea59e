"""Small networks drawn at random from the operations that are read and deployed, and some that neither knows."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network_parts import (
    FUNCTIONS,
    JOINS,
    MODULES,
    UNKNOWN,
    Applied,
    Excite,
    FunctionalConv,
    FunctionalDropout,
    FunctionalLinear,
    FunctionalNorm,
    Merged,
    Network,
)
from tombola.nn.binary import BinaryActivation, BinaryConv2d, BinaryLinear

_LARGEST, _EXAMPLE = 600, 2  # numbers in one row of a value; rows of the values that the shapes are read from


@dataclass
class Draft:
    """A network in the making: its values for an example of two rows."""

    dice: random.Random
    values: list[Tensor]
    parts: list[nn.Module] = field(default_factory=list)
    reads: list[tuple[int, ...]] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        return self.dice.choice(options)

    def number(self, low: int, high: int) -> int:
        return self.dice.randint(low, high)

    def coin(self) -> bool:
        return self.dice.random() < 0.5

    def add(self, part: nn.Module, *reads: int) -> None:
        """The part, unless it refuses the values or gives none that may go on."""
        part.eval()
        try:
            with torch.no_grad():
                value = part(*(self.values[i].clone() for i in reads))
        except (RuntimeError, ValueError, IndexError):
            return
        if value.dim() in (2, 3, 4, 5) and len(value) == _EXAMPLE and 0 < value[0].numel() <= _LARGEST:
            self.values.append(value)
            self.parts.append(part)
            self.reads.append(reads)

    def step(self) -> None:
        """One more part, or two; after a layer often its norm and activation."""
        at = len(self.values) - 1 if self.number(0, 4) else self.number(0, len(self.values) - 1)
        x = self.values[at]
        layer = _conv if x.dim() > 2 and self.number(0, 7) else _linear
        kinds = [layer] * 12 + [_norm, _function, _axes, _shape, _join, _join, _join, _cat, _cat, _again, _other]
        if x.dim() > 2:
            kinds += [_pool, _pool, _resized]
        if x.dim() == 3:
            kinds += [_merged]
        kind = self.pick(*kinds)
        kind(self, at, x)
        for more in (_norm, _function) if kind is layer else ():
            if self.number(0, 2) and len(self.values) - 1 > at:
                more(self, len(self.values) - 1, self.values[-1])

    def head(self) -> None:
        """Most networks end in a layer, which leaves the channels before it free to go."""
        if self.number(0, 3):
            if self.coin():
                self.add(nn.Flatten(), len(self.values) - 1)
            _linear(self, len(self.values) - 1, self.values[-1])


def _linear(draft: Draft, at: int, x: Tensor) -> None:
    layer = nn.Linear(x.shape[-1], draft.number(1, 9), bias=draft.coin())
    match draft.number(0, 5):
        case 0:
            draft.add(FunctionalLinear(layer), at)
        case 1:
            binary = BinaryLinear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            draft.add(nn.Sequential(BinaryActivation(), binary), at)
        case _:
            draft.add(layer, at)


def _merged(draft: Draft, at: int, x: Tensor) -> None:
    draft.add(Merged(nn.Linear(x.shape[-1], draft.number(1, 6))), at)


def _conv(draft: Draft, at: int, x: Tensor) -> None:
    n, channels = x.dim() - 2, x.shape[1]
    groups = draft.pick(*(g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0))
    out = groups * draft.number(1, max(1, 10 // groups))
    padding = draft.pick(0, 0, 1, 1, 2, "same", "valid")
    moves = {
        "stride": 1 if padding == "same" else draft.pick(1, 1, 2),
        "padding": padding,
        "dilation": draft.pick(1, 1, 2),
        "groups": groups,
        "bias": draft.coin(),
        "padding_mode": draft.pick("zeros", "zeros", "zeros", "zeros", "reflect", "replicate", "circular"),
    }
    kernel = tuple(draft.number(1, 3) for _ in range(n))
    form = draft.number(0, 5)
    if form == 0 and n == 2 and not isinstance(padding, str) and moves["padding_mode"] == "zeros":
        draft.add(nn.Sequential(BinaryActivation(), BinaryConv2d(channels, out, kernel, **moves)), at)
        return
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1](channels, out, kernel, **moves)
    draft.add(FunctionalConv(layer) if form == 1 else layer, at)


def _norm(draft: Draft, at: int, x: Tensor) -> None:
    channels = x.shape[1]
    batch = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[x.dim() - 2]
    match draft.number(0, 11):
        case 0:
            draft.add(FunctionalNorm(channels), at)
        case 1:
            draft.add(nn.GroupNorm(draft.pick(*(g for g in (1, 2, channels) if channels % g == 0)), channels), at)
        case 2:
            draft.add(nn.LayerNorm(x.shape[-1]), at)
        case _:
            draft.add(batch(channels, affine=draft.number(0, 4) > 0), at)


def _function(draft: Draft, at: int, x: Tensor) -> None:
    if draft.number(0, 3) == 0:
        draft.add(draft.pick(*MODULES)(), at)
        return
    name = draft.pick(*FUNCTIONS)
    draft.add(Applied(name, FUNCTIONS[name]), at)


def _other(draft: Draft, at: int, x: Tensor) -> None:
    """Dropout, factors of channels, and what nobody knows."""
    channels = x.shape[1]
    match draft.number(0, 4):
        case 0:
            draft.add(draft.pick(nn.Dropout(0.5), FunctionalDropout()), at)
        case 1 if x.dim() == 4:
            draft.add(Excite(channels, draft.number(1, 3)), at)
        case 2 if x.dim() == 4:
            draft.add(nn.ConvTranspose2d(channels, draft.number(1, 4), 2), at)
        case _:
            name = draft.pick(*UNKNOWN)
            draft.add(Applied(name, UNKNOWN[name]), at)


def _pool(draft: Draft, at: int, x: Tensor) -> None:
    n = x.dim() - 2
    space = x.shape[2:]
    form = draft.pick("max", "max", "avg", "avg", "adaptive", "adaptive", "adaptive max")
    if form.startswith("adaptive"):
        kinds = [nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d]
        if form == "adaptive max":
            kinds = [nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d]
        sizes = tuple(draft.pick(1, 1, draft.number(1, size), size) for size in space)
        draft.add(kinds[n - 1](sizes if n > 1 else sizes[0]), at)
        return
    kernel = tuple(draft.number(1, min(3, size)) for size in space)
    moves: dict[str, Any] = {
        "stride": draft.pick(None, 1, 2),
        "padding": draft.pick(0, 0, 1) if min(kernel) > 1 else 0,
        "ceil_mode": draft.number(0, 3) == 0,
    }
    if form == "max":
        moves["dilation"] = draft.pick(1, 1, 1, 2)
        kinds = [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d]
    else:
        moves["count_include_pad"] = draft.coin()
        if n > 1:
            moves["divisor_override"] = draft.pick(None, None, None, 3)
        kinds = [nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d]
    draft.add(kinds[n - 1](kernel if n > 1 else kernel[0], **moves), at)


def _axes(draft: Draft, at: int, x: Tensor) -> None:
    """Means, parts and orders of axes."""
    n = x.dim()
    axis = draft.number(1, n - 1)
    if draft.coin():
        axis -= n
    size, keep = x.shape[axis], draft.coin()
    match draft.number(0, 8):
        case 0:
            axes = draft.pick((axis,), tuple(range(2, n)) or (1,), tuple(range(1, n)))
            draft.add(Applied(f"mean {axes} {keep}", lambda x: x.mean(axes, keepdim=keep)), at)
        case 1:
            draft.add(Applied(f"amax {axis} {keep}", lambda x: x.amax(axis, keepdim=keep)), at)
        case 2:
            order = draft.dice.sample(range(1, n), n - 1)
            draft.add(Applied(f"permute {order}", lambda x: x.permute(0, *order)), at)
        case 3:
            other = draft.number(1, n - 1)
            draft.add(Applied(f"transpose {axis} {other}", lambda x: x.transpose(axis, other)), at)
        case 4:
            first, step = draft.number(0, size - 1), draft.pick(1, 1, 2)
            last = draft.number(first + 1, size)
            index = (slice(None),) * (axis % n) + (slice(first, last, step),)
            draft.add(Applied(f"slice {axis} {first}:{last}:{step}", lambda x: x[index]), at)
        case 5:
            which = draft.number(-size, size - 1)
            draft.add(Applied(f"select {axis} {which}", lambda x: x.select(axis, which)), at)
        case 6:
            pieces = draft.number(1, 3)
            for which in range(min(pieces, size)):
                draft.add(
                    Applied(f"chunk {pieces} {axis} {which}", lambda x, which=which: x.chunk(pieces, axis)[which]), at
                )
        case 7:
            sizes = [first := draft.number(1, size), size - first]
            for which in (0, 1):
                draft.add(
                    Applied(f"split {sizes} {axis} {which}", lambda x, which=which: x.split(sizes, axis)[which]), at
                )
        case 8:
            draft.add(Applied(f"swap halves {axis}", lambda x: torch.cat(x.chunk(2, axis)[::-1], axis)), at)


def _shape(draft: Draft, at: int, x: Tensor) -> None:
    n = x.dim()
    first = draft.number(1, n - 1)
    last = draft.number(first, n - 1)
    size = x.shape[first]
    factors = draft.pick(*((a, size // a) for a in range(1, size + 1) if size % a == 0))
    match draft.number(0, 7):
        case 0 | 1:
            draft.add(Applied(f"flatten {first} {last}", lambda x: x.flatten(first, last)), at)
        case 2:
            draft.add(nn.Flatten(), at)
        case 3:
            draft.add(Applied("view", lambda x: x.reshape(x.size(0), -1)), at)
        case 4:
            draft.add(Applied(f"unflatten {first} {factors}", lambda x: x.unflatten(first, factors)), at)
        case 5:
            draft.add(Applied(f"unsqueeze {first}", lambda x: x.unsqueeze(first)), at)
        case 6:
            ones = [i for i in range(1, n) if x.shape[i] == 1] or [first]
            axis = draft.pick(*ones, ones[0] - n)
            draft.add(Applied(f"squeeze {axis}", lambda x: x.squeeze(axis)), at)
        case 7:
            draft.add(
                Applied(
                    f"shuffle {first} {factors}",
                    lambda x: x.unflatten(first, factors).transpose(first, first + 1).flatten(first, first + 1),
                ),
                at,
            )


def _resized(draft: Draft, at: int, x: Tensor) -> None:
    n = x.dim() - 2
    reach = [draft.number(0, 2) for _ in range(2 * draft.number(1, n))]
    match draft.number(0, 3):
        case 0:
            draft.add(Applied("nearest", lambda x: F.interpolate(x, scale_factor=2)), at)
        case 1 if n == 2:
            align = draft.coin()
            resize = lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", align_corners=align)  # noqa: E731
            draft.add(Applied(f"bilinear {align}", resize), at)
        case 2:
            mode = draft.pick("reflect", "replicate", "circular")
            draft.add(Applied(f"pad {reach} {mode}", lambda x: F.pad(x, reach, mode)), at)
        case _:
            value = draft.pick(0, 0, 0, 1.5)
            draft.add(Applied(f"pad {reach} {value}", lambda x: F.pad(x, reach, value=value)), at)


def _spread(one: torch.Size, other: torch.Size) -> bool:
    """Whether values of these shapes can be added, axis by axis."""
    return len(one) == len(other) and all(a == b or 1 in (a, b) for a, b in zip(one, other, strict=True))


def _join(draft: Draft, at: int, x: Tensor) -> None:
    """With an earlier value that fits it, of size 1 along some axes too."""
    fitting = [i for i, value in enumerate(draft.values) if i != at and _spread(value.shape, x.shape)]
    if fitting:
        name = draft.pick("+", "+", "+", *JOINS)
        pair = (at, draft.pick(*fitting))
        draft.add(Applied(name, JOINS[name]), *(pair if draft.coin() else pair[::-1]))


def _cat(draft: Draft, at: int, x: Tensor) -> None:
    axis = draft.number(1, x.dim() - 1)

    def rest(value: Tensor) -> list[int]:
        return [size for i, size in enumerate(value.shape) if i != axis]

    fitting = [i for i, value in enumerate(draft.values) if value.dim() == x.dim() and rest(value) == rest(x)]
    others = [draft.pick(*fitting) for _ in range(draft.number(1, 2))]
    at_end = axis - x.dim() if draft.coin() else axis
    draft.add(Applied(f"cat {at_end}", lambda *values: torch.cat(values, at_end)), at, *others)


def _again(draft: Draft, at: int, x: Tensor) -> None:
    """A part that was there before: one module, called twice; or its weight in another layer."""
    earlier = [part for part in draft.parts if not isinstance(part, Applied)]
    if not earlier:
        return
    part = draft.pick(*earlier)
    if isinstance(part, nn.Linear) and type(part) is nn.Linear and draft.coin():
        tied = nn.Linear(part.in_features, part.out_features)
        tied.weight = part.weight
        part = tied
    draft.add(part, at)


# ---- whole networks --------------------------------------------------------------------------------------------------

SHAPES = ((5,), (4, 7), (3, 5, 4), (2, 6, 6), (3, 7, 7), (2, 3, 4, 3))


def network(seed: int, steps: int) -> tuple[Network, tuple[Tensor, ...]]:
    """A network of about that many parts, with zeros and dead units, and inputs of two rows."""
    dice, g = random.Random(seed), torch.Generator().manual_seed(seed)
    shapes = dice.choices(SHAPES, k=dice.choice([1, 1, 1, 2]))
    inputs = [torch.randn(_EXAMPLE, *shape, generator=g) for shape in shapes]
    draft = Draft(dice, list(inputs))
    for _ in range(steps):
        draft.step()
    draft.head()
    gives, form = [len(draft.values) - 1], dice.choice(["tensor", "tensor", "tensor", "tuple", "dict"])
    if form != "tensor":
        gives.append(dice.randrange(len(draft.values)))
    made = Network(draft.parts, draft.reads, gives, form)
    fill(made, g, density=dice.choice([0.3, 0.6, 1.0]), dead=dice.choice([0.0, 0.2, 0.4, 0.6]))
    return made.train(dice.random() < 0.5), tuple(inputs)


def fill(network: nn.Module, g: torch.Generator, density: float, dead: float) -> None:
    """Drawn values: weights 0 but for a share, rows and columns of 0, norms as after training."""
    binary = {id(m.weight) for m in network.modules() if isinstance(m, BinaryLinear | BinaryConv2d)}

    def few(share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=g) < share

    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if not value.is_floating_point():
                continue
            if value.dim() < 2:
                statistic = name.endswith("running_var")
                value.copy_(torch.rand(value.shape, generator=g) + 0.5 if statistic else drawn(value, g, 1.0))
                if not statistic:
                    value[few(dead / 2, *value.shape)] = 0
                continue
            value.copy_(drawn(value, g, 1 / math.sqrt(value[0].numel())))
            if id(value) in binary:
                value.copy_(value.sign() / 2)
            value.mul_(few(density, *value.shape))
            value[few(dead, len(value))] = 0
            value[:, few(dead / 2, value.shape[1])] = 0


def drawn(like: Tensor, g: torch.Generator, scale: float) -> Tensor:
    return scale * torch.randn(like.shape, generator=g)
