"""Is there still a path from the input to the output?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tombola.hold import release
from tombola.mask import Mask
from tombola.nn.forward import input_dtype, leaves
from tombola.parameters import parameters_by_name


def is_cut(model: nn.Module, mask: Mask, x: Tensor) -> bool:
    """Whether no kept path leads from the input to the output of `model` under `mask`.

    Two proofs are asked for, since each alone can be fooled: with all kept weights set to +1 the output's gradient
    at the input vanishes (symmetric networks with layer norms do that too), and with its own weights the masked
    network gives one output for all inputs (so do dead ReLUs). `x` is a batch (N, ...) of real inputs, N > 1;
    inputs that are not floating point (tokens) are judged by the second proof alone. Of an output of several tensors,
    none may change; a network without any row per example in its output is not judged, nor is one of tokens that gives
    one output for all inputs without a mask too (its last layer starts at 0).
    """
    probe = copy.deepcopy(model).to("cpu").eval()
    release(probe)
    x = x.to("cpu", input_dtype(probe) if x.is_floating_point() else None)
    whole = x.is_floating_point() or _tells_apart(probe, x)
    mask.apply_(probe)
    if _tells_apart(probe, x) is not False or not whole:
        return False
    return not x.is_floating_point() or not _positive_path(probe, mask, x)


def _tells_apart(probe: nn.Module, x: Tensor) -> bool | None:
    """Whether some output differs from example to example; None where none has a row per example."""
    with torch.no_grad():
        return tells_apart(probe(x), len(x))


def tells_apart(output: object, examples: int) -> bool | None:
    """Whether an output, of any nesting, differs from example to example; None where none has a row per example."""
    # An output without a row per example (an auxiliary loss, say) tells nothing of what reaches it.
    rows = [output for output in leaves(output) if output.dim() and len(output) == examples]
    return any(map(_varies, rows)) if rows else None


def _varies(output: Tensor) -> bool:
    """Whether rows differ by more than the rounding of kernels that treat rows differently."""
    if not output.is_floating_point():
        return bool((output != output[:1]).any())
    off, largest = (output - output[:1]).abs().max(), output.abs().max()
    return bool(off > 8 * torch.finfo(output.dtype).eps * largest)


def _positive_path(probe: nn.Module, mask: Mask, x: Tensor) -> bool:
    own = input_dtype(probe)
    try:
        return _reaches(copy.deepcopy(probe).double(), mask, x.double())
    except RuntimeError:  # a forward that makes tensors in a dtype of its own
        return _reaches(probe, mask, x.to(own))


def _reaches(probe: nn.Module, mask: Mask, x: Tensor) -> bool:
    parameters = parameters_by_name(probe)
    with torch.no_grad():
        for module in probe.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
        for name, parameter in parameters.items():
            if name in mask:
                parameter.copy_(mask[name])
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    ones = torch.ones_like(x[:1], requires_grad=True)
    outputs = [output.sum() for output in leaves(probe(ones)) if output.requires_grad]
    if not outputs:
        return False
    (gradient,) = torch.autograd.grad(outputs, ones, allow_unused=True)
    return gradient is not None and bool((gradient != 0).any())
