"""delta and apply: the difference of two checkpoints as a file, and a checkpoint with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.screen import Screen
from tombola.cli.verb import Verb
from tombola.errors import TombolaError

CHECKPOINT = "a .safetensors file or its .index.json, or a .pt or .pth file of plain tensors"


def verbs() -> list[Verb]:
    """`delta` and `apply`."""
    return [
        Verb(("delta",), "Write the exact difference of two checkpoints as a small file.", _add_delta, _delta),
        Verb(("apply",), "Write the checkpoint that a delta makes of its base, bit for bit.", _add_apply, _apply),
    ]


def check_apart(out: str, *read: str | None) -> None:
    """TombolaError where what is written would take the place of what it is made from."""
    for one in read:
        if one is not None and Path(out).exists() and Path(one).exists() and Path(out).samefile(one):
            raise TombolaError(f"--out {out} is what is read; name another file")


def _add_delta(parser: ArgumentParser) -> None:
    parser.add_argument("base", type=str, help=f"the checkpoint to start from: {CHECKPOINT}")
    parser.add_argument("tuned", type=str, help="the same network later")
    parser.add_argument("--out", type=str, required=True, help="the delta's file")
    parser.add_argument(
        "--keep",
        type=float | None,
        default=None,
        help="fraction of all weights whose change is kept, the largest ones (null: all)",
    )
    parser.add_argument(
        "--tall",
        type=str | None,
        default=None,
        help="a checkpoint that several tasks were merged into: only the task's own weights are kept (TALL-masks)",
    )
    parser.add_argument("--strength", type=float | None, default=None, help="lambda of TALL-masks (null: 0.4)")


def _delta(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.deltas import Tall, delta
    from tombola.models.checkpoint import read_state

    check_apart(given["out"], given["base"], given["tuned"], given["tall"])
    strength = given["strength"]
    if given["tall"] is None and strength is not None:
        raise TombolaError(f"--strength is {strength} without --tall, which it belongs to; give both or neither")
    lambdas = () if strength is None else (strength,)
    merged = None if given["tall"] is None else Tall(read_state(given["tall"]), *lambdas)
    found = delta(read_state(given["base"]), read_state(given["tuned"]), keep=given["keep"], tall=merged)
    size = found.save(given["out"])
    screen.line(str(found))
    screen.line(f"{given['out']}: {size:,} bytes")
    changes = {name: len(change.positions) for name, change in found.changes.items()}
    return {"file": given["out"], "bytes": size, "changed": found.changed, "tensors": changes}


def _add_apply(parser: ArgumentParser) -> None:
    parser.add_argument("delta", type=str, help="a file that `tombola delta` wrote")
    parser.add_argument("base", type=str, help=f"the checkpoint that it was made from: {CHECKPOINT}")
    parser.add_argument("--out", type=str, required=True, help="the new checkpoint, a .safetensors, .pt or .pth file")


def _apply(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.deltas import Delta
    from tombola.deltas.file import is_delta
    from tombola.models.checkpoint import read_state, separate, write_state

    check_apart(given["out"], given["delta"])
    first, second = given["delta"], given["base"]
    if is_delta(Path(second)) and not is_delta(Path(first)):
        raise TombolaError(
            f"{second} is a delta and {first} is none; name the delta first: tombola apply {second} {first}"
        )
    state = read_state(given["base"])
    found = Delta.load(given["delta"])
    found.apply_(state)
    size = write_state(Path(given["out"]), separate(state))
    screen.line(f"{given['out']}: {size:,} bytes, {found.changed:,} values changed")
    return {"file": given["out"], "bytes": size, "changed": found.changed}
