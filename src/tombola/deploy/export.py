"""A compacted network for other programs: ONNX, a plain state_dict, a torch.export program."""

from __future__ import annotations

import inspect
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from errno import EISDIR
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tombola.compact.checks import Checks, checks_of, plain_tensors
from tombola.compact.compare import largest_error
from tombola.compact.effective import plain_copy
from tombola.compact.inputs import Inputs
from tombola.errors import TombolaError, not_installed
from tombola.names import check_known
from tombola.rng.guard import kept
from tombola.runs.atomic import cannot_write, make_folder, write_atomically

_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_ONNX_BYTES = 2**31 - 2**20
"""What an ONNX file can hold, less some room for the graph."""


def export(
    network: nn.Module, example: Sequence[Tensor], folder: Path, formats: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Write a network in eval mode, with its effective weights: all files, each whole, or none.

    What is written is run first: on the example, on other inputs drawn here, and at other batch sizes, where the
    network takes any.

    Args:
        network: plain torch, such as `compact` gives; on the CPU. It is not changed.
        example: its inputs, the batch first. The batch size stays open if the network takes others.
        folder: created if it does not exist.
        formats: of FORMATS; None: all.

    Returns:
        File name -> {"format", "bytes", "error", "batch"}: error is the largest max|a - b| / max|a| of the outputs,
        null where nothing can be run; batch is null where any will do, else the only size.

    Raises:
        TombolaError: an unknown format, a missing package, no example, a network that cannot be exported, or whose
            export gives other outputs than the network.
    """
    chosen = list(dict.fromkeys(FORMATS if formats is None else formats))
    check_formats(chosen)
    for name, function in OF_DEPLOYED.items():
        if name in chosen:
            raise TombolaError(f"format {name} holds the kernels of a deployed network; write it with {function}")
    for path in (folder / FORMATS[name][0] for name in chosen):
        if path.is_dir():  # else the files beside it would get their names
            raise cannot_write(path, IsADirectoryError(EISDIR, "it is a folder"))
    if not example or not all(isinstance(x, Tensor) for x in example):
        raise TombolaError("the example holds no tensors; give the network's inputs as a tuple, the batch first")
    with plain_tensors(), kept():
        plain = plain_copy(network, example)
        checks = checks_of(plain, example)
        written: dict[str, dict[str, Any]] = {}
        contents: dict[str, bytes] = {}
        for name in chosen:
            file, write = FORMATS[name]
            contents[file], error = write(plain, checks)
            batch = None if checks.batch.only is None or error is None else len(example[0])
            written[file] = {"format": name, "bytes": len(contents[file]), "error": error, "batch": batch}
    if contents:
        make_folder(folder)
    with ExitStack() as files:  # they get their names together, when all are written
        for file, content in contents.items():
            files.enter_context(write_atomically(folder / file)).write(content)
    return written


def check_formats(formats: Sequence[str]) -> None:
    """Raises TombolaError: an unknown format, or one whose packages are not installed."""
    for name in formats:
        check_known("format", name, (*FORMATS, *OF_DEPLOYED))
    missing = (
        [name for name in _ONNX_PACKAGES if find_spec(name) is None] if {"onnx", "onnx_kernels"} & set(formats) else []
    )
    if missing:
        raise not_installed(missing[0], "tombola[onnx]", "leave format onnx out")


def _to_onnx(network: nn.Module, checks: Checks) -> tuple[bytes, float]:
    size = sum(x.nbytes for x in (*network.parameters(), *network.buffers()))
    if size >= _ONNX_BYTES:
        raise TombolaError(
            f"the network's weights take {size:,} bytes, and an ONNX file holds at most 2 GB; leave format onnx out"
        )
    program = attempt("ONNX", lambda: _onnx_program(network, checks))
    content: bytes = attempt("ONNX", program.model_proto.SerializeToString)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as well
    session = attempt(
        "ONNX", lambda: onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    )
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(x)) for x in session.run(None, feed)]

    return content, _checked("ONNX", run, checks)


def _onnx_program(network: nn.Module, checks: Checks) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from within the exporter
        return torch.onnx.export(
            network, _traced_with(checks), dynamo=True, verbose=False, dynamic_shapes=_open_batch(network, checks)
        )


def _to_program(network: nn.Module, checks: Checks) -> tuple[bytes, float]:
    program = attempt(
        "torch.export",
        lambda: torch.export.export(network, _traced_with(checks), dynamic_shapes=_open_batch(network, checks)),
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from within torch's reader
        path = Path(folder, "network.pt2")
        attempt("torch.export", lambda: torch.export.save(program, path))
        content = path.read_bytes()
        again = attempt("torch.export", lambda: torch.export.load(path).module())
    return content, _checked("torch.export", again, checks)


def _to_state(network: nn.Module, checks: Checks) -> tuple[bytes, None]:
    def content() -> bytes:
        return safetensors.torch.save({name: value.cpu().clone().contiguous() for name, value in state.items()})

    state = {name: value.detach() for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    if len(state) < len(network.state_dict()):
        raise TombolaError("the network's state_dict holds more than tensors (quantized layers); leave state_dict out")
    return attempt("a state_dict", content), None


Writer = Callable[[nn.Module, Checks], tuple[bytes, float | None]]
FORMATS: Mapping[str, tuple[str, Writer]] = MappingProxyType(
    {
        "onnx": ("network.onnx", _to_onnx),
        "state_dict": ("network.safetensors", _to_state),
        "torch": ("network.pt2", _to_program),
    }
)
"""format -> (file name, what gives its content and error)."""
OF_DEPLOYED: Mapping[str, str] = MappingProxyType(
    {
        "c": "tombola.deploy.c.export.export_library",
        "onnx_kernels": "tombola.deploy.c.onnx.export_operators",
    }
)
"""Formats of a deployed network, not of a compacted one -> what writes them."""


def _open_batch(network: nn.Module, checks: Checks) -> Any:
    """Which axes stay open, as torch.export has them: by the parameters of forward, `*inputs` as a tuple."""
    if checks.batch.only is not None:
        return None
    batch = torch.export.Dim("batch")
    axes = [{0: batch} if own else None for own in checks.batch.carries]
    return tuple(inspect.signature(network.forward).bind(*axes).arguments.values())


def _traced_with(checks: Checks) -> Inputs:
    """A batch of 2, since one of 1 would be taken for a fixed size; or the example."""
    if checks.batch.only is not None:
        return checks.example
    rows = torch.arange(2, device="cpu") % checks.batch.size
    return tuple(
        x[rows.to(x.device)] if own else x for x, own in zip(checks.example, checks.batch.carries, strict=True)
    )


def attempt(what: str, make: Callable[[], Any]) -> Any:
    """What it makes. Raises TombolaError with the first cause where it fails; `what`: the format's name in words."""
    try:
        return make()
    except Exception as error:  # the exporters raise many kinds
        raise TombolaError(
            f"the network cannot be written as {what}: {_cause(error)}; leave this format out"
        ) from error


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _cause(error: BaseException) -> str:
    """The first cause of an exporter's error: what wraps it reports the exporter's steps, in colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__} {' '.join(_COLOURS.sub('', str(error)).split())[:160]}"


def _checked(what: str, run: Callable[..., Any], checks: Checks) -> float:
    """The error, if it is within what is allowed. Raises TombolaError."""
    off = checks.error(run, largest_error)
    if not off.size <= checks.allowed:
        raise TombolaError(
            f"as {what} the network gives outputs that differ by {off.size:.1e} on {off.what}: what it computes "
            "depends on the batch size, on numbers drawn, or on branches that an export fixes; leave this format out"
        )
    return off.size
