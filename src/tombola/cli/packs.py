"""pack and unpack: a network with zeros as a small file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.deltas import CHECKPOINT, check_apart
from tombola.cli.options import listed, several
from tombola.cli.screen import Screen
from tombola.cli.tickets import add_ticket, add_values
from tombola.cli.verb import Verb
from tombola.errors import TombolaError

_WHOLE = 2**28
"""Bytes of tensors up to which a checkpoint is packed in memory, and its table has all columns."""


def verbs() -> list[Verb]:
    """`pack` and `unpack`."""
    return [
        Verb(("pack",), "Write a network with zeros as a small ticket, without a search.", _add_pack, _pack),
        Verb(("unpack",), "Write the checkpoint that was packed.", _add_unpack, _unpack),
    ]


def _add_pack(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model", type=str, help=f"{CHECKPOINT}; or a network: torchvision/NAME, timm/NAME or an import path"
    )
    parser.add_argument(
        "--checkpoint", type=str | None, default=None, help="the network's weights (null: those that it is made with)"
    )
    parser.add_argument("--model_args", type=dict[str, Any], default={}, help="the network's keyword arguments")
    parser.add_argument(
        "--input_shape",
        type=several(int) | None,
        default=None,
        help="shape of one input, without the batch, for the ticket to record: deploy then needs none",
    )
    parser.add_argument("--out", type=str, required=True, help="the ticket's file")
    add_values(parser)


def _pack(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.models.checkpoint import open_state, tensor_bytes
    from tombola.models.tensor_file import TensorFiles
    from tombola.ticket.pack import pack
    from tombola.ticket.pack_file import pack_file
    from tombola.ticket.table import FileSummary, file_summary, table
    from tombola.ticket.ticket import Ticket

    check_apart(given["out"], given["model"], given["checkpoint"])
    out, values, shape = Path(given["out"]), given["values"], listed(given["input_shape"])
    if shape is not None and not all(size > 0 for size in shape):
        raise TombolaError(f"--input_shape is {shape}; all sizes must be 1 or more")
    told = {} if shape is None else {"input_shape": shape}
    digest: str | None = None
    ticket: Ticket | None
    held: FileSummary
    if not _is_file(given["model"]):
        network, module = _built(given)
        ticket = pack(module, told, network=network)
        dense = sum(map(tensor_bytes, module.state_dict().values()))
    else:
        _check_alone(given)
        state = open_state(given["model"])
        dense = sum(map(tensor_bytes, state.values()))
        ticket = None if isinstance(state, TensorFiles) and dense > _WHOLE else pack(dict(state), told)
    if ticket is None:
        held = pack_file(state, out, values, told)
    else:
        written = ticket if values is None else ticket.rounded(values)
        digest, held = written.save(out), file_summary(written)
    screen.line(table(held))
    if (error := held.header["provenance"].get("values_error")) is not None:
        screen.line(f"int8: the largest error of a value is {error:.3g}")
    size = out.stat().st_size
    screen.line(f"{out}: {size:,} bytes; its tensors have {dense:,}")
    return {"file": given["out"], "bytes": size, "dense": dense, "density": held.density, "digest": digest}


def _is_file(model: str) -> bool:
    """Whether that is a checkpoint, and not a network."""
    return Path(model).exists() or model.endswith((".safetensors", ".json", ".pt", ".pth", ".bin", ".ckpt"))


def _check_alone(given: Namespace) -> None:
    """TombolaError for options of a network beside a checkpoint."""
    for name, unset in (("checkpoint", None), ("model_args", {})):
        if given[name] != unset:
            raise TombolaError(
                f"--{name} is of a network, but {given['model']} is a checkpoint file, packed as it is; leave it out, "
                "or name the network first"
            )


def _built(given: Namespace) -> tuple[Any, Any]:
    """The network's spec, and the network with its weights."""
    from tombola.models.checkpoint import load_checkpoint_
    from tombola.models.registry import check_name, is_known
    from tombola.models.spec import written_out
    from tombola.ticket.origin import NetworkSpec

    name, args = written_out(given["model"], given["model_args"])
    check_name(name)
    if is_known(name):
        raise TombolaError(
            f"{name} is one of Tombola's own networks, made for a data set; give its checkpoint's file alone"
        )
    shape = listed(given["input_shape"])
    network = NetworkSpec(name, args, None if shape is None else tuple(shape))
    module = network.build(trusted=(name,))
    if given["checkpoint"] is not None:
        load_checkpoint_(module, given["checkpoint"])
    return network, module


def _add_unpack(parser: ArgumentParser) -> None:
    add_ticket(parser)
    parser.add_argument("--out", type=str, required=True, help="the checkpoint, a .safetensors, .pt or .pth file")


def _unpack(given: Namespace, screen: Screen) -> Mapping[str, Any]:
    from tombola.models.checkpoint import check_suffix, separate, write_state
    from tombola.ticket.pack import unpack
    from tombola.ticket.pack_file import unpack_file

    check_apart(given["out"], given["ticket"])
    out = Path(given["out"])
    check_suffix(out)
    if out.suffix == ".safetensors":
        size = unpack_file(given["ticket"], out, max_weights=given["max_weights"])
    else:
        state = unpack(given["ticket"], max_weights=given["max_weights"])
        size = write_state(out, separate(state))
    screen.line(f"{given['out']}: {size:,} bytes")
    return {"file": given["out"], "bytes": size}
