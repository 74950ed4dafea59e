"""The scientific configuration of a search as JSON-able values: what its run is named by, and its ticket remembers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from tombola.data.config import DataSpec
from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.methods.request import Request
from tombola.models.spec import ModelSpec
from tombola.ticket.tensors import hash_state


def describe(request: Request, splits: Splits) -> dict[str, Any]:
    """The scientific configuration as JSON-able values: no paths, no display settings."""
    return {
        "method": {
            "name": request.method.name,
            "version": request.method.version,
            **as_plain(request.method),
        },
        "model": describe_model(request.model),
        "data": describe_data(request.data, splits),
        "recipe": as_plain(request.recipe),
        **({} if request.start is None else {"start": request.start.digest}),
    }


def describe_model(model: nn.Module | ModelSpec) -> dict[str, Any]:
    """A network's name, arguments and initialisation; of a live or pretrained one the weights' hash."""
    if isinstance(model, nn.Module):
        return {"name": type(model).__name__, "weights": hash_state(dict(model.state_dict()))}
    plain = as_plain(model)
    if model.checkpoint is not None:
        file = Path(model.checkpoint)
        if not file.is_file():
            raise TombolaError(f"checkpoint {file} is not there; give a .safetensors or .pt file")
        plain["checkpoint"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return plain


def describe_data(data: Splits | DataSpec, splits: Splits) -> dict[str, Any]:
    """What the data is: name, fingerprint of its content, normalisation, augmentation, and a named set's cue."""
    spec = as_plain(data) if isinstance(data, DataSpec) else {}
    for place in ("root", "in_memory_limit"):
        spec.pop(place, None)
    norm = splits.normalisation
    return {
        **spec,
        "name": splits.name,
        "fingerprint": splits.fingerprint,
        "augment": as_plain(splits.augment),
        "normalisation": None if norm is None else {"mean": list(norm.mean), "std": list(norm.std)},
    }


def as_plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON-able values."""

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return {key: plain(part) for key, part in asdict(item).items()}
        if isinstance(item, Mapping):
            return {str(key): plain(part) for key, part in item.items()}
        return [plain(part) for part in item] if isinstance(item, tuple | list) else item

    return dict(plain(value))
