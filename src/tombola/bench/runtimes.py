"""ONNX Runtime and OpenVINO on this processor: from a network's ONNX to a function of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tombola.machine.locks import Lock
from tombola.machine.signals import signal_stack_kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

Session = Callable[[Sequence[Any]], "list[NDArray[Any]]"]
"""Inputs in order, C-contiguous -> outputs in order, arrays of their own."""


def onnx_session(content: bytes, threads: int) -> Session:
    """ONNX Runtime's CPU provider on a network. Raises ImportError, and what its reader raises."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # its errors are raised as well
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[Any]) -> list[NDArray[Any]]:
        return [np.asarray(x) for x in session.run(None, dict(zip(names, inputs, strict=True)))]

    return run


def openvino_session(content: bytes, threads: int) -> Session:
    """OpenVINO's CPU plugin on a network, held to float32. Raises ImportError, and what its reader raises."""
    network, lock = openvino_network(content, threads, {"INFERENCE_PRECISION_HINT": "f32"}), Lock()
    request = network.create_infer_request()

    def run(inputs: Sequence[Any]) -> list[NDArray[Any]]:
        with lock.alone():  # a request serves one call at a time
            found = request.infer(dict(enumerate(inputs)), share_inputs=True, share_outputs=False)
            return [found[port] for port in network.outputs]

    return run


def openvino_network(content: bytes, threads: int, settings: Mapping[str, str]) -> Any:
    """A network compiled by OpenVINO's CPU plugin for one call at a time."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **settings}
    core = openvino.Core()
    with signal_stack_kept():
        return core.compile_model(core.read_model(content), "CPU", options)


RUNTIMES: Mapping[str, Callable[[bytes, int], Session]] = MappingProxyType(
    {"onnxruntime": onnx_session, "openvino": openvino_session}
)
"""Names as of `tombola.bench.engines.ENGINES`: there they run the dense network in alternation with others."""

TITLES: Mapping[str, str] = MappingProxyType({"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"})
EXTRAS: Mapping[str, str] = MappingProxyType({"onnxruntime": "tombola[onnx]", "openvino": "tombola[onnx,openvino]"})
_NEEDS = ("onnx", "onnxscript")
"""What writes the ONNX that all of them read."""


def is_installed(name: str) -> bool:
    """Whether a runtime of RUNTIMES can be tried here."""
    return all(find_spec(package) is not None for package in (name, *_NEEDS))


def installed() -> tuple[str, ...]:
    """The runtimes that can be tried here."""
    return tuple(filter(is_installed, RUNTIMES))
