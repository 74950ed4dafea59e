"""pack and unpack by tensor: files of any size in the memory of their largest tensor.

What is written is what `pack(...).save(...)` writes, to the bit, if the tensors come in the same order. Coded masks and
kept values wait in a temporary file beside the ticket until all of them are known, and with them its header.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.models.tensor_file import Spec, TensorFiles, head_of, names_in, write_tensors
from tombola.runs.atomic import cannot_write, write_atomically
from tombola.ticket import codec, fields, layout, masks
from tombola.ticket import format as container
from tombola.ticket.origin import Origin
from tombola.ticket.pack import check_whole, check_zeros, kept_in, may_be_masked, weight_of
from tombola.ticket.representation import signs_of
from tombola.ticket.rounding import Values, check_values, error_of, rounded_kept
from tombola.ticket.table import FileSummary
from tombola.ticket.tensors import check_name, count_kept, hash_into, own, raw_bytes
from tombola.ticket.ticket import Ticket

_CHUNK = 1 << 22
"""Bytes that are copied and hashed at once."""
_DTYPES = layout.DTYPE_NAMES


class _Place(NamedTuple):
    """Bytes in the temporary file."""

    start: int
    size: int


@dataclass
class _Spool:
    """What was read so far: the lists of the index, and where their bytes wait."""

    file: IO[bytes]
    masks: dict[str, tuple[dict[str, Any], _Place]] = field(default_factory=dict)
    lists: dict[str, list[tuple[dict[str, Any], _Place]]] = field(default_factory=lambda: {p: [] for p in layout.PARTS})
    signs: bool = False
    error: float | None = None
    narrowed: bool = False

    def add(self, data: Any) -> _Place:
        start = self.file.tell()
        self.file.write(data)
        return _Place(start, self.file.tell() - start)

    def add_tensor(self, kind: str, name: str, tensor: Tensor) -> None:
        """A tensor as it is, or coded where that is smaller."""
        part, entry, stream = layout.entry_of(kind, name, tensor)
        self.lists[part].append((entry, self.add(raw_bytes(tensor).data if stream is None else stream)))

    def add_layer(self, name: str, value: Tensor, keep: Tensor, values: Values | None) -> None:
        """A masked layer: its mask, and what it keeps."""
        coding, stream = masks.encode(keep.numpy())
        entry = {"name": name, "shape": list(keep.shape), "kept": count_kept(keep), "coding": coding}
        self.masks[name] = {**entry, "bytes": len(stream)}, self.add(stream)
        kept = value[keep]
        if (pair := signs_of(kept)) is not None:
            self.signs = True
            self.add_tensor("trained", name, pair[0])
            self.add_tensor("scale", name, pair[1])
            return
        narrow = None if values is None else rounded_kept(name, kept, keep, values)
        if narrow is None:
            self.add_tensor("trained", name, kept)
            return
        self.narrowed = True
        self.add_tensor("trained", name, narrow.kept)
        if narrow.steps is not None:
            self.error = max(self.error or 0.0, error_of(kept, narrow, keep))
            self.add_tensor("step", name, narrow.steps)


@torch.no_grad()
def pack_file(
    source: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    values: Values | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> FileSummary:
    """Write the tensors as a packed ticket, whole or not at all; what it holds.

    Args:
        source: the network's tensors by name, none shared; each is asked for once, in order of name.
        path: the ticket's file. Its folder must have room for the file twice.
        values: as of `Ticket.save`.
        provenance: as of `pack`.

    Raises:
        TombolaError: as `pack` and `Ticket.save`.
    """
    out = Path(path)
    if values is not None:
        check_values(values)
    try:
        with tempfile.TemporaryFile(dir=out.parent) as file:
            spool, told = _Spool(file), {"method": {"name": "pack"}, **(provenance or {})}
            weights_hash = _read_all(source, spool, values)
            check_zeros(spool.masks)
            if spool.narrowed:
                told |= {"values": values, **({} if spool.error is None else {"values_error": spool.error})}
            return _assembled(out, spool, list(source), weights_hash, told)
    except OSError as error:
        raise cannot_write(out, error) from None


def _read_all(source: Mapping[str, Tensor], spool: _Spool, values: Values | None) -> str:
    """Put every tensor into the spool; the hash of all of them."""
    digest = hashlib.sha256()
    for name in sorted(source):
        value = own(source[name], check_name(name))
        hash_into(digest, name, value)
        keep = kept_in(value) if may_be_masked(value) else None
        if keep is None or bool(keep.all()):
            spool.add_tensor("state", name, value)
        else:
            spool.add_layer(name, value, keep, values)
    return digest.hexdigest()


def _assembled(out: Path, spool: _Spool, order: list[str], weights_hash: str, told: Mapping[str, Any]) -> FileSummary:
    layers = [spool.masks[name] for name in order if name in spool.masks]
    lists = {
        part: sorted(items, key=lambda item: (item[0]["kind"], item[0]["name"])) for part, items in spool.lists.items()
    }
    header = {
        "masks": [entry for entry, _ in layers],
        **{part: [entry for entry, _ in items] for part, items in lists.items()},
        "origin": codec.origin_header(Origin(weights_hash=weights_hash, omitted=True)),
        "provenance": container.plain_json(told, "provenance"),
        "pruned": "zero",
        "representation": {"kind": "signed_constant" if spool.signs else "identity", "on": "both"},
        "rewrites": [],
        "tied": {},
    }
    parts = {"coded": [place for _, place in (*layers, *lists["symbols"], *lists["floats"])]}
    for entry, place in lists["tensors"]:
        parts.setdefault(f"values/{entry['dtype']}", []).append(place)
    if not sum(place.size for place in parts["coded"]):
        parts["coded"] = [spool.add(b"\0")]
    index = container.packed_index(header)
    parts["index"] = [spool.add(index)]
    specs = {}
    for name, places in parts.items():
        dtype = _DTYPES[name.removeprefix("values/")] if name.startswith("values/") else torch.uint8
        specs[name] = Spec(dtype, (sum(place.size for place in places) // dtype.itemsize,))
    head, names = head_of(specs, container.blank_seal())
    with write_atomically(out) as file:
        digest = hashlib.sha256(head)
        file.write(head)
        for chunk in _chunks(spool.file, [place for name in names for place in parts[name]]):
            digest.update(chunk)
            file.write(chunk)
        size = file.tell()
        file.seek(container.checksum_offset(head))
        file.write(digest.hexdigest().encode())
    return FileSummary({**header, "format": container.FORMAT}, size, None)


def _chunks(file: IO[bytes], places: list[_Place]) -> Iterator[bytes]:
    for place in places:
        file.seek(place.start)
        left = place.size
        while left:
            chunk = file.read(min(left, _CHUNK))
            left -= len(chunk)
            yield chunk


# ---- and back -------------------------------------------------------------------------------


@torch.no_grad()
def unpack_file(path: str | os.PathLike[str], out: str | os.PathLike[str], *, max_weights: int | None = None) -> int:
    """Write the tensors of a packed ticket as .safetensors, whole or not at all; the file's size in bytes.

    Args:
        path: the ticket, with no origin.
        out: the new file; names that share a tensor get a copy each.
        max_weights: as of `Ticket.load`.

    Raises:
        TicketError: as `unpack`; TombolaError: the file cannot be written.
    """
    with container.located(path):
        number = container.check_file(Path(path))
        with codec.sound():
            packed = _Packed(Path(path), number, max_weights)
            specs = packed.specs()
    return write_tensors(Path(out), specs, packed.tensor)


class _Packed:
    """A packed ticket's file, its layers decoded one at a time."""

    def __init__(self, path: Path, number: int, max_weights: int | None) -> None:
        self._path, self._size = path, path.stat().st_size
        tensors = dict(TensorFiles({name: (path, name) for name in names_in(path)}))  # mapped, not read
        self._header = container.index_of(tensors, number)
        codec.check_lists(self._header, tensors)
        check_whole(self._header["origin"]["kind"] == "omitted" and not self._header["rewrites"])
        shapes = [entry["shape"] for entry in self._header["masks"]]
        codec.room_for(self._header, self._size, max_weights).check(shapes)
        self._masks = {entry["name"]: entry for entry in self._header["masks"]}
        self._places = layout.places(self._header)
        self._tied = {**fields.names(self._header["origin"]["tied"]), **fields.names(self._header["tied"])}
        self._max_weights = max_weights

    def specs(self) -> dict[str, Spec]:
        """What the network's tensors are, under all their names."""
        found = {name: Spec(self._dtype(name), tuple(entry["shape"])) for name, entry in self._masks.items()}
        for (kind, name), (_, entry) in self._places.items():
            if kind == "state":
                if name in found:
                    raise TicketError(f"{name[:80]!r} is stored twice: under the mask and in the state; keep one")
                found[name] = Spec(_DTYPES[entry["dtype"]], tuple(entry["shape"]))
        missing = [owner for owner in self._tied.values() if owner not in found]
        if missing or any(alias in found for alias in self._tied):
            raise TicketError(f"the ticket's ties do not fit its tensors: {sorted(self._tied)[:3]}")
        return found | {alias: found[owner] for alias, owner in self._tied.items()}

    def tensor(self, name: str) -> Tensor:
        """One of the network's tensors; TicketError for a layer that is unsound."""
        name = self._tied.get(name, name)
        with container.located(self._path), codec.sound():
            if name not in self._masks:
                value = self._read("state", name)
                fields.check_bool(name, value)
                return value
            ticket = self._layer(name)
            return weight_of(ticket, name, ticket.mask[name])

    def _dtype(self, name: str) -> torch.dtype:
        """Of a masked weight: see `weight_of`."""
        for kind in ("scale", "step", "trained"):
            if (place := self._places.get((kind, name))) is not None and "dtype" in place[1]:
                return _DTYPES[place[1]["dtype"]]
        raise TicketError(f"the ticket has a mask for {name[:80]!r}, but no values of what it keeps")

    def _layer(self, name: str) -> Ticket:
        """The ticket of one layer."""
        held = {kind: place for (kind, owner), place in self._places.items() if owner == name and kind != "state"}
        coded = [held.pop("mask")]
        header = {**self._header, "masks": [coded[0][1]], "tied": {}, **{part: [] for part in layout.PARTS}}
        header["origin"] = {**header["origin"], "tied": {}}
        tensors: dict[str, list[Tensor]] = {}
        for kind, place in held.items():
            if "bytes" in place[1]:
                header["floats" if "dtype" in place[1] else "symbols"].append(place[1])
                coded.append(place)
            else:
                header["tensors"].append(place[1])
                tensors.setdefault(f"values/{place[1]['dtype']}", []).append(self._read(kind, name).reshape(-1))
        streams = [self._slice("coded", start, start + entry["bytes"]) for start, entry in coded]
        joined = {key: torch.cat(parts) for key, parts in {"coded": streams, **tensors}.items()}
        if not len(joined["coded"]):
            joined["coded"] = torch.zeros(1, dtype=torch.uint8, device="cpu")
        if "scale" not in held:
            header["representation"] = {"kind": "identity", "on": "both"}
        return Ticket(**codec.decode(header, joined, self._size, self._max_weights))

    def _read(self, kind: str, name: str) -> Tensor:
        start, entry = self._places[kind, name]
        if "bytes" in entry:
            stream = self._slice("coded", start, start + entry["bytes"])
            return layout.decode_floats(entry, stream.numpy().tobytes())
        shape = tuple(entry["shape"])
        size = torch.Size(shape).numel()
        return self._slice(f"values/{entry['dtype']}", start, start + size).reshape(shape)

    def _slice(self, key: str, start: int, end: int) -> Tensor:
        from safetensors import safe_open

        with safe_open(self._path, "pt") as opened:
            found: Tensor = opened.get_slice(key)[start:end]
        return found
