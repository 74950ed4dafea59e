"""A user's own weights as the start of a run; this module itself imports no torch."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.errors import TombolaError
from tombola.models.tensor_file import TensorFiles, names_in
from tombola.models.wrapped import Found, fitted, plain_names, some, unwrapped
from tombola.runs.atomic import read_json, write_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth")
"""The endings of files that are written."""
_PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
"""The endings of files that torch.save wrote: .bin of Hugging Face, .ckpt of Lightning, .tar of .pth.tar."""
_UNPACKED = 20
"""Times its own size to which an archive may unpack, as those do that somebody has zipped again."""
_EXPANDED = 2**26
"""Bytes of tensors that any file may hold, however small: entries of an expanded tensor share memory."""
_INDEX = ".index.json"
_COUNTER = "num_batches_tracked"


class CheckpointWarning(UserWarning):
    """What was taken from a checkpoint that holds more than a network's tensors, or holds them under other names."""


def load_checkpoint_(model: nn.Module, path: str | Path, without: Sequence[str] = ()) -> None:
    """Load the weights of a file into the model, in place; nothing is unpickled but tensors.

    Args:
        model: the network; every one of its state-dict entries must be in the file, with its shape (but for the step
            counters of norms, which old files lack).
        path: as `read_state` takes it. The prefixes "module." and "model." are removed where the model's names need it,
            and tensors beside the model's are then left out.
        without: shell-style patterns of names that stay as they are in the model, such as "fc.*" of a head of another
            size.

    Raises:
        TombolaError: if the file cannot be read, or its names or shapes are not the model's; a pattern matches none.

    Warns:
        CheckpointWarning: as `read_state`; which tensors stay as they are.
    """
    wanted: dict[str, Tensor] = model.state_dict()
    found = fitted(_found(Path(path)), wanted.keys())
    kept = _matching(wanted, without)
    if kept:
        state = {name: tensor for name, tensor in found.state.items() if name not in kept}
        found = Found(state, (*found.said, f"{some(sorted(kept), 8)} stay as initialised"))
    given = _said(found, path)
    # Of tied tensors a file may hold only one name.
    held = {_storage(wanted[name]) for name in given if name in wanted}
    missing = [
        name
        for name, tensor in wanted.items()
        if name not in {*given, *kept} and _storage(tensor) not in held and not name.endswith(_COUNTER)
    ]
    foreign = [name for name in given if name not in wanted]
    if missing or foreign:
        parts = [f"{kind}: {some(which)}" for kind, which in (("missing", missing), ("unknown", foreign)) if which]
        raise TombolaError(f"checkpoint {path} does not fit the model; {'; '.join(parts)}")
    if other := [name for name, tensor in given.items() if tensor.shape != wanted[name].shape]:
        shapes = [f"{name} is {tuple(given[name].shape)} and {tuple(wanted[name].shape)}" for name in other]
        raise TombolaError(
            f"checkpoint {path} does not fit the model: in the file and in the model {some(shapes)}; to leave such "
            f"tensors as initialised, give checkpoint_without={other[:8]}"
        )
    model.load_state_dict(given, strict=False)


def _matching(names: Collection[str], patterns: Sequence[str]) -> set[str]:
    """The names that a pattern matches, each of which must match one."""
    matched: set[str] = set()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise TombolaError(
                f"checkpoint_without has {pattern!r}, which matches no tensor of the model; it has {some(list(names))}"
            )
        matched |= hits
    return matched


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name, on the CPU; nothing is unpickled but tensors.

    Args:
        path: .safetensors, .pt, .pth, .bin or .ckpt (read with weights_only), or the .index.json of several such files
            in its folder. A state dict beside epoch, optimiser and the like is found (`wrapped.WRAPPERS`); what
            torch.compile and DistributedDataParallel put into names is removed, as is "model." of Lightning's
            checkpoints.

    Raises:
        TombolaError: the file cannot be read, or holds something else.

    Warns:
        CheckpointWarning: what was taken, and under which names, where the file is not a state dict as it stands.
    """
    return _said(_found(Path(path)), path)


def open_state(path: str | Path) -> Mapping[str, Tensor]:
    """What `read_state` gives, but of .safetensors files each tensor is read when it is asked for, and not kept.

    Raises:
        TombolaError: as `read_state`.

    Warns:
        CheckpointWarning: as `read_state`.
    """
    path = Path(path)
    files = _files(path) if path.name.endswith(_INDEX) else [path]
    if any(file.suffix != ".safetensors" for file in files):
        return read_state(path)
    held = {name: file for file in files for name in _names_of(file)}
    if path.name.endswith(_INDEX):
        _check_agree(path, held)
    plain, said = plain_names(held, str(path))
    _said(Found({}, said), path)
    return TensorFiles({name: (held[raw], raw) for name, raw in plain.items()})


def digest_of(path: str | Path) -> str:
    """sha256 (hex) of a checkpoint's bytes; of several files, of the index and all of them.

    Raises:
        TombolaError: a file is not there, or the index cannot be read.
    """
    path = Path(path)
    files = [path, *_files(path)] if path.name.endswith(_INDEX) else [path]
    for file in files:
        if not file.is_file():
            raise TombolaError(f"checkpoint {file} is not there; give a .safetensors or .pt file")
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(one.digest() for one in digests)).hexdigest()


def check_suffix(path: Path) -> None:
    """TombolaError if no format of `write_state` has the file's ending."""
    if path.suffix not in SUFFIXES:
        problem = "is a folder" if path.is_dir() else f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise TombolaError(f"{path} {problem}; name a file that ends in {', '.join(SUFFIXES)}")


def separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU as `write_state` takes them: contiguous, each with memory of its own."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def write_state(path: Path, state: Mapping[str, Tensor]) -> int:
    """Write tensors by name, whole or not at all; the file's size in bytes.

    Args:
        path: .safetensors, or .pt / .pth (torch.save, readable with weights_only).
        state: contiguous, on the CPU, and each with memory of its own.

    Raises:
        TombolaError: another ending, or the file cannot be written.
    """
    import safetensors.torch
    import torch

    check_suffix(path)
    if path.suffix == ".safetensors":
        data = safetensors.torch.save(dict(state))
    else:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        data = buffer.getvalue()
    write_bytes(path, data)
    return len(data)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise TombolaError(f"checkpoint {path} is not a file; give a .safetensors, .pt or .pth file")


def _found(path: Path) -> Found:
    found = unwrapped(_read(path), str(path))
    _check_expanded(path, found.state)
    return found


def _said(found: Found, path: str | Path) -> dict[str, Tensor]:
    if found.said:
        warnings.warn(f"checkpoint {path}: {'; '.join(found.said)}", CheckpointWarning, stacklevel=3)
    return found.state


def _read(path: Path) -> Any:
    _check_there(path)
    return _shards(path) if path.name.endswith(_INDEX) else _read_file(path)


