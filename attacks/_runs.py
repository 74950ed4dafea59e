"""A tiny search on disk, what of it must never change, and ways to do damage to it."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from tombola import IterativePruning, Options, Recipe
from tombola.data.splits import Splits, make_splits
from tombola.results.search import SearchResult
from tombola.runs.integrity import KEY, DamagedWarning, read_sealed
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.train.checkpoint import Checkpoint, CheckpointStore


def small_splits() -> Splits:
    """Forty-eight points of two classes."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(48, 6, generator=draw)
    y = (x[:, 0] > 0).long()
    return make_splits((x[:24], y[:24]), (x[24:36], y[24:36]), (x[36:], y[36:]))


def small_search(out: Path, **more: Any) -> SearchResult:
    """Three levels that rewind to step 2, forty steps each; found finished, resumed or begun under `out`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    method = IterativePruning(density=0.5, rounds=2, rewind="2it")
    recipe = Recipe(lr=0.1, optimizer="sgd", length="40it", batch_size=8, eval_every="10it")
    options = Options(device="cpu", checkpoint_seconds=0.0, progress=False, **more)
    return run_find(make_request(model, small_splits(), method, recipe=recipe, options=options), out)


class Killed(BaseException):
    """In the place of a kill."""


def interrupted_search(out: Path, saves: int) -> None:
    """The same search, killed after so many checkpoints (there are two in each level)."""
    save, count = CheckpointStore.save, iter(range(saves))

    def saved(store: CheckpointStore, checkpoint: Checkpoint) -> None:
        save(store, checkpoint)
        if next(count, None) is None:
            raise Killed

    with patch.object(CheckpointStore, "save", saved):
        try:
            small_search(out)
        except Killed:
            return
    raise ValueError(f"it never saved {saves} checkpoints")


def essence(out: Path) -> dict[str, Any]:
    """What a run gives, but for times: contents of files by their place."""
    found: dict[str, Any] = {}
    for file in sorted(out.rglob("*")):
        place = file.relative_to(out).as_posix()
        if ".damaged" in place or not file.is_file():
            continue
        if file.name in ("network.ticket", "outcomes.safetensors", "config.yaml"):
            found[place] = file.read_bytes()
        elif file.name == "rewind.pt":
            found[place] = read_sealed(file)
        elif file.name == "metrics.csv":
            found[place] = [line.rpartition(",")[0] for line in file.read_text().splitlines()]
        elif file.name in ("result.json", "run.json"):
            found[place] = _timeless(json.loads(file.read_bytes()))
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _timeless(part) for key, part in value.items() if key not in ("seconds", "begun", "command", KEY)}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def again(out: Path) -> tuple[SearchResult, list[str]]:
    """The search once more, and what it said of damage."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = small_search(out)
    return result, [str(one.message) for one in caught if issubclass(one.category, DamagedWarning)]


def flip(file: Path, draw: random.Random) -> None:
    """One bit."""
    data = bytearray(file.read_bytes())
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)


def garble(file: Path, draw: random.Random) -> None:
    """Some bytes in a row."""
    data = bytearray(file.read_bytes())
    at = draw.randrange(len(data) + 1)
    data[at : at + 16] = draw.randbytes(16)
    file.write_bytes(data)


def cut(file: Path, draw: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: draw.randrange(len(data) + 1)])


def empty(file: Path, draw: random.Random) -> None:
    file.write_bytes(b"")


def lengthen(file: Path, draw: random.Random) -> None:
    file.write_bytes(file.read_bytes() + draw.randbytes(draw.randrange(1, 40)))


def delete(file: Path, draw: random.Random) -> None:
    file.unlink()


def folder(file: Path, draw: random.Random) -> None:
    file.unlink()
    file.mkdir()
    (file / "inside").write_text("something")


def loop(file: Path, draw: random.Random) -> None:
    """A link to itself."""
    file.unlink()
    file.symlink_to(file.name)


def foreign(file: Path, draw: random.Random) -> None:
    """Another healthy file: of the same name and another stage where there is one, else of another kind."""
    others = [other for other in sorted(file.parents[2].rglob(file.name)) if other != file and other.is_file()]
    others = others or [other for other in sorted(file.parent.rglob("*")) if other.is_file() and other != file]
    if others:
        shutil.copyfile(draw.choice(others), file)


DAMAGES: Mapping[str, Callable[[Path, random.Random], None]] = {
    kind.__name__: kind for kind in (flip, garble, cut, empty, lengthen, delete, folder, loop, foreign)
}
