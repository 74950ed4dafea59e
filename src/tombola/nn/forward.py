"""What goes into a network and what comes out: dtypes that agree, outputs of any nesting.

A network may give a tensor, or a tuple, list, mapping, named tuple or dataclass of such (a Hugging Face ModelOutput,
torchvision's auxiliary heads); the task gets it as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]

_SHOWN = 6
"""Parts of an output that a message names."""


def input_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the network's first floating-point parameter; float32 where it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def typed(batches: Iterable[Batch], model: nn.Module) -> Iterator[Batch]:
    """Batches (x, y) as `model` takes them: floating-point inputs in its dtype.

    Floating-point targets are float64 for a network in float64, else float32. Integers stay.
    """
    dtype = input_dtype(model)
    wide = torch.promote_types(dtype, torch.float32)
    for x, y in batches:
        yield x.to(dtype) if x.is_floating_point() else x, y.to(wide) if y.is_floating_point() else y


def widened(output: Any) -> Any:
    """The output with all tensors in half precision as float32, which a loss is taken in; others as they are."""
    if isinstance(output, Tensor):
        return output.float() if _is_narrow(output) else output
    if not any(map(_is_narrow, leaves(output))):
        return output
    return mapped(lambda tensor: tensor.float() if _is_narrow(tensor) else tensor, output)


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.itemsize < 4


def leaves(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    tensors: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    mapped(note, output)
    return tensors


def mapped(function: Callable[[Tensor], Tensor], output: Any) -> Any:
    """A copy of the output with `function` applied to every tensor; what is neither tensor nor container stays."""
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, MutableMapping):  # a ModelOutput is also a dataclass, whose fields follow its items
        made: Any = copy.copy(output)
        for key, value in output.items():
            made[key] = mapped(function, value)
        return made
    if isinstance(output, tuple | list):
        parts = [mapped(function, part) for part in output]
        return _sequence(output, parts)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        made = copy.copy(output)
        for field in dataclasses.fields(output):
            object.__setattr__(made, field.name, mapped(function, getattr(output, field.name)))
        return made
    return output


def _sequence(like: Any, parts: list[Any]) -> Any:
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def described(output: Any) -> str:
    """What a network gave, in words: "a float32 tensor of shape (8, 10)", "a dict of 'out' (8, 10), 'aux' (8, 10)"."""
    if isinstance(output, Tensor):
        return f"{_article(str(output.dtype).removeprefix('torch.'))} tensor of shape {tuple(output.shape)}"
    parts = [f"{name} {_brief(part)}" for name, part in _parts(output)]
    some = f" of {', '.join(parts[:_SHOWN])}{', ...' if len(parts) > _SHOWN else ''}" if parts else ""
    return f"{_article(type(output).__name__)}{some}"


def _article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _brief(part: Any) -> str:
    return str(tuple(part.shape)) if isinstance(part, Tensor) else f"({type(part).__name__})"


def path_to_tensor(output: Any, text: str = "output") -> str | None:
    """Python that takes the first tensor out of an output, e.g. "output.logits" or "output['out'][0]"."""
    if isinstance(output, Tensor):
        return text
    attribute = dataclasses.is_dataclass(output) or hasattr(output, "_fields")
    for name, value in _parts(output):
        step = name if name.startswith("[") else f".{name}" if attribute else f"[{name}]"
        path = path_to_tensor(value, text + step)
        if path is not None:
            return path
    return None


def _parts(output: Any) -> list[tuple[str, Any]]:
    if isinstance(output, MutableMapping):
        attribute = dataclasses.is_dataclass(output)
        return [(str(key) if attribute else repr(key), value) for key, value in output.items()]
    if hasattr(output, "_fields"):
        return list(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return [(f"[{index}]", value) for index, value in enumerate(output)]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    return []
