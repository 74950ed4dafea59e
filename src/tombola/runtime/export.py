"""A compacted network for other programs: ONNX, a plain state_dict, a torch.export program."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tombola.compact.compare import error_on
from tombola.errors import TombolaError
from tombola.names import check_known
from tombola.runs.atomic import make_folder, write_bytes

_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(
    network: nn.Module, example: Sequence[Tensor], folder: Path, formats: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Write a network in eval mode, each file whole or not at all.

    Args:
        network: plain torch, such as `compact` gives; on the CPU.
        example: its inputs, the batch first; the batch size stays open.
        folder: is made if it is not there.
        formats: of FORMATS; None: all.

    Returns:
        File name -> {"format", "bytes", "error"}: error is max|a - b| / max|a| of the outputs on the example, null
        where nothing can be run.

    Raises:
        TombolaError: an unknown format, a missing package, or a network that cannot be exported.
    """
    chosen = list(FORMATS) if formats is None else list(formats)
    check_formats(chosen)
    made = {name: FORMATS[name] for name in chosen}
    network = network.eval()
    found: dict[str, dict[str, Any]] = {}
    contents: dict[str, bytes] = {}
    for name, (file, write) in made.items():
        contents[file], error = write(network, tuple(example))
        found[file] = {"format": name, "bytes": len(contents[file]), "error": error}
    if contents:
        make_folder(folder)
    for file, content in contents.items():
        write_bytes(folder / file, content)
    return found


def check_formats(formats: Sequence[str]) -> None:
    """Raises TombolaError: an unknown format, or one whose packages are not installed."""
    for name in formats:
        check_known("format", name, FORMATS)
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None] if "onnx" in formats else []
    if missing:
        raise TombolaError(f"format onnx needs {missing[0]}: pip install 'tombola[onnx]', or leave the format out")


def to_onnx(network: nn.Module, example: Sequence[Tensor]) -> tuple[bytes, float]:
    """(the ONNX file, the largest error of ONNX Runtime on the example and on another batch size).

    Raises TombolaError: a missing package, or a network that cannot be exported.
    """
    check_formats(["onnx"])
    program = _attempt("ONNX", lambda: _onnx_program(network, example))
    content: bytes = program.model_proto.SerializeToString()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(x)) for x in session.run(None, feed)]

    return content, _largest_error(network, run, example)


def _onnx_program(network: nn.Module, example: Sequence[Tensor]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        return torch.onnx.export(
            network, _pair(example), dynamo=True, verbose=False, dynamic_shapes=_open_batch(example)
        )


def _to_program(network: nn.Module, example: Sequence[Tensor]) -> tuple[bytes, float]:
    program = _attempt(
        "torch.export", lambda: torch.export.export(network, _pair(example), dynamic_shapes=_open_batch(example))
    )
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.pt2")
        torch.export.save(program, path)
        buffer.write(path.read_bytes())
    return buffer.getvalue(), _largest_error(network, program.module(), example)


def _to_state(network: nn.Module, example: Sequence[Tensor]) -> tuple[bytes, None]:
    state = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    return safetensors.torch.save(state), None


Writer = Callable[[nn.Module, Sequence[Tensor]], tuple[bytes, float | None]]
FORMATS: Mapping[str, tuple[str, Writer]] = MappingProxyType(
    {
        "onnx": ("network.onnx", to_onnx),
        "state_dict": ("network.safetensors", _to_state),
        "torch": ("network.pt2", _to_program),
    }
)
"""format -> (file name, what gives its content and error)."""


def _open_batch(example: Sequence[Tensor]) -> Any:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in example)


def _pair(example: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of batch size 2: a batch of 1 would be taken for a fixed size."""
    return tuple(torch.cat([x[:1], x[:1]]) for x in example)


def _attempt(what: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # the exporters raise many kinds
        said = " ".join(str(error).split())[:160]
        raise TombolaError(
            f"the network cannot be written as {what}: {type(error).__name__} {said}; leave it out"
        ) from error


def _largest_error(network: nn.Module, run: Callable[..., Any], example: Sequence[Tensor]) -> float:
    """On the example and on another batch size."""
    return max(error_on(network, run, x) for x in (example, [one[:1].repeat_interleave(3, 0) for one in example]))
