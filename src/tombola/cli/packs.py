"""pack and unpack: a checkpoint with zeros as a small file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.deltas import CHECKPOINT
from tombola.cli.screen import Screen
from tombola.cli.tickets import add_ticket
from tombola.cli.verb import Verb


def verbs() -> list[Verb]:
    """`pack` and `unpack`."""
    return [
        Verb(("pack",), "Write a checkpoint with zeros as a small ticket, without a search.", _add_pack, _pack),
        Verb(("unpack",), "Write the checkpoint that was packed.", _add_unpack, _unpack),
    ]


def _add_pack(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=str, help=CHECKPOINT)
    parser.add_argument("--out", type=str, required=True, help="the ticket's file")
    parser.add_argument(
        "--values",
        type=str | None,
        default=None,
        help="float16, bfloat16 or int8 (a step for each row): kept weights are rounded to that (null: bit for bit)",
    )


def _pack(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.models.checkpoint import read_state
    from tombola.ticket.pack import pack

    state = read_state(given["checkpoint"])
    ticket = pack(state)
    written = ticket if given["values"] is None else ticket.rounded(given["values"])
    digest = written.save(given["out"])
    size, dense = Path(given["out"]).stat().st_size, sum(value.nbytes for value in state.values())
    screen.line(written.table())
    if (error := written.provenance.get("values_error")) is not None:
        screen.line(f"int8: the largest error of a value is {error:.3g}")
    screen.line(f"{given['out']}: {size:,} bytes; its tensors have {dense:,}")
    return {"file": given["out"], "bytes": size, "dense": dense, "density": ticket.density, "digest": digest}


def _add_unpack(parser: ArgumentParser) -> None:
    add_ticket(parser)
    parser.add_argument("--out", type=str, required=True, help="the checkpoint, a .safetensors, .pt or .pth file")


def _unpack(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.models.checkpoint import write_state
    from tombola.ticket.pack import unpack

    state = unpack(given["ticket"], max_weights=given["max_weights"])
    size = write_state(Path(given["out"]), {name: tensor.clone().contiguous() for name, tensor in state.items()})
    screen.line(f"{given['out']}: {size:,} bytes")
    return {"file": given["out"], "bytes": size}
