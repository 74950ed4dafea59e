"""Scripts that run in a process of their own, where a crash is an exit status and a hang ends."""

from __future__ import annotations

import subprocess
import sys


def run_apart(script: str, *arguments: object, seconds: int = 240) -> str:
    """The output of a Python script in a process of its own, where a crash is an exit status."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


NETWORK = """
import contextlib, torch
from torch import nn
import tombola as tb
from tombola.errors import TombolaError
from tombola.deploy.kernels.gemv.gaps import Coding
from tombola.deploy.kernels.sparse.choices import Choices, Flat, Split
from tombola.deploy.plan import RegionPlan, Plan

def network(seed=0):
    draw = torch.Generator().manual_seed(seed)
    with torch.device("cpu"):
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)).float()
    with torch.no_grad():
        for p in model.parameters():
            values = torch.randn(p.shape, generator=draw, dtype=torch.float32, device="cpu")
            p.copy_(values * (values.abs() > 0.8))
    return model.eval()

x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
CHOICES = Choices(Split("rows", 1), {"relu": Flat(8), "linear": Coding(4, 1, False)})
PLAN = Plan(1, ((1, 1, 8, 8),), (RegionPlan(("0", "3"), "native", CHOICES),))
model = network()
want = model(x).detach()

@contextlib.contextmanager
def dtype(kind):
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

@contextlib.contextmanager
def strict():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)

@contextlib.contextmanager
def device(kind):
    torch.set_default_device(kind)
    try:
        yield
    finally:
        torch.set_default_device(None)

SETTINGS = {
    "bfloat16": lambda: dtype(torch.bfloat16), "float64": lambda: dtype(torch.float64), "meta": lambda: device("meta"),
    "with meta": lambda: torch.device("meta"), "strict": strict, "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
}
"""
