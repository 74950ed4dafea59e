"""Linear layers on a single image: each output is a sum along its list, inputs gathered one by one."""

from __future__ import annotations

import functools

from llvmlite import ir

from tombola.runtime.native import F32, I32, I64, Code, compile_module
from tombola.runtime.sparse.ir import BYTES, Emitter
from tombola.runtime.sparse.kernels import ARGS


@functools.cache
def gather_kernel(relu: bool, residual: bool) -> Code:
    """The step for lists of one row and one panel, one tile; arguments as of the sparse kernel."""
    e = Emitter(ir.Module("gather"))
    b = e.b
    a = {name: e.arg(i) for i, name in enumerate(ARGS)}
    for name in ("lists", "starts", "bounds", "bias", "source", "target", "residual"):
        a[name] = b.inttoptr(a[name], BYTES)
    first = e.load(a["bounds"], b.mul(e.thread, I64(8)), I64)
    last = e.load(a["bounds"], b.mul(b.add(e.thread, I64(1)), I64(8)), I64)

    def term(i: ir.Value, sums: list[ir.Value], turn: int) -> ir.Value:
        pair = e.at(a["lists"], b.mul(b.add(i, I64(turn)), I64(8)))
        x = e.load(a["source"], b.sext(e.load(pair, 0, I32), I64), F32)
        return e.fma(e.load(pair, 4, F32), x, sums[turn])

    with e.loop(first, last) as row:
        start, stop = (b.sext(e.load(a["starts"], b.mul(b.add(row, I64(d)), I64(4)), I32), I64) for d in (0, 1))
        middle = b.add(start, b.and_(b.sub(stop, start), I64(-_CHAINS)))
        zeros = [F32(0.0)] * _CHAINS
        sums = e.fold((start, middle), _CHAINS, zeros, lambda i, s: [term(i, s, k) for k in range(_CHAINS)])
        total = e.fold((middle, stop), 1, [functools.reduce(b.fadd, sums)], lambda i, s: [term(i, s, 0)])[0]
        total = b.fadd(total, e.load(a["bias"], b.mul(row, I64(4)), F32))
        if residual:
            total = b.fadd(total, e.load(a["residual"], b.mul(row, a["residual_stride"]), F32))
        e.store(e.relu(total) if relu else total, a["target"], b.mul(row, a["target_stride"]))
    b.ret_void()
    return compile_module(e.module)


_CHAINS = 4  # sums in flight: one alone would wait for each addition
