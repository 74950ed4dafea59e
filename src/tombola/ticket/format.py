"""The ticket's container: one safetensors file with a digest of all bytes, a JSON header and tensors.

The one metadata key holds the digest and the format; the header is deflated in the tensor "index" (in format 1 it
stands in the metadata).
The digest is the sha256 of the whole file with its own 64 hex digits set to "0", so any changed byte shows.
It gives integrity, not authenticity: whoever can write the file can also write a matching digest. One
metadata key only, because safetensors does not order several, and equal tickets must give equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.formats import plural
from tombola.strict import parse_json
from tombola.ticket.deflate import deflate, inflate
from tombola.ticket.foreign import told

FORMAT = 2  # the newest format this version writes and reads; all older ones stay readable
HEADER_LIMIT = 20_000_000  # bytes of the safetensors header
INDEX_LIMIT = 16_000_000  # bytes of the ticket's header, which is JSON
DEPTH_LIMIT = 50  # nesting of the JSON
_KEY, _INDEX = "tombola", "index"
_ZEROS = b"0" * 64
# "digest" sorts first in the JSON, hence this text occurs once, and where a quote is escaped it cannot.
_MARKER = b'"tombola":"{\\"digest\\":\\"'


def plain_json(value: Any, what: str) -> Any:
    """`value` as plain JSON data (lists, dicts with str keys, ...); TicketError if JSON cannot hold it."""
    try:
        return parse_json(canonical(value), DEPTH_LIMIT)
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise TicketError(f"{what} cannot be written as JSON: {reason}; use strings, finite numbers, lists, "
                          "mappings") from error  # fmt: skip


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only, no NaN; mappings of any class are allowed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_as_dict)


def _as_dict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {str(value)[:40]!r}")


def pack(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The file's bytes. `header` is JSON-able, without "digest" and "format"; no tensor is called "index"."""
    text = canonical(header).encode()
    if len(text) > INDEX_LIMIT:
        raise TicketError(f"the ticket's header has {len(text)} bytes, more than {INDEX_LIMIT}; shorten the provenance")
    index = torch.frombuffer(bytearray(deflate(text)), dtype=torch.uint8)
    seal = canonical({"digest": _ZEROS.decode(), "format": FORMAT})
    blank = safetensors.torch.save({**tensors, _INDEX: index}, {_KEY: seal})
    at = _digest_place(blank[: _header_end(blank[:8], len(blank))])
    digest = hashlib.sha256(blank).hexdigest().encode()
    return b"".join([blank[:at], digest, memoryview(blank)[at + 64 :]])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header (with "digest" and "format") and tensors of a ticket's bytes, after all bytes were verified."""
    end = _header_end(data[:8], len(data))
    check_digest(data, end)
    try:
        seal = parse_json(parse_json(data[8:end].decode(), DEPTH_LIMIT)["__metadata__"][_KEY], DEPTH_LIMIT)
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise _bad_json(error) from error
    _check_format(seal)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the library raises many kinds for a crafted header
        raise TicketError(f"the ticket's tensors cannot be read: {str(error)[:120]!r}") from error
    return (seal if seal["format"] == 1 else {**_index(tensors), **seal}), tensors


