"""Matrix-vector products as a kernel: one linear layer, on one image."""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.deploy.jit.program import Program
from tombola.deploy.kernels.gemv.forms import Form, build, forms
from tombola.deploy.kernels.kernel import Kernel, Run, reference
from tombola.deploy.ops import Linear, Op, Region


def takes(op: Op) -> str | None:
    """Why the operation is not one for this kernel, in a few words; None where it is."""
    if not isinstance(op, Linear):
        return "no linear layer"
    return "a weight without elements" if 0 in op.weight.shape else None


def candidates(region: Region, batch: int, threads: int) -> tuple[Form, ...]:
    """The forms of the layer; none for larger batches."""
    (op,) = region.ops
    return forms(op.nonzeros) if isinstance(op, Linear) and batch == 1 else ()


def build_alone(region: Region, batch: int, threads: int, form: Form) -> Run:
    """The layer on vectors (1, in)."""
    (op,) = region.ops
    assert isinstance(op, Linear)
    made = build(op.nonzeros, op.bias, form, activation=op.activation, residual=op.residual is not None)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        values = {name: x.reshape(-1) for name, x in zip(region.inputs, inputs, strict=True)}
        target = torch.empty(made.shape[0], dtype=torch.float32, device="cpu")
        Program([made.step(values[op.source], target, values.get(op.residual or ""))], threads).run()
        return (target[None],)

    return run


GEMV = Kernel("gemv", takes, candidates, build_alone, reference)
