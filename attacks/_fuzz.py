"""What the fuzzers share: changes of JSON, and a watch over what a victim's calls do."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tombola

JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 1000, 2**20, 2**31, 2**40, 2**63 - 1, -(2**63), 2**64 - 1, 10**30, 0.5, -0.0,
    1e308, -1e-320, float("nan"), float("inf"), "", " ", "x", "0", "-1", "nan", "1e9", "os.system", "builtins:eval",
    "torch.optim.RMSprop", "torch.nn.Identity", "antigravity", "this.s", "../../evil", "/etc/passwd", "a\0b", "a\nb",
    "\x1b]0;x\x07", "\u202ex", "\ud800", "x" * 5000, "9" * 4400, "<script>alert(1)</script>", "$\\frac{1}{0}$",
    "{{7*7}}", "[bold]", "%s%n", "sgd", "imp", "mlp", "resnet-20", "wrn-28-9999", "wrn-999999999-1", "digits", "folder",
    "999999999it", "1e5ep", "2:4", "0:0", "9:4", "block:0", "block:99999999999", "1000000:2000000", "channel",
    "identity", "binary", "rescaled", "signed_constant", "origin", "zero", "packed", "bernoulli", "channels", "columns",
    "seeded", "stored", "omitted", "float32", "int8", "bool", "native", "dense", "flat:12:rows1:panels2",
    "lanes:1x8x1:rows1:panels999999", "lanes:999x999x999:rows1:panels1", "chunks:256", "rows:8", "gemv:planes",
    "gemv:gaps:per99:rows8:signs", [], {}, [[]], [0], [-1], ["x"], [1, 2, 3], [2**31, 2**31], {"name": "x"},
    {"name": "os.system"}, {"kind": "binary-activations"}, {"kind": "binary-layers", "names": ["fc1.weight"]},
]  # fmt: skip
"""Values that are wrong in most places, and right in a few."""


def changed_json(text: str, draw: random.Random, times: tuple[int, ...] = (1, 1, 1, 2, 4)) -> str:
    """A JSON text with values replaced, left out, doubled, swapped or nested; sometimes with broken syntax."""
    value = json.loads(text)
    for _ in range(draw.choice(times)):
        _change(value, draw)
    found = json.dumps(value)
    kind = draw.random()
    if kind < 0.03:  # a key twice
        return found[:-1] + "," + found[1:]
    if kind < 0.06:
        at = draw.randrange(len(found))
        return found[:at] + draw.choice(("[" * 5000, '"', "}", "\0", "NaN", "9" * 5000)) + found[at:]
    return found


def _change(value: Any, draw: random.Random) -> None:
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw.choice(keys)
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw.random() < 0.15:
            break
        place = inner
    act = draw.randrange(10)
    if act < 7:
        place[key] = draw.choice(JUNK)
    elif act == 7:
        del place[key]
    elif act == 8 and isinstance(place, list):
        place.extend([place[key]] * draw.choice((1, 3, 1000)))
    elif act == 8:
        place[draw.choice(("odd", "name", "args", "\x1b[2J", "x" * 300))] = place[key]
    else:
        other = draw.choice(keys)
        place[key], place[other] = place[other], place[key]


def one_line(act: Callable[[], Any]) -> Any:
    """What `act` gives, or None where it refuses in one printable line; any other error goes through."""
    try:
        return act()
    except tombola.TombolaError as error:
        printable_line(error, below=3000)
        return None


def printable_line(error: tombola.TombolaError, *, below: int) -> str:
    """What an error says: one printable line of fewer characters than `below`; AssertionError if it is none."""
    said = str(error)
    assert said, "refused without a word"
    assert said.isprintable(), f"a message that is no printable line: {said[:300]!r}"
    assert len(said) < below, f"a message of {len(said)} characters: {said[:300]}"
    return said


class Watch:
    """Calls a function on one file after the other: none may raise, import, write elsewhere, hang or fill memory."""

    def __init__(self, folder: Path, *, seconds: float = 30, megabytes: int = 400) -> None:
        self._folder, self._seconds, self._megabytes = folder, seconds, megabytes
        self._here = contextlib.chdir(folder)  # what is written by a relative path is seen too

    def __enter__(self) -> Self:
        self._here.__enter__()
        self._modules, self._inside = set(sys.modules), set(self._folder.rglob("*"))
        self._memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return self

    def __call__(self, name: str, act: Callable[[], Any], data: bytes) -> None:
        begun = time.process_time()
        try:
            act()
            self._check(time.process_time() - begun)
        except BaseException as error:
            kept = Path(tempfile.gettempdir()) / "tombola-fuzz-found"
            kept.write_bytes(data)
            said = f"{type(error).__name__}: {str(error)[:500]}"
            raise AssertionError(f"{name}, kept as {kept}: {said}") from error

    def _check(self, seconds: float) -> None:
        strange = {name for name in set(sys.modules) - self._modules if not name.startswith(("tombola.", "torch."))}
        assert not strange, f"imported: {sorted(strange)[:5]}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._memory) // 1024
        assert grown < self._megabytes, f"memory grew by {grown} MB"
        assert seconds < self._seconds, f"it took {seconds:.0f} s"
        written = set(self._folder.rglob("*")) - self._inside
        assert not written, f"written: {sorted(written)[:3]}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._here.__exit__(kind, error, trace)