def _index(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The header in the tensor "index", which is taken out of `tensors`."""
    packed = tensors.pop(_INDEX, None)
    if packed is None or packed.dtype != torch.uint8 or packed.ndim != 1:
        raise TicketError("the ticket has no index, or not bytes in a row")
    text = inflate(packed.numpy().tobytes(), _index_limit(len(packed)))
    try:
        header = parse_json(text.decode(), DEPTH_LIMIT)
    except ValueError as error:
        raise _bad_json(error) from error
    if not isinstance(header, dict) or {"digest", "format"} & header.keys():
        raise TicketError("the ticket's index is no JSON object, or has a digest or format, which stand before it")
    return header


def _index_limit(packed: int) -> int:
    """The most bytes that `packed` bytes may inflate to: `deflate` gives at most 258 bytes for 13 bits, 159 for one."""
    return min(INDEX_LIMIT, 2**20 + 160 * packed)


def _bad_json(error: Exception) -> TicketError:
    reason = str(error).splitlines()[0] if str(error) else "nested too deeply"
    return TicketError(f"the ticket's header is not valid JSON: {reason[:120]}")


def _check_format(header: Any) -> None:
    number = header.get("format") if isinstance(header, dict) else None
    if type(number) is not int or number < 1:
        raise TicketError(f"format {str(number)[:40]!r} is not a ticket format; known are 1 to {FORMAT}")
    if number > FORMAT:
        raise TicketError(f"made by a newer Tombola: format {number}, this one reads up to {FORMAT}; update Tombola")


def _header_end(first: bytes, size: int) -> int:
    """Where the header ends, in bytes from the start, for a file of `size` bytes that starts with `first`."""
    if size < 8 or len(first) < 8:
        raise TicketError(f"not a ticket: {size} bytes are too few")
    length = int.from_bytes(first[:8], "little")
    if length > HEADER_LIMIT or 8 + length > size:
        raise TicketError(f"not a ticket, or cut short: the header claims {length} bytes in a file of {size}")
    return 8 + length


def _digest_place(head: bytes) -> int:
    """The offset of the 64 digest digits in `head`, the file up to the end of its header."""
    if head.count(_MARKER) != 1:
        raise TicketError("not a ticket: the file holds no Tombola digest")
    return head.index(_MARKER) + len(_MARKER)


def check_digest(data: bytes, end: int) -> str:
    """The digest of a ticket's bytes whose header ends at `end`; TicketError if any byte was changed."""
    at = _digest_place(data[:end])
    told = data[at : at + 64]
    blank = hashlib.sha256(data[:at])
    blank.update(_ZEROS)
    blank.update(memoryview(data)[at + 64 :])
    found = blank.hexdigest()
    if found.encode() != told:
        raise TicketError("the ticket is damaged: its bytes do not match its digest; fetch or make it again")
    return found


def digest_of(data: bytes) -> str:
    """The verified digest of a ticket's bytes; TicketError if they are damaged or no ticket."""
    return check_digest(data, _header_end(data[:8], len(data)))


def ticket_digest(path: str | os.PathLike[str]) -> str:
    """The verified digest (64 hex digits) of a ticket file; TicketError if it is damaged or no ticket."""
    with located(path):
        return digest_of(read_bytes(path))


@contextlib.contextmanager
def located(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name before any TicketError raised inside."""
    try:
        yield
    except TicketError as error:
        raise TicketError(f"{str(path)!r}: {error}") from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a ticket file. Size, header and marker are looked at before the file is read whole."""
    try:
        target = Path(path)
        info = target.stat()
        if stat.S_ISDIR(info.st_mode):
            raise TicketError(_in_folder(target))
        if not stat.S_ISREG(info.st_mode):
            raise TicketError("not a file; give the path of a ticket file")
        with target.open("rb") as file:
            return _read_checked(file, info.st_size)
    except FileNotFoundError as error:
        raise TicketError("no such file; a search ends with the path of its ticket, and its run holds it") from error
    except TicketError:
        raise
    except (OSError, ValueError, TypeError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise TicketError(f"cannot be read: {reason}") from error


def _in_folder(folder: Path) -> str:
    """That a folder is no ticket, and which tickets lie in it, or in the runs in it: the last of each search."""
    runs = [folder] if (folder / "run.json").exists() else sorted(file.parent for file in folder.glob("*/run.json"))
    inside = sorted({*folder.glob("*.ticket"), *(file for run in runs for file in run.rglob("*.ticket"))})
    if not inside:
        return "a folder, and no ticket lies in it; give the path of a ticket file"
    last = list({file.parent.parent: file for file in inside}.values())  # a search's levels lie side by side
    few = ", ".join(map(str, last[:3])) + (", ..." if len(last) > 3 else "")
    return f"a folder that holds {plural(len(inside), 'ticket')}; give the file of one, such as {few}"


def _read_checked(file: BinaryIO, size: int) -> bytes:
    first = file.read(8)
    try:
        end = _header_end(first, size)
        head = first + file.read(end - 8)
        _digest_place(head)
    except TicketError as error:
        what = told(file)
        raise TicketError(f"not a ticket but {what}") if what else error from None
    data = head + file.read(size - end)
    if len(data) != size:
        raise TicketError(f"cut short while being read: {len(data)} of {size} bytes")
    return data
