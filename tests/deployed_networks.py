"""Networks whose outputs hang on more than weights and inputs, for the tests of deploy and compact."""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def thinned(model: nn.Module, seed: int = 0) -> nn.Module:
    """Some rows and columns of every weight at 0, so that compaction has something to remove."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                module.weight[torch.rand(len(module.weight), generator=draw) < 0.4] = 0
                module.weight[:, torch.rand(module.weight.shape[1], generator=draw) < 0.2] = 0
    return model.eval()


class Between(nn.Module):
    """Two layers, and a forward that a test chooses; `state`: buffers by name."""

    def __init__(self, call: Callable[[Any, Tensor], Any], width: int = 16, **state: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.call = nn.Linear(8, 16), nn.Linear(width, 4), call
        self.seen: list[int] = []
        for name, value in state.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def written_data(net: Any, x: Tensor) -> Any:
    y = net.a(x)
    y.data.mul_(2)
    return net.b(y)


def set_data(net: Any, x: Tensor) -> Any:
    y = net.a(x)
    y.data = y * 2
    return net.b(y)


def out_argument(net: Any, x: Tensor) -> Any:
    y = net.a(x)
    torch.mul(y, 3, out=y)
    return net.b(y)


def slope(net: Any, x: Tensor) -> Any:
    """A gradient taken within forward, as force fields do."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(net.b(net.a(x).tanh()).sum(), x)[0].detach()


def copied_into(net: Any, x: Tensor) -> Any:
    net.c.copy_(x.mean() + 1)
    return net.b(net.a(x)) * net.c


def counted(net: Any, x: Tensor) -> Any:
    net.c += 1
    return net.b(net.a(x)) * net.c


def averaged(net: Any, x: Tensor) -> Any:
    net.c.mul_(0.9).add_(x.mean())
    return net.b(net.a(x)) + net.c


def listed(net: Any, x: Tensor) -> Any:
    net.seen.append(1)
    return net.b(net.a(x)) * len(net.seen)


def own_dice(net: Any, x: Tensor) -> Any:
    return net.b(net.a(x)) * random.random()


def branched(net: Any, x: Tensor) -> Any:
    return net.b(net.a(x)) if isinstance(x, Tensor) else net.b(net.a(x)) * 2


def nan_where_negative(net: Any, x: Tensor) -> Any:
    return net.b(net.a(x)).sqrt()


def outputs_of_kinds(net: Any, x: Tensor) -> Any:
    y = net.b(net.a(x).relu())
    return {"logits": y, "best": y.argmax(1), "sure": (y > 0, [y.sum(1).long(), None]), "named": "words"}


def of_hooks(where: str) -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    if where == "on the model":
        net.register_forward_hook(lambda module, inputs, output: output * 2)
    elif where == "before the model":
        net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    elif where == "on a layer":
        net[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return net


def of_own_forward(where: str) -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    if where == "model":
        net.forward = types.MethodType(lambda self, x: nn.Sequential.forward(self, x) * 3, net)  # type: ignore[method-assign]
    elif where == "closure":
        net.forward = lambda x: net[2](net[1](net[0](x))) * 3  # type: ignore[method-assign]
    elif where == "layer":
        net[2].forward = types.MethodType(lambda self, x: nn.Linear.forward(self, x) * 3, net[2])
    else:
        net[1].forward = lambda x: x * 3
    return net


class AlwaysDrops(nn.Dropout):
    """Monte Carlo dropout: it stays on in eval mode."""

    def train(self, mode: bool = True) -> AlwaysDrops:
        super().train(True)
        return self


SHAPE = (4, 8)
ODD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a gradient within forward": (lambda: Between(slope), SHAPE),
    "a pool along the features": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.MaxPool1d(3, 1, 1), nn.Linear(16, 4)), SHAPE,
    ),
    "a mean pool along the features": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.AvgPool1d(3, 1, 1), nn.Linear(16, 4)), (4, 5, 8),
    ),
    "a pool as a function": (lambda: Between(lambda n, x: n.b(F.max_pool1d(n.a(x), 3, 1, 1))), (4, 5, 8)),
    "an adaptive pool": (lambda: Between(lambda n, x: n.b(F.adaptive_avg_pool1d(n.a(x), 12)), 12), (4, 5, 8)),
    "a mean over the features": (lambda: Between(lambda n, x: n.a(x).mean(-1)), (4, 5, 8)),
    "a pool over maps without a batch": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(6), nn.MaxPool2d(2), nn.Linear(8, 4)), (4, 6, 8),
    ),
    "a write into the input": (lambda: Between(lambda n, x: x.flatten(1).mul_(2)), SHAPE),
    "a write into the input before layers": (lambda: Between(lambda n, x: n.b(n.a(x.mul_(2)))), SHAPE),
    "a write into .data": (lambda: Between(written_data), SHAPE),
    "another .data": (lambda: Between(set_data), SHAPE),
    "an out argument": (lambda: Between(out_argument), SHAPE),
    "a buffer that is copied into": (lambda: Between(copied_into, c=torch.tensor(0.0)), SHAPE),
    "a buffer that counts": (lambda: Between(counted, c=torch.tensor(0.0)), SHAPE),
    "a running mean in eval mode": (lambda: Between(averaged, c=torch.zeros(())), SHAPE),
    "a list that grows": (lambda: Between(listed), SHAPE),
    "functional dropout that is on": (
        lambda: Between(lambda n, x: n.b(F.dropout(n.a(x), 0.5, training=True))), SHAPE,
    ),
    "noise": (lambda: Between(lambda n, x: n.b(n.a(x) + torch.randn(16))), SHAPE),
    "Python's random numbers": (lambda: Between(own_dice), SHAPE),
    "Monte Carlo dropout": (lambda: nn.Sequential(nn.Linear(8, 16), AlwaysDrops(), nn.Linear(16, 4)), SHAPE),
    "a question that a trace answers otherwise": (lambda: Between(branched), SHAPE),
    "NaN": (lambda: Between(nan_where_negative), SHAPE),
    "outputs of many kinds": (lambda: Between(outputs_of_kinds), SHAPE),
    **{f"a hook {where}": ((lambda where=where: of_hooks(where)), SHAPE)
       for where in ("on the model", "before the model", "on a layer")},
    **{f"a forward of the instance: {where}": ((lambda where=where: of_own_forward(where)), SHAPE)
       for where in ("model", "closure", "layer", "dropout")},
    "squeezing": (lambda: Between(lambda n, x: n.b(n.a(x).squeeze())), (1, 8)),
    "a view that merges the batch": (lambda: Between(lambda n, x: n.b(n.a(x)).view(1, -1)), (1, 8)),
    "features of all rows": (lambda: Between(lambda n, x: n.b(n.a(x)).view(1, -1).sum(1)), (1, 3, 8)),
    "maps flattened over the batch": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(0), nn.Unflatten(0, (-1, 12)), nn.Linear(12, 3)),
        (1, 2, 4, 4),
    ),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 4)), SHAPE,
    ),
    "a sum over the batch": (lambda: Between(lambda n, x: n.b(n.a(x)) - n.a(x).sum(0)[:4]), SHAPE),
}  # fmt: skip
