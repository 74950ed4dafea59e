"""A deployment that runs out of memory or is interrupted leaves everything as it was, and the next one works."""

from __future__ import annotations

import copy
import itertools
import random
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tombola as tb
from clocks import NATIVE
from interruptions import Interrupt, named
from tombola.compact.compare import EQUAL, difference


def network() -> nn.Module:
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3)
    )
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
        model[0].weight[1] = 0
    return model.train()


def state(model: nn.Module) -> dict[str, Any]:
    """What a deployment works on or within: the model, torch's settings and classes, generators, temporary files."""
    numbers: Any = np.random.get_state()[1]
    return {
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
        "kinds": [(name, type(module), module.training) for name, module in model.named_modules()],
        "hooks": [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
        "generators": (torch.get_rng_state().tolist(), random.getstate(), numbers.tolist()),
        "threads": torch.get_num_threads(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.compiler.is_compiling()),
        "classes": {kind: dict(vars(kind)) for kind in (nn.Module, nn.Linear, nn.Parameter, torch.Tensor)},
        "warnings": list(warnings.filters),
        "files": sorted(Path(tempfile.gettempdir()).iterdir()),
    }


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


PLACES = [
    ("tombola/compact/checks.py", "checks_of"), ("torch/_subclasses/fake_tensor.py", "dispatch"),
    ("tombola/graph/trace.py", "_named"), ("torch/export/__init__.py", "export"),
    ("tombola/compact/checks.py", "error"), ("clocks.py", "fastest"),
    ("clocks.py", "measure"), ("tombola/deploy/lower.py", "put_in"),
]  # fmt: skip


@pytest.mark.usefixtures("own_temporary_folder")
def test_nothing_is_left_behind() -> None:
    model, x = network(), torch.randn(2, 1, 4, 4)
    tb.deploy(model, x, threads=1, clock=NATIVE)  # what torch imports and sets up at first
    before = state(model)
    for place, error in zip(PLACES, itertools.cycle([MemoryError, KeyboardInterrupt]), strict=False):
        with Interrupt(error, named(*place)) as interrupt:
            tb.deploy(model, x, threads=1, clock=NATIVE)
        assert interrupt.reached, place
        assert state(model) == before, place
    with ThreadPoolExecutor(1) as pool:  # no lock is held
        deployed = pool.submit(tb.deploy, model, x, threads=1, clock=NATIVE).result(120)
    assert [part.engine for part in deployed.plan.parts] == ["native"]
    assert difference(copy.deepcopy(model).eval()(x).detach(), deployed(x)) <= EQUAL
