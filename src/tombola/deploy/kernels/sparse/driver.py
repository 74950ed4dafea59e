"""The step that takes chunks of images through all steps of a region, each thread in an arena of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tombola.deploy.jit.emitter import BYTES, Emitter
from tombola.deploy.jit.native import I64, STEP, Code
from tombola.deploy.jit.program import Step
from tombola.deploy.kernels.sparse.template import Arena, Template
from tombola.machine.locks import once
from tombola.machine.memory import array_address


class ChunkDriver:
    """`step` does chunks 0 .. chunks - 1, given in order to whichever thread is free.

    Before each run `begin(chunks)` must be called.
    """

    def __init__(self, templates: Sequence[Template], arenas: Sequence[Arena]) -> None:
        self._state = np.zeros(16, np.int64)  # chunks handed out; chunks in all
        steps = [[arena.step(template) for template in templates] for arena in arenas]
        table = np.array([[(s.function, array_address(s.args)) for s in row] for row in steps], np.int64)
        words = np.array([array_address(arena.chunk) for arena in arenas], np.int64)
        code = driver()
        state, tables, chunks = map(array_address, (self._state, table, words))
        args = np.array([state, tables, len(templates), chunks], np.int64)
        self.step = Step(code.address("step"), args, (code, self._state, table, words, steps))

    def begin(self, chunks: int) -> None:
        """Hand out this many chunks in the next run."""
        self._state[:2] = 0, chunks


@once
def driver() -> Code:
    """The function that hands chunks out to threads."""
    e = Emitter("driver")
    b = e.b
    state, table = (b.inttoptr(e.arg(i), I64.as_pointer()) for i in (0, 1))
    steps = e.arg(2)
    mine = e.at(b.bitcast(table, BYTES), b.mul(b.mul(e.thread, steps), I64(16)))
    word = b.inttoptr(e.load(b.inttoptr(e.arg(3), BYTES), b.mul(e.thread, I64(8)), I64), I64.as_pointer())
    chunks = b.load(b.gep(state, [I64(1)]))
    take, work, done = (b.append_basic_block(name) for name in ("take", "work", "done"))
    b.branch(take)
    b.position_at_end(take)
    chunk = b.atomic_rmw("add", state, I64(1), "acq_rel")
    b.cbranch(b.icmp_signed("<", chunk, chunks), work, done)
    b.position_at_end(work)
    b.store(chunk, word)
    with e.loop(I64(0), steps) as i:
        entry = e.at(mine, b.mul(i, I64(16)))
        function = b.inttoptr(e.load(entry, 0, I64), STEP.as_pointer())
        b.call(function, [b.inttoptr(e.load(entry, 8, I64), I64.as_pointer()), I64(0), I64(1)])
    b.branch(take)
    b.position_at_end(done)
    return e.compiled()
