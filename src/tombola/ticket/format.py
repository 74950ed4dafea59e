"""The ticket's container: one safetensors file with a checksum of all bytes, a JSON header and tensors.

The one metadata key holds the checksum and the format; the header is deflated in the tensor "index".

The checksum is the sha256 of the whole file with its own 64 hex digits set to "0", so that any changed byte shows. It
gives integrity, not authenticity: anybody who can write the file can also write a matching checksum. One metadata key
only, because safetensors does not order several. A ticket's identity is another hash, of its content: `codec.digest`.
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
from tombola.ticket.deflate import deflated, inflated
from tombola.ticket.foreign import identify

FORMAT = 4  # the format that this version writes
READ = (3, FORMAT)  # and those that it reads; 3 codes no floating-point values
_KNOWN = "formats " + " and ".join(map(str, READ))
HEADER_LIMIT = 20_000_000  # bytes of the safetensors header
INDEX_LIMIT = 16_000_000  # bytes of the ticket's header, which is JSON
DEPTH_LIMIT = 50  # nesting of the JSON
_KEY, _INDEX = "tombola", "index"
_ZEROS = b"0" * 64
# "checksum" sorts first in the JSON, hence this text occurs once, and where a quote is escaped it cannot.
_MARKER = b'"tombola":"{\\"checksum\\":\\"'
_OLDER = b'"tombola":"{\\"digest\\":\\"'  # of formats 1 and 2, of versions before the first release


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
    """The file's bytes. `header` is JSON-able, without "format"; no tensor is called "index"."""
    index = torch.frombuffer(bytearray(packed_index(header)), dtype=torch.uint8)
    blank = safetensors.torch.save({**tensors, _INDEX: index}, blank_seal())
    at = checksum_offset(blank[: _header_end(blank[:8], len(blank))])
    checksum = hashlib.sha256(blank).hexdigest().encode()
    return b"".join([blank[:at], checksum, memoryview(blank)[at + 64 :]])


def packed_index(header: Mapping[str, Any]) -> bytes:
    """The bytes of the tensor "index"."""
    text = canonical(header).encode()
    if len(text) > INDEX_LIMIT:
        raise TicketError(f"the ticket's header has {len(text)} bytes, more than {INDEX_LIMIT}; shorten the provenance")
    return _deflate(text)


def blank_seal() -> dict[str, str]:
    """The metadata of a file whose checksum is not known yet."""
    return {_KEY: canonical({"checksum": _ZEROS.decode(), "format": FORMAT})}


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header (with "format") and tensors of a ticket's bytes, after all bytes were verified."""
    end = _header_end(data[:8], len(data))
    _check_bytes(data, end)
    number = _check_seal(data[8:end])
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the library raises many kinds for a crafted header
        raise TicketError(f"the ticket's tensors cannot be read: {str(error)[:120]!r}") from error
    return index_of(tensors, number), tensors


def check_file(path: Path) -> int:
    """The format of a file; TicketError unless it is a whole ticket. It is read in pieces."""
    with _opened(path) as (file, size):
        end = _header_end(file.read(8), size)
        file.seek(0)
        head = file.read(end)
        at = checksum_offset(head)
        blank = hashlib.sha256(head[:at] + _ZEROS + head[at + 64 :])
        while chunk := file.read(1 << 22):
            blank.update(chunk)
    if blank.hexdigest().encode() != head[at : at + 64]:
        raise _damaged()
    return _check_seal(head[8:])


def _check_seal(text: bytes) -> int:
    """The format."""
    try:
        seal = parse_json(parse_json(text.decode(), DEPTH_LIMIT)["__metadata__"][_KEY], DEPTH_LIMIT)
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise _bad_json(error) from error
    return _check_format(seal)


def index_of(tensors: dict[str, Tensor], number: int) -> dict[str, Any]:
    """The header of a file of this format, with it, in the tensor "index", which is taken out of `tensors`."""
    packed = tensors.pop(_INDEX, None)
    if packed is None or packed.dtype != torch.uint8 or packed.ndim != 1:
        raise TicketError("the ticket has no index of bytes in one dimension")
    text = _inflate(packed.numpy().tobytes(), _index_limit(len(packed)))
    try:
        header = parse_json(text.decode(), DEPTH_LIMIT)
    except ValueError as error:
        raise _bad_json(error) from error
    if not isinstance(header, dict) or "format" in header:
        raise TicketError("the ticket's index is no JSON object, or has a format, which belongs before it")
    if number < FORMAT:
        if "floats" in header:
            raise TicketError(f"a ticket of format {number} has no list 'floats'")
        header["floats"] = []
    return {**header, "format": number}