def _read_file(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            _check_plain(path)
            return load_file(path)
        if path.suffix in _PICKLED:
            import torch

            if "constants.pkl" in _names_in_archive(path):
                raise _script(path)
            _check_size(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except TombolaError:
        raise
    except Exception as error:
        raise TombolaError(_refusal(path, error)) from error
    _check_foreign(path)
    raise TombolaError(f"checkpoint {path} ends in {path.suffix!r}; allowed: .safetensors, {', '.join(_PICKLED)}")


def _check_plain(file: Path) -> None:
    """TombolaError for a ticket or a delta, whose tensors are code and no weights."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        known = (opened.metadata() or {}).keys()
    if "tombola" in known:
        raise TombolaError(f"{file} is a ticket and no checkpoint; tombola unpack {file} writes the one it holds")
    if "tombola_delta" in known:
        raise TombolaError(f"{file} is a delta and no checkpoint; tombola apply makes one of it and its base")


def _check_foreign(file: Path) -> None:
    """`_check_plain` of a file that may be of any kind."""
    from safetensors import SafetensorError

    with suppress(SafetensorError, OSError):
        _check_plain(file)


def _check_size(path: Path) -> None:
    """TombolaError for an archive that unpacks to far more than it is: torch compresses nothing."""
    size = sum(record.file_size for record in _archived(path))  # no archive: reading says so where it matters
    if size > _UNPACKED * path.stat().st_size:
        raise TombolaError(
            f"checkpoint {path} of {path.stat().st_size:,} bytes unpacks to {size:,}, and torch.save compresses "
            "nothing; it was not written by it"
        )


def _check_expanded(path: Path, state: Mapping[str, Tensor]) -> None:
    """TombolaError for tensors that need far more memory than their files, once each has its own."""
    if nested := [name for name, tensor in state.items() if tensor.is_nested]:
        raise TombolaError(f"checkpoint {path} holds nested tensors, {some(nested)}; a network's have one shape each")
    sizes = {_storage(tensor): (tensor_bytes(tensor), name) for name, tensor in state.items() if _has_memory(tensor)}
    needed = sum(size for size, _ in sizes.values())
    held = sum(file.stat().st_size for file in (_files(path) if path.name.endswith(_INDEX) else [path]))
    if needed > max(_EXPANDED, _UNPACKED * held):
        _, name = max(sizes.values())
        raise TombolaError(
            f"checkpoint {path} of {held:,} bytes holds tensors of {needed:,}: entries of {name[:80]!r}, "
            f"{tuple(state[name].shape)}, share memory, as those of an expanded tensor do; give each its own before "
            "torch.save: tensor.clone()"
        )


def _script(path: Path) -> TombolaError:
    return TombolaError(
        f"checkpoint {path} is a TorchScript file, a program and not a state dict; its tensors are in "
        f"torch.jit.load({path.name!r}).state_dict(): save them with torch.save"
    )


def _refusal(path: Path, error: Exception) -> str:
    """Why a file is not read, and the way out."""
    if path.suffix in _PICKLED and (classes := _unsafe(path)):
        return (
            f"checkpoint {path} is a pickle of {some(classes)}, which runs code when it is loaded, and is refused; if "
            f"you trust it, load it where that code is, by torch.load({path.name!r}, weights_only=False), and save the "
            "tensors alone: torch.save(model.state_dict(), 'weights.pt')"
        )
    if _is_damaged(path, error):
        return (
            f"checkpoint {path} is cut or damaged: its {path.stat().st_size:,} bytes are no whole {path.suffix} file; "
            "download or copy it again"
        )
    return (
        f"checkpoint {path} cannot be read as plain tensors ({type(error).__name__}); "
        "save model.state_dict() with safetensors or torch.save"
    )


def _is_damaged(path: Path, error: Exception) -> bool:
    """Whether a file begins as its kind does and does not end so, or is empty."""
    if path.suffix == ".safetensors":
        return type(error).__name__ == "SafetensorError"
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    ended = isinstance(error, EOFError) or any(word in str(error) for word in ("EOF", "truncated"))
    return ended or (zipped and not _is_sound(path))


def _is_sound(path: Path) -> bool:
    """Whether a zip archive is whole, by the checksums of its files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # of crafted bytes
        return False


def _names_in_archive(path: Path) -> set[str]:
    """The names of the files in a zip archive, as torch writes them; none of any other file."""
    return {record.filename.rpartition("/")[2] for record in _archived(path)}


def _archived(path: Path) -> list[zipfile.ZipInfo]:
    """What a zip archive holds; nothing of any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _unsafe(path: Path) -> list[str]:
    """The classes and functions that a pickle names and that are not tensors' own; nothing is run to find them."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        return sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of crafted bytes
        return []


def _files(index: Path) -> list[Path]:
    """The files that an index lists; they lie in its own folder."""
    try:
        names = sorted(set(_places(index).values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise TombolaError(
            f"checkpoint {index} is no index: under 'weight_map' it names the file of each tensor"
        ) from error
    odd = next((name for name in names if not isinstance(name, str) or Path(name).name != name), None)
    if odd is not None:
        raise TombolaError(f"checkpoint {index} lists {str(odd)[:80]!r}, which is not the name of a file beside it")
    return [index.with_name(name) for name in names]


def _places(index: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    places: dict[str, str] = read_json(index)["weight_map"]
    return places


def _shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index lists."""
    state = {name: tensor for file in _files(path) for name, tensor in _read(file).items()}
    _check_agree(path, state)
    return state


def _check_agree(index: Path, state: Mapping[str, object]) -> None:
    places = _places(index)
    if state.keys() != places.keys():
        odd = sorted(state.keys() ^ places.keys())[0]
        raise TombolaError(f"checkpoint {index} and its files do not agree on {odd[:80]!r}; download them again")


def _names_of(file: Path) -> list[str]:
    _check_there(file)
    try:
        _check_plain(file)
        return names_in(file)
    except TombolaError:
        raise
    except Exception as error:  # of crafted bytes
        raise TombolaError(_refusal(file, error)) from error


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's values, each with its own memory; of a sparse one as if it were dense."""
    return tensor.numel() * tensor.element_size()


def _has_memory(tensor: Tensor) -> bool:
    import torch

    return tensor.layout is torch.strided and not tensor.is_meta


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    """The identity of a tensor's storage; equal for tied tensors."""
    from tombola.machine.memory import whereabouts  # which imports torch

    return (tensor.device, whereabouts(tensor), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)
