"""Random damage to a run, finished or interrupted.

One file of it, or two, are flipped, cut, emptied, replaced, deleted. The next start must give exactly what the
undamaged run gives, having computed anew what it must, or end in one clear TombolaError. It fails because every file
has a checksum that is bound to its place. One case for ten of `count`: each is a training.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _runs import DAMAGES, again, essence, interrupted_search, small_search
from tombola.errors import TombolaError
from tombola.runs.listing import list_runs

SAVES = (1, 2, 4)
"""Checkpoints that the interrupted runs had written: in the first level, at its end, in the last."""


def fuzz(folder: Path, seed: int, count: int) -> None:
    whole = folder / "whole"
    small_search(whole)
    expected = essence(whole)
    for saves in SAVES:
        interrupted_search(folder / f"cut-{saves}", saves)
    draw = random.Random(seed)
    for number in range(-(-count // 10)):
        begun = draw.choice([whole, *(folder / f"cut-{saves}" for saves in SAVES)])
        case = folder / "case"
        shutil.copytree(begun, case)
        files = sorted(file for file in case.rglob("*") if file.is_file())
        done = []
        for _ in range(draw.choice((1, 1, 1, 2))):
            name, file = draw.choice(sorted(DAMAGES)), draw.choice(files)
            if file.is_file():
                DAMAGES[name](file, draw)
                done.append(f"{name} {file.relative_to(case)}")
        what = f"case {number} of seed {seed}: {', '.join(done)} of {begun.name}"
        try:
            list_runs(case)
            again(case)
            found = essence(case)
            odd = sorted(place for place in {*expected, *found} if expected.get(place) != found.get(place))
            assert not odd, f"{what}: {odd} differ"
        except TombolaError as error:
            if "\n" in str(error):
                raise AssertionError(f"{what}: {error!r}") from error
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        shutil.rmtree(case)