def _index_limit(packed: int) -> int:
    """The most bytes that `packed` bytes may inflate to, whatever they hold."""
    return min(INDEX_LIMIT, 2**20 + 160 * packed)


def _deflate(text: bytes) -> bytes:
    """A deflate stream; text that would grow by more than a reader allows is stored as it is."""
    streams = (deflated(text, level) for level in (9, 0))
    return next(stream for stream in streams if len(text) <= _index_limit(len(stream)))


def _inflate(data: bytes, limit: int) -> bytes:
    """The text of a deflate stream; TicketError unless it is whole, within `limit` bytes, and nothing follows."""
    text, rest = inflated(data, limit, "the ticket's index")
    if rest:
        raise TicketError("the ticket's index is followed by other bytes")
    return text


def _bad_json(error: Exception) -> TicketError:
    reason = str(error).splitlines()[0] if str(error) else "nested too deeply"
    return TicketError(f"the ticket's header is not valid JSON: {reason[:120]}")


def _check_format(header: Any) -> int:
    number = header.get("format") if isinstance(header, dict) else None
    if type(number) is not int or number < 1:
        raise TicketError(f"format {str(number)[:40]!r} is not a ticket format; this Tombola reads {_KNOWN}")
    if number not in READ:
        age, fix = ("a newer", "update Tombola") if number > FORMAT else ("an older", "make the ticket again")
        raise TicketError(f"made by {age} Tombola: format {number}, this one reads {_KNOWN}; {fix}")
    return number


def _header_end(first: bytes, size: int) -> int:
    """Where the header ends, in bytes from the start, for a file of `size` bytes that starts with `first`."""
    if size < 8 or len(first) < 8:
        raise TicketError(f"not a ticket: {size} bytes are too few")
    length = int.from_bytes(first[:8], "little")
    if length > HEADER_LIMIT or 8 + length > size:
        raise TicketError(f"not a ticket, or cut short: the header claims {length} bytes in a file of {size}")
    return 8 + length


def checksum_offset(head: bytes) -> int:
    """The offset of the 64 digits of the checksum in `head`, the file up to the end of its header."""
    if _MARKER not in head and _OLDER in head:
        _check_format({"format": 2 if b'"index"' in head else 1})
    if head.count(_MARKER) != 1:
        raise TicketError("not a ticket: the file holds no checksum of Tombola")
    return head.index(_MARKER) + len(_MARKER)


def _check_bytes(data: bytes, end: int) -> None:
    """TicketError if any byte of a ticket whose header ends at `end` was changed."""
    at = checksum_offset(data[:end])
    blank = hashlib.sha256(data[:at])
    blank.update(_ZEROS)
    blank.update(memoryview(data)[at + 64 :])
    if blank.hexdigest().encode() != data[at : at + 64]:
        raise _damaged()


def _damaged() -> TicketError:
    return TicketError("the ticket is damaged: its bytes do not match its checksum; fetch or make it again")


@contextlib.contextmanager
def located(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name before any TicketError raised inside."""
    try:
        yield
    except TicketError as error:
        raise TicketError(f"{str(path)!r}: {error}") from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a ticket file. Size, header and marker are looked at before the file is read whole."""
    with _opened(path) as (file, size):
        return _read_checked(file, size)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int]]:
    """A file and its size; TicketError for what is no file, or cannot be read."""
    try:
        target = Path(path)
        info = target.stat()
        if stat.S_ISDIR(info.st_mode):
            raise TicketError(_in_folder(target))
        if not stat.S_ISREG(info.st_mode):
            raise TicketError("not a file; give the path of a ticket file")
        with target.open("rb") as file:
            yield file, info.st_size
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
        checksum_offset(head)
    except TicketError as error:
        what = identify(file)
        raise TicketError(f"not a ticket but {what}") if what else error from None
    data = head + file.read(size - end)
    if len(data) != size:
        raise TicketError(f"cut short while being read: {len(data)} of {size} bytes")
    return data
