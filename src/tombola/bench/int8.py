"""A network in int8, as ONNX Runtime's own tools quantise it after training, calibrated on its inputs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def quantised(content: bytes, inputs: Sequence[NDArray[Any]]) -> bytes:
    """An ONNX network in int8: weights by channel, activations by their extremes on one call (static, QDQ).

    Those are the tools' defaults; weights by channel, in a range of 7 bits, are their advice. Norms are folded into
    convolutions first, as they ask.

    Args:
        content: the network, float32.
        inputs: those of one call in their order, which it is calibrated on.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """
    import onnx
    import onnxruntime as runtime
    from onnxruntime.quantization import quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        folded, small = Path(folder, "folded.onnx"), Path(folder, "int8.onnx")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3
        runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        network = onnx.load(folded)
        network.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # else they warn
        feed = {put.name: x for put, x in zip(network.graph.input, inputs, strict=True)}
        # of 8 bits, sums of two products overflow 16 bits on processors without VNNI: the tools' reduced range is 7
        quantize_static(network, small, _Calls(feed), per_channel=True, reduce_range=True)
        return small.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools warn through the root logger, and give it a handler where it has none."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


class _Calls:
    """The calibration data: one call."""

    def __init__(self, feed: Mapping[str, NDArray[Any]]) -> None:
        self._left = iter([feed])

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        """The next one; None after the last."""
        return next(self._left, None)
