"""Small networks drawn at random, with zeros in their weights: what `deploy` gives must equal them, or be refused.

Layers, pools along odd axes, transposes, norms, residuals, concatenations, shared modules, views, writes in place,
state, hooks, random numbers, outputs of several kinds; an example of zeros, ones or normal values. Compared are fresh
inputs at the example's batch size and at others, twice in a row at the same state of the global generators. A wrong
output fails the fuzzer; a TombolaError of one line does not, nor do inputs that the network itself refuses.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.compact.compare import EQUAL, difference
from tombola.deploy.deploy import deploy
from tombola.errors import TombolaError

Step = Callable[[Any, Tensor], Tensor]


class Drawn(nn.Module):
    """Steps one after the other, and a function that makes the output of all their values."""

    def __init__(self, draw: random.Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.register_buffer("count", torch.zeros(()))
        self.kept: list[Any] = []
        self.steps: list[tuple[str, Step]] = []
        x = torch.randn(3, *shape)
        for _ in range(draw.randint(2, 6)):
            name, step = self._step(draw, x)
            with torch.no_grad():
                try:
                    y = step(self, x.clone())
                except Exception:  # a step that does not fit here
                    continue
            if not isinstance(y, Tensor) or not 1 <= y.dim() <= 4 or not 0 < y.numel() <= 4000 or y.dtype != x.dtype:
                continue
            self.steps.append((name, step))
            x = y
        self.end = draw.choice(list(ENDS))
        self.count.zero_()
        self.kept.clear()

    def forward(self, x: Tensor) -> Any:
        first = x
        for _, step in self.steps:
            x = step(self, x)
        return ENDS[self.end](self, x, first)

    def extra_repr(self) -> str:
        return f"steps={[name for name, _ in self.steps]}, end={self.end!r}"

    def _step(self, draw: random.Random, x: Tensor) -> tuple[str, Step]:
        kind = draw.choice(("module", "module", "module", "function", "function", "shared", "residual", "cat"))
        if kind == "function":
            name = draw.choice(list(FUNCTIONS))
            return name, FUNCTIONS[name]
        if kind == "shared" and len(self.parts):
            part = draw.randrange(len(self.parts))
            return f"part {part} again", lambda net, x: net.parts[part](x)
        made = _module(draw, x)
        part = len(self.parts)
        self.parts.append(made)
        if kind == "residual":
            return f"residual {made}", lambda net, x: F.relu(net.parts[part](x) + x)
        if kind == "cat":
            axis = draw.choice((1, -1))
            return f"cat {axis} {made}", lambda net, x: torch.cat([net.parts[part](x), x], axis)
        return str(made), lambda net, x: net.parts[part](x)


def _module(draw: random.Random, x: Tensor) -> nn.Module:
    """A module that fits a value, its weights thinned and sometimes hooked."""
    width, last, axes = x.shape[min(1, x.dim() - 1)], x.shape[-1], x.dim()
    out = draw.randint(1, 9)
    groups = draw.choice([g for g in range(1, width + 1) if width % g == 0 and width > 1] or [1])
    choices: list[Callable[[], nn.Module]] = [
        lambda: nn.Linear(last, draw.choice((out, last))), lambda: nn.Linear(last, out, bias=False),
        nn.ReLU, lambda: nn.ReLU(inplace=True), nn.GELU, nn.Identity, nn.Dropout, nn.Flatten, nn.Sigmoid,
        lambda: nn.Softmax(-1), lambda: nn.LayerNorm(last), lambda: nn.MaxPool1d(3, 1, 1), lambda: nn.AvgPool1d(2, 1),
        lambda: nn.AdaptiveAvgPool1d(2), lambda: nn.BatchNorm1d(width), lambda: nn.Unflatten(1, (1, -1)),
        lambda: nn.BatchNorm1d(width, track_running_stats=False),
    ]  # fmt: skip
    if axes == 3:
        choices += [lambda: nn.Conv1d(width, out, 3, padding=draw.randint(0, 1)), lambda: nn.MaxPool2d(2)] * 2
    if axes == 4:
        choices += [
            lambda: nn.Conv2d(width, draw.choice((out, width)), draw.choice((1, 3)), padding=draw.randint(0, 1)),
            lambda: nn.Conv2d(width, 2 * groups, 3, padding=1, groups=groups), lambda: nn.MaxPool2d(2),
            lambda: nn.AvgPool2d(2), lambda: nn.AdaptiveAvgPool2d(1), lambda: nn.BatchNorm2d(width),
            lambda: nn.MaxPool2d(3, 1, 1), lambda: nn.MaxPool3d(2), lambda: nn.AdaptiveMaxPool2d((1, 2)),
        ] * 2  # fmt: skip
    made = draw.choice(choices)()
    with torch.no_grad():
        for name, value in (*made.named_parameters(), *made.named_buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value))
        for row in (0, 1):
            if isinstance(weight := getattr(made, "weight", None), Tensor) and weight.dim() > row:
                gone = torch.rand(weight.shape[row]) < 0.4
                weight[(slice(None),) * row + (gone,)] = 0
                if row == 0 and isinstance(made.bias, Tensor) and draw.random() < 0.5:
                    made.bias[gone] = draw.choice((0.0, 1.0, -1.0))
    if draw.random() < 0.06:
        made.register_forward_hook(lambda module, inputs, output: output + 1)
    elif draw.random() < 0.06:
        made.forward = lambda x: x * 3  # type: ignore[method-assign]
    return made


def _in_data(net: Any, x: Tensor) -> Tensor:
    y = x * 1
    y.data.add_(1)
    return y


def _set_data(net: Any, x: Tensor) -> Tensor:
    y = x * 1
    y.data = x + 1
    return y


def _out(net: Any, x: Tensor) -> Tensor:
    y = x * 1
    torch.add(y, 1, out=y)
    return y


def _viewed(net: Any, x: Tensor) -> Tensor:
    y = x * 1
    y.transpose(0, -1)[0].mul_(0.5)
    return y


def _counted(net: Any, x: Tensor) -> Tensor:
    net.count += 1
    return x * net.count


def _averaged(net: Any, x: Tensor) -> Tensor:
    net.count.mul_(0.5).add_(x.mean())
    return x + net.count


def _listed(net: Any, x: Tensor) -> Tensor:
    net.kept.append(0)
    return x * len(net.kept)


FUNCTIONS: dict[str, Step] = {
    "relu": lambda net, x: F.relu(x),
    "abs": lambda net, x: x.abs(),
    "plus": lambda net, x: x + 1,
    "iadd": lambda net, x: x.mul_(2),
    "transpose": lambda net, x: x.transpose(1, -1),
    "permute": lambda net, x: x.movedim(1, -1),
    "flatten": lambda net, x: x.flatten(1),
    "view": lambda net, x: x.contiguous().view(x.size(0), -1),
    "reshape": lambda net, x: x.reshape(len(x), -1),
    "view of the batch": lambda net, x: x.reshape(1, -1),
    "view by features": lambda net, x: x.reshape(-1, x.shape[-1]),
    "squeeze": lambda net, x: x.squeeze(),
    "squeeze last": lambda net, x: x.squeeze(-1),
    "unsqueeze": lambda net, x: x.unsqueeze(1),
    "mean": lambda net, x: x.mean(-1),
    "mean kept": lambda net, x: x.mean(-1, keepdim=True),
    "mean of maps": lambda net, x: x.mean((2, 3)),
    "amax": lambda net, x: x.amax(2),
    "max pool": lambda net, x: F.max_pool1d(x, 2, 1),
    "max pool 2d": lambda net, x: F.max_pool2d(x, 3, 1, 1),
    "mean pool": lambda net, x: F.avg_pool1d(x, 3, 1, 1),
    "adaptive": lambda net, x: F.adaptive_avg_pool1d(x, 3),
    "softmax": lambda net, x: x.softmax(1),
    "half": lambda net, x: x.chunk(2, 1)[0],
    "first": lambda net, x: x[:, :1] + x,
    "times itself": lambda net, x: x * x,
    "flip": lambda net, x: x.flip(1),
    "dropout": lambda net, x: F.dropout(x, 0.5, training=True),
    "noise": lambda net, x: x + torch.randn_like(x),
    "python's noise": lambda net, x: x * random.random(),
    "by the batch": lambda net, x: x - x.mean(0),
    "by its size": lambda net, x: x * x.shape[0],
    "if a tensor": lambda net, x: x if isinstance(x, Tensor) else x * 2,
    "root": lambda net, x: x.sqrt(),
    "in data": _in_data,
    "set data": _set_data,
    "out": _out,
    "viewed": _viewed,
    "counted": _counted,
    "averaged": _averaged,
    "listed": _listed,
}

ENDS: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "as it is": lambda net, x, first: x,
    "as it was": lambda net, x, first: x * 1,
    "a dict": lambda net, x, first: {"x": x, "more": (x.relu(), [x.mean(-1)])},
    "a tuple": lambda net, x, first: (x, first, None),
    "integers": lambda net, x, first: (x.argmax(-1), x > 0),
    "with its input": lambda net, x, first: (x.sum(-1), first),
}


def networks(seed: int, count: int) -> Iterator[tuple[nn.Module, tuple[int, ...], random.Random]]:
    """`count` networks, the shape of one example, and what draws on."""
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        torch.manual_seed(draw.randrange(2**31))
        shape = draw.choice(((8,), (6,), (5, 8), (4, 6), (2, 6, 6), (3, 5, 5)))
        net = Drawn(draw, shape)
        if draw.random() < 0.1:
            net.register_forward_hook(lambda module, inputs, output: output)
        yield net.train(draw.random() < 0.5), shape, draw


def fuzz(folder: Path, seed: int, count: int) -> None:
    """A fifth as many networks as `count` says, since each is compiled."""
    with _kept():
        for number, (net, shape, draw) in enumerate(networks(seed, -(-count // 5))):
            batch = draw.choice((1, 2, 4, 9))
            kind = draw.choice((torch.zeros, torch.ones, torch.randn))
            said = f"network {number} of seed {seed}, batch {batch}, {kind.__name__}: {net}"
            _check(net, kind(batch, *shape), said)


def _check(net: nn.Module, example: Tensor, said: str) -> None:
    reference = copy.deepcopy(net).eval()
    before = copy.deepcopy(net.state_dict())
    random_states = torch.get_rng_state(), random.getstate()
    try:
        deployed = deploy(net, example, threads=1, engines=(), clock=_Untimed())
    except TombolaError as error:
        if len(str(error).splitlines()) > 1:
            raise AssertionError(f"{error} {said}") from error
        return
    assert torch.equal(random_states[0], torch.get_rng_state()), said
    assert random_states[1] == random.getstate(), said
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), said
    for batch in (len(example), 1, 3, 8, 0):
        inputs = torch.randn(batch, *example.shape[1:])
        for seed in (1, 2):
            try:
                want = _call(reference, inputs, seed)
            except Exception:  # the network itself refuses
                _tried(deployed, inputs, seed)
                break
            try:
                have = _call(deployed, inputs, seed)
            except TombolaError as error:
                if batch == len(example):
                    raise AssertionError(f"refused its own batch: {error}; {said}") from error
                break
            off = difference(want, have)
            assert off <= EQUAL, f"off by {off:.1e} at batch {batch}, call {seed}; {said}\n{deployed.report}"


def _tried(deployed: nn.Module, inputs: Tensor, seed: int) -> None:
    with contextlib.suppress(Exception):
        _call(deployed, inputs, seed)


def _call(network: nn.Module, inputs: Tensor, seed: int) -> Any:
    torch.manual_seed(seed)
    random.seed(seed)
    with torch.no_grad():
        return network(inputs.clone())


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    states = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])


class _Untimed:
    """Native kernels win, with the choices that are guessed: nothing is measured."""

    def measure(
        self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None
    ) -> dict[Any, list[float]]:
        return {name: [i + 1.0] for i, name in enumerate(runs)}

    def fastest(self, runs: Sequence[Any], *, seconds: float, rounds: int) -> list[float]:
        return [i + 1.0 for i in range(len(runs))]

    def now(self) -> float:
        return 0.0
