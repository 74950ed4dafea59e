"""Files of a run that are empty, halves, another stage's, folders, links in a circle, pipes; and who reads them.

They fail because a checksum is bound to a run and a place in it, and because what is no regular file is not opened.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _runs import again, essence, interrupted_search, small_search
from tombola.cli import main
from tombola.errors import TombolaError
from tombola.report.read import read_run
from tombola.runs.listing import list_runs

LEVEL = "replicate-0/level-00"
FILES = ("run.json", "config.yaml", ".lock", "result.json", f"{LEVEL}/result.json", f"{LEVEL}/rewind.pt")
MORE = (f"{LEVEL}/metrics.csv", f"{LEVEL}/network.ticket", f"{LEVEL}/outcomes.safetensors")


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _other(file: Path) -> None:
    """What is whole, and of another kind or stage."""
    twin = file.parents[1] / "level-01" / file.name
    shutil.copyfile(twin if twin.is_file() else Path(__file__), file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _circle(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


KINDS: Mapping[str, Callable[[Path], None]] = {
    kind.__name__[1:]: kind for kind in (_empty, _half, _other, _folder, _circle, _pipe)
}
STRIDE = 5
"""Every file and every kind occurs among the cases that are tried; with 1, all pairs."""


def attack(folder: Path) -> None:
    whole, cut = folder / "whole", folder / "cut"
    small_search(whole)
    interrupted_search(cut, 1)
    expected = essence(whole)
    cases = [(whole, name, kind) for name in (*FILES, *MORE) for kind in KINDS]
    cases += [(cut, f"{LEVEL}/{name}", kind) for name in ("checkpoint.pt", "metrics.csv") for kind in KINDS]
    for number, (begun, name, kind) in enumerate(cases[::STRIDE]):
        case, what = folder / "case", f"{name} as {kind}"
        shutil.copytree(begun, case)
        (run,) = case.iterdir()
        healthy = (run / name).read_bytes()
        KINDS[kind](run / name)
        same = name == ".lock" or ((run / name).is_file() and (run / name).read_bytes() == healthy)
        try:
            _read(run, "finished" if same and begun is whole else "can be resumed")
            if number % 4 == 0:  # each start takes a while, and the fuzzer has many
                again(case)
                assert essence(case) == expected, f"{what} changed the result"
        except TombolaError as error:
            raise AssertionError(f"{what}: {error}") from error
        except OSError as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        shutil.rmtree(case)
    assert main(["info", str(whole)]) == 2, "a folder is no ticket"


def _read(run: Path, state: str) -> None:
    (listed,) = list_runs(run.parent)
    assert listed["state"] in ("damaged", state), f"{run} is listed as {listed['state']}"
    try:
        read_run(run)
    except TombolaError as error:
        assert "run.json" in str(error), f"a report of {run} ends with {error}"  # noqa: PT017
