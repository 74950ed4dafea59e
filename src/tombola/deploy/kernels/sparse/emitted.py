"""The sparse kernel: lists of (input offset, weights) per group of output rows, vectors of 8 at fixed offsets.

    for tile, for panel of inputs, for group of V rows:
        acc[v][p] = bias[v], or the partial sums of the panel before in `out`
        for (offset, weight[V]) in the group's list:
            acc[v][p] += weight[v] · in[tile + offset + read[p]]
        out[tile + row v + write[p]] = activation(acc[v][p] + residual), lanes beyond the map set to zero

What offsets mean is up to the layout: with images innermost a vector is 8 images at one position, with images
outermost it is 8 neighbouring positions of one image. Linear layers are the case of 1 x 1 maps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from tombola.deploy.jit.activations import activated
from tombola.deploy.jit.emitter import BYTES, V8F, V8I, Emitter
from tombola.deploy.jit.native import F32, I32, I64, Code
from tombola.deploy.ops import Activation
from tombola.machine.locks import once

ARGS = (
    "*lists",  # (int32 offset in bytes, V float32), contiguous, by panel, then by group
    "*starts",  # int32 (panels · groups + 1): where each list starts, in entries
    "*bounds",  # int64 (threads + 1): which groups a thread does
    "groups",
    "panels",
    "*bias",  # float32 (rows,)
    "*tiles",  # int64 (tiles, 4): bytes from source, target, residual and masks to the tile
    "tile_count",
    "*source",
    "*target",
    "*residual",
    "*masks",  # int32: per tile, per vector 8 words, -1 where a lane counts
    "target_stride",  # bytes between rows of the target
    "residual_stride",
)


Values = Callable[[], list[ir.Value]]


@dataclass(frozen=True)
class SparseKernel:
    """The constants of a compiled kernel. `read`, `write`, `add`: bytes from a tile's base to each vector."""

    rows: int
    """V: output rows that share a list."""
    read: tuple[int, ...]
    write: tuple[int, ...]
    add: tuple[int, ...] | None
    """Of the residual; None where there is none."""
    activation: Activation | None
    masked: bool
    panelled: bool
    """Whether there is more than one panel."""

    @property
    def chains(self) -> int:
        """Sums in flight for each accumulator: with few accumulators each addition would wait for the one before."""
        few = self.rows * len(self.read)
        return 4 if few <= 2 else 2 if few <= 4 else 1


@once
def sparse_kernel(kernel: SparseKernel) -> Code:
    """The step `step` of this kernel, arguments as in ARGS."""
    e = Emitter("sparse")
    a = e.named(ARGS)
    first = e.load(a["bounds"], e.b.mul(e.thread, I64(8)), I64)
    last = e.load(a["bounds"], e.b.mul(e.b.add(e.thread, I64(1)), I64(8)), I64)
    panels = a["panels"] if kernel.panelled else I64(1)
    with e.loop(I64(0), a["tile_count"]) as tile:
        offsets = e.at(a["tiles"], e.b.mul(tile, I64(32)))
        here = {
            name: e.at(a[name], e.load(offsets, 8 * i, I64))
            for i, name in enumerate(("source", "target", "residual", "masks"))
        }
        with e.loop(I64(0), panels) as panel, e.loop(first, last) as group:
            _group(e, kernel, a, here, panel, group)
    return e.compiled()


