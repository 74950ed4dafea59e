"""What all tests share. Tiny networks train fastest on one thread, also in processes that tests start."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# modules that tests write and change within a second would be read from stale bytecode
sys.dont_write_bytecode = True
os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

settings.register_profile("tombola", deadline=None, print_blob=True)
settings.register_profile("thorough", settings.get_profile("tombola"), max_examples=1000)  # --hypothesis-profile
settings.load_profile("tombola")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that skips fails, as in continuous integration")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `cuda` are left out where there is no such device: they are no gap of this machine's tests.

    Those marked `large` wait until they are asked for.
    """
    left = [item for item in items if item.get_closest_marker("cuda") and not _has_cuda()]
    if "large" not in config.getoption("markexpr"):
        left += [item for item in items if item.get_closest_marker("large")]
    if left:
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


@functools.cache
def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
    return report


@pytest.fixture(autouse=True)
def no_other_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """deploy tries no engines but those that a test names: writing ONNX takes longer than most tests."""
    monkeypatch.setattr("tombola.bench.runtimes.installed", tuple)


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """Signals that a shell tells its jobs to ignore (`nohup`, `&`) work as usual, in processes that a test starts too.

    A process passes what it ignores on to those that it starts.
    """
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ignored = [getattr(signal, name) for name in names if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real MNIST and CIFAR-10; skips the test where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TOMBOLA_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing; set TOMBOLA_TEST_DATA")
    return folder
