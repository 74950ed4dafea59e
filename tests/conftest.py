"""What all tests share. Tiny networks train fastest on one thread, also in processes that tests start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

settings.register_profile("tombola", deadline=None, print_blob=True)
settings.load_profile("tombola")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real MNIST and CIFAR-10; skips the test where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TOMBOLA_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing; set TOMBOLA_TEST_DATA")
    return folder
