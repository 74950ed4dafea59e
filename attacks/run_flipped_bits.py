"""One bit in turn in every file of a finished run, and of one that was killed.

Before, a flipped weight in `rewind.pt` gave another ticket without a word, and one in `checkpoint.pt` a training that
diverged. It fails because all files have checksums: what does not fit is set aside, which is said once for each file,
and computed anew.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _runs import again, essence, interrupted_search, small_search
from tombola.runs.listing import list_runs


def attack(folder: Path) -> None:
    whole, cut = folder / "whole", folder / "cut"
    small_search(whole)
    interrupted_search(cut, 3)
    expected = essence(whole)
    level = "*/replicate-0/level-00"
    for begun, pattern in [
        (whole, f"{level}/rewind.pt"),
        (whole, f"{level}/metrics.csv"),
        (whole, f"{level}/result.json"),
        (whole, f"{level}/outcomes.safetensors"),
        (whole, "*/result.json"),
        (cut, "*/run.json"),
        (cut, "*/config.yaml"),
        (cut, "*/*/level-01/checkpoint.pt"),
        (cut, "*/*/level-01/metrics.csv"),
    ]:
        case = folder / "case"
        shutil.copytree(begun, case)
        (file,) = case.glob(pattern)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        if file.name != "metrics.csv" or begun is whole:  # of an unfinished stage, the checkpoint tells
            (listed,) = list_runs(case)
            assert listed["state"] == "damaged", f"{pattern} is listed as {listed['state']}"
            assert any(file.name in line for line in listed["damage"]), f"{pattern}: {listed['damage']}"
        said = again(case)[1]
        assert len(said) == 1, f"{pattern}: {said}"
        assert file.name in said[0], f"{pattern}: {said}"
        assert file.with_name(f"{file.name}.damaged").exists(), f"{pattern} was not set aside"
        assert essence(case) == expected, f"{pattern} changed the result"
        shutil.rmtree(case)
