"""The whole job in a minute: train, find, verify and report on the embedded digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tombola.data.config import DataSpec
from tombola.methods.find import run_find
from tombola.methods.imp import IterativePruning
from tombola.methods.request import make_request
from tombola.study.verify import verify
from tombola.train.options import Options

DENSITY = 0.1
ROUNDS = 6
REPLICATES = 5
MARGIN = 0.01
"""One point: one of the 359 test images is already 0.28."""


def run_demo(out: Path, options: Options | None = None, seed: int = 0) -> dict[str, Any]:
    """Find and verify a ticket of LeNet-300-100 on digits under `out`; gives {"find": ..., "verify": ...}."""
    # one thread: these networks are too small to gain from more, and suffer where cores are shared
    options = replace(options or Options(), threads=(options and options.threads) or 1)
    request = make_request(
        "lenet-300-100",
        DataSpec("digits"),
        IterativePruning(density=DENSITY, rounds=ROUNDS),
        seed=seed,
        options=options,
    )
    found = run_find(request, out)
    verdict = verify(found["ticket"], replicates=REPLICATES, margin=MARGIN, seed=seed, options=options, out=out)
    return {"find": found, "verify": verdict}
