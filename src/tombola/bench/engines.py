"""The baselines of a deployed network: the same network, zeros included, in other engines of this machine.

All run on the CPU with one number of threads and one input shape, and all but those in REDUCED and INT8 compute in
float32, as the deployed network does.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.bench.int8 import quantised
from tombola.bench.runtimes import openvino_network

Run = Callable[[], object]
"""One inference of the prepared network on the prepared input."""


class Missing(Exception):
    """An engine cannot run here; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Workload:
    """What every engine is asked to run.

    `model`: in eval mode, on the CPU. `inputs`: float32 tensors, the batch first. `threads`: at least 1.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    threads: int

    @cached_property
    def onnx(self) -> bytes:
        """The network as ONNX for exactly this input shape, which lets engines optimise the most.

        Raises:
            Missing: it has none.
        """
        return _onnx(self)


def eager(work: Workload) -> Run:
    """torch in eager mode."""
    return lambda: work.model(*work.inputs)


def channels_last(work: Workload) -> Run:
    """torch with weights and images in channels-last layout."""
    if not any(x.dim() == 4 for x in work.inputs):
        raise Missing("no images")
    model = copy.deepcopy(work.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in work.inputs]
    return lambda: model(*inputs)


def channels_last_bf16(work: Workload) -> Run:
    """torch with channels-last layout, matrix products and convolutions autocast to bfloat16."""
    images = any(x.dim() == 4 for x in work.inputs)
    run = channels_last(work) if images else eager(work)

    def autocast() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return run()

    return autocast


def compiled(work: Workload) -> Run:
    """torch.compile with its default back end, which needs a C++ compiler."""
    model = torch.compile(copy.deepcopy(work.model), dynamic=False)
    try:
        model(*work.inputs)
    except Exception as error:  # whatever the compiler raises
        raise Missing(f"torch.compile: {type(error).__name__}") from error
    return lambda: model(*work.inputs)


def onnx_runtime(work: Workload) -> Run:
    """ONNX Runtime's CPU provider."""
    _package("onnxruntime")
    return _session(work.onnx, work)


def onnx_runtime_int8(work: Workload) -> Run:
    """ONNX Runtime's CPU provider, the network in int8 by its own tools, calibrated on the inputs."""
    _package("onnxruntime")
    _package("onnx")
    try:
        content = quantised(work.onnx, [x.numpy() for x in work.inputs])
    except Exception as error:  # the tools raise many kinds
        raise Missing(f"no int8 of it: {type(error).__name__}") from error
    return _session(content, work)


def openvino(work: Workload) -> Run:
    """OpenVINO's CPU plugin, held to float32."""
    return _openvino(work, {"INFERENCE_PRECISION_HINT": "f32"})


def openvino_default(work: Workload) -> Run:
    """OpenVINO's CPU plugin in its default precision: bfloat16 where the processor computes in it."""
    return _openvino(work, {})


def torch_csr(work: Workload) -> Run:
    """torch's own sparse matrices: CSR weights in linear layers, and in ungrouped convolutions over unfolded images."""
    model = copy.deepcopy(work.model)
    children = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    swapped = [(parent, name, _csr(child)) for parent, name, child in children if _csr(child) is not None]
    if not swapped:
        raise Missing("no layer that torch multiplies sparsely")
    for parent, name, child in swapped:
        setattr(parent, name, child)
    return lambda: model(*work.inputs)


ENGINES: Mapping[str, Callable[[Workload], Run]] = MappingProxyType(
    {
        "eager": eager,
        "channels-last": channels_last,
        "channels-last-bf16": channels_last_bf16,
        "compiled": compiled,
        "onnxruntime": onnx_runtime,
        "onnxruntime-int8": onnx_runtime_int8,
        "openvino": openvino,
        "openvino-default": openvino_default,
        "torch-csr": torch_csr,
    }
)
"""name -> function that prepares a workload, or raises Missing."""

DENSE = ("eager", "channels-last", "compiled", "onnxruntime", "openvino")
"""The float32 engines that do not exploit zeros: the fastest of them is the baseline."""

REDUCED = ("channels-last-bf16", "openvino-default")
"""Dense engines that round to bfloat16, the second one only on processors that compute in it."""

INT8 = "onnxruntime-int8"
"""The dense engine in int8."""


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing("not installed") from error


def _openvino(work: Workload, settings: Mapping[str, str]) -> Run:
    _package("openvino")
    request = openvino_network(work.onnx, work.threads, settings).create_infer_request()
    feed = dict(enumerate(x.numpy() for x in work.inputs))
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)


def _session(content: bytes, work: Workload) -> Run:
    """ONNX Runtime on a network that takes the inputs in their order."""
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = work.threads
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = {put.name: x.numpy() for put, x in zip(session.get_inputs(), work.inputs, strict=True)}
    return lambda: session.run(None, feed)


def _onnx(work: Workload) -> bytes:
    _package("onnxscript")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            program = torch.onnx.export(work.model, work.inputs, dynamo=True, verbose=False)
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # the exporter raises many kinds; 2 GB are the most that ONNX holds
        raise Missing(f"no ONNX of it: {type(error).__name__}") from error
    return content


# ---- torch's sparse matrices -----------------------------------------------------------------------------------


class _CsrLinear(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = _csr_matrix(layer.weight), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        out = (self.weight @ x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


class _CsrConv2d(nn.Module):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.weight = _csr_matrix(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        pads = layer.padding
        assert not isinstance(pads, str)
        columns = F.unfold(x, layer.kernel_size, layer.dilation, pads, layer.stride)
        out = self.weight @ columns.transpose(0, 1).reshape(columns.shape[1], -1)
        if layer.bias is not None:
            out += layer.bias[:, None]
        space = [
            (x.shape[2 + i] + 2 * pads[i] - layer.dilation[i] * (layer.kernel_size[i] - 1) - 1) // layer.stride[i] + 1
            for i in range(2)
        ]
        return out.reshape(-1, x.shape[0], *space).transpose(0, 1)


def _csr_matrix(weight: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls CSR a beta feature
        return weight.detach().flatten(1).to_sparse_csr()


def _csr(layer: nn.Module) -> nn.Module | None:
    """The layer with a CSR weight; None where it has no such form."""
    if type(layer) is nn.Linear:
        return _CsrLinear(layer)
    if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
        return None if isinstance(layer.padding, str) else _CsrConv2d(layer)
    return None
