"""The whole job in a minute: train, find, verify and report on the embedded digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tombola.data.config import DataSpec
from tombola.methods.imp import IterativePruning
from tombola.results.search import SearchResult
from tombola.results.verification import VerificationResult
from tombola.runs.jobs import check_single_process
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.study.verify import verify
from tombola.train.options import Options

MODEL = "mlp"
DENSITY = 0.03
ROUNDS = 8
REPLICATES = 5


@dataclass(frozen=True)
class Demo:
    """The search, and the verification of its ticket."""

    find: SearchResult
    verify: VerificationResult


def run_demo(out: Path, options: Options | None = None, seed: int = 0) -> Demo:
    """Find and verify a ticket of the small MLP on digits under `out`.

    The margin is verify's own. One of the 359 test images is more than that, so these digits can show that a ticket
    beats its controls, but not that it matches the dense network: the verdict says so.
    """
    check_single_process("the demo")
    # one thread: these networks are too small to gain from more, and suffer where cores are shared
    options = replace(options or Options(), threads=(options and options.threads) or 1)
    request = make_request(
        MODEL,
        DataSpec("digits"),
        IterativePruning(density=DENSITY, rounds=ROUNDS),
        seed=seed,
        options=options,
    )
    search = run_find(request, out)
    assert search.ticket is not None
    return Demo(search, verify(search.ticket, replicates=REPLICATES, seed=seed, options=options, out=out))