def _group(
    e: Emitter,
    kernel: SparseKernel,
    a: dict[str, ir.Value],
    here: dict[str, ir.Value],
    panel: ir.Value,
    group: ir.Value,
) -> None:
    """One group of rows on one tile and panel."""
    b = e.b
    slot = b.mul(b.add(b.mul(panel, a["groups"]), group), I64(4))
    start, stop = (b.sext(e.load(a["starts"], b.add(slot, I64(d)), I32), I64) for d in (0, 4))
    row = b.mul(group, I64(kernel.rows))
    bias = e.at(a["bias"], b.mul(row, I64(4)))
    outs = [e.at(here["target"], b.mul(b.add(row, I64(v)), a["target_stride"])) for v in range(kernel.rows)]
    cells = [(v, p) for v in range(kernel.rows) for p in range(len(kernel.read))]

    def begun() -> list[ir.Value]:
        biases = [e.splat(e.load(bias, 4 * v, F32)) for v in range(kernel.rows)]
        return [biases[v] for v, _ in cells]

    def partial() -> list[ir.Value]:
        return [e.load(outs[v], kernel.write[p]) for v, p in cells]

    accs = _either(e, b.icmp_signed("==", panel, I64(0)), begun, partial) if kernel.panelled else begun()
    entry = 4 + 4 * kernel.rows
    lists = b.ptrtoint(a["lists"], I64)
    chains = kernel.chains
    whole = b.add(start, b.and_(b.sub(stop, start), I64(-chains)))
    begin, middle, end = (b.add(lists, b.mul(i, I64(entry))) for i in (start, whole, stop))

    def turn(i: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        pair = b.inttoptr(i, BYTES)
        window = e.at(here["source"], b.sext(e.load(pair, 0, I32), I64))

        def weight(v: int) -> ir.Value:
            return e.splat(e.load(pair, 4 + 4 * v, F32))

        def read(p: int) -> ir.Value:
            return e.load(window, kernel.read[p])

        # Whichever are fewer, weights or inputs, stay in registers, the others are loaded one by one: 16 registers
        # suffice.
        count = len(kernel.read)
        updated = list(accs)
        if kernel.rows <= count:
            weights = [weight(v) for v in range(kernel.rows)]
            for p in range(count):
                x = read(p)
                for v in range(kernel.rows):
                    updated[v * count + p] = e.fma(weights[v], x, accs[v * count + p])
        else:
            inputs = [read(p) for p in range(count)]
            for v in range(kernel.rows):
                w = weight(v)
                for p in range(count):
                    updated[v * count + p] = e.fma(w, inputs[p], accs[v * count + p])
        return updated

    def turns(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        n = len(cells)
        return [acc for k in range(chains) for acc in turn(b.add(i, I64(k * entry)), sums[k * n : (k + 1) * n])]

    if chains > 1:
        zeros = [ir.Constant(V8F, [0.0] * 8)] * (len(cells) * (chains - 1))
        sums = e.fold((begin, middle), chains * entry, [*accs, *zeros], turns)
        accs = [functools.reduce(b.fadd, sums[k :: len(cells)]) for k in range(len(cells))]
        begin = middle
    accs = e.fold((begin, end), entry, accs, turn)

    def finish() -> None:
        for (v, p), acc in zip(cells, accs, strict=True):
            if kernel.add is not None:
                line = e.at(here["residual"], b.mul(b.add(row, I64(v)), a["residual_stride"]))
                acc = b.fadd(acc, e.load(line, kernel.add[p]))
            acc = activated(e, acc, kernel.activation)
            if kernel.masked:
                mask = e.load(here["masks"], 32 * p, V8I)
                acc = b.bitcast(b.and_(b.bitcast(acc, V8I), mask), V8F)
            e.store(acc, outs[v], kernel.write[p])

    def leave() -> None:
        for (v, p), acc in zip(cells, accs, strict=True):
            e.store(acc, outs[v], kernel.write[p])

    if kernel.panelled:
        with b.if_else(b.icmp_signed("==", panel, b.sub(a["panels"], I64(1)))) as (then, otherwise):
            with then:
                finish()
            with otherwise:
                leave()
    else:
        finish()


def _either(e: Emitter, condition: ir.Value, yes: Values, no: Values) -> list[ir.Value]:
    """yes() where the condition holds, else no()."""
    b = e.b
    with b.if_else(condition) as (then, otherwise):
        with then:
            left, left_end = yes(), b.block
        with otherwise:
            right, right_end = no(), b.block
    phis = []
    for one, other in zip(left, right, strict=True):
        phi = b.phi(one.type)
        phi.add_incoming(one, left_end)
        phi.add_incoming(other, right_end)
        phis.append(phi)
    return phis
