"""Tensors and modules of PyTorch."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn.parameter import is_lazy

from tombola.fingerprint.objects import is_cache
from tombola.fingerprint.walk import Reader, Walk, type_name

_MANGLED = re.compile(r"___torch_mangle_\d+[./]?")
_MANGLED_BYTES = re.compile(rb"___torch_mangle_\d+[./]?")
_STRUCTURE = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"})
_UNSTABLE = frozenset({"_compiled_call_impl", "_untried"})  # the latter of `tombola.nn.rewrite`


def read_tensor(walk: Walk, value: Tensor, location: str) -> None:
    """Type, shape, whether it takes gradients; and the bits, unless these are hashed elsewhere."""
    walk.put("tensor", type_name(value), value.dtype, tuple(value.shape), value.layout, value.requires_grad)
    if id(value) in walk.hashed_elsewhere or is_lazy(value) or value.is_meta:
        return
    try:
        dense = value.detach().cpu()
        dense = (
            dense.dequantize()
            if dense.is_quantized
            else dense.to_dense()
            if dense.layout is not torch.strided
            else dense
        )
        flat = dense.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
        walk.put(hashlib.sha256(flat.numpy().data).digest())
    except (RuntimeError, TypeError, NotImplementedError):
        walk.cannot(f"a {type_name(value)}", location)


def _dense(value: Tensor) -> Tensor:
    if value.is_quantized:
        return value.dequantize()
    return value if value.layout is torch.strided else value.to_dense()


def read_network(walk: Walk, module: nn.Module, location: str) -> None:
    """A module: its class, its tensors and parts in order, and every other attribute: settings, flags, hooks."""
    walk.value(type(module), location)
    state = vars(module)
    fleeting = state.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, tensor in state.get(kind, {}).items():
            walk.put(kind, name, name in fleeting)
            walk.value(tensor, f"{location}.{name}")
    if not module.training:
        walk.put("evaluating")
    if isinstance(module, fx.GraphModule):
        walk.put(module.code)  # the code of its graph
    else:
        _read_settings(walk, module, location)
    for name, child in state.get("_modules", {}).items():
        walk.put("child", name)
        walk.value(child, f"{location}.{name}" if location else name)


def _read_settings(walk: Walk, module: nn.Module, location: str) -> None:
    for name, item in sorted(vars(module).items()):
        if name in _STRUCTURE or name in _UNSTABLE or is_cache(type(module), name):
            continue
        if isinstance(item, dict) and "hooks" in name:  # their keys are numbers counted through the process
            if item:
                walk.put(name)
                walk.items("hooks", item.values(), f"{location}.{name}")
            continue
        walk.put(name)
        walk.value(item, f"{location}.{name}")


def read_script(walk: Walk, value: Any, location: str) -> None:
    """A scripted function or module: all that its file holds, source locations left out."""
    buffer = io.BytesIO()
    torch.jit.save(value, buffer)
    with zipfile.ZipFile(buffer) as file:
        for name in sorted(file.namelist()):
            inner = name.partition("/")[2]
            if inner.startswith(("code/", "constants", "data")) and not inner.endswith(".debug_pkl"):
                # a type compiled a second time in one process gets a number
                walk.put(_MANGLED.sub("", inner), _MANGLED_BYTES.sub(b"", file.read(name)))
    walk.put(bool(getattr(value, "training", False)))


def read_generator(walk: Walk, value: torch.Generator, location: str) -> None:
    """A generator of random numbers: its device and state."""
    walk.put("generator", value.device)
    walk.value(value.get_state(), location)


READERS: tuple[Reader, ...] = (
    (torch.jit.ScriptModule, read_script),
    (torch.jit.ScriptFunction, read_script),
    (nn.Module, read_network),
    (Tensor, read_tensor),
    (torch.Generator, read_generator),
    (
        (torch.dtype, torch.device, torch.layout, torch.memory_format, OpOverload, OpOverloadPacket),
        lambda walk, value, location: walk.put(type(value).__name__, value),
    ),
)
