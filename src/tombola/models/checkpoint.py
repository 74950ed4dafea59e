"""A user's own weights as the start of a run; this module itself imports no torch."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.errors import TombolaError
from tombola.runs.atomic import read_json, write_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth")
"""The endings of files that are written."""
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")


def load_checkpoint_(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a file into the model, in place; nothing is unpickled but tensors.

    Args:
        model: the network; every one of its state-dict entries must be in the file, with its shape.
        path: as `read_state` takes it.

    Raises:
        TombolaError: if the file cannot be read, or its names or shapes are not the model's.
    """
    given = read_state(path)
    wanted: dict[str, Tensor] = model.state_dict()
    # Of tied tensors a file may hold only one name.
    held = {_storage(wanted[name]) for name in given if name in wanted}
    missing = [name for name, tensor in wanted.items() if name not in given and _storage(tensor) not in held]
    foreign = [name for name in given if name not in wanted]
    if missing or foreign:
        parts = [f"{kind}: {_some(which)}" for kind, which in (("missing", missing), ("unknown", foreign)) if which]
        raise TombolaError(f"checkpoint {path} does not fit the model; {'; '.join(parts)}")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise TombolaError(
                f"checkpoint {path} does not fit the model; {name} is {tuple(tensor.shape)} in the file and "
                f"{tuple(wanted[name].shape)} in the model"
            )
    model.load_state_dict(given, strict=False)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name, on the CPU; nothing is unpickled but tensors.

    Args:
        path: .safetensors, the .index.json of several such files in its folder, or .pt / .pth read with weights_only. A
            state dict under "state_dict", "model" or "model_state_dict" is unwrapped; the prefixes "module." and
            "_orig_mod." are removed.

    Raises:
        TombolaError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    return _unprefixed(_unwrapped(_read(path), path))


def check_suffix(path: Path) -> None:
    """TombolaError if no format of `write_state` has the file's ending."""
    if path.suffix not in SUFFIXES:
        problem = "is a folder" if path.is_dir() else f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise TombolaError(f"{path} {problem}; name a file that ends in {', '.join(SUFFIXES)}")


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


def _read(path: Path) -> Any:
    if not path.is_file():
        raise TombolaError(f"checkpoint {path} is not a file; give a .safetensors, .pt or .pth file")
    try:
        if path.name.endswith(".safetensors.index.json"):
            return _shards(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix in (".pt", ".pth"):
            import torch

            return torch.load(path, map_location="cpu", weights_only=True)
    except TombolaError:
        raise
    except Exception as error:
        raise TombolaError(
            f"checkpoint {path} cannot be read as plain tensors ({type(error).__name__}); "
            "save model.state_dict() with safetensors or torch.save"
        ) from error
    raise TombolaError(f"checkpoint {path} ends in {path.suffix!r}; allowed: .safetensors, .pt, .pth")


def _shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index lists; they lie in its own folder."""
    from safetensors.torch import load_file

    places = read_json(path)["weight_map"]
    files = sorted(set(places.values()))
    odd = next((name for name in files if Path(name).name != name), None)
    if odd is not None:
        raise TombolaError(f"checkpoint {path} lists {odd[:80]!r}, which is not the name of a file beside it")
    state = {name: tensor for file in files for name, tensor in load_file(path.with_name(file)).items()}
    if state.keys() != places.keys():
        odd = sorted(state.keys() ^ places.keys())[0]
        raise TombolaError(f"checkpoint {path} and its files do not agree on {odd[:80]!r}; download them again")
    return state


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    import torch

    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise TombolaError(f"checkpoint {path} holds a {type(content).__name__}; a state dict is needed")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise TombolaError(
                f"checkpoint {path} holds {name!r}, a {type(value).__name__}; only tensors by name are "
                f"allowed, at the top or under {', '.join(_WRAPPERS)}"
            )
    return dict(content)


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without prefixes that wrappers such as DistributedDataParallel put before every name."""
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return state


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    """The identity of a tensor's storage; equal for tied tensors."""
    from tombola.machine.memory import whereabouts  # which imports torch

    return (tensor.device, whereabouts(tensor), tensor.shape, tensor.stride()) if tensor.numel() else (id(tensor),)


def _some(which: Iterable[str], limit: int = 3) -> str:
    which = list(which)
    more = f" and {len(which) - limit} more" if len(which) > limit else ""
    return ", ".join(which[:limit]) + more
