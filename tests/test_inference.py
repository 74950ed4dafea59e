"""What a deployed network is not for is refused in one line; whatever else is done with it gives the right numbers."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from clocks import NATIVE, InOrder
from tombola.deploy.deploy import Deployed, deploy
from tombola.errors import TombolaError


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


class InTorch(InOrder):
    """Native kernels are the slowest."""

    def measure(
        self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None
    ) -> dict[Any, list[float]]:
        return {name: [3.0 if name == "native" else 2.0] for name in runs}


@pytest.fixture(scope="module", params=["native", "torch"])
def fast(model: nn.Module, request: pytest.FixtureRequest) -> Deployed:
    """In native kernels, or in torch alone."""
    deployed = deploy(model, torch.randn(2, 4), threads=1, clock=NATIVE if request.param == "native" else InTorch())
    assert deployed.plan.parts[0].engine == request.param
    return deployed


class Outer(nn.Module):
    """A deployed network as a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.before, self.part = nn.Linear(4, 4), part

    def forward(self, x: Tensor) -> Any:
        return self.part(self.before(x))


def in_forward_mode(fast: Deployed, x: Tensor) -> None:
    with forward_ad.dual_level():
        fast(forward_ad.make_dual(x, torch.ones_like(x)))


def under_autocast(fast: Deployed, x: Tensor) -> None:
    with torch.autocast("cpu"):
        fast(x)


REFUSED: dict[str, tuple[Callable[[Deployed, Tensor], object], str]] = {
    "jit.trace": (lambda fast, x: torch.jit.trace(fast, x), "or compiled; give `.compacted`"),
    "jit.trace of the whole": (lambda fast, x: torch.jit.trace(Outer(fast), x), "cannot be traced"),
    "jit.script": (lambda fast, x: torch.jit.script(fast), "cannot be scripted"),
    "jit.script of the whole": (lambda fast, x: torch.jit.script(Outer(fast)), "cannot be scripted"),
    "export": (lambda fast, x: torch.export.export(fast, (x,)), "cannot be traced, exported"),
    "fx": (lambda fast, x: torch.fx.symbolic_trace(fast), "cannot be traced"),
    "make_fx": (lambda fast, x: make_fx(fast)(x), "cannot be traced"),
    "vmap": (lambda fast, x: torch.vmap(fast)(x[None]), "transformed by torch.func"),
    "grad": (lambda fast, x: torch.func.grad(lambda y: fast(y).sum())(x), "transformed by torch.func"),
    "jvp": (lambda fast, x: torch.func.jvp(fast, (x,), (x,)), "transformed by torch.func"),
    "dual numbers": (in_forward_mode, "requires a gradient"),
    "autograd": (lambda fast, x: fast(x.clone().requires_grad_()), "requires a gradient"),
    "autograd of the whole": (lambda fast, x: Outer(fast)(x), "requires a gradient"),
    "autocast": (under_autocast, "autocast is on"),
    "pickle": (lambda fast, x: pickle.dumps(fast), "cannot be pickled; save its plan and the ticket"),
    "save": (lambda fast, x: torch.save(fast, io.BytesIO()), "cannot be pickled"),
    "double": (lambda fast, x: fast.double(), "stays float32 on cpu, and cannot become float64 on cpu"),
    "bfloat16": (lambda fast, x: fast.to(torch.bfloat16), "cannot become bfloat16"),
    "another device": (lambda fast, x: fast.to("meta"), "cannot become float32 on meta"),
    "a cast of the whole": (lambda fast, x: Outer(fast).half(), "cannot become float16"),
    "state_dict": (lambda fast, x: fast.state_dict(), "weights in its kernels"),
    "state_dict of the whole": (lambda fast, x: Outer(fast).state_dict(), "weights in its kernels"),
    "load_state_dict": (lambda fast, x: fast.load_state_dict({}), "load the state_dict into the model"),
    "load into the whole": (lambda fast, x: Outer(fast).load_state_dict({}, strict=False), "into the model"),
    "deploy": (lambda fast, x: deploy(fast, x), "is deployed already; deploy the ticket or model"),
    "deploy of the whole": (lambda fast, x: deploy(Outer(fast), x), "is deployed already"),
}  # fmt: skip


@pytest.mark.parametrize("use", REFUSED)
def test_what_it_is_not_for_is_refused(use: str, fast: Deployed) -> None:
    call, said = REFUSED[use]
    with pytest.raises(TombolaError) as caught:
        call(fast, torch.randn(2, 4))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def without_gradients(call: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return call()


ALLOWED: dict[str, Callable[[Deployed, Tensor], Any]] = {
    "within no_grad": lambda fast, x: without_gradients(lambda: fast(x.clone().requires_grad_())),
    "of a parameter": lambda fast, x: without_gradients(lambda: fast(nn.Parameter(x))),
    "autocast off": lambda fast, x: torch.autocast("cpu", enabled=False)(fast)(x),
    "train": lambda fast, x: fast.train()(x),
    "deep copy": lambda fast, x: copy.deepcopy(fast)(x),
    "copy": lambda fast, x: copy.copy(fast)(x),
    "to the same": lambda fast, x: fast.to("cpu").float().cpu().to(torch.float32)(x),
    "another layout": lambda fast, x: fast.to(memory_format=torch.channels_last)(x),
    "empty": lambda fast, x: fast.to_empty(device="cpu")(x),
    "functional": lambda fast, x: torch.func.functional_call(fast, {}, (x,)),
    "no gradients of weights": lambda fast, x: fast.requires_grad_()(x),
}


@pytest.mark.parametrize("use", ALLOWED)
def test_other_uses_give_the_same(use: str, fast: Deployed, model: nn.Module) -> None:
    x = torch.randn(2, 4)
    found = ALLOWED[use](fast, x)
    assert not found.requires_grad
    torch.testing.assert_close(found, model(x).detach())
    torch.testing.assert_close(fast(x), model(x).detach())
