"""Files of other programs given as tickets: what they are, and how to go on. Nothing in them is loaded."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

_RUN = "give its network to tombola.deploy(model, example), which runs it as it is"
_TICKET = "or make a ticket of its zeros: tombola.pack(model)"
_WEIGHTS = f"put them into their network by model.load_state_dict; {_RUN}, {_TICKET}"
_SAFE, _TORCH = "weights alone (.safetensors)", "weights or a module of torch (.pt), without what a ticket records"
_PICKLE = "a pickle, which can run code and is never loaded here; if it is a model of your own"
_SCRIPT, _PROGRAM = "a TorchScript file, which holds no module to read", "a torch.export program, which holds no module"
_ONNX = "an ONNX network, which holds no module"
_MODULE = f"go back to the module it was made from; {_RUN}, {_TICKET}"

_NAMES = 10_000
"""The most file names of a zip archive that are read."""


def identify(file: BinaryIO) -> str | None:
    """What a file that is not a ticket is, and how to go on; None where it is unknown."""
    file.seek(0)
    first = file.read(4096)
    if len(first) < 4:
        return None
    if first.startswith(b"PK\x03\x04"):
        return _of_zip(file)
    if first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05":
        return f"{_PICKLE}: {_WEIGHTS}"
    if len(first) > 8 and first[8:9] == b"{" and b'"dtype"' in first and b'"tombola"' not in first:
        return f"{_SAFE}: {_WEIGHTS}"
    if first[:1] == b"\x08" and 1 <= first[1] < 32 and first[2:3] in b"\x12\x1a\x22\x3a\x42":
        return f"{_ONNX}: {_MODULE}"
    return None


def _of_zip(file: BinaryIO) -> str | None:
    """torch writes zip archives; the file names in it tell which."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()[:_NAMES]}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return None
    if "constants.pkl" in names:
        return f"{_SCRIPT}: {_MODULE}"
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return f"{_PROGRAM}: {_MODULE}"
    return f"{_TORCH}: {_WEIGHTS}" if "data.pkl" in names else None
